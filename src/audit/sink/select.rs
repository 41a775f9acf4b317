//! Which records a sink gets, and what is counted in place of records.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::super::lines::Line;
use super::super::record::{Decision, Event, Reason, Traits};
use crate::config::Action;
use crate::provider::Class;

/// Users and classes told apart in one summary; the rest is counted together.
const KINDS_MAX: usize = 256;

/// A sink's filter.
pub(super) struct Selection {
    events: Vec<String>,
    classes: Vec<Class>,
    decisions: Vec<Decision>,
    summarise: Option<Duration>,
    /// Which events are asked for, as far as that was found out.
    asked: HashMap<Event, bool>,
    counts: Counts,
}

/// What becomes of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    Send,
    /// It is routine.
    Count,
    Skip,
}

#[derive(Default)]
struct Counts {
    by: BTreeMap<(Option<u32>, Option<&'static str>), u64>,
    others: u64,
    records: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    since: Option<Instant>,
}

/// Allowed routine reads, in place of their records.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    sink: &'a str,
    pub(super) records: u64,
    ms: u64,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    by: Vec<Of>,
    others: u64,
}

#[derive(Serialize)]
struct Of {
    uid: Option<u32>,
    class: Option<&'static str>,
    count: u64,
}

impl Selection {
    pub(super) fn new(events: &[String], classes: &[Class], decisions: &[Action]) -> Self {
        let decisions = decisions.iter().map(|decision| match decision {
            Action::Allow => Decision::Allow,
            Action::Deny => Decision::Deny,
        });
        Self {
            events: events.to_vec(),
            classes: classes.to_vec(),
            decisions: decisions.collect(),
            summarise: None,
            asked: HashMap::new(),
            counts: Counts::default(),
        }
    }

    pub(super) fn summarised(self, every: Option<Duration>) -> Self {
        Self {
            summarise: every,
            ..self
        }
    }

    pub(super) fn is_everything(&self) -> bool {
        self.events.is_empty()
            && self.classes.is_empty()
            && self.decisions.is_empty()
            && self.summarise.is_none()
    }

    pub(super) fn choose(&mut self, traits: &Traits) -> Choice {
        if !self.is_asked_for(traits.event) {
            return Choice::Skip;
        }
        // Other events have no class and no outcome.
        if matches!(traits.event, Event::Request | Event::ConnectionRefused) {
            let class = |class| self.classes.contains(&class);
            let decision = |decision| self.decisions.contains(&decision);
            if !(self.classes.is_empty() || traits.class.is_some_and(class))
                || !(self.decisions.is_empty() || traits.decision.is_some_and(decision))
            {
                return Choice::Skip;
            }
        }
        match self.summarise.is_some() && is_routine(traits) {
            true => Choice::Count,
            false => Choice::Send,
        }
    }

    fn is_asked_for(&mut self, event: Event) -> bool {
        if self.events.is_empty() {
            return true;
        }
        let events = &self.events;
        *self.asked.entry(event).or_insert_with(|| {
            let name = serde_json::to_value(event).unwrap_or_default();
            let name = name.as_str().unwrap_or_default();
            events.iter().any(|asked| match asked.strip_suffix('*') {
                Some(family) => name.starts_with(family),
                None => name == asked,
            })
        })
    }

    pub(super) fn count(&mut self, line: &Line<'_>) {
        let counts = &mut self.counts;
        counts.records += 1;
        counts.first_seq = counts.first_seq.or(line.seq);
        counts.last_seq = line.seq;
        counts.since.get_or_insert_with(Instant::now);
        let kind = (line.traits.uid, line.traits.class.map(Class::as_str));
        if counts.by.len() < KINDS_MAX || counts.by.contains_key(&kind) {
            *counts.by.entry(kind).or_default() += 1;
        } else {
            counts.others += 1;
        }
    }

    /// When what was counted is to be sent.
    pub(super) fn due(&self) -> Option<Instant> {
        Some(self.counts.since? + self.summarise?)
    }

    pub(super) fn take<'a>(&mut self, sink: &'a str) -> Summary<'a> {
        let counts = std::mem::take(&mut self.counts);
        let since = counts.since.map_or(Duration::ZERO, |since| since.elapsed());
        Summary {
            sink,
            records: counts.records,
            ms: u64::try_from(since.as_millis()).unwrap_or(u64::MAX),
            first_seq: counts.first_seq,
            last_seq: counts.last_seq,
            by: counts
                .by
                .into_iter()
                .map(|((uid, class), count)| Of { uid, class, count })
                .collect(),
            others: counts.others,
        }
    }
}

/// What everyone may have, and had: also tokens, which are of no class.
fn is_routine(traits: &Traits) -> bool {
    traits.event == Event::Request
        && traits.reason == Some(Reason::Allowed)
        && traits.decision == Some(Decision::Allow)
        && matches!(traits.class, None | Some(Class::Routine | Class::Live))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(reason: Reason, decision: Decision, class: Option<Class>) -> Traits {
        Traits {
            event: Event::Request,
            reason: Some(reason),
            decision: Some(decision),
            class,
            uid: Some(4001),
        }
    }

    fn event(event: Event) -> Traits {
        Traits {
            event,
            reason: None,
            decision: None,
            class: None,
            uid: None,
        }
    }

    #[test]
    fn a_sink_gets_what_it_asks_for() {
        let routine = request(Reason::Allowed, Decision::Allow, Some(Class::Routine));
        let observed = request(Reason::Observed, Decision::Allow, Some(Class::Routine));
        let denied = request(Reason::Default, Decision::Deny, Some(Class::Credentials));
        let token = request(Reason::Allowed, Decision::Allow, None);
        let drift = event(Event::RulesDrift);
        let all = [routine, observed, denied, token, drift];
        let chosen = |mut selection: Selection| all.map(|it| selection.choose(&it));
        use Choice::{Count, Send, Skip};
        let every = Some(Duration::from_secs(60));
        let new = |events: &[&str], classes: &[Class], decisions: &[Action]| {
            let events: Vec<_> = events.iter().map(ToString::to_string).collect();
            Selection::new(&events, classes, decisions)
        };
        assert_eq!(chosen(new(&[], &[], &[])), [Send; 5]);
        assert_eq!(
            chosen(new(&[], &[], &[]).summarised(every)),
            [Count, Send, Send, Count, Send]
        );
        assert_eq!(
            chosen(new(&[], &[], &[Action::Deny])),
            [Skip, Skip, Send, Skip, Send]
        );
        assert_eq!(
            chosen(new(&["request"], &[Class::Credentials], &[])),
            [Skip, Skip, Send, Skip, Skip]
        );
        assert_eq!(
            chosen(new(&["rules.*"], &[], &[])),
            [Skip, Skip, Skip, Skip, Send]
        );
        assert_eq!(chosen(new(&["rules.restored"], &[], &[])), [Skip; 5]);
    }
}
