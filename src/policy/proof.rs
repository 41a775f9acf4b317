//! `[[test]]` tables: what a policy's author says that it says.

use super::principal::NO_ID;
use super::rules::ACTIONS;
use super::{Account, AccountFacts, Action, DenyCause, Group, Policy, Subject, Verdict};
use crate::diagnose::toml::{Node, Table};
use crate::diagnose::{Diagnostics, Place};
use crate::ids::{Gid, Uid};
use crate::provider::Provider;
use crate::request::{CanonicalPath, ReadMethod};

const KEYS: &[&str] = &["as", "path", "expect", "method", "v1"];
const CALLER_KEYS: &[&str] = &["uid", "user", "groups"];
const UID: &str = "a user number from 0 to 4294967294";
const GROUPS: &str = "expected a list of group names and group numbers";

/// One `[[test]]`: a request and the verdict that it must get.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where its `expect` stands.
    pub place: Place,
    /// Who asks.
    pub subject: Subject,
    /// What is asked for.
    pub path: CanonicalPath,
    /// How it is asked.
    pub method: ReadMethod,
    /// Whether it is asked without a token.
    pub v1: bool,
    /// What must come of it.
    pub expect: Action,
}

/// What came of a [`Case`].
#[derive(Clone, Debug)]
pub struct Proof {
    /// Whether it was as expected.
    pub passed: bool,
    /// What the request got.
    pub got: Action,
    /// Why, such as `by rule "…" (file:line)`.
    pub why: String,
}

impl Case {
    pub(super) fn read(table: &Table, provider: Provider, found: &mut Diagnostics) -> Option<Self> {
        table.refuse_unknown(KEYS, found);
        let subject = table
            .require(
                "as",
                "who asks, such as { uid = 1000, user = \"bob\" }",
                found,
            )
            .and_then(|node| {
                node.table(
                    "expected { uid = N, user = \"NAME\", groups = [...] }",
                    found,
                )
            })
            .and_then(|caller| subject(&caller, found));
        let path = table
            .require("path", "a path as a client sends it", found)
            .and_then(|node| path(&node, provider, found));
        let expect = table
            .require("expect", "\"allow\" or \"deny\"", found)
            .and_then(|node| Some((node.place(), node.word(ACTIONS, found)?)));
        let method = match table.get("method") {
            Some(node) => node.word(
                &[("GET", ReadMethod::Get), ("HEAD", ReadMethod::Head)],
                found,
            ),
            None => Some(ReadMethod::Get),
        };
        let v1 = match table.get("v1") {
            Some(node) => node.boolean(found),
            None => Some(false),
        };
        let (place, expect) = expect?;
        Some(Self {
            place,
            subject: subject?,
            path: path?,
            method: method?,
            v1: v1?,
            expect,
        })
    }

    /// The request in words, such as `bob (uid 1000) GET /latest/user-data`.
    pub fn request(&self) -> String {
        let caller = match &self.subject.account {
            Account::Known(facts) => format!("{} (uid {})", facts.user, self.subject.uid),
            Account::Undecidable => format!("uid {} without names", self.subject.uid),
        };
        let method = self.method.as_str();
        let token = if self.v1 { " without token" } else { "" };
        format!("{caller} {method} {}{token}", self.path)
    }

    pub(super) fn run(&self, policy: &Policy) -> Proof {
        let decision = policy.judge(&self.subject, &self.path);
        let by = match (&decision.verdict, decision.rule) {
            (_, Some(rule)) => {
                format!("by rule \"{}\" ({})", rule.name, rule.place.file_and_line())
            }
            (
                Verdict::Deny {
                    cause: DenyCause::AccountUnknown,
                    ..
                },
                None,
            ) => "because names are unknown and the verdict hangs on them".to_owned(),
            (_, None) => "by default".to_owned(),
        };
        let verdict = decision.verdict;
        let wants_token = self.v1 && !verdict.bridges_imdsv1(self.method);
        let (got, why) = match verdict.action() {
            Action::Allow if wants_token => (
                Action::Deny,
                format!("for want of a token, though allowed {by}"),
            ),
            action => (action, by),
        };
        Proof {
            passed: got == self.expect,
            got,
            why,
        }
    }
}

fn subject(caller: &Table, found: &mut Diagnostics) -> Option<Subject> {
    caller.refuse_unknown(CALLER_KEYS, found);
    let uid = caller
        .require("uid", UID, found)
        .and_then(|node| node.integer(0..=NO_ID - 1, &format!("expected {UID}"), found));
    let user = match caller.get("user") {
        Some(node) => Some(node.string("expected the name of an account", found)?),
        None => None,
    };
    let groups = match caller.get("groups") {
        Some(node) => groups(&node, found)?,
        None => Vec::new(),
    };
    if let (None, Some(node)) = (user, caller.get("groups")) {
        return node.refuse(
            "groups of a caller without `user`",
            "expected `user` as well: where the account is unknown, so are its groups",
            found,
        );
    }
    let account = match user {
        None => Account::Undecidable,
        Some(user) => Account::Known(AccountFacts {
            user: user.to_owned(),
            gid: groups.first().map_or(Gid(NO_ID), |group| group.gid),
            groups,
        }),
    };
    Some(Subject {
        uid: Uid(uid?),
        account,
    })
}

/// A group is given by its name or by its number; the other half is one that
/// no rule can name.
fn groups(node: &Node, found: &mut Diagnostics) -> Option<Vec<Group>> {
    let items = node.list(GROUPS, found)?;
    let groups: Vec<_> = items
        .iter()
        .filter_map(|item| {
            if item.is_integer() {
                let gid = item.integer(0..=NO_ID - 1, GROUPS, found)?;
                return Some(Group {
                    gid: Gid(gid),
                    name: None,
                });
            }
            Some(Group {
                gid: Gid(NO_ID),
                name: Some(item.string(GROUPS, found)?.to_owned()),
            })
        })
        .collect();
    (groups.len() == items.len()).then_some(groups)
}

fn path(node: &Node, provider: Provider, found: &mut Diagnostics) -> Option<CanonicalPath> {
    let expected = "expected a path as a client sends it, such as \"/latest/user-data\"";
    let text = node.string(expected, found)?;
    match CanonicalPath::parse(provider, text.as_bytes()) {
        Ok(path) => Some(path),
        Err(reason) => node.refuse(
            format!("no rule is ever asked about this path: {reason}"),
            expected,
            found,
        ),
    }
}
