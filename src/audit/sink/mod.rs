//! Sinks beside the log: each with a filter, a bounded queue and a thread of
//! its own, so that a slow or dead one holds neither the log nor another.
//!
//! ```text
//! writing ─► Feed (filter, counts) ─► Queue ─► deliver ─► Output (stdout, journald, …)
//! ```
//!
//! What a sink did not get is counted, and recorded once it takes records
//! again. Nothing here may make the writing thread wait.

mod deliver;
mod journald;
mod queue;
mod render;
mod select;
mod stdout;
mod stream;
mod syslog;

use std::io;
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Instant;

use deliver::{Output, Told};
use queue::Queue;
use select::{Choice, Selection};

use super::lines::Lines;
use super::log::Log;
use super::record::{Body as _, Event, EventBody};
use crate::config::SinkConfig;
use crate::config::sinks::SinkTarget;

/// A sink that is to be fed.
#[derive(Debug)]
pub struct Sink {
    /// What it is.
    pub config: SinkConfig,
    /// Where its followers connect, if it has any.
    pub listener: Option<UnixListener>,
}

/// The writing thread's end of a sink.
pub(super) struct Feed {
    name: String,
    selection: Selection,
    queue: Arc<Queue>,
}

impl Feed {
    /// Starts its thread.
    pub(super) fn start(sink: Sink, log: &Log) -> io::Result<Self> {
        let Sink { config, listener } = sink;
        let max = usize::try_from(config.queue).unwrap_or(usize::MAX);
        let queue = Arc::new(Queue::new(max));
        let format = config.format;
        let mut output: Box<dyn Output> = match config.to {
            SinkTarget::Stdout => Box::new(stdout::Stdout::open(format)?),
            SinkTarget::Journald(path) => Box::new(journald::Journal::new(path, format)),
            SinkTarget::SyslogUnix(path) => Box::new(syslog::Local::new(path, format)),
            SinkTarget::SyslogTcp(address) => Box::new(syslog::Tcp::new(address, format)),
            SinkTarget::Stream(_) => {
                let listener = listener.ok_or_else(|| {
                    io::Error::new(io::ErrorKind::NotConnected, "nothing to connect to")
                })?;
                let terms = stream::Terms {
                    log: log.clone(),
                    name: config.name.clone(),
                    format,
                    max,
                };
                Box::new(stream::Hub::open(listener, terms)?)
            }
        };
        let told = Told::new(log.clone(), config.name.clone());
        let fed = Arc::clone(&queue);
        std::thread::Builder::new()
            .name("imdsfw-sink".into())
            .spawn(move || deliver::run(&fed, output.as_mut(), told))?;
        Ok(Self {
            selection: Selection::new(&config.events, &config.classes, &config.decisions)
                .summarised(config.summarise),
            name: config.name,
            queue,
        })
    }

    /// Queues what the sink is to get of these.
    pub(super) fn feed(&mut self, lines: &Arc<Lines>) {
        if self.selection.is_everything() {
            self.queue.push(Arc::clone(lines));
            return;
        }
        let mut chosen = Lines::default();
        for line in lines.iter() {
            match self.selection.choose(&line.traits) {
                Choice::Send => chosen.push(line),
                Choice::Count => self.selection.count(&line),
                Choice::Skip => {}
            }
        }
        if !chosen.is_empty() {
            self.queue.push(Arc::new(chosen));
        }
    }

    /// When there is something to be summarised.
    pub(super) fn due(&self) -> Option<Instant> {
        self.selection.due()
    }

    /// Queues what was counted, if it is time, or the end.
    pub(super) fn summarise(&mut self, log: &Log, ending: bool) {
        let due = self.selection.due();
        if due.is_none_or(|due| !ending && due > Instant::now()) {
            return;
        }
        let summary = self.selection.take(&self.name);
        let body = EventBody {
            event: Event::AuditSummary,
            detail: &summary,
        };
        let mut lines = Lines::default();
        lines.add_aside(&log.render(&body), body.traits(), summary.records);
        self.queue.push(Arc::new(lines));
    }

    /// Waits for the sink to get what is queued, and no longer than that.
    pub(super) fn close(&self, deadline: Instant) {
        let left = self.queue.close(deadline);
        if left > 0 {
            tracing::error!(
                sink = self.name,
                left,
                "ended with records that it did not get"
            );
        }
    }
}
