//! The thread that writes the log.
//!
//! A record is numbered and chained when it is written, so numbers have no
//! gaps, and a write cut short is cut back before the next. While the file
//! takes nothing, records that no answer waits for keep the numbers they were
//! given, and are written before all others once it does. Sinks get them at
//! once, whatever the file does.

mod keeping;
mod mending;

use std::io;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use super::chain::Link;
use super::file::{Appended, LogFile};
use super::head::{HeadFile, Left};
use super::lines::Lines;
use super::log::{Batch, Log, Options};
use super::recent::Recent;
use super::record::Event;
use super::resume::{Resumed, resume};
use super::rotate;
use super::sink::Feed;
use crate::config::Rotation;
use keeping::{KEEP_EVERY, Keep, Kept};

/// While records come fast, the writer takes those of so long a time at once:
/// waking it for each costs more than the record. What an answer waits for is
/// written without delay.
const PACE: Duration = Duration::from_millis(2);
/// How often it is asked whether the file is still there.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How often writing is tried again while it fails.
const RETRY: Duration = Duration::from_millis(500);
/// After the last record the file is looked at twice as late each time, up to
/// this: who copies and cuts it may be slow.
const IDLE_MAX: Duration = Duration::from_secs(64);
/// What sinks get to take what is queued for them, at the end.
const FAREWELL: Duration = Duration::from_secs(2);
/// Where rotation failed, it is tried again so much later.
const ROTATE_AGAIN: Duration = Duration::from_secs(60);

pub(super) struct Writing {
    log: Log,
    file: LogFile,
    rotation: Rotation,
    /// When that failed.
    unrotated_at: Option<Instant>,
    /// The last record that was numbered.
    head: Option<Link>,
    kept: Option<Kept>,
    /// The number of the last in the file.
    written: u64,
    /// Numbered, and not in the file.
    unwritten: Lines,
    recent: Recent,
    feeds: Vec<Feed>,
    written_at: Option<Instant>,
    looked_at: Option<Instant>,
    /// When to look after the file next, where nothing is to be written.
    idle: Option<Duration>,
    failing_since: Option<Instant>,
    /// Asked for, and not yet done.
    reopening: bool,
}

/// What there is to do.
struct Turn {
    batch: Batch,
    /// For sinks alone.
    aside: Batch,
    reopen: bool,
    closing: bool,
}

impl Writing {
    pub(super) fn open(log: Log, options: Options) -> io::Result<Self> {
        let (file, last) = LogFile::open(options.file)?;
        let opened = options.state.and_then(|directory| {
            HeadFile::open(&directory)
                .inspect_err(|error| {
                    let directory = directory.display();
                    tracing::warn!("{directory}: the head of the chain cannot be kept: {error}");
                })
                .ok()
        });
        let (kept, left) = opened.unzip();
        let Resumed { head, altered } = resume(file.path(), last, left.unwrap_or(Left::Nothing))?;
        if let Some(altered) = altered {
            let path = file.path().display();
            tracing::error!(?altered, "{path} is not as it was left");
            log.event(Event::AuditAltered, &altered);
        }
        let feeds = options
            .sinks
            .into_iter()
            .map(|sink| Feed::start(sink, &log));
        let feeds = feeds.collect::<Result<_, _>>()?;
        Ok(Self {
            log,
            file,
            rotation: options.rotation,
            unrotated_at: None,
            head,
            kept: kept.map(Kept::new),
            written: last.map_or(0, |last| last.seq),
            unwritten: Lines::default(),
            recent: Recent::default(),
            feeds,
            written_at: None,
            looked_at: None,
            idle: None,
            failing_since: None,
            reopening: false,
        })
    }

    pub(super) fn run(&mut self) {
        // Not that of a daemon that has ended, from now on.
        self.keep_head(Keep::Now);
        self.write_until_closed();
        let deadline = Instant::now() + FAREWELL;
        for feed in &mut self.feeds {
            feed.summarise(&self.log, true);
        }
        for feed in &self.feeds {
            feed.close(deadline);
        }
    }

    fn write_until_closed(&mut self) {
        loop {
            let Turn {
                batch,
                aside,
                reopen,
                closing,
            } = self.wait();
            self.reopening |= reopen;
            match self
                .ready_file(&batch)
                .and_then(|()| self.write_all(&batch))
            {
                Ok(false) => {}
                Ok(true) => {
                    batch.tell();
                    self.recover();
                }
                Err(error) => {
                    self.hold(batch);
                    self.fail(&error);
                }
            }
            self.keep_head(Keep::Sometimes);
            self.feed_aside(&aside);
            for feed in &mut self.feeds {
                feed.summarise(&self.log, false);
            }
            if closing {
                let queue = self.log.queue();
                if queue.batch.is_empty() && self.unwritten.is_empty() {
                    drop(queue);
                    self.keep_head(Keep::Ended);
                    return;
                }
                if self.failing_since.is_some() {
                    let waiting = queue.batch.entries.len() + self.unwritten.len();
                    let records = queue.lost + count(waiting);
                    tracing::error!(records, "ended with records that could not be written");
                    return;
                }
            }
        }
    }

