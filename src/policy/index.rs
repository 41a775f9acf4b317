//! Which rules can speak of a request at all, in their order, so that the
//! time of a verdict does not grow with rules about other callers and paths.
//!
//! An index may only leave out rules that would not match; whether one does
//! match is for [`Rule::status`] alone to say. It goes by `who` and `paths`:
//! what narrows a rule further is left to that.

use std::collections::HashMap;

use super::names::{Asker, Holdings};
use super::principal::Principal;
use super::rule::{JudgedPath, Rule};
use crate::ids::Uid;
use crate::provider::Class;

/// Positions in the list of rules, ascending.
type Postings = Vec<usize>;

#[derive(Debug, Default)]
pub(super) struct Index {
    /// Rules that name each of their callers: by name number, and by uid.
    by_name: Vec<Postings>,
    by_uid: HashMap<Uid, Postings>,
    /// The same rules by path, for callers whose names are unknown.
    named: PathIndex,
    /// Rules for anyone or for ranges of uids.
    wide: PathIndex,
}

#[derive(Debug, Default)]
struct PathIndex {
    by_class: HashMap<Class, Postings>,
    /// By the segments of a pattern before its first wildcard.
    by_prefix: HashMap<String, Postings>,
}

impl Index {
    pub(super) fn new(rules: &[Rule]) -> Self {
        let mut index = Self::default();
        for (at, rule) in rules.iter().enumerate() {
            let is_named = rule.who.iter().all(|principal| {
                matches!(principal, Principal::Name(_)) || principal.single_uid().is_some()
            });
            if !is_named {
                index.wide.add(rule, at);
                continue;
            }
            index.named.add(rule, at);
            for principal in &rule.who {
                if let Principal::Name(id) = principal {
                    let needed = index.by_name.len().max(id.index() + 1);
                    index.by_name.resize_with(needed, Vec::new);
                    if let Some(postings) = index.by_name.get_mut(id.index()) {
                        add(postings, at);
                    }
                }
                if let Some(uid) = principal.single_uid() {
                    add(index.by_uid.entry(uid).or_default(), at);
                }
            }
        }
        index
    }

    pub(super) fn candidates<'i>(&'i self, asker: &Asker, path: &JudgedPath) -> Candidates<'i> {
        let mut lists = Vec::new();
        self.wide.find(path, &mut lists);
        match &asker.holds {
            Holdings::Undecidable => self.named.find(path, &mut lists),
            Holdings::Known(names) => {
                lists.extend(self.by_uid.get(&asker.uid).map(Vec::as_slice));
                lists.extend(
                    names
                        .iter()
                        .filter_map(|name| self.by_name.get(name.index()))
                        .map(Vec::as_slice),
                );
            }
        }
        Candidates { lists }
    }
}

impl PathIndex {
    fn add(&mut self, rule: &Rule, at: usize) {
        for class in rule.paths.classes() {
            add(self.by_class.entry(class).or_default(), at);
        }
        for pattern in rule.paths.patterns() {
            add(
                self.by_prefix.entry(pattern.literal_prefix()).or_default(),
                at,
            );
        }
    }

    fn find<'i>(&'i self, path: &JudgedPath, lists: &mut Vec<&'i [usize]>) {
        lists.extend(self.by_class.get(&path.class).map(Vec::as_slice));
        let ends = path.resource.match_indices('/').map(|(at, _)| at);
        for end in ends.chain([path.resource.len()]) {
            let prefix = path.resource.get(..end).unwrap_or_default();
            lists.extend(self.by_prefix.get(prefix).map(Vec::as_slice));
        }
    }
}

fn add(postings: &mut Postings, at: usize) {
    if postings.last() != Some(&at) {
        postings.push(at);
    }
}

/// Several ascending lists as one, without repetition.
pub(super) struct Candidates<'i> {
    lists: Vec<&'i [usize]>,
}

impl Iterator for Candidates<'_> {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let next = *self.lists.iter().filter_map(|list| list.first()).min()?;
        for list in &mut self.lists {
            if let [first, rest @ ..] = *list
                && *first == next
            {
                *list = rest;
            }
        }
        Some(next)
    }
}
