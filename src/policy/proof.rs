//! `[[test]]` tables: what a policy's author says that it says.

use std::sync::Arc;

use super::principal::NO_ID;
use super::rules::{ACTIONS, METHODS};
use super::{
    Account, AccountFacts, Action, Group, Login, Obscured, Origin, Policy, Program, Query, Subject,
    Unit, Unknown,
};
use crate::diagnose::schema::{Key, Shape};
use crate::diagnose::toml::{Node, Table};
use crate::diagnose::{Diagnostics, Place};
use crate::ids::{Gid, Uid};
use crate::provider::Provider;
use crate::request::{CanonicalPath, ReadMethod};

/// What a `[[test]]` may say.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "as",
        Shape::Table(CALLER_KEYS),
        "Who asks; what is left out is not known",
    )
    .required(),
    Key::new(
        "path",
        Shape::Text("^/"),
        "What is asked for, as a client sends it",
    )
    .required(),
    Key::new(
        "expect",
        Shape::Word(&["allow", "deny"]),
        "What must come of it",
    )
    .required(),
    Key::new(
        "method",
        Shape::Word(&["GET", "HEAD"]),
        "How it is asked; GET, if not said",
    ),
    Key::new("v1", Shape::Boolean, "Asked without a token"),
];
const NUMBER: Shape = Shape::Integer(0, NO_ID - 1);
const CALLER_KEYS: &[Key] = &[
    Key::new("uid", NUMBER, "Who made the socket").required(),
    Key::new("user", Shape::Text(""), "The account of that uid"),
    Key::new(
        "groups",
        Shape::List(0, &Shape::Either(&Shape::Text(""), &NUMBER)),
        "All its groups, by name or number",
    ),
    Key::new(
        "unit",
        Shape::Text(""),
        "The unit in which the socket was made; \"\" for none",
    ),
    Key::new(
        "exe",
        Shape::Text("^/"),
        "The program that holds the connection",
    ),
    Key::new(
        "loginuid",
        Shape::Either(&NUMBER, &Shape::Text("^.")),
        "Who logged in: a uid, the name of an account, or \"none\"",
    ),
];
const UID: &str = "a user number from 0 to 4294967294";
const GROUPS: &str = "expected a list of group names and group numbers";

