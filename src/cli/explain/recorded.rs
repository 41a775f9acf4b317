//! `imdsfw explain --id`: a decision that is in the audit log.

use std::process::ExitCode;

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, headline};
use super::{Asked, NO_POLICY, program};
use crate::audit::reading::{Logs, ReadingError};
use crate::cli::{Outcome, fold, paragraph, print};
use crate::config::{Config, load_policy, policy_by_hash};
use crate::control::{Snapshot, Store};
use crate::diagnose::{Diagnostics, plain_text};
use crate::ids::{Gid, Uid};
use crate::intercept::daemon_uid;
use crate::policy::{Account, AccountFacts, Group, Origin, Policy, Subject, Unit};

pub(super) fn run(id: &str, config: &Config, as_json: bool) -> Outcome {
    let log = config.audit.file.display();
    let whole = match recorded(config, id) {
        Ok(Some(record)) => record,
        Ok(None) => {
            let id = plain_text(id);
            return nothing(
                as_json,
                &format!(
                    "no record in {log}, or in what was rotated away from it, has the id {id}"
                ),
            );
        }
        Err(error) => {
            return nothing(
                as_json,
                &format!(
                    "{log} cannot be read: {error}; ask root, or a member of the group it \
                     belongs to"
                ),
            );
        }
    };
    let Ok(record) = Record::deserialize(&whole) else {
        return nothing(
            as_json,
            &format!("the record of this id in {log} is not one of a request"),
        );
    };
    let mut explained = None;
    let mut policy_is_known = true;
    let mut told = String::new();
    if let (Some(asked), Some(hash), true) = (record.asked(), &record.policy, record.was_judged()) {
        if let Some(policy) = policy_of(config, hash) {
            let answer = Answer::new(&asked, config.provider, &policy);
            if let Some(differs) = record.differs(&answer) {
                told += &paragraph("  ", differs);
            }
            told += &answer.rules();
            explained = Some(answer.json(&asked, config.policy.mode, &policy));
        } else {
            policy_is_known = false;
            told += &paragraph("  ", &gone(config, hash));
        }
    }
    if as_json {
        let answer = json!({
            "verdict": record.verdict,
            "reason": record.reason,
            "rule": record.rule,
            "policy": record.policy,
            "policy_is_known": policy_is_known,
            "recorded": whole,
            "explained": explained,
        });
        print(&format!("{answer}\n"))?;
    } else {
        print(&format!("{}{told}", record.head()))?;
    }
    Ok(ExitCode::from(match policy_is_known {
        true => u8::from(!record.was_allowed()),
        false => NO_POLICY,
    }))
}

/// Of the files as they stand, or as the daemon has kept them.
fn policy_of(config: &Config, hash: &str) -> Option<Policy> {
    policy_by_hash(config, hash).or_else(|| {
        let owner = daemon_uid(&config.user).unwrap_or(Uid::ROOT);
        let store = Store::new(config.state_directory.clone(), owner);
        Snapshot::policy_by_hash(&store, config.provider, hash)
    })
}

fn recorded(config: &Config, id: &str) -> Result<Option<Value>, ReadingError> {
    let line = Logs::with_rotated(&config.audit.file)?.find(id)?;
    Ok(line.and_then(|line| serde_json::from_str(&line).ok()))
}

fn nothing(as_json: bool, why: &str) -> Outcome {
    if as_json {
        print(&format!("{}\n", json!({ "verdict": null, "error": why })))?;
    } else {
        eprintln!("{}", fold(&format!("imdsfw: {why}")));
    }
    Ok(ExitCode::from(NO_POLICY))
}

fn gone(config: &Config, hash: &str) -> String {
    let now = load_policy(config, &mut Diagnostics::new());
    let now = now.map_or("not in order".to_owned(), |it| it.policy.hash().to_string());
    format!("the policy of that time, {hash}, is not known any more; the one on disk is {now}")
}

/// What a record says of a request.
#[derive(Deserialize)]
struct Record {
    time: String,
    verdict: Option<String>,
    decision: Option<String>,
    reason: String,
    detail: Option<String>,
    rule: Option<String>,
    policy: Option<String>,
    caller: Caller,
    request: Request,
    status: Option<u16>,
}

