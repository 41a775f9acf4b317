//! What is in force at one moment: the policy with the grants ahead of it, a
//! lockdown, a bypass, and the key that tokens are of. Swapped as one value;
//! each request keeps the one that it began with.
//!
//! Only what takes away is looked at again before an answer leaves: a
//! lockdown, and the end of a grant. Neither may come too late.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::acceptor::Peer;
use super::clock::boottime;
use crate::audit::Reason;
use crate::authorize::{Judgement, Outcome, TokenState, Withheld, judge, judge_bypassed};
use crate::config::{Action, Mode};
use crate::diagnose::{Diagnostics, Source};
use crate::ids::Uid;
use crate::policy::{Policy, Query, Verdict};
use crate::provider::{Class, Provider};
use crate::request::{CanonicalPath, ReadMethod};
use crate::token::{Moment, TokenKey};
use crate::utc;

/// In force together.
pub struct Orders {
    /// The policy of the files, which has a hash and tests.
    pub base: Arc<Policy>,
    /// What decides: the same, behind the grants.
    pub policy: Arc<Policy>,
    /// Whether verdicts bind.
    pub mode: Mode,
    /// Tokens of an earlier one are nobody's any more.
    pub tokens: Arc<TokenKey>,
    /// Ahead of the policy, in their order.
    pub grants: Vec<Arc<Grant>>,
    /// Credentials for nobody.
    pub lockdown: Option<Arc<Lockdown>>,
    /// Verdicts do not bind.
    pub bypass: Option<Arc<Bypass>>,
}

/// Who gave an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The process that asked.
    #[serde(flatten)]
    pub peer: Peer,
    /// Who had logged in, in that process's own words.
    pub login: Option<i64>,
}

/// A rule for a while.
#[derive(Debug, Serialize, Deserialize)]
pub struct Grant {
    /// Its name among grants.
    pub id: String,
    /// Principals.
    pub who: Vec<String>,
    /// Patterns and `@sets`.
    pub paths: Vec<String>,
    /// Why.
    pub reason: String,
    /// From when on it says nothing any more.
    pub ends: Moment,
    /// Whose doing.
    pub by: By,
    /// Requests that it let through, also in earlier runs.
    #[serde(default)]
    pub uses: AtomicU64,
    #[serde(skip)]
    pub(super) revoked: AtomicBool,
}

/// Credentials for nobody, but for these.
#[derive(Debug, Serialize, Deserialize)]
pub struct Lockdown {
    /// Principals.
    pub except: Vec<String>,
    /// Why, where that was said.
    pub reason: Option<String>,
    /// Since when, on the wall.
    pub since: String,
    /// Whose doing.
    pub by: By,
    #[serde(skip)]
    exempt: Option<Policy>,
}

/// The policy off for a while.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Bypass {
    /// Until then.
    pub ends: Moment,
    /// Why.
    pub reason: String,
    /// Whose doing.
    pub by: By,
}

/// What is in force now; clones share it.
#[derive(Clone)]
pub struct Standing(Arc<Mutex<Arc<Orders>>>);

