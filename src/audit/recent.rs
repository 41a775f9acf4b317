//! What was written last, for a file that is cut by copytruncate: between the
//! copy and the cut records are written that neither has. A few seconds' worth,
//! never more than so many bytes.

use std::collections::VecDeque;
use std::sync::Arc;

use super::lines::Lines;

const BYTES_MAX: usize = 2 * 1024 * 1024;

#[derive(Default)]
pub(super) struct Recent {
    written: VecDeque<Arc<Lines>>,
    bytes: usize,
}

impl Recent {
    pub(super) fn push(&mut self, lines: Arc<Lines>) {
        self.bytes += lines.bytes().len();
        self.written.push_back(lines);
        while self.bytes > BYTES_MAX
            && let Some(oldest) = self.written.pop_front()
        {
            self.bytes -= oldest.bytes().len();
        }
    }

    /// All behind this record, and how many behind it are not known any more.
    pub(super) fn since(&self, seq: u64) -> (Lines, u64) {
        let mut lines = Lines::default();
        let mut missing = 0;
        let behind = self.written.iter().flat_map(|it| it.iter());
        for line in behind.filter(|line| line.seq > Some(seq)) {
            if lines.is_empty() && seq > 0 {
                missing = line.seq.unwrap_or(0).saturating_sub(seq + 1);
            }
            lines.push(line);
        }
        (lines, missing)
    }
}
