//! What is done where the log does not take what is written, or has lost what
//! was written to it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;

use super::Writing;
use crate::audit::file::Appended;
use crate::audit::lines::Lines;
use crate::audit::log::Batch;
use crate::audit::record::Event;
use crate::audit::rotate;

/// A file that is cut each time it is written.
const CUTS_MAX: u32 = 8;

impl Writing {
    /// The file was cut. Writes what was written between the copy that was made
    /// of it and the cut, and then these.
    pub(super) fn restore(&mut self, lines: &Lines) -> io::Result<()> {
        for _ in 0..CUTS_MAX {
            let here = self.file.settle()?.map_or(0, |last| last.seq);
            let copied = rotate::newest(self.file.path())?.map_or(0, |(_, last)| last.seq);
            let (mut whole, missing) = self.recent.since(here.max(copied), self.written);
            let restored = whole.len();
            whole.extend(lines);
            if self.file.append(whole.bytes())? == Appended::Whole {
                let path = self.file.path();
                self.log.event(
                    Event::AuditReopened,
                    &json!({ "file": path, "removed": false, "truncated": true,
                             "restored": restored }),
                );
                if missing > 0 {
                    let detail = json!({ "sink": "file", "records": missing });
                    self.log.event(Event::AuditLost, &detail);
                }
                return Ok(());
            }
        }
        Err(io::Error::other("the file is cut again and again"))
    }

    /// The same where the file could not be written for a while, and has lost
    /// what was behind this meanwhile. Rotated away, nothing is lost; gone
    /// altogether, nothing is known.
    pub(super) fn restore_missed(&mut self, here: u64) -> io::Result<()> {
        let copied = rotate::newest(self.file.path())?.map_or(0, |(_, last)| last.seq);
        match (1..self.written).contains(&here.max(copied)) {
            true => self.restore(&Lines::default()),
            false => Ok(()),
        }
    }

    /// Keeps what could not be written, but for what is withdrawn.
    pub(super) fn hold(&mut self, batch: Batch) {
        let left = {
            let mut queue = self.log.queue();
            queue.failing = true;
            queue.batch = std::mem::take(&mut queue.batch).withdraw();
            batch.withdraw()
        };
        let (lines, head) = self.number(&left);
        self.head = head;
        self.unwritten.extend(&lines);
        if !lines.is_empty() {
            self.feed(&Arc::new(lines));
        }
        self.log.queue().held = self.unwritten.bytes().len();
    }

    pub(super) fn fail(&mut self, error: &io::Error) {
        if self.failing_since.is_none() {
            let file = self.file.path().display();
            tracing::error!(%file, %error, "the audit log cannot be written");
            self.failing_since = Some(Instant::now());
            // Says when it began, and is what the next attempts have to write.
            let detail = json!({ "sink": "file", "error": error.to_string() });
            self.log.event(Event::AuditFailing, &detail);
        }
    }

    pub(super) fn recover(&mut self) {
        let Some(since) = self.failing_since.take() else {
            return;
        };
        let lost = {
            let mut queue = self.log.queue();
            queue.failing = false;
            std::mem::take(&mut queue.lost)
        };
        let file = self.file.path().display();
        tracing::warn!(%file, lost, "the audit log is written again");
        if lost > 0 {
            let detail = json!({ "sink": "file", "records": lost });
            self.log.event(Event::AuditLost, &detail);
        }
        let failing_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let detail = json!({ "sink": "file", "lost": lost, "failing_ms": failing_ms });
        self.log.event(Event::AuditRecovered, &detail);
    }
}
