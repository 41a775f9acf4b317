//! A recorded request as a question that can be asked again: by the same
//! functions that the daemon asked, of whatever policy.
//!
//! What the record does not hold is never guessed. A verdict that hangs on it
//! is none.

use std::sync::Arc;

use crate::audit::Reason;
pub use crate::audit::reading::When;
use crate::audit::reading::{Caller, Record};
use crate::authorize::{Judgement, TokenState, judge};
use crate::config::Mode;
use crate::doctor::USER_AGENT;
use crate::ids::{Gid, Uid};
use crate::policy::{
    Account, AccountFacts, Group, Login, Obscured, Origin, Policy, Program, Query, Subject, Unit,
};
use crate::provider::Provider;
use crate::request::{CanonicalPath, ReadMethod, TOKEN_PATH};

/// The kernel's "no such id": a group known by its name alone.
const NO_GID: Gid = Gid(u32::MAX);
/// Of so many groups named by number every combination is tried.
const GIDS_TRIED: usize = 6;

/// A read that policy and token gate decided.
#[derive(Debug)]
pub struct Recorded {
    /// Who asked, as far as it was known then.
    pub subject: Subject,
    /// From where, as far as that was recorded.
    pub origin: Origin,
    /// What for.
    pub path: CanonicalPath,
    /// How.
    pub method: ReadMethod,
    /// With which token.
    pub token: TokenState,
    /// Whether the client got what it asked for, or that there is none.
    pub was_allowed: bool,
}

/// Why a record is no such question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum NotJudged {
    /// A token was asked for, which any caller may have, or it is no request.
    NoRead,
    /// It had no canonical form.
    Malformed,
    /// The verdict hangs on names, groups or a program that the record does
    /// not have.
    AccountUnknown,
    /// Something else than policy and token decided, such as a limit.
    OtherReason,
    /// The doctor asked, to see what would come of it.
    Doctor,
}

impl NotJudged {
    /// The word in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoRead => "no_read",
            Self::Malformed => "malformed",
            Self::AccountUnknown => "account_unknown",
            Self::OtherReason => "other_reason",
            Self::Doctor => "doctor",
        }
    }
}

/// Writes down what makes a record this question and no other, so that the
/// answer can be remembered.
pub(super) fn key(record: &Record<'_>, into: &mut String) {
    use std::fmt::Write as _;
    let (caller, request) = (&record.caller, &record.request);
    into.clear();
    // Writing to a String cannot fail.
    let _ = write!(
        into,
        "{:?} {:?} {:?} {:?}",
        caller.uid, caller.gid, caller.groups_omitted, record.status
    );
    let _ = write!(into, " {:?}", caller.loginuid);
    // Each begins with a mark of its kind and holds no NUL, so that no two
    // lists of texts look the same.
    let mut push = |text: Option<&str>| {
        into.push('\0');
        match text {
            Some(text) if text.contains('\0') => into.push_str(&format!("~{text:?}")),
            Some(text) => {
                into.push('=');
                into.push_str(text);
            }
            None => into.push('-'),
        }
    };
    for text in [
        Some(&record.event),
        caller.user.as_ref(),
        caller.unit.as_ref(),
        caller.exe.as_ref(),
        request.method.as_ref(),
        request.path.as_ref(),
        request.imds.as_ref(),
        request.user_agent.as_ref(),
        record.decision.as_ref(),
        record.reason.as_ref(),
    ] {
        push(text.map(|text| &**text));
    }
    push(record.detail.map(|detail| detail.get()));
    push(caller.groups.as_ref().map(|_| "groups"));
    for group in caller.groups.iter().flatten() {
        push(Some(group));
    }
}

impl Recorded {
    /// Reads it out of a record.
    ///
    /// # Errors
    /// [`NotJudged`].
    pub fn of(record: &Record<'_>, provider: Provider) -> Result<Self, NotJudged> {
        if &*record.event != "request" {
            return Err(NotJudged::NoRead);
        }
        let request = &record.request;
        if request.user_agent.as_deref() == Some(USER_AGENT) {
            return Err(NotJudged::Doctor);
        }
        let reason = record.reason.as_deref().unwrap_or_default();
        if reason == Reason::Malformed.as_str() || request.path.is_none() {
            return Err(NotJudged::Malformed);
        }
        let path = request.path.as_deref().unwrap_or_default();
        if path == TOKEN_PATH {
            return Err(NotJudged::NoRead);
        }
        if !is_by_policy(reason) {
            return Err(NotJudged::OtherReason);
        }
        let path = CanonicalPath::parse(provider, path.as_bytes());
        let path = path.map_err(|_| NotJudged::Malformed)?;
        let method = match request.method.as_deref() {
            Some("GET") => ReadMethod::Get,
            Some("HEAD") => ReadMethod::Head,
            _ => return Err(NotJudged::Malformed),
        };
        Ok(Self {
            subject: subject(&record.caller).ok_or(NotJudged::AccountUnknown)?,
            origin: origin(&record.caller),
            path,
            method,
            token: token(record, reason),
            // In observe, the service itself may ask for a token.
            was_allowed: record.decision.as_deref() == Some("allow") && record.status != Some(401),
        })
    }

