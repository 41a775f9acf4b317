//! The thread of a sink: takes what is queued to where it goes, and says when
//! that fails and when it works again.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;

use super::super::lines::Lines;
use super::super::log::Log;
use super::super::record::Event;
use super::queue::{Next, Queue};

/// How often a sink is tried again while it fails.
const RETRY: Duration = Duration::from_millis(500);
/// How often a sink is looked after while nothing comes.
const IDLE: Duration = Duration::from_secs(1);
/// A sink that comes and goes is not recorded more often: what is said of it
/// goes to it as well, and may be all that comes.
const FLAPS: Duration = Duration::from_secs(60);
/// Losses of a sink that is only slow are recorded so often.
const LOSSES: Duration = Duration::from_secs(1);

/// Where records go.
pub(super) trait Output: Send {
    /// Sends the lines from the `done`th on, which it moves on with each that
    /// needs not be sent again.
    fn send(&mut self, lines: &Arc<Lines>, done: &mut usize) -> io::Result<()>;

    /// Nothing came for a while.
    fn idle(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Gives how many records it took and could not send, once.
    fn take_lost(&mut self) -> u64 {
        0
    }
}

/// What is said of a sink, in the log.
pub(super) struct Told {
    log: Log,
    name: String,
    failing_since: Option<Instant>,
    /// Whether that was recorded.
    is_recorded: bool,
    /// When that was last.
    recorded_at: Option<Instant>,
    /// How often it failed since then without a record.
    flaps: u64,
    lost_at: Option<Instant>,
}

impl Told {
    pub(super) fn new(log: Log, name: String) -> Self {
        Self {
            log,
            name,
            failing_since: None,
            is_recorded: false,
            recorded_at: None,
            flaps: 0,
            lost_at: None,
        }
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failing_since.is_none() {
            tracing::error!(sink = self.name, %error, "records do not reach a sink");
            self.failing_since = Some(Instant::now());
        }
        // What lasts is recorded, if later.
        if !self.is_recorded && self.recorded_at.is_none_or(|at| at.elapsed() >= FLAPS) {
            self.is_recorded = true;
            self.recorded_at = Some(Instant::now());
            let flaps = std::mem::take(&mut self.flaps);
            let detail = json!({ "sink": self.name, "error": error.to_string(), "flaps": flaps });
            self.log.event(Event::AuditFailing, &detail);
        }
    }

    fn work(&mut self, queue: &Queue) {
        let recovered = self.failing_since.take();
        let is_due = self.lost_at.is_none_or(|at| at.elapsed() >= LOSSES);
        let lost = match recovered.is_some() || is_due {
            true => queue.take_lost(),
            false => 0,
        };
        if lost > 0 {
            self.lost_at = Some(Instant::now());
            let detail = json!({ "sink": self.name, "records": lost });
            self.log.event(Event::AuditLost, &detail);
        }
        if let Some(since) = recovered {
            tracing::warn!(sink = self.name, lost, "records reach the sink again");
            if !std::mem::take(&mut self.is_recorded) {
                self.flaps += 1;
                return;
            }
            let failing_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
            let detail = json!({ "sink": self.name, "lost": lost, "failing_ms": failing_ms });
            self.log.event(Event::AuditRecovered, &detail);
        }
    }
}

/// Until the queue is closed.
pub(super) fn run(queue: &Queue, output: &mut dyn Output, mut told: Told) {
    let mut done = 0;
    loop {
        let sent = match queue.next(IDLE) {
            Next::End => break,
            Next::Idle => output.idle(),
            Next::Lines(lines) => {
                let sent = output.send(&lines, &mut done);
                if sent.is_ok() {
                    queue.done();
                    done = 0;
                }
                sent
            }
        };
        queue.lose(output.take_lost());
        match sent {
            Ok(()) => told.work(queue),
            Err(error) => {
                told.fail(&error);
                // At the end it is not tried again.
                if queue.rest(RETRY) {
                    break;
                }
            }
        }
    }
    queue.end();
}
