//! `@names`: sets of paths, the provider's and those of `[paths]`.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::pattern::Pattern;
use super::rule::JudgedPath;
use super::warn;
use crate::diagnose::schema::Shape;
use crate::diagnose::toml::{Node, Table};
use crate::diagnose::{Diagnostics, Place, did_you_mean};
use crate::provider::{Class, Provider};
use crate::sorted;

/// Sets may be made of sets; deeper than this is not for people to follow.
const MAX_NESTING: usize = 16;

/// A pattern or a set, in a list of them.
pub(super) const ITEM: Shape = Shape::Text("^(/|@[A-Za-z0-9_-]+$)");

const PATTERN_OR_SET: &str = "expected patterns such as \"/meta-data/tags/**\" or \"@set\" names";

/// Paths: whole classes and patterns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct PathSet {
    classes: BTreeSet<Class>,
    patterns: BTreeSet<Arc<Pattern>>,
}

impl PathSet {
    pub(super) fn covers(&self, path: &JudgedPath) -> bool {
        self.classes.contains(&path.class)
            || self
                .patterns
                .iter()
                .any(|pattern| pattern.matches(&path.segments))
    }

    /// Whether it certainly covers whatever `other` covers; in doubt, no.
    pub(super) fn includes(&self, other: &Self, provider: Provider) -> bool {
        let within = |pattern: &Pattern| self.patterns().any(|wide| wide.includes(pattern));
        let everything = self.patterns().any(Pattern::is_everything);
        let classes = other
            .classes()
            .all(|class| everything || self.classes.contains(&class));
        classes
            && other.patterns().all(|pattern| {
                within(pattern)
                    || pattern.is_literal()
                        && self.classes.contains(&provider.classify(&pattern.words()))
            })
    }

    /// As it would be written in a policy.
    pub(super) fn texts(&self) -> Vec<String> {
        let classes = self
            .classes
            .iter()
            .map(|class| format!("@{}", class.as_str()));
        classes
            .chain(self.patterns().map(ToString::to_string))
            .collect()
    }

    pub(super) fn classes(&self) -> impl Iterator<Item = Class> {
        self.classes.iter().copied()
    }

    pub(super) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        self.patterns.iter().map(Arc::as_ref)
    }

    fn extend(&mut self, other: &Self) {
        self.classes.extend(&other.classes);
        self.patterns.extend(other.patterns.iter().cloned());
    }
}

/// All sets a policy may speak of.
pub(super) struct Sets<'a> {
    provider: Provider,
    ready: BTreeMap<String, PathSet>,
    written: BTreeMap<&'a str, (Place, Vec<Node<'a>>)>,
    /// A file could not be read to its end, so a name that is not here may
    /// still be defined there.
    incomplete: bool,
}

impl<'a> Sets<'a> {
    pub(super) fn new(provider: Provider, incomplete: bool, found: &mut Diagnostics) -> Self {
        let mut sets = Self {
            provider,
            ready: BTreeMap::new(),
            written: BTreeMap::new(),
            incomplete,
        };
        for class in Class::ALL {
            let set = PathSet {
                classes: [class].into(),
                ..PathSet::default()
            };
            sets.ready.insert(class.as_str().to_owned(), set);
        }
        let place = Place::of_file(format!("provider {}", provider.as_str()));
        for (name, patterns) in provider.path_sets() {
            let mut set = PathSet::default();
            for pattern in *patterns {
                sets.add_pattern(pattern, &place, &mut set, found);
            }
            sets.ready.insert((*name).to_owned(), set);
        }
        sets
    }

