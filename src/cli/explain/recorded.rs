//! `imdsfw explain --id`: a decision that is in the audit log.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::answer::{Answer, headline};
use super::{Asked, NO_POLICY, program};
use crate::audit::find;
use crate::cli::{Outcome, paragraph, print};
use crate::config::{Config, load_policy, policy_by_hash};
use crate::diagnose::{Diagnostics, plain_text};
use crate::ids::{Gid, Uid};
use crate::policy::{Account, AccountFacts, Group, Origin, Subject, Unit};

pub(super) fn run(id: &str, config: &Config, as_json: bool) -> Outcome {
    let log = config.audit.file.display();
    let record = match find(&config.audit.file, id) {
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
                    "{log} cannot be read: {error}; ask root, or a member of the group it belongs to"
                ),
            );
        }
    };
    let was = Recorded::new(&record);
    let (mut steps, mut told) = (None, String::new());
    let mut allowed = was.text("decision") == "allow";
    let mut exit = None;
    match (was.asked(), was.record["policy"].as_str()) {
        (Some(asked), Some(hash)) if was.was_judged() => match policy_by_hash(config, hash) {
            Some(policy) => {
                let answer = Answer::new(&asked, config.provider, &policy);
                allowed = was.text("verdict") == "allow";
                told = answer.rules();
                if let Some(differs) = was.differs(&answer) {
                    told = format!("{}{told}", paragraph("  ", differs));
                }
                steps = Some(answer.json(&asked, config.policy.mode, &policy));
            }
            None => {
                exit = Some(NO_POLICY);
                told = paragraph("  ", &gone(config, hash));
            }
        },
        _ => {}
    }
    if as_json {
        let answer = json!({
            "verdict": record["verdict"],
            "reason": record["reason"],
            "rule": record["rule"],
            "policy": record["policy"],
            "policy_is_known": exit.is_none(),
            "recorded": record,
            "explained": steps,
        });
        print(&format!("{answer}\n"))?;
    } else {
        print(&format!("{}{told}", was.head()))?;
    }
    Ok(ExitCode::from(exit.unwrap_or(u8::from(!allowed))))
}

fn nothing(as_json: bool, why: &str) -> Outcome {
    if as_json {
        print(&format!("{}\n", json!({ "verdict": null, "error": why })))?;
    } else {
        eprintln!("{}", crate::cli::fold(&format!("imdsfw: {why}")));
    }
    Ok(ExitCode::from(NO_POLICY))
}

fn gone(config: &Config, hash: &str) -> String {
    let now = load_policy(config, &mut Diagnostics::new());
    let now = now.map_or("not in order".to_owned(), |it| it.policy.hash().to_string());
    format!("the policy of that time, {hash}, is not known any more; the one on disk is {now}")
}

/// A record of a request.
struct Recorded<'r> {
    record: &'r Value,
}

impl<'r> Recorded<'r> {
    fn new(record: &'r Value) -> Self {
        Self { record }
    }

    fn text(&self, key: &str) -> &'r str {
        self.record[key].as_str().unwrap_or_default()
    }

    /// Whether the rules had a say in it.
    fn was_judged(&self) -> bool {
        let reason = match self.text("reason") {
            "observed" => self.text("detail"),
            reason => reason,
        };
        matches!(
            reason,
            "allowed" | "policy" | "default" | "account_unknown" | "holders" | "witness_gone"
        ) && self.record["request"]["method"] != "PUT"
    }

    /// The request, as far as the record says it.
    fn asked(&self) -> Option<Asked> {
        let (caller, request) = (&self.record["caller"], &self.record["request"]);
        let uid = Uid(u32::try_from(caller["uid"].as_u64()?).ok()?);
        let text = |of: &Value, key: &str| of[key].as_str().map(str::to_owned);
        let account = match (caller["user"].as_str(), caller["gid"].as_u64()) {
            (Some(user), Some(gid)) => {
                let gid = Gid(u32::try_from(gid).ok()?);
                let names = caller["groups"].as_array().into_iter().flatten();
                let named = names.filter_map(|name| {
                    Some(Group {
                        gid: Gid(u32::MAX),
                        name: Some(name.as_str()?.to_owned()),
                    })
                });
                Account::Known(AccountFacts {
                    user: user.to_owned(),
                    gid,
                    groups: named.collect(),
                })
            }
            _ => Account::Undecidable,
        };
        Some(Asked {
            subject: Subject { uid, account },
            origin: Origin {
                unit: caller["unit"]
                    .as_str()
                    .map_or(Unit::Unknown, |unit| Unit::Named(unit.into())),
                holders: program(text(caller, "exe"), caller["loginuid"].as_i64()),
            },
            method: text(request, "method")?,
            path: text(request, "path")?,
            v1: request["imds"] == "v1",
        })
    }

    /// What the record says by itself.
    fn head(&self) -> String {
        let decision = self.text("decision") == "allow";
        let mut out = match self.asked() {
            Some(asked) => headline(decision, &asked, &asked.path),
            None => {
                let request = &self.record["request"];
                let target = request["raw"]
                    .as_str()
                    .unwrap_or("a request that never came");
                let uid = match self.record["caller"]["uid"].as_u64() {
                    Some(uid) => format!("uid {uid}"),
                    None => "somebody".to_owned(),
                };
                paragraph(
                    if decision { "ALLOW  " } else { "DENY  " },
                    &format!("{uid} {target}"),
                )
            }
        };
        let status = match self.record["status"].as_u64() {
            Some(status) => format!("answered {status}"),
            None => "closed without an answer".to_owned(),
        };
        out += &paragraph("  ", &format!("at {}, {status}", self.text("time")));
        let detail = match self.text("detail") {
            "" => String::new(),
            detail => format!(" ({detail})"),
        };
        let by = match self.record["rule"].as_str() {
            Some(rule) => format!(", by the rule \"{rule}\""),
            None => String::new(),
        };
        out + &paragraph(
            "  ",
            &format!("because {}{detail}{by}", self.text("reason")),
        )
    }

    /// Where the rules do not say again what they said then.
    fn differs(&self, answer: &Answer) -> Option<&'static str> {
        let allowed = self.text("verdict") == "allow";
        let is_the_same =
            answer.allowed == allowed && answer.rule.as_deref() == self.record["rule"].as_str();
        let by_holders = matches!(self.text("reason"), "holders" | "witness_gone");
        match (is_the_same, by_holders) {
            (true, _) => None,
            (false, true) => Some(
                "the rules allow it to the caller; it was who held the connection that was not allowed, or not known",
            ),
            (false, false) => Some(
                "by what the record says of the caller, these rules say something else: the record holds 16 groups at most, and no numbers of groups",
            ),
        }
    }
}
