//! The log file: a queue that requests append to and one thread that writes.
//!
//! A record is numbered when it is written, so numbers have no gaps, and a
//! write cut short is cut back before the next. Appending never waits for the
//! disk; who needs the record on disk before going on asks for that. The
//! queue is bounded: what does not fit is counted and the count is written
//! once writing works again. Nothing may be dropped without being counted.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use serde::Serialize;
use tokio::sync::oneshot;

use super::denials::{Denial, Denials};
use super::file;
use super::host::{Host, InstanceFacts};
use super::id::Ids;
use super::life::{self, Life};
use super::record::{Event, EventBody, SCHEMA};
use super::request::HeldBack;
use super::tally::{Counted, Measured, Tally};
use crate::limits::Owners;
use crate::utc;

/// What may wait for a disk that does not take it, in bytes: about 8,000 records.
const QUEUE_MAX: usize = 4 * 1024 * 1024;
/// Most records fit into so many bytes.
const RECORD_USUAL: usize = 1024;
/// While records come fast, the writer takes those of so long a time at once:
/// waking it for each costs more than the record. What an answer waits for is
/// written without delay.
const PACE: Duration = Duration::from_millis(2);
/// How often it is asked whether the file is still there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often writing is tried again while it fails.
const RETRY: Duration = Duration::from_millis(500);

/// A handle to the log; clones share it.
#[derive(Clone)]
pub struct Log(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    filled: Condvar,
    host: Host,
    ids: Ids,
    ending: AtomicBool,
    denials: OnceLock<Mutex<Denials>>,
    held: Mutex<HeldBack>,
    tally: Tally,
    life: Mutex<Life>,
}

