//! The log: a queue that requests append to, for the one thread that writes.
//!
//! Appending never waits for the disk; who needs the record on disk before
//! going on asks for that. The queue is bounded: what does not fit is counted
//! and the count is written once writing works again. Nothing may be dropped
//! without being counted.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::SystemTime;

use serde::Serialize;
use tokio::sync::oneshot;

use super::denials::{Denial, Denials};
use super::host::{Host, InstanceFacts};
use super::id::Ids;
use super::life::{self, Life};
use super::plain::harmless;
use super::record::{Body, Event, EventBody, Traits};
use super::request::HeldBack;
use super::sink::Sink;
use super::tally::{Counted, Measured, Tally};
use super::writing::Writing;
use crate::config::Rotation;
use crate::limits::Owners;
use crate::utc;

/// What may wait for a disk that does not take it, in bytes: about 8,000 records.
const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// Most records fit into so many bytes.
const RECORD_USUAL: usize = 1024;

/// Where the log is, and what is to be done with it.
#[derive(Debug, Default)]
pub struct Options {
    /// The log itself.
    pub file: PathBuf,
    /// Where the head of the chain is kept.
    pub state: Option<PathBuf>,
    /// When the log is rotated.
    pub rotation: Rotation,
    /// Where else records go.
    pub sinks: Vec<Sink>,
}

impl From<PathBuf> for Options {
    fn from(file: PathBuf) -> Self {
        Self {
            file,
            ..Self::default()
        }
    }
}

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct Log(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) queue: Mutex<Queue>,
    pub(super) filled: Condvar,
    host: Host,
    ids: Ids,
    has_sinks: bool,
    ending: AtomicBool,
    denials: OnceLock<Mutex<Denials>>,
    held: Mutex<HeldBack>,
    tally: Tally,
    life: Mutex<Life>,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) batch: Batch,
    /// What had no room in it, for sinks alone.
    pub(super) aside: Batch,
    pub(super) lost: u64,
    /// Of the whole run.
    lost_in_all: u64,
    /// Somebody waits for one of them.
    pub(super) urgent: bool,
    /// The writer comes by itself, and soon.
    pub(super) resting: bool,
    pub(super) failing: bool,
    /// Bytes that the writer has taken and cannot write.
    pub(super) held: usize,
    pub(super) reopen: bool,
    pub(super) closing: bool,
}

/// What waits to be written, and how that goes.
#[derive(Clone, Copy, Debug)]
pub struct Backlog {
    /// Records.
    pub records: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Records that had no room, in this run.
    pub lost: u64,
    /// Nothing can be written now.
    pub failing: bool,
}

/// Records without their number, one after the other.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) entries: Vec<Entry>,
}

pub(super) struct Entry {
    /// Where the record ends in the bytes it stands in.
    pub(super) end: usize,
    pub(super) traits: Traits,
    /// Told once it is written, or withdrawn.
    pub(super) waiting: Option<oneshot::Sender<Written>>,
}

/// What became of a record that somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// It is in the file.
    Whole,
    /// It could not be written, and will not be.
    Withdrawn,
}

/// The writing thread, to be joined at the end.
pub struct Writer(Log, JoinHandle<()>);

