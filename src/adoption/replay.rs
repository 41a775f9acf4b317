//! Which recorded decisions a policy would change.

use std::collections::{BTreeMap, HashMap};

use super::recorded::{self, NotJudged, Recorded, When};
use crate::audit::Decision;
use crate::audit::reading::Record;
use crate::ids::Gid;
use crate::policy::Policy;
use crate::provider::Provider;

/// Different questions whose answers are remembered.
const REMEMBERED: usize = 100_000;

/// A replay under way.
pub struct Replay<'p> {
    policy: &'p Policy,
    gids: Vec<Gid>,
    provider: Provider,
    known: HashMap<String, Outcome>,
    key: String,
    /// What came of it so far.
    pub found: Found,
}

/// What came of a replay.
#[derive(Debug, Default)]
pub struct Found {
    /// Requests that were judged again.
    pub judged: u64,
    /// Tokens asked for, which any caller may have.
    pub tokens: u64,
    /// Those that were not, by why.
    pub not_judged: BTreeMap<NotJudged, u64>,
    /// What would be otherwise, and how often.
    pub changed: BTreeMap<Change, u64>,
    /// From the first request to the last.
    pub when: When,
}

/// A decision that would be otherwise.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Whether it would be allowed, and was refused; refusals come first.
    pub to_allow: bool,
    /// The account.
    pub user: Option<String>,
    /// Its uid.
    pub uid: u32,
    /// GET or HEAD.
    pub method: &'static str,
    /// Without the version.
    pub path: String,
    /// Of the path.
    pub class: &'static str,
    /// With a token or without.
    pub v1: bool,
    /// What it was before, as recorded.
    pub reason_was: String,
    /// Why it would be so.
    pub reason: &'static str,
    /// The rule that would say so.
    pub rule: Option<String>,
}

#[derive(Clone)]
enum Outcome {
    NotJudged(NotJudged),
    Same,
    Changed(Box<Change>),
}

impl<'p> Replay<'p> {
    /// `gids` as in [`Recorded::judge_again`].
    pub fn new(policy: &'p Policy, gids: Vec<Gid>, provider: Provider) -> Self {
        Self {
            policy,
            gids,
            provider,
            known: HashMap::new(),
            key: String::new(),
            found: Found::default(),
        }
    }

    /// Judges one more.
    pub fn add(&mut self, record: &Record<'_>) {
        if &*record.event != "request" {
            return;
        }
        self.found.when.add(&record.time);
        let outcome = self.outcome(record);
        let found = &mut self.found;
        match outcome {
            Outcome::NotJudged(NotJudged::NoRead) => found.tokens += 1,
            Outcome::NotJudged(why) => *found.not_judged.entry(why).or_default() += 1,
            Outcome::Same => found.judged += 1,
            Outcome::Changed(change) => {
                found.judged += 1;
                *found.changed.entry(*change).or_default() += 1;
            }
        }
    }

    /// The same question has the same answer.
    fn outcome(&mut self, record: &Record<'_>) -> Outcome {
        recorded::key(record, &mut self.key);
        if let Some(known) = self.known.get(&self.key) {
            return known.clone();
        }
        let outcome = self.judge(record);
        if self.known.len() < REMEMBERED {
            self.known.insert(self.key.clone(), outcome.clone());
        }
        outcome
    }

    fn judge(&self, record: &Record<'_>) -> Outcome {
        let judged = Recorded::of(record, self.provider)
            .and_then(|it| Ok((it.judge_again(self.policy, &self.gids)?, it)));
        let (judgement, recorded) = match judged {
            Ok(judged) => judged,
            Err(why) => return Outcome::NotJudged(why),
        };
        let is_allowed = judgement.verdict == Decision::Allow;
        if is_allowed == recorded.was_allowed {
            return Outcome::Same;
        }
        Outcome::Changed(Box::new(Change {
            to_allow: is_allowed,
            user: record.caller.user.as_deref().map(str::to_owned),
            uid: recorded.subject.uid.0,
            method: recorded.method.as_str(),
            path: recorded.path.resource().to_owned(),
            class: recorded.path.class().as_str(),
            v1: record.request.imds.as_deref() == Some("v1"),
            reason_was: record.reason.as_deref().unwrap_or_default().to_owned(),
            reason: judgement.reason.as_str(),
            rule: judgement.rule.as_deref().map(str::to_owned),
        }))
    }
}

impl Found {
    /// How many decisions would be otherwise.
    pub fn otherwise(&self) -> u64 {
        self.changed.values().sum()
    }
}
