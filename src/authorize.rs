//! Token gate and policy together: from a caller and a canonical request to a
//! permit or a refusal. One function, [`judge`], decides; the daemon and the
//! commands that predict it all call it.
//!
//! Pure. A [`Permit`] comes from here and nowhere else, and the service is
//! asked by permit only.

use std::sync::Arc;

use crate::audit::{Decision, Reason};
use crate::caller::Caller;
use crate::caller::witness::Unwitnessed;
use crate::config::Mode;
use crate::ids::{MetadataAddr, Uid};
use crate::policy::{DenyCause, Obscured, Policy, Verdict};
use crate::request::{CanonicalPath, PresentedToken, Read, ReadMethod, Ttl};
use crate::token::TokenError;

/// What the token gate found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenState {
    /// The caller's own, with the seconds it has left.
    Good(u32),
    /// One that only the service can judge.
    Relayed(PresentedToken),
    /// None: IMDSv1.
    Missing,
    /// Good, but somebody else's.
    OtherUid(u32),
    /// Of this run, whoever's it was; its time is over.
    Expired,
    /// Not of this run's making: altered, made up, of an earlier run, or the
    /// service's own.
    Foreign,
}

impl TokenState {
    /// Whether the token gate refuses such a read, whatever the rules say.
    pub fn is_refused(&self, mode: Mode, policy: &Policy) -> bool {
        mode == Mode::Enforce
            && match self {
                Self::Good(_) | Self::Relayed(_) => false,
                Self::Missing => !policy.bridges_imdsv1(),
                Self::OtherUid(_) | Self::Expired | Self::Foreign => true,
            }
    }
}

impl From<Result<u32, TokenError>> for TokenState {
    fn from(verified: Result<u32, TokenError>) -> Self {
        match verified {
            Ok(left) => Self::Good(left),
            Err(TokenError::OtherUid { left }) => Self::OtherUid(left),
            Err(TokenError::Expired) => Self::Expired,
            Err(TokenError::Foreign) => Self::Foreign,
        }
    }
}

/// What becomes of a read, and what the record says of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub struct Judgement {
    /// What holds by token gate and policy, whatever the mode.
    pub verdict: Decision,
    /// Why.
    pub reason: Reason,
    /// What is wrong with an invalid token; in observe, the reason there
    /// would have been.
    pub detail: Option<&'static str>,
    /// The rule that decided.
    pub rule: Option<Arc<str>>,
    /// How the service is to be asked, or that it is not.
    pub outcome: Outcome,
}

/// Forwarded or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Ask the service this way.
    Forward(Access),
    /// Answer with this status.
    Refuse(u16),
}

/// With which token the service is asked, and what the client is told of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// With the daemon's token. `left` seconds remain of the client's, if it
    /// sent one.
    Own {
        /// For the TTL header of the answer.
        left: Option<u32>,
    },
    /// With the client's.
    Relayed(PresentedToken),
    /// With none: only the service knows whether it still allows that.
    Tokenless,
}

/// Decides. The token gate comes first, so that a caller without a token
/// learns nothing of the policy.
pub fn judge(verdict: Verdict, method: ReadMethod, token: TokenState, mode: Mode) -> Judgement {
    let bridge = verdict.bridges_imdsv1(method);
    let denial = match &verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { cause, enforce } => Some((why(cause), *enforce)),
    };
    let gate = match &token {
        TokenState::Good(_) | TokenState::Relayed(_) => None,
        TokenState::Missing if bridge => None,
        TokenState::Missing => Some((Reason::TokenMissing, None)),
        TokenState::OtherUid(_) => Some((Reason::TokenInvalid, Some("other_uid"))),
        TokenState::Expired => Some((Reason::TokenInvalid, Some("expired"))),
        TokenState::Foreign => Some((Reason::TokenInvalid, Some("foreign"))),
    };
    let access = match token {
        TokenState::Good(left) | TokenState::OtherUid(left) => {
            Some(Access::Own { left: Some(left) })
        }
        TokenState::Relayed(token) => Some(Access::Relayed(token)),
        TokenState::Missing if bridge => Some(Access::Own { left: None }),
        TokenState::Missing => Some(Access::Tokenless),
        TokenState::Expired | TokenState::Foreign => None,
    };
    let refusal = gate.or(denial.map(|(why, _)| why));
    let enforced = denial.is_some_and(|(_, enforce)| enforce);
    let (reason, detail, outcome) = match (refusal, access) {
        (None, Some(access)) => (Reason::Allowed, None, Outcome::Forward(access)),
        (Some((would_be, _)), Some(access)) if mode == Mode::Observe && !enforced => (
            Reason::Observed,
            Some(would_be.as_str()),
            Outcome::Forward(access),
        ),
        // In observe, the token gate does not bind: what refuses here is the rule.
        (Some(_), Some(_)) if mode == Mode::Observe => {
            let (reason, detail) = denial.map_or((Reason::Policy, None), |(why, _)| why);
            (reason, detail, Outcome::Refuse(403))
        }
        (Some((reason @ (Reason::TokenMissing | Reason::TokenInvalid), detail)), _) => {
            (reason, detail, Outcome::Refuse(401))
        }
        (Some((reason, detail)), _) => (reason, detail, Outcome::Refuse(403)),
        (None, None) => (Reason::TokenInvalid, None, Outcome::Refuse(401)),
    };
    let rule = verdict.rule().cloned();
    Judgement {
        verdict: if refusal.is_some() {
            Decision::Deny
        } else {
            Decision::Allow
        },
        reason,
        detail,
        // A caller refused at the gate was not refused by a rule.
        rule: rule.filter(|_| gate.is_none()),
        outcome,
    }
}

