//! Who asks for what right now: the last minute of records, counted as they
//! come and forgotten as they age.
//!
//! Bounded, whatever comes: what finds no row of its own shares one.

use std::collections::{HashMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use super::digest::{Counts, Outcome};
use super::reading::Record;

/// What counts as now.
pub const SECONDS: u64 = 60;
/// Counts are kept, and forgotten, for so many seconds at a time.
const SLOT: u64 = 5;
const ROWS_MAX: usize = 2000;
/// Beyond [`ROWS_MAX`], rows without a path; beyond both, one for all.
const ROWS_SHARED_MAX: usize = 500;
/// Bytes of a record that are kept, to be shown whole.
const LINE_KEPT: usize = 16 * 1024;

/// The last minute.
#[derive(Debug, Default)]
pub struct Window {
    rows: HashMap<Key, Row>,
    /// Of all rows, by slot.
    counts: Slots,
    /// The time, in seconds of the epoch: the clock's, or the last record's.
    now: u64,
    /// The last event that is no request.
    pub event: Option<Event>,
    /// The host that writes.
    pub host: Option<String>,
    /// Of the last record.
    seq: Option<u64>,
    time: String,
}

/// Requests alike.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// As recorded.
    pub user: Option<String>,
    /// As recorded.
    pub uid: Option<u32>,
    /// The program.
    pub exe: Option<String>,
    /// Of the path.
    pub class: Option<String>,
    /// The path, or the raw target.
    pub path: Option<String>,
}

/// What became of them, and the last of them.
#[derive(Clone, Debug)]
pub struct Row {
    slots: Slots,
    /// Of the last one.
    pub time: String,
    /// Of the last one.
    pub outcome: Outcome,
    /// Of the last one.
    pub reason: Option<String>,
    /// The last record as it stands in the log; the one that was refused last,
    /// where any was.
    pub line: String,
}

/// An event that is no request.
#[derive(Clone, Debug)]
pub struct Event {
    /// When.
    pub time: String,
    /// What.
    pub event: String,
    /// What it says, as JSON.
    pub detail: String,
}

#[derive(Clone, Debug, Default)]
struct Slots(VecDeque<(u64, Counts)>);

impl Slots {
    fn add(&mut self, slot: u64, counts: Counts) {
        match self.0.iter_mut().find(|(of, _)| *of == slot) {
            Some((_, so_far)) => *so_far += counts,
            None => self.0.push_back((slot, counts)),
        }
    }

    fn forget(&mut self, now: u64) {
        self.0.retain(|(slot, _)| is_recent(slot * SLOT, now));
    }

    fn sum(&self) -> Counts {
        let mut sum = Counts::default();
        for (_, counts) in &self.0 {
            sum += *counts;
        }
        sum
    }
}

fn is_recent(at: u64, now: u64) -> bool {
    at + SECONDS > now
}

/// What `limit.denials_summarised` says.
#[derive(Deserialize)]
struct Summary {
    uid: Option<u32>,
    reason: Option<String>,
    class: Option<String>,
    count: u64,
}

impl Window {
    /// One more record, unless it was seen before.
    pub fn add(&mut self, record: &Record<'_>, line: &str) {
        if let (Some(seq), Some(before)) = (record.seq, self.seq)
            && seq <= before
            // Numbers that begin anew are another log's.
            && *record.time <= *self.time
        {
            return;
        }
        self.seq = record.seq.or(self.seq);
        (*record.time).clone_into(&mut self.time);
        let owned = |text: Option<&str>| text.map(str::to_owned);
        if record.host.name.as_deref() != self.host.as_deref() {
            self.host = owned(record.host.name.as_deref()).or(self.host.take());
        }
        let time = record.time.to_string();
        let at = humantime::parse_rfc3339_weak(&time)
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .map_or(self.now, |at| at.as_secs());
        self.now = self.now.max(at);
        if !is_recent(at, self.now) {
            return;
        }
        let (caller, request) = (&record.caller, &record.request);
        let (key, counts, outcome, reason) = match &*record.event {
            "request" | "connection.refused" => {
                let outcome = Outcome::of(record);
                let key = Key {
                    user: owned(caller.user.as_deref()),
                    uid: caller.uid,
                    exe: owned(caller.exe.as_deref()),
                    class: owned(request.class.as_deref()),
                    path: owned(request.path.as_deref().or(request.raw.as_deref())),
                };
                let reason = owned(record.reason.as_deref());
                (key, Counts::of(outcome, 1), outcome, reason)
            }
            "limit.denials_summarised" => {
                let detail = record.detail.map_or("", |it| it.get());
                let Ok(summary) = serde_json::from_str::<Summary>(detail) else {
                    return;
                };
                let key = Key {
                    user: None,
                    uid: summary.uid,
                    exe: None,
                    class: summary.class,
                    path: None,
                };
                let counts = Counts::of(Outcome::Denied, summary.count);
                (key, counts, Outcome::Denied, summary.reason)
            }
            event => {
                self.event = Some(Event {
                    time,
                    event: event.to_owned(),
                    detail: record
                        .detail
                        .map_or("", |it| it.get())
                        .chars()
                        .take(500)
                        .collect(),
                });
                return;
            }
        };
        let slot = at / SLOT;
        self.counts.add(slot, counts);
        let kept = if line.len() <= LINE_KEPT { line } else { "" };
        let row = self.row(key, &time);
        row.slots.add(slot, counts);
        row.time = time;
        // A refusal is what is looked for: it stays until the next one.
        if row.line.is_empty() || outcome <= row.outcome {
            (row.outcome, row.reason) = (outcome, reason);
            kept.clone_into(&mut row.line);
        }
    }