impl Log {
    /// Opens the log and starts its writer. `run` is any random number; it
    /// keeps the ids of two runs apart.
    pub fn open(options: impl Into<Options>, host: Host, run: u32) -> io::Result<(Self, Writer)> {
        let options = options.into();
        let log = Self(Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            host,
            ids: Ids::new(run),
            has_sinks: !options.sinks.is_empty(),
            ending: AtomicBool::new(false),
            denials: OnceLock::new(),
            held: Mutex::default(),
            tally: Tally::default(),
            life: Mutex::default(),
        }));
        let mut writing = Writing::open(log.clone(), options)?;
        let thread = std::thread::Builder::new()
            .name("imdsfw-audit".into())
            .spawn(move || writing.run())?;
        Ok((log.clone(), Writer(log, thread)))
    }

    /// Records an event that is no request.
    pub fn event<D: Serialize>(&self, event: Event, detail: &D) {
        self.append(&EventBody { event, detail });
    }

    /// Closes the file and opens it again, as after rotation by rename.
    pub fn reopen(&self) {
        self.queue().reopen = true;
        self.0.filled.notify_one();
    }

    /// From now on a request nobody finishes was cut off by the end of the
    /// daemon, not by its client.
    pub fn ending(&self) {
        self.0.ending.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.0.ending.load(Ordering::Relaxed)
    }

    /// From now on at most so many denials of one uid are recorded one by one
    /// in a second, those of its subordinate uids among them; the rest is
    /// counted, for [`Log::summarise_denials`].
    pub fn limit_denials(&self, per_second: u32, owners: Arc<Owners>) {
        // Called once; a second call changes nothing.
        let _ = self
            .0
            .denials
            .set(Mutex::new(Denials::new(per_second, owners)));
    }

    /// Writes what was counted since the last call, with the counts; to be
    /// called once a second.
    pub fn summarise_denials(&self) {
        let Some(denials) = self.0.denials.get() else {
            return;
        };
        let summaries = denials
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if !summaries.is_empty() {
            self.release_held();
        }
        for summary in summaries {
            let body = EventBody {
                event: Event::DenialsSummarised,
                detail: &summary,
            };
            let record = self.render(&body);
            self.push(record, body.traits(), summary.count, None);
        }
    }

    /// Whether this denial has a record of its own; else it is counted here.
    pub(super) fn singles_out(&self, denial: Denial) -> bool {
        self.0.denials.get().is_none_or(|denials| {
            denials
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .singles_out(denial, SystemTime::now())
        })
    }

    /// Takes in what an answer of the service said of this machine.
    pub fn learn(&self, facts: InstanceFacts) {
        self.0.host.learn(facts);
    }

    /// What the records of this run add up to.
    pub fn counted(&self) -> Counted {
        self.0.tally.counted()
    }

    /// The same, by what it was and how long it took.
    pub fn measured(&self) -> Measured {
        self.0.tally.measured()
    }

    /// What waits to be written.
    pub fn backlog(&self) -> Backlog {
        let queue = self.queue();
        Backlog {
            records: queue.batch.entries.len(),
            bytes: queue.batch.bytes.len() + queue.held,
            lost: queue.lost_in_all,
            failing: queue.failing,
        }
    }

    /// How the credentials' life stands.
    pub fn credentials_life(&self) -> life::Standing {
        self.life().standing()
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Life> {
        self.0.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn tally(&self) -> &Tally {
        &self.0.tally
    }

    /// An id for a record to come.
    pub(crate) fn next_id(&self) -> String {
        self.0.ids.next(SystemTime::now())
    }

    pub(super) fn held(&self) -> MutexGuard<'_, HeldBack> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues what is kept back: a later record is about to be.
    fn release_held(&self) {
        let records = self.held().all();
        drop(records);
    }

    pub(super) fn append<B: Body>(&self, body: &B) {
        self.release_held();
        self.append_kept(body);
    }

    /// Appends a record ahead of those that are kept back.
    pub(super) fn append_kept<B: Body>(&self, body: &B) {
        let record = self.render(body);
        self.push(record, body.traits(), 1, None);
    }

    /// Appends a record that its answer waits for; `None` while nothing can
    /// be written. Whoever stops listening leaves the record to be written.
    pub(super) fn append_awaited<B: Body>(&self, body: &B) -> Option<oneshot::Receiver<Written>> {
        self.release_held();
        let record = self.render(body);
        let (tell, told) = oneshot::channel();
        self.push(record, body.traits(), 1, Some(tell))
            .then_some(told)
    }

    /// A record without its number and its place in the chain, which the writer
    /// gives it.
    pub(super) fn render<B: Body>(&self, body: &B) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_USUAL);
        let time = utc::rfc3339_micros(SystemTime::now());
        record.extend_from_slice(b"{\"time\":\"");
        record.extend_from_slice(time.as_bytes());
        record.push(b'"');
        body.write(&mut record);
        let host = self.0.host.json();
        for part in [
            concat!(",\"version\":\"", env!("CARGO_PKG_VERSION"), "\",\"host\":"),
            host.get(),
            "}",
        ] {
            record.extend_from_slice(part.as_bytes());
        }
        // Names, as a directory has them, may hold more than JSON escapes.
        if record.is_ascii() && memchr::memchr(0x7f, &record).is_none() {
            return record;
        }
        match str::from_utf8(&record).map(harmless) {
            Ok(Cow::Owned(harmless)) => harmless.into_bytes(),
            _ => record,
        }
    }

    /// `stands_for` counts, where the record is lost.
    fn push(
        &self,
        record: Vec<u8>,
        traits: Traits,
        stands_for: u64,
        waiting: Option<oneshot::Sender<Written>>,
    ) -> bool {
        let mut queue = self.queue();
        if waiting.is_some() && queue.failing {
            return false;
        }
        if queue.batch.bytes.len() + queue.held + record.len() > QUEUE_MAX {
            let lost = if waiting.is_none() { stands_for } else { 0 };
            queue.lost += lost;
            queue.lost_in_all += lost;
            let has_room = queue.aside.bytes.len() + record.len() <= QUEUE_MAX;
            if self.0.has_sinks && waiting.is_none() && has_room {
                queue.aside.push(&record, traits, None);
            }
            return false;
        }
        let begins = queue.batch.is_empty() && !queue.resting;
        let wakes = begins || (waiting.is_some() && !queue.urgent);
        queue.urgent |= waiting.is_some();
        queue.batch.push(&record, traits, waiting);
        drop(queue);
        if wakes {
            self.0.filled.notify_one();
        }
        true
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Writer {
    /// Writes what is queued and ends the thread.
    pub fn close(self) {
        self.0.queue().closing = true;
        self.0.0.filled.notify_one();
        // A writer that panicked has nothing left to say.
        let _ = self.1.join();
    }
}

impl Batch {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.entries.iter().any(|entry| entry.waiting.is_some())
    }

    fn push(&mut self, record: &[u8], traits: Traits, waiting: Option<oneshot::Sender<Written>>) {
        self.bytes.extend_from_slice(record);
        self.entries.push(Entry {
            end: self.bytes.len(),
            traits,
            waiting,
        });
    }

    /// Hands out each record.
    pub(super) fn each(&self, mut each: impl FnMut(&[u8], Traits)) {
        let mut start = 0;
        for entry in &self.entries {
            each(
                self.bytes.get(start..entry.end).unwrap_or_default(),
                entry.traits,
            );
            start = entry.end;
        }
    }

    pub(super) fn tell(self) {
        for waiting in self.entries.into_iter().filter_map(|entry| entry.waiting) {
            // Nobody waits any more: the client has gone.
            let _ = waiting.send(Written::Whole);
        }
    }

    /// Leaves what nobody waits for. What somebody waits for is withdrawn: that
    /// answer will not leave, and another record will say so.
    pub(super) fn withdraw(self) -> Self {
        let mut left = Self::default();
        let mut start = 0;
        for entry in self.entries {
            let withdrawn = entry
                .waiting
                .is_some_and(|waiting| waiting.send(Written::Withdrawn).is_ok());
            if !withdrawn {
                let record = self.bytes.get(start..entry.end).unwrap_or_default();
                left.push(record, entry.traits, None);
            }
            start = entry.end;
        }
        left
    }
}
