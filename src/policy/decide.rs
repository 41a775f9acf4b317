//! First match wins; where something about the caller is unknown, every way it
//! could be counts.

use super::index::Candidates;
use super::names::{Asker, Holdings, Name, NameId, Names};
use super::rule::{JudgedPath, Rule, Status};
use super::{Action, DenyCause, Login, Obscured, Policy, Query, Unknown, Verdict};
use crate::request::{CanonicalPath, ReadMethod};

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
    /// What the policy says of a request. The one place where that is said: to
    /// the daemon, to whoever predicts it, and to tests.
    ///
    /// Where something about the caller is unknown, the verdict is what every
    /// way it could be agrees on, and a denial where they do not.
    pub fn decide(&self, query: &Query) -> Verdict {
        self.judge(query).verdict
    }

    /// Whether any rule that denies such a request, to whomever, holds also in
    /// observe.
    pub fn may_enforce(&self, method: ReadMethod, path: &CanonicalPath) -> bool {
        let path = JudgedPath::new(method, path);
        self.rules.iter().any(|rule| {
            rule.enforce
                && rule.action == Action::Deny
                && rule.methods.contain(path.method)
                && rule.paths.covers(&path)
        })
    }

    pub(super) fn judge(&self, query: &Query) -> Decision<'_> {
        let asker = Asker::new(query, &self.names);
        let path = JudgedPath::new(query.method, query.path);
        if matches!(asker.holds, Holdings::Known(_)) {
            let mut is_known = true;
            let mut candidates = self.rules_at(self.index.candidates(&asker, &path));
            let rule = candidates.find(|rule| {
                let status = rule.status(&asker, &path, &self.names);
                is_known = !matches!(status, Status::Undecidable(_));
                !is_known || status == Status::Decides
            });
            if is_known {
                let mut outcomes = Outcomes::default();
                outcomes.add(self, rule);
                return outcomes.decision(self, rule);
            }
        }
        let candidates = self.index.candidates(&asker, &path);
        self.judge_every_way(asker, &path, candidates)
    }

    fn rules_at<'p>(&'p self, at: Candidates<'p>) -> impl Iterator<Item = &'p Rule> {
        at.filter_map(|at| self.rules.get(at))
    }

    /// Follows the rules down each way that what is unknown could turn out. A
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
                        outcomes.hang_on(&asker, name, &self.names);
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

impl Asker<'_> {
    fn suppose(&mut self, name: NameId, holds: bool, names: &Names) {
        self.assumed.suppose(name, holds, names);
    }

    fn login_without_names(&self) -> bool {
        let logins = self.origin.holders.iter().flatten().map(|it| &it.login);
        logins
            .into_iter()
            .any(|login| matches!(login, Login::As(subject) if subject.account.facts().is_none()))
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
    /// What the ways differ by.
    unknown: Unknown,
}

impl Outcomes {
    fn hang_on(&mut self, asker: &Asker, name: NameId, names: &Names) {
        match names.get(name) {
            Some(Name::Unit(_)) => self.unknown.unit = true,
            Some(Name::Exe(_)) => self.hang_on_holders(asker),
            Some(Name::Login(_)) if !asker.login_without_names() => self.hang_on_holders(asker),
            _ => self.unknown.account = true,
        }
    }

    fn hang_on_holders(&mut self, asker: &Asker) {
        let why = asker.origin.holders.as_ref().err().copied();
        self.unknown.holder = Some(why.unwrap_or(Obscured::Differ));
    }

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
                    cause: DenyCause::Unknown(self.unknown),
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