/// One `[[test]]`: a request and the verdict that it must get.
#[derive(Clone, Debug)]
pub struct Case {
    /// Where its `expect` stands.
    pub place: Place,
    /// Who asks.
    pub subject: Subject,
    /// From where.
    pub origin: Origin,
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
        let caller = table
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
            .and_then(|caller| {
                let subject = subject(&caller, found);
                let origin = origin(&caller, subject.as_ref(), found);
                Some((subject?, origin?))
            });
        let path = table
            .require("path", "a path as a client sends it", found)
            .and_then(|node| path(&node, provider, found));
        let expect = table
            .require("expect", "\"allow\" or \"deny\"", found)
            .and_then(|node| Some((node.place(), node.word(ACTIONS, found)?)));
        let method = match table.get("method") {
            Some(node) => node.word(METHODS, found),
            None => Some(ReadMethod::Get),
        };
        let v1 = match table.get("v1") {
            Some(node) => node.boolean(found),
            None => Some(false),
        };
        let (place, expect) = expect?;
        let (subject, origin) = caller?;
        Some(Self {
            place,
            subject,
            origin,
            path: path?,
            method: method?,
            v1: v1?,
            expect,
        })
    }

    /// What the rules are asked.
    pub fn query(&self) -> Query<'_> {
        Query {
            subject: &self.subject,
            origin: &self.origin,
            method: self.method,
            path: &self.path,
        }
    }

    /// The request in words, such as `bob (uid 1000) GET /latest/user-data`.
    pub fn request(&self) -> String {
        let caller = match self.subject.account.facts() {
            Some(facts) => format!("{} (uid {})", facts.user, self.subject.uid),
            None => format!("uid {} without names", self.subject.uid),
        };
        let method = self.method.as_str();
        let token = if self.v1 { " without token" } else { "" };
        let origin = match self.origin.to_string() {
            origin if origin.is_empty() => origin,
            origin => format!(" from {origin}"),
        };
        format!("{caller} {method} {}{token}{origin}", self.path)
    }

    pub(super) fn run(&self, policy: &Policy) -> Proof {
        let decision = policy.judge(&self.query());
        let by = match (decision.verdict.unknown(), decision.rule) {
            (_, Some(rule)) => {
                format!("by rule \"{}\" ({})", rule.name, rule.place.file_and_line())
            }
            (
                Some(Unknown {
                    account: true,
                    unit: false,
                    holder: None,
                }),
                None,
            ) => "because names are unknown and the verdict hangs on them".to_owned(),
            (Some(unknown), None) => {
                format!(
                    "because the verdict hangs on {}, not known here",
                    unknown.what()
                )
            }
            (None, None) => "by default".to_owned(),
        };
        let verdict = decision.verdict;
        let wants_token = self.v1 && !verdict.bridges_imdsv1(self.method);
        let (got, why) = match verdict.action() {
            // The token gate comes first, as it does for the daemon.
            Action::Allow if wants_token => (
                Action::Deny,
                format!("for want of a token, though allowed {by}"),
            ),
            Action::Deny if wants_token => (
                Action::Deny,
                format!("for want of a token; with one, denied too, {by}"),
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

/// What is left out is not known.
fn origin(caller: &Table, subject: Option<&Subject>, found: &mut Diagnostics) -> Option<Origin> {
    let mut known = true;
    let mut text = |key, expected, found: &mut Diagnostics| {
        let text = caller.get(key).map(|node| node.string(expected, found));
        known &= text != Some(None);
        text.flatten().map(str::to_owned)
    };
    let unit = text(
        "unit",
        "expected a unit such as \"nginx.service\", or \"\" for none",
        found,
    );
    let exe = text("exe", "expected the absolute path of a program", found);
    if let (Some(false), Some(node)) = (
        exe.as_ref().map(|exe| exe.starts_with('/')),
        caller.get("exe"),
    ) {
        return node.refuse(
            "this is no absolute path",
            "expected one, as /proc/PID/exe has it",
            found,
        );
    }
    let login = match caller.get("loginuid") {
        Some(node) => login(&node, subject, found)?,
        None => Login::Unknown,
    };
    let holders = match (&exe, &login) {
        (None, Login::Unknown) => Err(Obscured::NotAsked),
        _ => Ok(vec![Program { exe, login }]),
    };
    known.then(|| Origin {
        unit: match unit.as_deref() {
            None => Unit::Unknown,
            Some("") => Unit::Outside,
            Some(unit) => Unit::Named(unit.into()),
        },
        holders,
    })
}

/// An account is given by its name or by its number, like a group. That it is
/// the caller's own needs not be said twice.
fn login(node: &Node, subject: Option<&Subject>, found: &mut Diagnostics) -> Option<Login> {
    let expected = "expected a uid, the name of an account, or \"none\"";
    if node.is_integer() {
        let uid = Uid(node.integer(0..=NO_ID - 1, expected, found)?);
        let own = subject.filter(|subject| subject.uid == uid);
        let account = own.map_or(Account::Undecidable, |own| own.account.clone());
        return Some(Login::As(Arc::new(Subject { uid, account })));
    }
    match node.string(expected, found)? {
        "" => node.refuse("no account is called that", expected, found),
        "none" => Some(Login::Nobody),
        user => {
            let is_own = |own: &&Subject| matches!(&own.account, Account::Known(facts) if facts.user == user);
            let uid = match (user, subject.filter(is_own)) {
                ("root", _) => Uid::ROOT,
                (_, Some(own)) => own.uid,
                (_, None) => Uid(NO_ID),
            };
            let account = Account::Known(AccountFacts {
                user: user.to_owned(),
                gid: Gid(NO_ID),
                groups: Vec::new(),
            });
            Some(Login::As(Arc::new(Subject { uid, account })))
        }
    }
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
