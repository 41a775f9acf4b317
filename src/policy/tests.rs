//! What a policy file means, seen from outside; then the same against slower
//! definitions of the same words.

mod against_brute_force;
mod files;
mod narrow;
mod verdicts;

use super::*;
use crate::ids::{Gid, Uid};
use crate::request::{CanonicalPath, ReadMethod};

fn path(text: &str) -> CanonicalPath {
    CanonicalPath::parse(Provider::Aws, text.as_bytes()).unwrap()
}

fn parse_all(texts: &[&str], default: Action) -> (Option<Policy>, Diagnostics) {
    let sources: Vec<_> = texts
        .iter()
        .enumerate()
        .map(|(at, text)| Source::new(format!("{at}.toml"), *text))
        .collect();
    let mut found = Diagnostics::new();
    let policy = Policy::parse(&sources, Provider::Aws, default, &mut found);
    (policy, found)
}

fn policy_or(text: &str, default: Action) -> Policy {
    let (policy, found) = parse_all(&[text], default);
    policy.unwrap_or_else(|| panic!("{found}"))
}

fn policy(text: &str) -> Policy {
    policy_or(text, Action::Deny)
}

/// A rule with every part that must be there.
fn rule(name: &str, action: &str, who: &str, paths: &str, rest: &str) -> String {
    let rest = match rest {
        "" => String::new(),
        rest => format!("{}\n", rest.trim_end()),
    };
    format!(
        "[[rule]]\nname = \"{name}\"\naction = \"{action}\"\nwho = {who}\npaths = {paths}\n{rest}"
    )
}

/// An account whose uid is not its gid.
fn known(uid: u32, user: &str, groups: &[(u32, &str)]) -> Subject {
    Subject {
        uid: Uid(uid),
        account: Account::Known(AccountFacts {
            user: user.to_owned(),
            gid: groups.first().map_or(Gid(90_000), |(gid, _)| Gid(*gid)),
            groups: groups
                .iter()
                .map(|(gid, name)| Group {
                    gid: Gid(*gid),
                    name: Some((*name).to_owned()),
                })
                .collect(),
        }),
    }
}

fn unknown(uid: u32) -> Subject {
    Subject {
        uid: Uid(uid),
        account: Account::Undecidable,
    }
}

/// Which rule decides: `allow NAME`, `deny NAME`, `deny default` and so on.
fn said(policy: &Policy, subject: &Subject, target: &str) -> String {
    let path = path(target);
    word(&policy.decide(&Query::new(subject, ReadMethod::Get, &path)))
}

fn word(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Allow { rule, .. } => format!("allow {}", rule.as_deref().unwrap_or("default")),
        Verdict::Deny { cause, .. } => match cause {
            DenyCause::Rule(rule) => format!("deny {rule}"),
            DenyCause::Default => "deny default".to_owned(),
            DenyCause::Unknown(Unknown { account: true, .. }) => "deny account_unknown".to_owned(),
            DenyCause::Unknown(unknown) => format!("deny {}", unknown.what()),
        },
    }
}
