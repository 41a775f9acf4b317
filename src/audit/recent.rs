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

    /// All behind this record, which was not the last (`to` was), and how many
    /// of them are not known any more. Of a log that holds nothing (0), what
    /// was there is not known.
    pub(super) fn since(&self, seq: u64, to: u64) -> (Lines, u64) {
        let mut lines = Lines::default();
        let mut first = None;
        let behind = self.written.iter().flat_map(|it| it.iter());
        for line in behind.filter(|line| line.seq > Some(seq)) {
            first = first.or(line.seq);
            lines.push(line);
        }
        let missing = match seq {
            0 => 0,
            _ => first.unwrap_or(to + 1).saturating_sub(seq + 1),
        };
        (lines, missing)
    }
}