/// Decides while the policy is off: as in observe, and rules that hold also
/// there do not. Only what is no token of ours is still refused, because the
/// service would refuse it.
pub fn judge_bypassed(verdict: Verdict, method: ReadMethod, token: TokenState) -> Judgement {
    let unbound = match verdict {
        Verdict::Deny { cause, .. } => Verdict::Deny {
            cause,
            enforce: false,
        },
        allow @ Verdict::Allow { .. } => allow,
    };
    let mut judged = judge(unbound, method, token, Mode::Observe);
    if judged.reason == Reason::Observed {
        judged.reason = Reason::Bypassed;
    }
    judged
}

/// The reason of a denial, and what exactly where that does not say it. Of a
/// caller, the unit is as much a part as the account is: where it is unknown,
/// so is the caller. Program and login are the witness's to tell.
fn why(cause: &DenyCause) -> (Reason, Option<&'static str>) {
    let unknown = match cause {
        DenyCause::Rule(_) => return (Reason::Policy, None),
        DenyCause::Default => return (Reason::Default, None),
        DenyCause::Unknown(unknown) => unknown,
    };
    match unknown.holder {
        _ if unknown.account => (Reason::AccountUnknown, None),
        None => (Reason::AccountUnknown, Some("unit")),
        Some(Obscured::NotAsked) => (Reason::WitnessGone, Some("not_asked")),
        Some(Obscured::Gone) => (Reason::WitnessGone, Some("gone")),
        Some(Obscured::Slow) => (Reason::WitnessGone, Some("slow")),
        Some(Obscured::Incomplete) => (Reason::WitnessGone, Some("incomplete")),
        Some(Obscured::TooMany) => (Reason::Holders, Some("too_many")),
        Some(Obscured::Nobody) => (Reason::Holders, Some("none")),
        Some(Obscured::Shielded) => (Reason::Holders, Some("shielded")),
        Some(Obscured::Differ) => (Reason::Holders, Some("differ")),
    }
}

/// Why credentials that the caller may have are not given to those who hold
/// the caller's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Withheld {
    /// `holders` or `witness_gone`.
    pub reason: Reason,
    /// What exactly.
    pub detail: &'static str,
    /// Whether a rule that holds also in observe says so.
    enforce: bool,
}

impl Withheld {
    /// Credentials are for nobody now.
    pub fn lockdown() -> Self {
        Self {
            reason: Reason::Lockdown,
            detail: "meanwhile",
            enforce: true,
        }
    }

    /// The grant that let a request through has ended meanwhile, and this is
    /// what holds without it.
    pub fn at_the_end_of_a_grant(verdict: &Verdict) -> Option<Self> {
        match verdict {
            Verdict::Allow { .. } => None,
            Verdict::Deny { cause, enforce } => Some(Self {
                reason: why(cause).0,
                detail: "grant_ended",
                enforce: *enforce,
            }),
        }
    }

    /// The same of holders whom nobody saw: any of them may be whom a rule
    /// means that holds also in observe.
    pub fn of_unseen(self, may_enforce: bool) -> Self {
        Self {
            enforce: self.enforce || may_enforce,
            ..self
        }
    }

    /// Whether the client does without, or only the record says so.
    pub fn binds(&self, mode: Mode) -> bool {
        mode == Mode::Enforce || self.enforce
    }
}