    /// Takes note of a file's `[paths]`.
    pub(super) fn define(&mut self, paths: &Table<'a>, found: &mut Diagnostics) {
        for (name, place, value) in paths.entries() {
            let expected = "expected a name of letters, digits, `-` and `_`";
            let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
            if name.is_empty() || !name.chars().all(is_plain) {
                found.error(place, format!("\"{name}\" cannot name a set"), expected);
            } else if self.ready.contains_key(name) {
                let message = format!("`@{name}` is defined by the provider");
                found.error(place, message, "expected a name of its own");
            } else if let Some((first, _)) = self.written.get(name) {
                let message = format!("`{name}` is defined a second time");
                let expected = format!("expected a name that {first} does not use");
                found.error(place, message, expected);
            } else {
                let items = value.full_list(PATTERN_OR_SET, found).unwrap_or_default();
                self.written.insert(name, (place, items));
            }
        }
    }

    /// Works out every written set.
    pub(super) fn resolve(&mut self, found: &mut Diagnostics) {
        for name in self.written.keys().copied().collect::<Vec<_>>() {
            self.resolve_one(name, &mut Vec::new(), found);
        }
    }

    fn resolve_one(&mut self, name: &'a str, within: &mut Vec<&'a str>, found: &mut Diagnostics) {
        if self.ready.contains_key(name) {
            return;
        }
        let Some((_, items)) = self.written.get(name).cloned() else {
            return;
        };
        within.push(name);
        for item in &items {
            let Some(inner) = item_name(item) else {
                continue;
            };
            if within.contains(&inner) {
                let way = within.join(" → @");
                let message = format!("`@{inner}` is made of itself");
                let expected = format!("expected no circle: @{way} → @{inner}");
                found.error(item.place(), message, expected);
                // Once is enough: from here on the set counts as worked out.
                self.ready.entry(inner.to_owned()).or_default();
            } else if within.len() >= MAX_NESTING {
                let message = "sets within sets within sets";
                let expected = format!("expected at most {MAX_NESTING} levels");
                found.error(item.place(), message, expected);
            } else {
                self.resolve_one(inner, within, found);
            }
        }
        within.pop();
        let set = self.collect(&items, found);
        self.ready.entry(name.to_owned()).or_insert(set);
    }

    /// The paths that a list of patterns and `@names` stands for.
    pub(super) fn collect(&self, items: &[Node], found: &mut Diagnostics) -> PathSet {
        let mut set = PathSet::default();
        for item in items {
            let Some(text) = item.string(PATTERN_OR_SET, found) else {
                continue;
            };
            match text.strip_prefix('@') {
                None => self.add_pattern(text, &item.place(), &mut set, found),
                Some(name) => match self.ready.get(name) {
                    Some(other) => set.extend(other),
                    None => self.refuse_unknown(name, item, found),
                },
            }
        }
        set
    }

    fn add_pattern(&self, text: &str, place: &Place, set: &mut PathSet, found: &mut Diagnostics) {
        match Pattern::parse(self.provider, text) {
            Ok(pattern) => {
                warn::of_pattern(&pattern, self.provider, place, found);
                set.patterns.insert(Arc::new(pattern));
            }
            Err(error) => {
                found.error(place.clone(), error.message, error.expected);
            }
        }
    }

    fn refuse_unknown(&self, name: &str, item: &Node, found: &mut Diagnostics) {
        // A set that is written but not ready has its own error already.
        if self.incomplete || self.written.contains_key(name) {
            return;
        }
        let written = self.written.keys().copied();
        let ready = self.ready.keys().map(String::as_str);
        let names = sorted::set(ready.chain(written));
        let classes: Vec<_> = names.iter().map(|name| format!("@{name}")).collect();
        let expected = match classes.len() {
            0..=20 => format!("expected one of {}", classes.join(", ")),
            _ => "expected a class, or a set that some [paths] table defines".to_owned(),
        };
        let message = format!("there is no class or path set `@{name}`");
        let finding = found.error(item.place(), message, expected);
        if let Some(meant) = did_you_mean(name, names) {
            finding.help(format!("did you mean `@{meant}`?"));
        }
    }
}

fn item_name<'a>(item: &Node<'a>) -> Option<&'a str> {
    // A value that is no string is refused where the list is collected.
    item.string("", &mut Diagnostics::new())?.strip_prefix('@')
}
