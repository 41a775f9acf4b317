//! What the records of this run add up to, kept while they are made: for who
//! wants to know how it stands, without reading the log. Memory is bounded,
//! whoever asks for whatever.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;
use super::record::{CredentialRecord, Decision, Reason};
use crate::ids::Uid;
use crate::provider::Class;
use crate::sorted;
use crate::utc;

/// Users counted apart; the rest is counted together.
const UIDS_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct Tally(Mutex<Counts>);

#[derive(Default)]
struct Counts {
    by_uid: HashMap<Option<Uid>, Count>,
    others: Count,
    measured: Measured,
    answered: Option<SystemTime>,
    failed: Option<(SystemTime, &'static str)>,
    credential: Option<(SystemTime, CredentialRecord)>,
}

/// By what they were and how long they took: nobody's name is in here.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// By decision, reason and class, where one is known.
    pub decisions: BTreeMap<(Decision, Reason, Option<Class>), u64>,
    /// What was refused, by the record's `detail`.
    pub details: BTreeMap<(Reason, &'static str), u64>,
    /// Answers for which the service was not asked.
    pub from_memory: u64,
    /// From the whole request to its record.
    pub whole: Histogram,
    /// Until it was known who asks.
    pub identity: Histogram,
    /// Until the service had answered, or had not.
    pub upstream: Histogram,
}

/// Requests, and connections refused before there was one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// Let through.
    pub allowed: u64,
    /// Refused.
    pub denied: u64,
}

/// Of one user.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct OfUser {
    /// `null` for whoever could not be named.
    pub uid: Option<Uid>,
    /// How many.
    #[serde(flatten)]
    pub count: Count,
}

/// What there was so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counted {
    /// Those who asked most come first.
    pub by_uid: Vec<OfUser>,
    /// Of those for whom there was no room.
    pub others: Count,
    /// By the reason in the record.
    pub by_reason: BTreeMap<String, u64>,
    /// What was refused for being more than a share, by the share.
    pub limits: BTreeMap<String, u64>,
    /// When the service last answered.
    pub answered: Option<String>,
    /// When it last did not, and how.
    pub failed: Option<Failed>,
    /// The last credentials that were handed out.
    pub role: Option<Role>,
}

/// The service did not answer, or not well.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Failed {
    /// When.
    pub at: String,
    /// As in records.
    pub reason: String,
    /// Whether it has answered since.
    pub answered_since: bool,
}

/// What the service serves as the host's role, by an answer passing by.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Role {
    /// Its name.
    pub name: Option<String>,
    /// When these credentials end.
    pub expiration: Option<String>,
    /// As CloudTrail names them.
    pub access_key_id: Option<String>,
    /// When they passed by.
    pub seen: String,
}

/// One record.
pub(super) struct Noted<'a> {
    pub(super) uid: Option<Uid>,
    pub(super) decision: Decision,
    pub(super) reason: Reason,
    pub(super) detail: Option<&'static str>,
    pub(super) class: Option<Class>,
    pub(super) served: Option<&'static str>,
    pub(super) took: Took,
    pub(super) credential: Option<&'a CredentialRecord>,
}

/// How long it took, and parts of it, where there were any.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Took {
    pub(super) whole: Option<Duration>,
    pub(super) identity: Option<Duration>,
    pub(super) upstream: Option<Duration>,
}

impl Noted<'_> {
    /// What is told apart beyond the reason.
    fn told_apart(&self) -> Option<&'static str> {
        match (self.decision, self.reason) {
            (Decision::Allow, _) => None,
            (_, Reason::Limit | Reason::HostBudget) => {
                Some(self.detail.unwrap_or(self.reason.as_str()))
            }
            _ => self.detail,
        }
    }
}