    fn wait(&mut self) -> Turn {
        let idle = self.idle.map(|idle| Instant::now() + idle);
        let due = self.feeds.iter().filter_map(Feed::due);
        let until = due.chain(idle).min();
        let filled = &self.log.0.filled;
        let mut queue = self.log.queue();
        let rest = self
            .written_at
            .map_or(Duration::ZERO, |at| PACE.saturating_sub(at.elapsed()));
        if !rest.is_zero() {
            queue.resting = true;
            let waited = filled.wait_timeout_while(queue, rest, |queue| {
                !queue.urgent && !queue.reopen && !queue.closing
            });
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
            queue.resting = false;
        }
        while queue.batch.is_empty()
            && queue.aside.is_empty()
            && self.unwritten.is_empty()
            && !queue.reopen
            && !queue.closing
        {
            queue = match until {
                None => filled.wait(queue).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        // Nothing came: later, and at last not any more.
                        if Some(until) == idle {
                            self.idle = self.idle.map(|it| it * 2).filter(|it| *it <= IDLE_MAX);
                        }
                        break;
                    }
                    let waited = filled.wait_timeout(queue, left);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
        if self.failing_since.is_some() && !queue.reopen && !queue.closing {
            let waited =
                filled.wait_timeout_while(queue, RETRY, |queue| !queue.reopen && !queue.closing);
            queue = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        queue.urgent = false;
        Turn {
            batch: std::mem::take(&mut queue.batch),
            aside: std::mem::take(&mut queue.aside),
            reopen: std::mem::take(&mut queue.reopen),
            closing: queue.closing,
        }
    }

    /// Opens the log again where that was asked for, where writing failed, and
    /// where the file is gone: what is written to it then, nobody can read.
    fn ready_file(&mut self, batch: &Batch) -> io::Result<()> {
        let mut rotated = None;
        if !batch.is_empty() && self.failing_since.is_none() {
            rotated = self.rotate();
        }
        // Asked before whatever somebody waits for, and now and then.
        let ask = batch.is_awaited() || self.looked_at.is_none_or(|at| at.elapsed() > LOOK_EVERY);
        let removed = ask && self.file.is_removed()?;
        if ask {
            self.looked_at = Some(Instant::now());
        }
        if self.reopening || removed || self.failing_since.is_some() {
            let last = self.file.reopen()?.map_or(0, |last| last.seq);
            if last < self.written && self.failing_since.is_some() && !removed {
                self.restore_missed(last)?;
            }
            if self.reopening || removed {
                let mut detail = json!({ "file": self.file.path(), "removed": removed });
                if let (Some(rotated), Some(detail)) = (rotated, detail.as_object_mut()) {
                    detail.insert("rotated_to".into(), json!(rotated));
                }
                self.log.event(Event::AuditReopened, &detail);
            }
            self.reopening = false;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Option<std::path::PathBuf> {
        let failed = |at: Instant| at.elapsed() < ROTATE_AGAIN;
        if !rotate::is_due(&self.rotation, &self.file) || self.unrotated_at.is_some_and(failed) {
            return None;
        }
        match rotate::rotate(self.file.path()) {
            Ok(to) => {
                self.unrotated_at = None;
                self.reopening = true;
                if let Err(error) = rotate::prune(&self.rotation, self.file.path(), &to) {
                    let file = self.file.path().display();
                    tracing::error!(%file, %error, "old logs cannot be removed");
                }
                // So that no log begins behind it.
                self.keep_head(Keep::Now);
                Some(to)
            }
            Err(error) => {
                let file = self.file.path().display();
                tracing::error!(%file, %error, "the audit log cannot be rotated");
                self.unrotated_at = Some(Instant::now());
                None
            }
        }
    }

    /// Writes what waits, and then this; gives whether there was anything.
    fn write_all(&mut self, batch: &Batch) -> io::Result<bool> {
        if !self.unwritten.is_empty() {
            let unwritten = std::mem::take(&mut self.unwritten);
            if let Err(error) = self.write(&unwritten) {
                self.unwritten = unwritten;
                return Err(error);
            }
            self.log.queue().held = 0;
            self.remember(Arc::new(unwritten));
        } else if batch.is_empty() {
            // Nothing to do but to look.
            if self.failing_since.is_none() && self.file.is_cut()? {
                self.restore(&Lines::default())?;
            }
            return Ok(false);
        }
        let (lines, head) = self.number(batch);
        self.write(&lines)?;
        self.head = head;
        let lines = Arc::new(lines);
        self.feed(&lines);
        self.remember(lines);
        self.written_at = Some(Instant::now());
        self.idle = Some(KEEP_EVERY);
        Ok(true)
    }

    fn remember(&mut self, lines: Arc<Lines>) {
        self.written = lines
            .iter()
            .filter_map(|line| line.seq)
            .last()
            .unwrap_or(self.written);
        self.recent.push(lines);
    }

    fn number(&self, batch: &Batch) -> (Lines, Option<Link>) {
        let mut lines = Lines::with_capacity(batch.bytes.len(), batch.entries.len());
        let mut head = self.head;
        batch.each(|record, traits| lines.add(record, traits, &mut head));
        (lines, head)
    }

    fn write(&mut self, lines: &Lines) -> io::Result<()> {
        match self.file.append(lines.bytes())? {
            Appended::Whole => Ok(()),
            Appended::Cut => self.restore(lines),
        }
    }

    fn feed(&mut self, lines: &Arc<Lines>) {
        for feed in &mut self.feeds {
            feed.feed(lines);
        }
    }

    /// What had no room in the log, sinks get all the same, without a number.
    fn feed_aside(&mut self, aside: &Batch) {
        if aside.is_empty() {
            return;
        }
        let mut lines = Lines::default();
        aside.each(|record, traits| lines.add_aside(record, traits, 1));
        self.feed(&Arc::new(lines));
    }
}

fn count(records: usize) -> u64 {
    u64::try_from(records).unwrap_or(u64::MAX)
}
