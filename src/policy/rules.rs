//! `[[rule]]` tables → rules.

use std::collections::HashMap;
use std::sync::Arc;

use super::Action;
use super::names::{Name, Names};
use super::narrow::{Condition, LOGINS, LoggedIn, Methods, Narrow};
use super::pattern::{Pattern, PatternError};
use super::principal::{self, FORMS, Principal};
use super::rule::Rule;
use super::sets::Sets;
use crate::diagnose::schema::{Key, Shape};
use crate::diagnose::toml::{Node, Table};
use crate::diagnose::{Diagnostics, Place};
use crate::request::ReadMethod;

/// What a `[[rule]]` may say.
pub(super) const KEYS: &[Key] = &[
    Key::new(
        "name",
        Shape::Text(NAME),
        "For people; no other rule has it",
    )
    .required(),
    Key::new(
        "action",
        Shape::Word(&["allow", "deny"]),
        "What holds for what it matches",
    )
    .required(),
    Key::new(
        "who",
        Shape::List(1, &PRINCIPAL),
        "Whom it is about, by the uid that made the socket",
    )
    .required(),
    Key::new(
        "except",
        Shape::List(1, &PRINCIPAL),
        "Whom of these it is not about",
    ),
    Key::new(
        "paths",
        Shape::List(1, &super::sets::ITEM),
        "Patterns and @sets, without the version",
    )
    .required(),
    Key::new(
        "methods",
        Shape::List(1, &Shape::Word(&["GET", "HEAD"])),
        "How it must be asked; either way, if not said",
    ),
    Key::new(
        "unit",
        Shape::List(1, &Shape::Text("^[A-Za-z0-9:_.\\\\@*-]+$")),
        "In which unit of the service manager the socket must have been made; nobody can choose another",
    ),
    Key::new(
        "exe",
        Shape::List(1, &Shape::Text("^/.")),
        "Which program must hold the connection; users can forge it, so it narrows only what root does",
    ),
    Key::new(
        "loginuid",
        Shape::List(1, &Shape::Text("^(any|none|user:.+|uid:[0-9]+(-[0-9]*)?)$")),
        "Who must have logged in; set by PAM",
    ),
    Key::new(
        "imdsv1",
        Shape::Boolean,
        "Lets a GET without a token through it; with `action = \"allow\"` only",
    ),
    Key::new(
        "enforce",
        Shape::Boolean,
        "Holds also while the mode is observe",
    ),
];
/// Something other than spaces.
const NAME: &str = "\\S";
const PRINCIPAL: Shape = Shape::Text("^(any|user:.+|group:.+|uid:[0-9]+(-[0-9]*)?|gid:[0-9]+)$");

pub(super) const ACTIONS: &[(&str, Action)] = &[("allow", Action::Allow), ("deny", Action::Deny)];
pub(super) const METHODS: &[(&str, ReadMethod)] =
    &[("GET", ReadMethod::Get), ("HEAD", ReadMethod::Head)];

/// Reads rules one after the other, over all files.
pub(super) struct RuleReader<'s> {
    sets: &'s Sets<'s>,
    pub(super) names: Names,
    pub(super) rules: Vec<Rule>,
    taken: HashMap<Arc<str>, Place>,
}

impl<'s> RuleReader<'s> {
    pub(super) fn new(sets: &'s Sets<'s>) -> Self {
        Self {
            sets,
            names: Names::default(),
            rules: Vec::new(),
            taken: HashMap::new(),
        }
    }

    /// Adds one rule, unless it has an error.
    pub(super) fn read(&mut self, table: &Table, found: &mut Diagnostics) {
        table.refuse_unknown(KEYS, found);
        // Each part is read before any is asked for, so that all errors show.
        let name = self.name(table, found);
        let action = table
            .require("action", "\"allow\" or \"deny\"", found)
            .and_then(|node| Some((node, node.word(ACTIONS, found)?)));
        let who = table
            .require("who", "a list of whom the rule is about", found)
            .and_then(|node| self.principals(&node, found));
        let except = match table.get("except") {
            Some(node) => self.principals(&node, found),
            None => Some(Vec::new()),
        };
        let paths = table
            .require("paths", "a list of patterns and @sets", found)
            .and_then(|node| node.full_list("expected at least one pattern or @set", found))
            .map(|items| self.sets.collect(&items, found));
        let methods = match table.get("methods") {
            Some(node) => methods(&node, found),
            None => Some(Methods::ALL),
        };
        let narrow = self.narrow(table, found);
        let imdsv1 = flag(table, "imdsv1", found);
        let enforce = flag(table, "enforce", found);
        if let (Some((_, Action::Deny)), Some(node)) = (&action, table.get("imdsv1")) {
            found.error(
                node.place(),
                "`imdsv1` on a rule that denies",
                "expected it only with `action = \"allow\"`: it lets tokenless requests pass",
            );
        }
        let rest = (methods, narrow);
        if let (Some((name, place)), Some((_, action)), Some(who), Some(except), Some(paths)) =
            (name, action, who, except, paths)
            && let (Some(methods), Some(narrow)) = rest
        {
            self.rules.push(Rule {
                name,
                action,
                who,
                except,
                paths,
                methods,
                narrow: (!narrow.is_empty()).then(|| Box::new(narrow)),
                imdsv1,
                enforce,
                place,
            });
        }
    }

