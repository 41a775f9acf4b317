//! What happened beside requests, by boot and host, and what is missing: gaps
//! in the numbers, and records that could not be written.

use std::borrow::Cow;
use std::collections::{BTreeMap, VecDeque};

use serde::Deserialize;

use super::super::reading::{Record, When};
use crate::sorted;

/// Of one kind of event, the last so many are kept: users can cause some kinds.
const EVENTS_MAX: usize = 100;
/// Kinds; there are fewer.
const KINDS_MAX: usize = 100;
/// Characters of what an event says.
const DETAIL_KEPT: usize = 2000;
/// Hosts, and boots of one, that are told apart.
const HOSTS_MAX: usize = 200;
const BOOTS_MAX: usize = 100;
const GAPS_MAX: usize = 100;

/// Events, boots and gaps.
#[derive(Debug, Default)]
pub struct History {
    events: BTreeMap<String, (u64, VecDeque<Happened>)>,
    hosts: BTreeMap<String, Host>,
    /// The first gaps.
    pub gaps: Vec<Gap>,
    /// Numbers that are missing, in all gaps.
    pub missing: u64,
    /// How often numbers began anew, or went back.
    pub begun_anew: u64,
    /// Records that the daemon says it could not write to the log.
    pub lost: u64,
}

/// Who wrote the log.
#[derive(Debug, Default)]
pub struct Host {
    /// The instance, as it is called by now.
    pub instance: Option<String>,
    /// When each boot was seen.
    pub boots: BTreeMap<String, When>,
    /// The last number, and its time.
    last: (u64, String),
}

/// An event.
#[derive(Clone, Debug)]
pub struct Happened {
    /// When.
    pub time: String,
    /// What.
    pub event: String,
    /// What it says, as JSON.
    pub detail: String,
}

/// Numbers that are missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    /// Of which host.
    pub host: String,
    /// How many.
    pub missing: u64,
    /// The last record before it.
    pub before: (u64, String),
    /// The first one after it.
    pub after: (u64, String),
}

#[derive(Deserialize)]
struct Lost<'a> {
    records: u64,
    /// Of a sink beside the log, where it is not `file`.
    #[serde(borrow)]
    sink: Option<Cow<'a, str>>,
}

impl History {
    pub(super) fn add(&mut self, record: &Record<'_>) {
        self.host(record);
        match &*record.event {
            // A request each; counted elsewhere.
            "request" | "connection.refused" | "limit.denials_summarised" => return,
            "audit.lost" => {
                let lost = record
                    .detail
                    .and_then(|it| serde_json::from_str::<Lost<'_>>(it.get()).ok())
                    .filter(|lost| lost.sink.as_deref().is_none_or(|sink| sink == "file"));
                self.lost += lost.map_or(0, |lost| lost.records);
            }
            _ => {}
        }
        if self.events.len() >= KINDS_MAX && !self.events.contains_key(&*record.event) {
            return;
        }
        let (count, last) = self.events.entry(record.event.to_string()).or_default();
        *count += 1;
        if last.len() >= EVENTS_MAX {
            last.pop_front();
        }
        let detail = record.detail.map_or("", |it| it.get());
        last.push_back(Happened {
            time: record.time.to_string(),
            event: record.event.to_string(),
            detail: detail.chars().take(DETAIL_KEPT).collect(),
        });
    }

    fn host(&mut self, record: &Record<'_>) {
        let name = record.host.name.as_deref().unwrap_or("unknown");
        if !self.hosts.contains_key(name) {
            if self.hosts.len() >= HOSTS_MAX {
                return;
            }
            self.hosts.insert(name.to_owned(), Host::default());
        }
        let Some(host) = self.hosts.get_mut(name) else {
            return;
        };
        if let Some(instance) = record.host.instance_id.as_deref()
            && host.instance.as_deref() != Some(instance)
        {
            host.instance = Some(instance.to_owned());
        }
        let boot = record.host.boot_id.as_deref().unwrap_or("unknown");
        if let Some(when) = host.boots.get_mut(boot) {
            when.add(&record.time);
        } else if host.boots.len() < BOOTS_MAX {
            let when = host.boots.entry(boot.to_owned()).or_default();
            when.add(&record.time);
        }
        let Some(seq) = record.seq else {
            return;
        };
        let (last, at) = &mut host.last;
        if at.is_empty() {
            // The first of this host.
        } else if seq <= *last {
            self.begun_anew += 1;
        } else if seq - *last > 1 {
            let missing = seq - *last - 1;
            self.missing = self.missing.saturating_add(missing);
            if self.gaps.len() < GAPS_MAX {
                self.gaps.push(Gap {
                    host: name.to_owned(),
                    missing,
                    before: (*last, at.clone()),
                    after: (seq, record.time.to_string()),
                });
            }
        }
        *last = seq;
        (*record.time).clone_into(at);
    }

    /// The hosts that wrote it, by name.
    pub fn hosts(&self) -> impl Iterator<Item = (&str, &Host)> {
        self.hosts.iter().map(|(name, host)| (name.as_str(), host))
    }

    /// How often something happened whose name begins so.
    pub fn count(&self, begin: &str) -> u64 {
        self.events
            .iter()
            .filter(|(event, _)| event.starts_with(begin))
            .map(|(_, (count, _))| count)
            .sum()
    }

    /// What happened and is kept, in its order, and how much is not.
    pub fn events(&self) -> (Vec<&Happened>, u64) {
        let mut events: Vec<_> = (self.events.values())
            .flat_map(|(_, last)| last.iter())
            .collect();
        sorted::by(&mut events, |one, other| one.time.cmp(&other.time));
        let all: u64 = self.events.values().map(|(count, _)| count).sum();
        let kept = u64::try_from(events.len()).unwrap_or(u64::MAX);
        (events, all.saturating_sub(kept))
    }
}