impl Measured {
    fn note(&mut self, noted: &Noted) {
        let kind = (noted.decision, noted.reason, noted.class);
        *self.decisions.entry(kind).or_default() += 1;
        if let Some(detail) = noted.told_apart() {
            *self.details.entry((noted.reason, detail)).or_default() += 1;
        }
        self.from_memory += u64::from(noted.served.is_some());
        let Took {
            whole,
            identity,
            upstream,
        } = noted.took;
        for (took, histogram) in [
            (whole, &mut self.whole),
            (identity, &mut self.identity),
            (upstream, &mut self.upstream),
        ] {
            if let Some(took) = took {
                histogram.note(took);
            }
        }
    }
}

impl Tally {
    pub(super) fn note(&self, noted: &Noted) {
        let mut counts = self.counts();
        counts.measured.note(noted);
        let has_room = counts.by_uid.len() < UIDS_MAX || counts.by_uid.contains_key(&noted.uid);
        let count = match has_room {
            true => counts.by_uid.entry(noted.uid).or_default(),
            false => &mut counts.others,
        };
        match noted.decision {
            Decision::Allow => count.allowed += 1,
            Decision::Deny => count.denied += 1,
        }
        let is_fresh = noted.served.is_none() && noted.class.is_some();
        match noted.reason {
            Reason::UpstreamUnreachable | Reason::UpstreamInvalid | Reason::UpstreamTimeout => {
                counts.failed = Some((SystemTime::now(), noted.reason.as_str()));
            }
            _ if noted.decision == Decision::Allow && is_fresh => {
                counts.answered = Some(SystemTime::now());
            }
            _ => {}
        }
        if let Some(credential) = noted.credential {
            counts.credential = Some((SystemTime::now(), credential.clone()));
        }
    }

    pub(super) fn counted(&self) -> Counted {
        let counts = self.counts();
        let mut by_uid: Vec<_> = counts
            .by_uid
            .iter()
            .map(|(uid, count)| OfUser {
                uid: *uid,
                count: *count,
            })
            .collect();
        let asked = |it: &OfUser| it.count.allowed + it.count.denied;
        sorted::by_key(&mut by_uid, |it| (std::cmp::Reverse(asked(it)), it.uid));
        let mut by_reason = BTreeMap::new();
        for ((_, reason, _), count) in &counts.measured.decisions {
            *by_reason.entry(reason.as_str().to_owned()).or_default() += count;
        }
        let mut limits = BTreeMap::new();
        for ((reason, which), count) in &counts.measured.details {
            if matches!(reason, Reason::Limit | Reason::HostBudget) {
                limits.insert((*which).to_owned(), *count);
            }
        }
        Counted {
            by_uid,
            others: counts.others,
            by_reason,
            limits,
            answered: counts.answered.map(utc::rfc3339_seconds),
            failed: counts.failed.map(|(at, reason)| Failed {
                at: utc::rfc3339_seconds(at),
                reason: reason.to_owned(),
                answered_since: counts.answered.is_some_and(|answered| answered > at),
            }),
            role: counts.credential.as_ref().map(|(seen, it)| Role {
                name: it.role.clone(),
                expiration: it.expiration.clone(),
                access_key_id: it.access_key_id.clone(),
                seen: utc::rfc3339_seconds(*seen),
            }),
        }
    }

    pub(super) fn measured(&self) -> Measured {
        self.counts().measured.clone()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_asks_however_much_is_counted_within_bounds() {
        let tally = Tally::default();
        for uid in 0..5000 {
            tally.note(&Noted {
                uid: Some(Uid(uid)),
                decision: Decision::Deny,
                reason: Reason::Limit,
                detail: Some("connections"),
                class: None,
                served: None,
                took: Took::default(),
                credential: None,
            });
        }
        let counted = tally.counted();
        assert_eq!(counted.by_uid.len(), UIDS_MAX);
        assert_eq!(counted.others.denied, 5000 - UIDS_MAX as u64);
        assert_eq!(counted.limits["connections"], 5000);
        assert_eq!(counted.by_reason["limit"], 5000);
    }
}