    fn name(&mut self, table: &Table, found: &mut Diagnostics) -> Option<(Arc<str>, Place)> {
        let expected = "expected a name for people, unique over all files";
        let node = table.require("name", "a name for people, unique over all files", found)?;
        let name = node.string(expected, found)?;
        if name.trim().is_empty() || name.contains(char::is_control) {
            return node.refuse("this cannot name a rule", expected, found);
        }
        if let Some(first) = self.taken.get(name) {
            return node.refuse(
                format!("two rules are called \"{name}\""),
                format!("the first is at {}", first.file_and_line()),
                found,
            );
        }
        let name: Arc<str> = name.into();
        self.taken.insert(Arc::clone(&name), node.place());
        Some((name, node.place()))
    }

    fn principals(&mut self, node: &Node, found: &mut Diagnostics) -> Option<Vec<Principal>> {
        let items = node.full_list(
            "expected at least one of user:NAME, uid:N, group:NAME, any",
            found,
        )?;
        let mut principals = Vec::with_capacity(items.len());
        for item in &items {
            let Some(text) = item.string(FORMS, found) else {
                continue;
            };
            match Principal::parse(text, &item.place(), &mut self.names) {
                Ok(principal) => principals.push(principal),
                Err(error) => {
                    let finding = found.error(item.place(), error.message, error.expected);
                    if let Some(meant) = principal::meant_by(text) {
                        finding.help(format!("did you mean {meant}?"));
                    }
                }
            }
        }
        (principals.len() == items.len()).then_some(principals)
    }
}

impl RuleReader<'_> {
    fn narrow(&mut self, table: &Table, found: &mut Diagnostics) -> Option<Narrow> {
        let unit = self.conditions(table, "unit", UNITS, found, |text, _| {
            Pattern::of_units(text)
                .map(|pattern| (Name::Unit(text.to_owned()), pattern))
                .map_err(|error| (error, meant_unit(text)))
        });
        let exe = self.conditions(table, "exe", PROGRAMS, found, |text, _| {
            let is_name = !text.is_empty() && !text.contains('/');
            Pattern::of_files(text)
                .map(|pattern| (Name::Exe(text.to_owned()), pattern))
                .map_err(|error| (error, is_name.then(|| format!("\"/usr/bin/{text}\""))))
        });
        let loginuid = self.conditions(table, "loginuid", LOGINS, found, |text, place| {
            LoggedIn::parse(text, place)
                .map(|login| (Name::Login(login.to_string()), login))
                .map_err(|error| {
                    let error = PatternError {
                        message: error.message,
                        expected: error.expected,
                    };
                    let meant = principal::meant_by(text);
                    (error, meant.filter(|meant| !meant.contains("group:")))
                })
        });
        Some(Narrow {
            unit: unit?,
            exe: exe?,
            loginuid: loginuid?,
        })
    }

    /// A list of conditions, each of them read by `read`; empty where the key
    /// is not there.
    fn conditions<T>(
        &mut self,
        table: &Table,
        key: &str,
        expected: &str,
        found: &mut Diagnostics,
        read: impl Fn(&str, &Place) -> Result<(Name, T), (PatternError, Option<String>)>,
    ) -> Option<Vec<Condition<T>>> {
        let Some(node) = table.get(key) else {
            return Some(Vec::new());
        };
        let items = node.full_list(expected, found)?;
        let mut conditions = Vec::with_capacity(items.len());
        for item in &items {
            let Some(text) = item.string(expected, found) else {
                continue;
            };
            let place = item.place();
            match read(text, &place) {
                Ok((name, test)) => {
                    conditions.push(Condition::new(name, test, &place, &mut self.names));
                }
                Err((error, meant)) => {
                    let finding = found.error(place, error.message, error.expected);
                    if let Some(meant) = meant {
                        finding.help(format!("did you mean {meant}?"));
                    }
                }
            }
        }
        (conditions.len() == items.len()).then_some(conditions)
    }
}

const UNITS: &str = "expected at least one unit, such as \"nginx.service\"";
const PROGRAMS: &str = "expected at least one absolute path, such as \"/usr/bin/aws\"";

fn meant_unit(text: &str) -> Option<String> {
    Pattern::of_units(&format!("{text}.service")).ok()?;
    (!text.contains('.')).then(|| format!("\"{text}.service\""))
}

fn methods(node: &Node, found: &mut Diagnostics) -> Option<Methods> {
    let items = node.full_list("expected at least one of \"GET\", \"HEAD\"", found)?;
    let listed: Vec<_> = items
        .iter()
        .filter_map(|item| {
            if item.string("", &mut Diagnostics::new()) == Some("PUT") {
                return item.refuse(
                    "no rule is asked about a PUT",
                    "expected \"GET\" or \"HEAD\": a PUT fetches a token, which everyone may have",
                    found,
                );
            }
            item.word(METHODS, found)
        })
        .collect();
    (listed.len() == items.len()).then(|| Methods::new(&listed))
}

fn flag(table: &Table, key: &str, found: &mut Diagnostics) -> bool {
    table
        .get(key)
        .and_then(|node| node.boolean(found))
        .unwrap_or(false)
}