#[derive(Default)]
struct Queue {
    /// Records without their head, one after the other.
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    lost: u64,
    /// Of the whole run.
    lost_in_all: u64,
    /// Somebody waits for one of them.
    urgent: bool,
    failing: bool,
    reopen: bool,
    closing: bool,
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

struct Entry {
    /// Where the record ends in the bytes it stands in.
    end: usize,
    /// Told once it is written, or withdrawn.
    waiting: Option<oneshot::Sender<Written>>,
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
    /// Opens the log at `path` and starts its writer. `run` is any random
    /// number; it keeps the ids of two runs apart.
    pub fn open(path: PathBuf, host: Host, run: u32) -> io::Result<(Self, Writer)> {
        let (file, seq) = file::open(&path)?;
        let log = Self(Arc::new(Shared {
            queue: Mutex::default(),
            filled: Condvar::new(),
            host,
            ids: Ids::new(run),
            ending: AtomicBool::new(false),
            denials: OnceLock::new(),
            held: Mutex::default(),
            tally: Tally::default(),
            life: Mutex::default(),
        }));
        let mut writing = Writing {
            log: log.clone(),
            path,
            file,
            seq,
            written_at: None,
            looked_at: None,
            failing_since: None,
            reopening: false,
        };
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
            let record = self.render(&EventBody {
                event: Event::DenialsSummarised,
                detail: &summary,
            });
            self.push(record, summary.count, None);
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
            records: queue.entries.len(),
            bytes: queue.bytes.len(),
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

    pub(super) fn append<B: Serialize>(&self, body: &B) {
        self.release_held();
        self.append_kept(body);
    }

    /// Appends a record ahead of those that are kept back.
    pub(super) fn append_kept<B: Serialize>(&self, body: &B) {
        let record = self.render(body);
        self.push(record, 1, None);
    }

    /// Appends a record that its answer waits for; `None` while nothing can
    /// be written. Whoever stops listening leaves the record to be written.
    pub(super) fn append_awaited<B: Serialize>(
        &self,
        body: &B,
    ) -> Option<oneshot::Receiver<Written>> {
        self.release_held();
        let record = self.render(body);
        let (tell, told) = oneshot::channel();
        self.push(record, 1, Some(tell)).then_some(told)
    }

    /// A record without its first two fields, which the writer puts before it.
    fn render<B: Serialize>(&self, body: &B) -> Vec<u8> {
        let mut record = Vec::with_capacity(RECORD_USUAL);
        let time = utc::rfc3339_micros(SystemTime::now());
        record.extend_from_slice(b"{\"time\":\"");
        record.extend_from_slice(time.as_bytes());
        record.push(b'"');
        let at = record.len();
        // The types that reach here are structs with string keys: an object
        // with fields, which cannot fail. It goes on with them, and is left
        // open for the host.
        if serde_json::to_writer(&mut record, body).is_ok()
            && let Some(brace) = record.get_mut(at)
        {
            *brace = b',';
            record.pop();
        }
        let host = self.0.host.json();
        for part in [
            concat!(",\"version\":\"", env!("CARGO_PKG_VERSION"), "\",\"host\":"),
            host.get(),
            "}",
        ] {
            record.extend_from_slice(part.as_bytes());
        }
        record
    }

    /// `stands_for` counts, where the record is lost.
    fn push(
        &self,
        record: Vec<u8>,
        stands_for: u64,
        waiting: Option<oneshot::Sender<Written>>,
    ) -> bool {
        let mut queue = self.queue();
        if waiting.is_some() && queue.failing {
            return false;
        }
        if queue.bytes.len() + record.len() > QUEUE_MAX {
            let lost = if waiting.is_none() { stands_for } else { 0 };
            queue.lost += lost;
            queue.lost_in_all += lost;
            return false;
        }
        let wakes = queue.entries.is_empty() || (waiting.is_some() && !queue.urgent);
        queue.urgent |= waiting.is_some();
        queue.bytes.extend_from_slice(&record);
        let end = queue.bytes.len();
        queue.entries.push(Entry { end, waiting });
        drop(queue);
        if wakes {
            self.0.filled.notify_one();
        }
        true
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
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

struct Writing {
    log: Log,
    path: PathBuf,
    file: File,
    seq: u64,
    written_at: Option<Instant>,
    looked_at: Option<Instant>,
    failing_since: Option<Instant>,
    /// Asked for, and not yet done.
    reopening: bool,
}

impl Writing {
    fn run(&mut self) {
        loop {
            let (batch, reopen, closing) = self.wait();
            self.reopening |= reopen;
            match self
                .ready_file(batch.is_awaited())
                .and_then(|()| self.write(&batch))
            {
                Ok(()) if batch.entries.is_empty() => {}
                Ok(()) => {
                    batch.tell();
                    self.recover();
                }
                Err(error) => {
                    batch.put_back(&mut self.log.queue());
                    self.fail(&error);
                }
            }
            if closing {
                let queue = self.log.queue();
                if queue.entries.is_empty() {
                    return;
                }
                if self.failing_since.is_some() {
                    let records = queue.lost + u64::try_from(queue.entries.len()).unwrap_or(0);
                    tracing::error!(records, "ended with records that could not be written");
                    return;
                }
            }
        }
    }

    /// Opens the log again where that was asked for, where writing failed, and
    /// where the file is gone: what is written to it then, nobody can read.
    fn ready_file(&mut self, urgent: bool) -> io::Result<()> {
        // Asked before whatever somebody waits for, and now and then.
        let ask = urgent || self.looked_at.is_none_or(|at| at.elapsed() > LOOK_EVERY);
        let removed = ask && file::is_removed(&self.file)?;
        if ask {
            self.looked_at = Some(Instant::now());
        }
        if self.reopening || removed || self.failing_since.is_some() {
            (self.file, _) = file::open(&self.path)?;
            if self.reopening || removed {
                self.log.event(
                    Event::AuditReopened,
                    &serde_json::json!({ "file": self.path, "removed": removed }),
                );
            }
            self.reopening = false;
        }
        Ok(())
    }

    fn wait(&self) -> (Batch, bool, bool) {
        let mut queue = self.log.queue();
        while queue.entries.is_empty() && !queue.reopen && !queue.closing {
            queue = self
                .log
                .0
                .filled
                .wait(queue)
                .unwrap_or_else(PoisonError::into_inner);
        }
        if self.failing_since.is_some() && !queue.reopen && !queue.closing {
            let waited = self
                .log
                .0
                .filled
                .wait_timeout_while(queue, RETRY, |queue| !queue.reopen && !queue.closing);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        let rest = self
            .written_at
            .map_or(Duration::ZERO, |at| PACE.saturating_sub(at.elapsed()));
        if !rest.is_zero() {
            let waited = self.log.0.filled.wait_timeout_while(queue, rest, |queue| {
                !queue.urgent && !queue.reopen && !queue.closing
            });
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.urgent = false;
        let batch = Batch {
            bytes: std::mem::take(&mut queue.bytes),
            entries: std::mem::take(&mut queue.entries),
        };
        (batch, std::mem::take(&mut queue.reopen), queue.closing)
    }

    fn write(&mut self, batch: &Batch) -> io::Result<()> {
        let mut out = Vec::with_capacity(batch.bytes.len() + batch.entries.len() * 32);
        let mut seq = self.seq;
        let mut start = 0;
        for entry in &batch.entries {
            seq += 1;
            write!(out, "{{\"schema\":{SCHEMA},\"seq\":{seq},")?;
            // The record's own opening brace stands before its first field.
            out.extend(batch.bytes.get(start + 1..entry.end).unwrap_or_default());
            out.push(b'\n');
            start = entry.end;
        }
        file::append_whole(&mut self.file, &out)?;
        self.seq = seq;
        self.written_at = Some(Instant::now());
        Ok(())
    }

    fn fail(&mut self, error: &io::Error) {
        if self.failing_since.is_none() {
            tracing::error!(file = %self.path.display(), %error, "the audit log cannot be written");
            self.failing_since = Some(Instant::now());
            // Says when it began, and is what the next attempts have to write.
            self.log.event(
                Event::AuditFailing,
                &serde_json::json!({ "error": error.to_string() }),
            );
        }
    }

    fn recover(&mut self) {
        let Some(since) = self.failing_since.take() else {
            return;
        };
        let lost = {
            let mut queue = self.log.queue();
            queue.failing = false;
            std::mem::take(&mut queue.lost)
        };
        tracing::warn!(file = %self.path.display(), lost, "the audit log is written again");
        if lost > 0 {
            self.log
                .event(Event::AuditLost, &serde_json::json!({ "records": lost }));
        }
        let failing_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.log.event(
            Event::AuditRecovered,
            &serde_json::json!({ "lost": lost, "failing_ms": failing_ms }),
        );
    }
}

struct Batch {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
}

impl Batch {
    fn is_awaited(&self) -> bool {
        self.entries.iter().any(|entry| entry.waiting.is_some())
    }

    fn tell(self) {
        for waiting in self.entries.into_iter().filter_map(|entry| entry.waiting) {
            // Nobody waits any more: the client has gone.
            let _ = waiting.send(Written::Whole);
        }
    }

    /// Queues again, ahead of newer ones, what nobody waits for. What somebody
    /// waits for is withdrawn: that answer will not leave, and another record
    /// will say so.
    fn put_back(self, queue: &mut Queue) {
        queue.failing = true;
        let newer = Batch {
            bytes: std::mem::take(&mut queue.bytes),
            entries: std::mem::take(&mut queue.entries),
        };
        for batch in [self, newer] {
            let mut start = 0;
            for entry in batch.entries {
                let withdrawn = entry
                    .waiting
                    .is_some_and(|waiting| waiting.send(Written::Withdrawn).is_ok());
                if !withdrawn {
                    queue
                        .bytes
                        .extend(batch.bytes.get(start..entry.end).unwrap_or_default());
                    queue.entries.push(Entry {
                        end: queue.bytes.len(),
                        waiting: None,
                    });
                }
                start = entry.end;
            }
        }
    }
}