/// Judges credentials by the verdicts on every uid of every holder: there
/// must be one, and all must be allowed. A program that runs for one user
/// with the rights of another, or was handed a connection, has more than one.
pub fn judge_holders(seen: Result<Vec<Verdict>, Unwitnessed>) -> Option<Withheld> {
    let withheld = |reason, detail| Withheld {
        reason,
        detail,
        enforce: false,
    };
    let verdicts = match seen {
        Ok(verdicts) => verdicts,
        Err(unwitnessed) => {
            return Some(match unwitnessed {
                Unwitnessed::TooMany => withheld(Reason::Holders, "too_many"),
                Unwitnessed::Gone => withheld(Reason::WitnessGone, "gone"),
                Unwitnessed::Slow | Unwitnessed::Busy => withheld(Reason::WitnessGone, "slow"),
                Unwitnessed::Incomplete => withheld(Reason::WitnessGone, "incomplete"),
            });
        }
    };
    if verdicts.is_empty() {
        return Some(withheld(Reason::Holders, "none"));
    }
    let denials = verdicts.iter().filter_map(|verdict| match verdict {
        Verdict::Allow { .. } => None,
        Verdict::Deny { enforce, .. } => Some(*enforce),
    });
    denials
        .reduce(|one, other| one || other)
        .map(|enforce| Withheld {
            enforce,
            ..withheld(Reason::Holders, "uid")
        })
}

/// The right to ask the service one thing once.
#[derive(Debug)]
pub struct Permit {
    uid: Uid,
    service: MetadataAddr,
    ask: Ask,
}

/// What is asked.
#[derive(Debug)]
pub enum Ask {
    /// A path, rebuilt from what was judged.
    Read {
        /// GET or HEAD.
        method: ReadMethod,
        /// What was judged.
        path: CanonicalPath,
        /// With which token.
        access: Access,
    },
    /// A token of the service's own, for the client.
    Mint(Ttl),
}

impl Permit {
    /// For a read that was judged.
    pub fn read(caller: &Caller, read: &Read, judgement: &Judgement) -> Result<Self, u16> {
        match &judgement.outcome {
            Outcome::Refuse(status) => Err(*status),
            Outcome::Forward(access) => Ok(Self {
                uid: caller.uid(),
                service: caller.service(),
                ask: Ask::Read {
                    method: read.method,
                    path: read.path.clone(),
                    access: access.clone(),
                },
            }),
        }
    }

    /// Any caller may have a token.
    pub fn mint(caller: &Caller, ttl: Ttl) -> Self {
        Self {
            uid: caller.uid(),
            service: caller.service(),
            ask: Ask::Mint(ttl),
        }
    }

    /// For whom.
    pub fn uid(&self) -> Uid {
        self.uid
    }

    /// Where to ask.
    pub fn service(&self) -> MetadataAddr {
        self.service
    }

    /// With which token a read asks.
    pub fn access(&self) -> Option<&Access> {
        match &self.ask {
            Ask::Read { access, .. } => Some(access),
            Ask::Mint(_) => None,
        }
    }

