//! `[[rule]]` tables → rules.

use std::collections::HashMap;
use std::sync::Arc;

use super::Action;
use super::names::Names;
use super::principal::{self, FORMS, Principal};
use super::rule::Rule;
use super::sets::Sets;
use crate::diagnose::toml::{Node, Table};
use crate::diagnose::{Diagnostics, Place};

const KEYS: &[&str] = &[
    "name", "action", "who", "except", "paths", "imdsv1", "enforce",
];

pub(super) const ACTIONS: &[(&str, Action)] = &[("allow", Action::Allow), ("deny", Action::Deny)];

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
        let imdsv1 = flag(table, "imdsv1", found);
        let enforce = flag(table, "enforce", found);
        if let (Some((_, Action::Deny)), Some(node)) = (&action, table.get("imdsv1")) {
            found.error(
                node.place(),
                "`imdsv1` on a rule that denies",
                "expected it only with `action = \"allow\"`: it lets tokenless requests pass",
            );
        }
        if let (Some((name, place)), Some((_, action)), Some(who), Some(except), Some(paths)) =
            (name, action, who, except, paths)
        {
            self.rules.push(Rule {
                name,
                action,
                who,
                except,
                paths,
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

fn flag(table: &Table, key: &str, found: &mut Diagnostics) -> bool {
    table
        .get(key)
        .and_then(|node| node.boolean(found))
        .unwrap_or(false)
}