impl Standing {
    /// From the start.
    pub fn new(orders: Orders) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(orders))))
    }

    /// As of this moment.
    pub fn orders(&self) -> Arc<Orders> {
        Arc::clone(&self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes them; each change begins with what the one before left.
    pub(super) fn change(&self, change: impl FnOnce(&mut Orders)) {
        let mut standing = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut orders = standing.again();
        change(&mut orders);
        let before = std::mem::replace(&mut *standing, Arc::new(orders));
        drop(standing);
        drop(before);
    }
}

impl Orders {
    /// A policy and nothing else.
    pub fn new(policy: Policy, mode: Mode, tokens: TokenKey) -> Self {
        let policy = Arc::new(policy);
        Self {
            base: Arc::clone(&policy),
            policy,
            mode,
            tokens: Arc::new(tokens),
            grants: Vec::new(),
            lockdown: None,
            bypass: None,
        }
    }

    /// The same, to be changed and put in force.
    pub(super) fn again(&self) -> Self {
        Self {
            base: Arc::clone(&self.base),
            policy: Arc::clone(&self.policy),
            mode: self.mode,
            tokens: Arc::clone(&self.tokens),
            grants: self.grants.clone(),
            lockdown: self.lockdown.clone(),
            bypass: self.bypass.clone(),
        }
    }

    /// What the policy says, and the grants that have not ended.
    pub fn decide(&self, query: &Query<'_>) -> Verdict {
        let verdict = self.policy.decide(query);
        match self.grant_of(verdict.rule()) {
            Some(grant) if grant.has_ended() => self.base.decide(query),
            _ => verdict,
        }
    }

    /// Whether a rule could deny such a request, to whomever, also in observe.
    pub fn may_enforce(&self, method: ReadMethod, path: &CanonicalPath) -> bool {
        self.policy.may_enforce(method, path)
    }

    /// Whether the token gate refuses such a read, whatever the rules say.
    pub fn refuse(&self, token: &TokenState) -> bool {
        !self.is_bypassed() && token.is_refused(self.mode, &self.policy)
    }

    /// What becomes of a read: by verdict and token, the mode, a bypass, and a
    /// lockdown, which holds whatever the others say.
    pub fn judge(&self, verdict: Verdict, query: &Query<'_>, token: TokenState) -> Judgement {
        let mut judged = match self.is_bypassed() {
            true => judge_bypassed(verdict, query.method, token),
            false => judge(verdict, query.method, token, self.mode),
        };
        if query.path.class() == Class::Credentials
            && matches!(judged.outcome, Outcome::Forward(_))
            && self.locks(query)
        {
            judged.reason = Reason::Lockdown;
            judged.detail = None;
            judged.outcome = Outcome::Refuse(403);
        }
        judged
    }

    /// Counts what a grant let through.
    pub fn count_use(&self, judged: &Judgement) {
        if matches!(judged.outcome, Outcome::Forward(_))
            && let Some(grant) = self.grant_of(judged.rule.as_ref())
        {
            grant.uses.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether a lockdown keeps credentials from them.
    pub fn locks(&self, query: &Query<'_>) -> bool {
        let lockdown = self.lockdown.as_ref();
        lockdown.is_some_and(|lockdown| !lockdown.exempts(query))
    }

    /// Why what these orders let through may not leave any more, `now` being
    /// in force: to be asked right before it does.
    pub fn recalled_by(
        &self,
        now: &Self,
        query: &Query<'_>,
        class: Option<Class>,
        judged: &Judgement,
    ) -> Option<Withheld> {
        // Begun before it, a request gets nothing after it, whoever asks.
        let is_new = |lockdown: &Arc<Lockdown>| {
            let before = self.lockdown.as_ref();
            before.is_none_or(|before| !Arc::ptr_eq(before, lockdown))
        };
        if class == Some(Class::Credentials)
            && now
                .lockdown
                .as_ref()
                .is_some_and(|it| is_new(it) || !it.exempts(query))
        {
            return Some(Withheld::lockdown());
        }
        let grant = self.grant_of(judged.rule.as_ref())?;
        let stands = now.grants.iter().any(|it| it.id == grant.id) && !grant.has_ended();
        if stands || now.is_bypassed() {
            return None;
        }
        let withheld = Withheld::at_the_end_of_a_grant(&now.decide(query))?;
        withheld.binds(now.mode).then_some(withheld)
    }

    /// Whether what is found of the holders of a connection holds, and if it
    /// does not, the reason in its place.
    pub fn waives(&self, withheld: &Withheld) -> Option<Reason> {
        match self.is_bypassed() {
            true if withheld.reason != Reason::Lockdown => Some(Reason::Bypassed),
            _ if withheld.binds(self.mode) => None,
            _ => Some(Reason::Observed),
        }
    }

    /// Whether the policy is off.
    pub fn is_bypassed(&self) -> bool {
        let bypass = self.bypass.as_ref();
        bypass.is_some_and(|bypass| boottime() < bypass.ends)
    }

    fn grant_of(&self, rule: Option<&Arc<str>>) -> Option<&Arc<Grant>> {
        if self.grants.is_empty() {
            return None;
        }
        let id = rule?.strip_prefix(GRANT)?;
        self.grants.iter().find(|grant| grant.id == id)
    }

    /// The first moment at which any of this ends by itself.
    pub(super) fn next_end(&self) -> Option<Moment> {
        let grants = self.grants.iter().map(|grant| grant.ends);
        grants.chain(self.bypass.iter().map(|it| it.ends)).min()
    }
}

/// What the name of a grant's rule begins with; then its id.
const GRANT: &str = "grant ";

impl Grant {
    /// Whether it says nothing any more.
    pub fn has_ended(&self) -> bool {
        self.revoked.load(Ordering::Relaxed) || boottime() >= self.ends
    }

    /// From now on it says nothing.
    pub(super) fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
    }

    /// As a policy would have it: the one language for rules.
    pub fn source(&self) -> Arc<Source> {
        let name = format!("{GRANT}{}", self.id);
        let text = format!(
            "schema = 1\n[[rule]]\nname = {}\naction = \"allow\"\nwho = {}\npaths = {}\n",
            quoted(&name),
            list(&self.who),
            list(&self.paths)
        );
        Source::new(name, text)
    }
}

/// `policy` behind these grants: one policy, judged by the one function.
///
/// # Errors
/// What is wrong with a grant.
pub fn compose(
    policy: &Arc<Policy>,
    sources: &[Arc<Source>],
    grants: &[Arc<Grant>],
    provider: Provider,
    default: Action,
) -> Result<Arc<Policy>, Diagnostics> {
    if grants.is_empty() {
        return Ok(Arc::clone(policy));
    }
    let ahead: Vec<_> = grants.iter().map(|grant| grant.source()).collect();
    let mut found = Diagnostics::new();
    match policy.behind(&ahead, sources, provider, default, &mut found) {
        Some(composed) => Ok(Arc::new(composed)),
        None => Err(found),
    }
}

impl Lockdown {
    /// # Errors
    /// Where an exception is no principal.
    pub(super) fn new(
        except: Vec<String>,
        reason: Option<String>,
        since: String,
        by: By,
    ) -> Result<Self, Diagnostics> {
        let mut lockdown = Self {
            except,
            reason,
            since,
            by,
            exempt: None,
        };
        lockdown.prepare()?;
        Ok(lockdown)
    }

    /// One that an earlier run left. Exceptions that cannot be read any more
    /// are none.
    pub(super) fn taken_up(left: Arc<Self>) -> Arc<Self> {
        let Some(mut lockdown) = Arc::into_inner(left) else {
            return Arc::new(Self::in_doubt(String::new()));
        };
        if let Err(found) = lockdown.prepare() {
            tracing::error!("the lockdown has no exceptions any more: {found}");
        }
        Arc::new(lockdown)
    }

    /// Where nobody can tell whether there is one.
    pub(super) fn in_doubt(why: String) -> Self {
        Self {
            except: Vec::new(),
            reason: Some(why),
            since: utc::rfc3339_seconds(SystemTime::now()),
            by: By {
                peer: Peer {
                    uid: Uid::ROOT,
                    pid: None,
                },
                login: None,
            },
            exempt: None,
        }
    }

    fn prepare(&mut self) -> Result<(), Diagnostics> {
        if self.except.is_empty() {
            return Ok(());
        }
        let text = format!(
            "schema = 1\n[[rule]]\nname = \"lockdown\"\naction = \"allow\"\nwho = {}\n\
             paths = [\"/**\"]\n",
            list(&self.except)
        );
        let source = Source::new("--except", text);
        let mut found = Diagnostics::new();
        self.exempt = Policy::parse(&[source], Provider::Aws, Action::Deny, &mut found);
        if self.exempt.is_none() {
            return Err(found);
        }
        Ok(())
    }

    /// Names that cannot be looked up exempt nobody.
    fn exempts(&self, query: &Query<'_>) -> bool {
        let exempt = self.exempt.as_ref();
        exempt.is_some_and(|it| it.decide(query).action() == Action::Allow)
    }
}

/// JSON's strings are TOML's, but for one character, which TOML refuses.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn list(texts: &[String]) -> String {
    serde_json::Value::from(texts.to_vec()).to_string()
}

#[cfg(test)]
mod tests;