    fn row(&mut self, mut key: Key, time: &str) -> &mut Row {
        let has_room =
            |rows: &HashMap<Key, Row>, key: &Key, max| rows.len() < max || rows.contains_key(key);
        if !has_room(&self.rows, &key, ROWS_MAX) {
            (key.path, key.exe) = (Some("(other paths)".into()), None);
        }
        if !has_room(&self.rows, &key, ROWS_MAX + ROWS_SHARED_MAX) {
            (key.user, key.uid, key.class) = (Some("(others)".into()), None, None);
        }
        self.rows.entry(key).or_insert_with(|| Row {
            slots: Slots::default(),
            time: time.to_owned(),
            outcome: Outcome::Allowed,
            reason: None,
            line: String::new(),
        })
    }

    /// Goes on to this time, and forgets what is too old by then.
    pub fn turn(&mut self, now: SystemTime) {
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |it| it.as_secs());
        self.now = self.now.max(now);
        self.forget();
    }

    /// Forgets what is too old by the last record.
    pub fn forget(&mut self) {
        let now = self.now;
        self.counts.forget(now);
        self.rows.retain(|_, row| {
            row.slots.forget(now);
            !row.slots.0.is_empty()
        });
    }

    /// The time, in seconds of the epoch.
    pub fn now(&self) -> u64 {
        self.now
    }

    /// The number of the last record.
    pub fn seen(&self) -> Option<u64> {
        self.seq
    }

    /// Of all of it.
    pub fn counts(&self) -> Counts {
        self.counts.sum()
    }

    /// The rows, in no order.
    pub fn rows(&self) -> impl Iterator<Item = (&Key, &Row, Counts)> {
        self.rows
            .iter()
            .map(|(key, row)| (key, row, row.slots.sum()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn add(window: &mut Window, seq: u64, second: u64, path: &str, decision: &str) {
        let at = UNIX_EPOCH + Duration::from_secs(1_795_219_200 + second);
        let line = format!(
            "{{\"seq\":{seq},\"time\":\"{}\",\"event\":\"request\",\"decision\":\"{decision}\",\
             \"caller\":{{\"uid\":1,\"user\":\"a\"}},\"request\":{{\"path\":\"{path}\"}}}}",
            crate::utc::rfc3339_micros(at)
        );
        window.add(&Record::parse(line.as_bytes()).unwrap().0, &line);
    }

    #[test]
    fn what_is_older_than_a_minute_is_forgotten_and_nothing_counts_twice() {
        let mut window = Window::default();
        add(&mut window, 1, 0, "/a", "allow");
        add(&mut window, 2, 30, "/a", "deny");
        add(&mut window, 2, 30, "/a", "deny");
        add(&mut window, 3, 31, "/a", "allow");
        window.forget();
        let (_, row, counts) = window.rows().next().unwrap();
        assert_eq!((counts.allowed, counts.denied), (2, 1));
        assert!(row.line.contains("\"deny\""), "the refusal is kept");
        window.turn(UNIX_EPOCH + Duration::from_secs(1_795_219_200 + 70));
        assert_eq!((window.counts().allowed, window.counts().denied), (1, 1));
        window.turn(UNIX_EPOCH + Duration::from_secs(1_795_219_200 + 200));
        assert_eq!(window.rows().count(), 0);
    }

    #[test]
    fn a_flood_of_paths_takes_bounded_room_and_is_counted() {
        let mut window = Window::default();
        for seq in 0..5000 {
            add(&mut window, seq + 1, 0, &format!("/{seq}"), "deny");
        }
        assert!(window.rows().count() <= ROWS_MAX + ROWS_SHARED_MAX + 1);
        let sum: u64 = window.rows().map(|(_, _, counts)| counts.denied).sum();
        assert_eq!((sum, window.counts().denied), (5000, 5000));
    }
}
