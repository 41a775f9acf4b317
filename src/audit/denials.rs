//! Denials past the rate at which one uid's are recorded one by one: counted,
//! and the counts recorded, so that no uid fills the disk and the records
//! still add up. Nothing may be left out that no count stands for.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::record::{Event, Reason};
use crate::ids::Uid;
use crate::limits::Owners;
use crate::provider::Class;
use crate::sorted;
use crate::utc;

/// Uids counted apart in one second; beyond that they are taken for one.
const UIDS_MAX: usize = 4096;
/// Kinds of denials told apart in one second; beyond that only the reason is.
const KINDS_MAX: usize = 1024;

/// A denial about to be recorded.
#[derive(Clone, Copy, Debug)]
pub(super) struct Denial {
    pub(super) event: Event,
    pub(super) uid: Option<Uid>,
    pub(super) reason: Reason,
    pub(super) class: Option<Class>,
}

/// What a summary says of denials alike.
#[derive(Debug, Serialize)]
pub(super) struct Summary {
    #[serde(flatten)]
    kind: Kind,
    pub(super) count: u64,
    first: String,
    last: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
struct Kind {
    /// Of the records that these would have been.
    of: Event,
    /// The owner's, where the uid is subordinate.
    uid: Option<u32>,
    reason: Reason,
    class: Option<Class>,
}

#[derive(Debug)]
struct Tally {
    count: u64,
    first: SystemTime,
    last: SystemTime,
}

#[derive(Debug)]
pub(super) struct Denials {
    per_second: u32,
    owners: Arc<Owners>,
    /// Singled out since the last summary, which comes once a second. `None`
    /// is whoever cannot be named, and whoever came when there was no room.
    singled_out: HashMap<Option<Uid>, u32>,
    tallies: HashMap<Kind, Tally>,
}

impl Denials {
    pub(super) fn new(per_second: u32, owners: Arc<Owners>) -> Self {
        Self {
            per_second,
            owners,
            singled_out: HashMap::new(),
            tallies: HashMap::new(),
        }
    }

    /// Whether a record of its own is due; else it is counted.
    pub(super) fn singles_out(&mut self, denial: Denial, time: SystemTime) -> bool {
        let uid = denial.uid.map(|uid| self.owners.owner(uid));
        let has_room = self.singled_out.len() < UIDS_MAX || self.singled_out.contains_key(&uid);
        let singled_out = self
            .singled_out
            .entry(uid.filter(|_| has_room))
            .or_default();
        if *singled_out < self.per_second {
            *singled_out += 1;
            return true;
        }
        let mut kind = Kind {
            of: denial.event,
            uid: uid.map(|uid| uid.0),
            reason: denial.reason,
            class: denial.class,
        };
        if self.tallies.len() >= KINDS_MAX && !self.tallies.contains_key(&kind) {
            (kind.uid, kind.class) = (None, None);
        }
        let tally = self.tallies.entry(kind).or_insert(Tally {
            count: 0,
            first: time,
            last: time,
        });
        tally.count += 1;
        tally.last = time;
        false
    }

    /// What was counted since the last call, by uid.
    pub(super) fn take(&mut self) -> Vec<Summary> {
        self.singled_out.clear();
        let mut summaries: Vec<_> = self
            .tallies
            .drain()
            .map(|(kind, tally)| Summary {
                kind,
                count: tally.count,
                first: utc::rfc3339_micros(tally.first),
                last: utc::rfc3339_micros(tally.last),
            })
            .collect();
        sorted::by_key(&mut summaries, |summary| {
            (summary.kind.uid, summary.kind.reason.as_str())
        });
        summaries
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn denial(uid: u32, reason: Reason) -> Denial {
        Denial {
            event: Event::Request,
            uid: Some(Uid(uid)),
            reason,
            class: Some(Class::Secrets),
        }
    }

    fn denials(per_second: u32) -> Denials {
        let owners = Owners::parse("4001:100000:65536\n", "");
        Denials::new(per_second, Arc::new(owners))
    }

    #[test]
    fn past_its_rate_a_uid_is_counted_and_another_is_not() {
        let mut denials = denials(10);
        let time = SystemTime::UNIX_EPOCH;
        let mut singled = |uid| denials.singles_out(denial(uid, Reason::Default), time);
        assert_eq!((0..50).filter(|_| singled(4001)).count(), 10);
        assert!(
            !singled(100_007),
            "a subordinate uid has no rate of its own"
        );
        assert!(singled(4002));
        let summaries = serde_json::to_value(denials.take()).unwrap();
        let expected = serde_json::json!([{
            "of": "request", "uid": 4001, "reason": "default", "class": "secrets", "count": 41,
            "first": "1970-01-01T00:00:00.000000Z", "last": "1970-01-01T00:00:00.000000Z",
        }]);
        assert_eq!(summaries, expected);
        assert!(denials.take().is_empty());
    }

    proptest! {
        /// Also past every bound: singled out and counted are all there were.
        #[test]
        fn nothing_is_left_uncounted(seen in proptest::collection::vec(0u32..20_000, 0..3000)) {
            let mut denials = denials(1);
            let time = SystemTime::UNIX_EPOCH;
            let mut alone = 0;
            for uid in &seen {
                let reason = [Reason::Policy, Reason::Limit][*uid as usize % 2];
                alone += u64::from(denials.singles_out(denial(uid / 3, reason), time));
            }
            prop_assert!(denials.singled_out.len() <= UIDS_MAX + 1);
            prop_assert!(denials.tallies.len() <= KINDS_MAX + 40);
            let counted: u64 = denials.take().iter().map(|summary| summary.count).sum();
            prop_assert_eq!(alone + counted, seen.len() as u64);
        }
    }
}