#[derive(Deserialize)]
struct Caller {
    uid: Option<u32>,
    user: Option<String>,
    gid: Option<u32>,
    groups: Option<Vec<String>>,
    exe: Option<String>,
    loginuid: Option<i64>,
    unit: Option<String>,
}

#[derive(Deserialize)]
struct Request {
    method: Option<String>,
    path: Option<String>,
    imds: Option<String>,
    raw: Option<Value>,
}

impl Record {
    /// By the rules and the token gate; where neither was asked, what became
    /// of it.
    fn was_allowed(&self) -> bool {
        self.verdict
            .as_ref()
            .or(self.decision.as_ref())
            .is_some_and(|it| it == "allow")
    }

    /// Whether the rules had a say in it.
    fn was_judged(&self) -> bool {
        let reason = match (self.reason.as_str(), &self.detail) {
            ("observed", Some(would_be)) => would_be,
            (reason, _) => reason,
        };
        matches!(
            reason,
            "allowed" | "policy" | "default" | "account_unknown" | "holders" | "witness_gone"
        ) && self.request.method.as_deref() != Some("PUT")
    }

    /// The request, as far as the record says it.
    fn asked(&self) -> Option<Asked> {
        let (caller, request) = (&self.caller, &self.request);
        let named = caller.groups.iter().flatten().map(|name| Group {
            gid: Gid(u32::MAX),
            name: Some(name.clone()),
        });
        let account = match (&caller.user, caller.gid) {
            (Some(user), Some(gid)) => Account::Known(AccountFacts {
                user: user.clone(),
                gid: Gid(gid),
                groups: named.collect(),
            }),
            _ => Account::Undecidable,
        };
        Some(Asked {
            subject: Subject {
                uid: Uid(caller.uid?),
                account,
            },
            origin: Origin {
                unit: match &caller.unit {
                    Some(unit) => Unit::Named(unit.as_str().into()),
                    None => Unit::Unknown,
                },
                holders: program(caller.exe.clone(), caller.loginuid),
            },
            method: request.method.clone()?,
            path: request.path.clone()?,
            v1: request.imds.as_deref() == Some("v1"),
        })
    }

    /// What the record says by itself.
    fn head(&self) -> String {
        let was_answered = self.decision.as_deref() == Some("allow");
        let mut out = match self.asked() {
            Some(asked) => headline(was_answered, &asked, &asked.path),
            None => {
                let raw = self.request.raw.as_ref().and_then(Value::as_str);
                let target = raw.unwrap_or("a request that is not recorded");
                let who = self
                    .caller
                    .uid
                    .map_or("somebody".to_owned(), |uid| format!("uid {uid}"));
                let mark = if was_answered { "ALLOW  " } else { "DENY  " };
                paragraph(mark, &format!("{who} {target}"))
            }
        };
        let status = match self.status {
            Some(status) => format!("answered {status}"),
            None => "closed without an answer".to_owned(),
        };
        out += &paragraph("  ", &format!("at {}, {status}", self.time));
        let detail = self.detail.as_ref().map(|detail| format!(" ({detail})"));
        let by = self
            .rule
            .as_ref()
            .map(|rule| format!(", by the rule \"{rule}\""));
        let (detail, by) = (detail.unwrap_or_default(), by.unwrap_or_default());
        out + &paragraph("  ", &format!("because {}{detail}{by}", self.reason))
    }

    /// Where the rules do not say again what they said then.
    fn differs(&self, answer: &Answer) -> Option<&'static str> {
        if answer.allowed == self.was_allowed()
            && answer.rule == self.rule.as_deref().map(Into::into)
        {
            return match self.reason.as_str() {
                "holders" | "witness_gone" if answer.allowed => Some(
                    "the rules allow it to the caller; who held the connection was not \
                     allowed it, or not known",
                ),
                _ => None,
            };
        }
        Some(
            "by what the record says of the caller, the rules say something else: it names 16 \
             groups at most, no group numbers, and only what was found out in time",
        )
    }
}