    /// What to ask.
    pub fn ask(&self) -> &Ask {
        &self.ask
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Unknown;

    fn allow(imdsv1: bool) -> Verdict {
        Verdict::Allow {
            rule: Some("ops".into()),
            imdsv1,
        }
    }

    fn deny(enforce: bool) -> Verdict {
        Verdict::Deny {
            cause: DenyCause::Rule("no".into()),
            enforce,
        }
    }

    fn outcome(verdict: Verdict, token: TokenState, mode: Mode) -> (Decision, Reason, String) {
        let judged = judge(verdict, ReadMethod::Get, token, mode);
        (
            judged.verdict,
            judged.reason,
            format!("{:?}", judged.outcome),
        )
    }

    #[test]
    fn every_combination_has_its_outcome() {
        use Decision::{Allow, Deny};
        use Mode::{Enforce, Observe};
        use TokenState::{Expired, Foreign, Good, Missing, OtherUid};
        let own = "Forward(Own { left: Some(9) })";
        let bridged = "Forward(Own { left: None })";
        let tokenless = "Forward(Tokenless)";
        for (verdict, token, mode, expected) in [
            (
                allow(false),
                Good(9),
                Enforce,
                (Allow, Reason::Allowed, own),
            ),
            (
                allow(false),
                Missing,
                Enforce,
                (Deny, Reason::TokenMissing, "Refuse(401)"),
            ),
            (
                allow(true),
                Missing,
                Enforce,
                (Allow, Reason::Allowed, bridged),
            ),
            (
                allow(true),
                Expired,
                Enforce,
                (Deny, Reason::TokenInvalid, "Refuse(401)"),
            ),
            (
                allow(false),
                OtherUid(9),
                Enforce,
                (Deny, Reason::TokenInvalid, "Refuse(401)"),
            ),
            (
                deny(false),
                Good(9),
                Enforce,
                (Deny, Reason::Policy, "Refuse(403)"),
            ),
            (
                deny(false),
                Missing,
                Enforce,
                (Deny, Reason::TokenMissing, "Refuse(401)"),
            ),
            (
                deny(true),
                OtherUid(9),
                Enforce,
                (Deny, Reason::TokenInvalid, "Refuse(401)"),
            ),
            (
                allow(false),
                Good(9),
                Observe,
                (Allow, Reason::Allowed, own),
            ),
            (
                allow(false),
                Missing,
                Observe,
                (Deny, Reason::Observed, tokenless),
            ),
            (
                allow(true),
                Missing,
                Observe,
                (Allow, Reason::Allowed, bridged),
            ),
            (
                allow(false),
                OtherUid(9),
                Observe,
                (Deny, Reason::Observed, own),
            ),
            (
                allow(false),
                Foreign,
                Observe,
                (Deny, Reason::TokenInvalid, "Refuse(401)"),
            ),
            (deny(false), Good(9), Observe, (Deny, Reason::Observed, own)),
            (
                deny(true),
                Good(9),
                Observe,
                (Deny, Reason::Policy, "Refuse(403)"),
            ),
            (
                deny(true),
                Missing,
                Observe,
                (Deny, Reason::Policy, "Refuse(403)"),
            ),
        ] {
            let case = format!("{verdict:?} {token:?} {mode:?}");
            let (decided, reason, what) = outcome(verdict, token, mode);
            assert_eq!((decided, reason, what.as_str()), expected, "{case}");
        }
    }

    #[test]
    fn a_record_tells_a_stolen_token_from_one_that_is_merely_old() {
        for (token, mode, detail) in [
            (TokenState::OtherUid(9), Mode::Enforce, Some("other_uid")),
            (TokenState::Expired, Mode::Enforce, Some("expired")),
            (TokenState::Foreign, Mode::Enforce, Some("foreign")),
            (TokenState::Expired, Mode::Observe, Some("expired")),
            (
                TokenState::OtherUid(9),
                Mode::Observe,
                Some("token_invalid"),
            ),
            (TokenState::Missing, Mode::Enforce, None),
        ] {
            let judged = judge(allow(false), ReadMethod::Get, token.clone(), mode);
            assert_eq!(judged.detail, detail, "{token:?} {mode:?}");
        }
    }

    #[test]
    fn the_bridge_for_imdsv1_is_for_get_alone() {
        let judged = judge(
            allow(true),
            ReadMethod::Head,
            TokenState::Missing,
            Mode::Enforce,
        );
        assert_eq!(judged.outcome, Outcome::Refuse(401));
    }

    #[test]
    fn a_refusal_at_the_gate_does_not_name_the_rule() {
        let judged = judge(
            deny(false),
            ReadMethod::Get,
            TokenState::Missing,
            Mode::Enforce,
        );
        assert_eq!(judged.rule, None);
    }

    #[test]
    fn credentials_need_a_holder_and_every_holder_allowed() {
        let judged = |seen| {
            judge_holders(seen).map(|it: Withheld| {
                let binds = it.binds(Mode::Observe);
                (it.reason, it.detail, binds)
            })
        };
        assert_eq!(judged(Ok(vec![allow(false), allow(true)])), None);
        for (seen, expected) in [
            (Ok(vec![]), (Reason::Holders, "none", false)),
            (
                Ok(vec![allow(false), deny(false)]),
                (Reason::Holders, "uid", false),
            ),
            (
                Ok(vec![deny(false), deny(true)]),
                (Reason::Holders, "uid", true),
            ),
            (
                Err(Unwitnessed::TooMany),
                (Reason::Holders, "too_many", false),
            ),
            (Err(Unwitnessed::Gone), (Reason::WitnessGone, "gone", false)),
            (Err(Unwitnessed::Slow), (Reason::WitnessGone, "slow", false)),
            (
                Err(Unwitnessed::Incomplete),
                (Reason::WitnessGone, "incomplete", false),
            ),
        ] {
            let withheld = judge_holders(seen.clone()).unwrap();
            assert!(withheld.binds(Mode::Enforce));
            assert!(withheld.of_unseen(true).binds(Mode::Observe));
            assert_eq!(judged(seen), Some(expected));
        }
    }

    #[test]
    fn observe_says_what_the_reason_would_have_been() {
        let verdict = Verdict::Deny {
            cause: DenyCause::Unknown(Unknown {
                account: true,
                ..Unknown::default()
            }),
            enforce: false,
        };
        let judged = judge(verdict, ReadMethod::Get, TokenState::Good(1), Mode::Observe);
        assert_eq!(judged.detail, Some("account_unknown"));
    }
}
