//! First match wins; where names are unknown, every way they could be counts.

use super::index::Candidates;
use super::names::{Asker, Holdings, NameId, Names};
use super::rule::{JudgedPath, Rule, Status};
use super::{Action, DenyCause, Policy, Subject, Verdict};
use crate::request::CanonicalPath;

/// How many principals are held against a caller of unknown names before the
/// verdict is given up, which denies. People's policies take some dozens, ten
/// thousand rules with a name each take forty thousand; this many take about
/// ten milliseconds.
const MAX_WORK: usize = 2_000_000;

/// A verdict, and the rule it names.
pub(super) struct Decision<'p> {
    pub(super) verdict: Verdict,
    pub(super) rule: Option<&'p Rule>,
}

impl Policy {
    /// What the policy says of `subject` reading `path`.
    ///
    /// Where the account is undecidable, the verdict is what all the names
    /// that the caller could have agree on, and a denial where they do not.
    pub fn decide(&self, subject: &Subject, path: &CanonicalPath) -> Verdict {
        self.judge(subject, path).verdict
    }

    pub(super) fn judge(&self, subject: &Subject, path: &CanonicalPath) -> Decision<'_> {
        let asker = Asker::new(subject, &self.names);
        let path = JudgedPath::new(path);
        let candidates = self.index.candidates(&asker, &path);
        match asker.holds {
            Holdings::Known(_) => {
                let rule = self
                    .rules_at(candidates)
                    .find(|rule| rule.status(&asker, &path, &self.names) == Status::Decides);
                let mut outcomes = Outcomes::default();
                outcomes.add(self, rule);
                outcomes.decision(self, rule)
            }
            Holdings::Undecidable(_) => self.judge_every_way(asker, &path, candidates),
        }
    }

    fn rules_at<'p>(&'p self, at: Candidates<'p>) -> impl Iterator<Item = &'p Rule> {
        at.filter_map(|at| self.rules.get(at))
    }

    /// Follows the rules down each way that unknown names could turn out. A
    /// rule that hangs on a name parts the way in two: held, and not held.
    fn judge_every_way<'p>(
        &'p self,
        asker: Asker,
        path: &JudgedPath,
        candidates: Candidates<'p>,
    ) -> Decision<'p> {
        let mut rules: Vec<_> = self
            .rules_at(candidates)
            .filter(|rule| rule.paths.covers(path))
            .collect();
        // Behind a rule that decides whatever the names, no way leads on.
        let last = rules
            .iter()
            .position(|rule| rule.status(&asker, path, &self.names) == Status::Decides);
        rules.truncate(last.map_or(rules.len(), |last| last + 1));
        let ahead = Outcomes::ahead(self, &rules, last.is_none());
        let mut outcomes = Outcomes::default();
        // The rule named in the verdict is the one that decides where the
        // caller holds none of the unknown names: it presumes the least.
        let mut plain = None;
        let mut work = 0;
        let may_enforce = rules.iter().any(|rule| rule.enforce);
        let mut open = vec![(0, asker)];
        while let Some((mut at, mut asker)) = open.pop() {
            // What could come of this way has come of others. Without this,
            // rules with exceptions double the ways each.
            if ahead.get(at).is_some_and(|ahead| outcomes.hold(ahead)) {
                continue;
            }
            let rule = loop {
                let Some(rule) = rules.get(at).copied() else {
                    break None;
                };
                work += 1 + rule.who.len() + rule.except.len();
                if work > MAX_WORK {
                    outcomes.give_up(may_enforce);
                    return outcomes.decision(self, None);
                }
                match rule.status(&asker, path, &self.names) {
                    Status::Decides => break Some(rule),
                    Status::Undecidable(name) => {
                        asker.suppose(name, true, &self.names);
                        if rule.status(&asker, path, &self.names) == Status::Decides {
                            outcomes.add(self, Some(rule));
                        } else {
                            open.push((at, asker.clone()));
                            // Copying what is assumed takes its time, too.
                            work += self.names.len() / 16;
                        }
                        asker.suppose(name, false, &self.names);
                    }
                    _ => at += 1,
                }
            };
            outcomes.add(self, rule);
            plain = plain.or(Some(rule));
            if outcomes.allowed && outcomes.denied && outcomes.enforced == may_enforce {
                break;
            }
        }
        outcomes.decision(self, plain.flatten())
    }
}

impl Asker {
    fn suppose(&mut self, name: NameId, holds: bool, names: &Names) {
        if let Holdings::Undecidable(assumed) = &mut self.holds {
            assumed.suppose(name, holds, names);
        }
    }
}

/// What the ways led to.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    allowed: bool,
    denied: bool,
    /// An allowing way without the bridge for tokenless clients.
    without_imdsv1: bool,
    /// A denying way that holds also in observe.
    enforced: bool,
}

impl Outcomes {
    /// Adds where one way ended: at a rule, or at the default.
    fn add(&mut self, policy: &Policy, rule: Option<&Rule>) {
        match rule.map_or(policy.default, |rule| rule.action) {
            Action::Allow => {
                self.allowed = true;
                self.without_imdsv1 |= !rule.is_some_and(|rule| rule.imdsv1);
            }
            Action::Deny => {
                self.denied = true;
                self.enforced |= rule.is_some_and(|rule| rule.enforce);
            }
        }
    }

    /// What could come of the ways from each rule on, at most.
    fn ahead(policy: &Policy, rules: &[&Rule], with_default: bool) -> Vec<Self> {
        let mut ahead = Self::default();
        if with_default {
            ahead.add(policy, None);
        }
        let mut all: Vec<_> = rules
            .iter()
            .rev()
            .map(|rule| {
                ahead.add(policy, Some(rule));
                ahead
            })
            .collect();
        all.reverse();
        all
    }

    fn hold(&self, other: &Self) -> bool {
        self.allowed >= other.allowed
            && self.denied >= other.denied
            && self.without_imdsv1 >= other.without_imdsv1
            && self.enforced >= other.enforced
    }

    /// Not every way was followed: what any rule could have said counts.
    fn give_up(&mut self, may_enforce: bool) {
        self.allowed = true;
        self.denied = true;
        self.enforced = may_enforce;
    }

    fn decision<'p>(self, policy: &'p Policy, rule: Option<&'p Rule>) -> Decision<'p> {
        let name = rule.map(|rule| rule.name.clone());
        if self.allowed && self.denied {
            return Decision {
                verdict: Verdict::Deny {
                    cause: DenyCause::AccountUnknown,
                    enforce: self.enforced,
                },
                rule: None,
            };
        }
        let verdict = match rule.map_or(policy.default, |rule| rule.action) {
            Action::Allow => Verdict::Allow {
                rule: name,
                imdsv1: !self.without_imdsv1,
            },
            Action::Deny => Verdict::Deny {
                cause: name.map_or(DenyCause::Default, DenyCause::Rule),
                enforce: self.enforced,
            },
        };
        Decision { verdict, rule }
    }
}
