//! The head of the chain, kept outside of the log: so the next run sees whether
//! the log is as it was left.

use std::time::{Duration, Instant};

use super::Writing;
use crate::audit::head::{Head, HeadFile};

/// How often it is kept, while records come.
pub(super) const KEEP_EVERY: Duration = Duration::from_secs(1);

/// The head of the chain outside of the log.
pub(super) struct Kept {
    file: HeadFile,
    at: Instant,
    head: Option<Head>,
    failing: bool,
}

/// When the head of the chain is to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keep {
    /// If it is time, and not for each record.
    Sometimes,
    Now,
    /// No record comes behind it.
    Ended,
}

impl Kept {
    pub(super) fn new(file: HeadFile) -> Self {
        Self {
            file,
            at: Instant::now(),
            head: None,
            failing: false,
        }
    }
}

impl Writing {
    /// Keeps the head of the chain.
    pub(super) fn keep_head(&mut self, keep: Keep) {
        let (Some(kept), Some(link)) = (&mut self.kept, self.head) else {
            return;
        };
        let ended = keep == Keep::Ended;
        let head = Head { link, ended };
        let due = keep != Keep::Sometimes || kept.at.elapsed() >= KEEP_EVERY;
        if !due || kept.head == Some(head) || !self.unwritten.is_empty() {
            return;
        }
        kept.at = Instant::now();
        match kept.file.save(head) {
            Ok(()) => {
                kept.head = Some(head);
                kept.failing = false;
            }
            Err(error) => {
                if !std::mem::replace(&mut kept.failing, true) {
                    tracing::error!(%error, "the head of the chain cannot be kept");
                }
            }
        }
    }
}