    /// What `policy` says of it, enforced. `gids` are the groups that it names
    /// by number: records name them otherwise, so every way they could be
    /// counts.
    ///
    /// # Errors
    /// [`NotJudged::AccountUnknown`].
    pub fn judge_again(&self, policy: &Policy, gids: &[Gid]) -> Result<Judgement, NotJudged> {
        let ask = |subject: &Subject| {
            let verdict = policy.decide(&Query {
                subject,
                origin: &self.origin,
                method: self.method,
                path: &self.path,
            });
            // Behind a token that is nobody's, no rule is asked; a missing one
            // may be bridged by the rule.
            let hangs = verdict.unknown().is_some()
                && matches!(
                    self.token,
                    TokenState::Good(_) | TokenState::Relayed(_) | TokenState::Missing
                );
            let judged = judge(verdict, self.method, self.token.clone(), Mode::Enforce);
            (judged, hangs)
        };
        let (mut judged, mut hangs) = ask(&self.subject);
        if let Account::Known(facts) = &self.subject.account {
            let unsure: Vec<_> = gids.iter().filter(|gid| **gid != facts.gid).collect();
            if unsure.len() > GIDS_TRIED {
                (judged, hangs) = ask(&Subject {
                    uid: self.subject.uid,
                    account: Account::Undecidable,
                });
            } else {
                for held in 1..1_u32 << unsure.len() {
                    let mut facts = facts.clone();
                    let numbers = unsure.iter().enumerate();
                    facts
                        .groups
                        .extend(
                            numbers
                                .filter(|(at, _)| held >> at & 1 == 1)
                                .map(|(_, gid)| Group {
                                    gid: **gid,
                                    name: None,
                                }),
                        );
                    let (other, _) = ask(&Subject {
                        uid: self.subject.uid,
                        account: Account::Known(facts),
                    });
                    if other.verdict != judged.verdict {
                        return Err(NotJudged::AccountUnknown);
                    }
                }
            }
        }
        match hangs {
            true => Err(NotJudged::AccountUnknown),
            false => Ok(judged),
        }
    }
}

fn is_by_policy(reason: &str) -> bool {
    let reasons = [
        Reason::Allowed,
        Reason::Observed,
        Reason::Policy,
        Reason::Default,
        Reason::AccountUnknown,
        Reason::TokenMissing,
        Reason::TokenInvalid,
    ];
    reasons.iter().any(|known| known.as_str() == reason) || reason == "bypassed"
}

/// Where not all groups were recorded, none of the names is relied on.
fn subject(caller: &Caller<'_>) -> Option<Subject> {
    let uid = Uid(caller.uid?);
    let account = match (&caller.user, caller.gid, &caller.groups) {
        (Some(user), Some(gid), Some(groups)) if caller.groups_omitted.unwrap_or(0) == 0 => {
            let group = |name: &str| Group {
                gid: NO_GID,
                name: Some(name.to_owned()),
            };
            Account::Known(AccountFacts {
                user: user.to_string(),
                gid: Gid(gid),
                groups: groups.iter().map(|name| group(name)).collect(),
            })
        }
        _ => Account::Undecidable,
    };
    Some(Subject { uid, account })
}

/// A record names the one process that spoke; what it does not name is not
/// known.
fn origin(caller: &Caller<'_>) -> Origin {
    let login = match caller.loginuid.map(u32::try_from) {
        None => Login::Unknown,
        Some(Ok(uid)) => Login::As(Arc::new(Subject {
            uid: Uid(uid),
            account: Account::Undecidable,
        })),
        Some(Err(_)) => Login::Nobody,
    };
    let exe = caller.exe.as_deref().map(str::to_owned);
    Origin {
        unit: match caller.unit.as_deref() {
            Some(unit) => Unit::Named(unit.into()),
            None => Unit::Unknown,
        },
        holders: match (&exe, &login) {
            (None, Login::Unknown) => Err(Obscured::NotAsked),
            _ => Ok(vec![Program { exe, login }]),
        },
    }
}

fn token(record: &Record<'_>, reason: &str) -> TokenState {
    if record.request.imds.as_deref() == Some("v1") {
        return TokenState::Missing;
    }
    let detail = record.detail_word().unwrap_or_default();
    match (reason, &*detail) {
        ("token_invalid", "expired") => TokenState::Expired,
        ("token_invalid", "foreign") => TokenState::Foreign,
        ("token_invalid", _) | (_, "token_invalid") => TokenState::OtherUid(1),
        _ => TokenState::Good(1),
    }
}
