//! A TOML file as a tree of which every part knows where it stands, and the
//! questions a schema asks of it. Each wrong answer is one finding; the walk
//! then goes on, so that all of a file's errors come at once. Only of broken
//! syntax the first error alone is shown: most of the others follow from it.

use std::ops::{Range, RangeInclusive};
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::schema::{Key, Shape};
use super::unclosed::{header_at, lone_header, unclosed_before};
use super::{Diagnostics, Place, Source, did_you_mean};

/// The tree of a file, or `None` where its syntax is broken: guesses at what
/// a broken file meant would only add errors that are none.
pub fn parse<'a>(source: &'a Arc<Source>, found: &mut Diagnostics) -> Option<Spanned<DeTable<'a>>> {
    let (tree, errors) = DeTable::parse_recoverable(source.text());
    if let Some(error) = errors.first() {
        let text = source.text();
        let span = error.span().unwrap_or(text.len()..text.len());
        if let Some(opened) = unclosed_before(text, span.start) {
            let (line, ..) = source.line_at(span.start);
            let closer = if text.get(opened.clone()) == Some("{") {
                '}'
            } else {
                ']'
            };
            found.error(
                Place::new(source, opened),
                "what opens here is not closed",
                format!("expected `{closer}` before line {line}"),
            );
            return None;
        }
        if error.message() == "duplicate key"
            && let Some((header, name)) = lone_header(text, span.start)
        {
            found.error(
                Place::new(source, header),
                format!("[{name}] is one table, but there are several"),
                format!("expected [[{name}]], in double brackets"),
            );
            return None;
        }
        if error.message() == "duplicate key"
            && let Some((header, name)) = header_at(text, span.start)
        {
            found.error(
                Place::new(source, header),
                format!("[{name}] stands here a second time"),
                format!(
                    "expected [[{name}]], in double brackets, each time, where several are meant"
                ),
            );
            return None;
        }
        let (message, expected) = match error.message().split_once(", expected ") {
            Some((message, expected)) => (message, format!("expected {expected}")),
            None => (error.message(), "expected valid TOML".to_owned()),
        };
        found.error(Place::new(source, span), message, expected);
    }
    errors.is_empty().then_some(tree)
}

/// A table and where it stands.
#[derive(Clone)]
pub struct Table<'a> {
    source: &'a Arc<Source>,
    span: Range<usize>,
    entries: &'a DeTable<'a>,
}

impl<'a> Table<'a> {
    /// The whole of a parsed file.
    pub fn root(source: &'a Arc<Source>, tree: &'a Spanned<DeTable<'a>>) -> Self {
        Self {
            source,
            span: 0..0,
            entries: tree.get_ref(),
        }
    }

    /// Where it stands: its header or its braces.
    pub fn place(&self) -> Place {
        Place::new(self.source, self.span.clone())
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<Node<'a>> {
        self.entries.get(key).map(|value| Node {
            source: self.source,
            value,
        })
    }

    /// The value of a key that must be there.
    pub fn require(&self, key: &str, expected: &str, found: &mut Diagnostics) -> Option<Node<'a>> {
        let value = self.get(key);
        if value.is_none() {
            found.error(
                self.place(),
                format!("`{key}` is missing"),
                format!("expected `{key} = …`: {expected}"),
            );
        }
        value
    }

    /// Every key with its place, and its value.
    pub fn entries(&self) -> impl Iterator<Item = (&'a str, Place, Node<'a>)> {
        self.entries.iter().map(|(key, value)| {
            let place = Place::new(self.source, key.span());
            let node = Node {
                source: self.source,
                value,
            };
            (key.get_ref().as_ref(), place, node)
        })
    }

    /// Refuses every key that `known` does not list.
    pub fn refuse_unknown(&self, known: &[Key], found: &mut Diagnostics) {
        self.refuse_unknown_of(known, &[], found);
    }

    /// The same where the file has other tables, of which one may be meant:
    /// `file` is what may stand at its top.
    pub fn refuse_unknown_of(&self, known: &[Key], file: &[Key], found: &mut Diagnostics) {
        for (key, place, _) in self.entries() {
            if known.iter().any(|it| it.name == key) {
                continue;
            }
            let names: Vec<_> = known.iter().map(|it| it.name).collect();
            let expected = format!("expected one of {}", names.join(", "));
            let finding = found.error(place, format!("unknown key `{key}`"), expected);
            let homes: Vec<_> = file.iter().filter_map(|it| it.home_of(key)).collect();
            if !homes.is_empty() {
                finding.help(format!("`{key}` belongs {}", homes.join(" or ")));
            } else if let Some(meant) = did_you_mean(key, names) {
                finding.help(format!("did you mean `{meant}`?"));
            }
        }
    }

    /// `schema`, of which only 1 is known; a file without it is of that one.
    pub fn check_schema(&self, found: &mut Diagnostics) {
        if let Some(schema) = self.get("schema") {
            schema.integer(
                1..=1,
                "expected 1, without quotes: the only schema known",
                found,
            );
        }
    }
}

impl Key {
    /// Where a key belongs that is this one, or stands in the table that this
    /// one is.
    fn home_of(&self, key: &str) -> Option<String> {
        match self.shape {
            Shape::Table(keys) if keys.iter().any(|it| it.name == key) => {
                Some(format!("under [{}]", self.name))
            }
            Shape::Table(_) => None,
            _ => (self.name == key).then(|| "at the top, before the first [table]".to_owned()),
        }
    }
}

/// A value and where it stands.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    source: &'a Arc<Source>,
    value: &'a Spanned<DeValue<'a>>,
}

impl<'a> Node<'a> {
    /// Where it stands.
    pub fn place(&self) -> Place {
        Place::new(self.source, self.value.span())
    }

    /// Records an error at this value.
    pub fn refuse<T>(
        &self,
        message: impl Into<String>,
        expected: impl Into<String>,
        found: &mut Diagnostics,
    ) -> Option<T> {
        found.error(self.place(), message, expected);
        None
    }

    fn refuse_type<T>(&self, expected: &str, found: &mut Diagnostics) -> Option<T> {
        let message = match self.value.get_ref() {
            DeValue::Integer(_) | DeValue::Array(_) => "this is an ",
            _ => "this is a ",
        };
        let message = format!("{message}{}", self.value.get_ref().type_str());
        self.refuse(message, expected, found)
    }

    /// A string. `expected` is the whole sentence that a refusal shows.
    pub fn string(&self, expected: &str, found: &mut Diagnostics) -> Option<&'a str> {
        match self.value.get_ref() {
            DeValue::String(text) => Some(text.as_ref()),
            _ => self.refuse_type(expected, found),
        }
    }

    /// One word of a closed list.
    pub fn word<T: Copy>(&self, words: &[(&str, T)], found: &mut Diagnostics) -> Option<T> {
        let names = || words.iter().map(|(name, _)| *name);
        let expected = format!(
            "expected {}",
            names()
                .map(|name| format!("\"{name}\""))
                .collect::<Vec<_>>()
                .join(" or ")
        );
        let text = self.string(&expected, found)?;
        if let Some((_, value)) = words.iter().find(|(name, _)| *name == text) {
            return Some(*value);
        }
        let finding = found.error(self.place(), format!("unknown word \"{text}\""), expected);
        if let Some(meant) = did_you_mean(text, names()) {
            finding.help(format!("did you mean \"{meant}\"?"));
        }
        None
    }

    /// `true` or `false`.
    pub fn boolean(&self, found: &mut Diagnostics) -> Option<bool> {
        match self.value.get_ref() {
            DeValue::Boolean(value) => Some(*value),
            _ => self.refuse_type("expected true or false, without quotes", found),
        }
    }

    /// Whether it is a whole number.
    pub fn is_integer(&self) -> bool {
        self.value.get_ref().is_integer()
    }

    /// A whole number within bounds.
    pub fn integer(
        &self,
        bounds: RangeInclusive<u32>,
        expected: &str,
        found: &mut Diagnostics,
    ) -> Option<u32> {
        let DeValue::Integer(number) = self.value.get_ref() else {
            return self.refuse_type(expected, found);
        };
        match u32::from_str_radix(number.as_str(), number.radix()) {
            Ok(value) if bounds.contains(&value) => Some(value),
            _ => self.refuse(format!("{number} is out of range"), expected, found),
        }
    }

    /// `[[tables]]`: any number of tables of one name.
    pub fn tables(&self, expected: &str, found: &mut Diagnostics) -> Vec<Table<'a>> {
        let items = match self.value.get_ref() {
            DeValue::Array(_) => self.list(expected, found),
            _ => self.refuse_type(expected, found),
        };
        items
            .unwrap_or_default()
            .iter()
            .filter_map(|item| item.table(expected, found))
            .collect()
    }

    /// A list, which may be empty.
    pub fn list(&self, expected: &str, found: &mut Diagnostics) -> Option<Vec<Node<'a>>> {
        match self.value.get_ref() {
            DeValue::Array(items) => Some(
                items
                    .iter()
                    .map(|value| Node {
                        source: self.source,
                        value,
                    })
                    .collect(),
            ),
            DeValue::String(text) => {
                self.refuse_type(&format!("expected a list: [\"{text}\"]"), found)
            }
            _ => self.refuse_type(expected, found),
        }
    }

    /// A list with something in it: an empty one could be read as "nothing"
    /// or as "anything", so it is neither.
    pub fn full_list(&self, expected: &str, found: &mut Diagnostics) -> Option<Vec<Node<'a>>> {
        let items = self.list(expected, found)?;
        if items.is_empty() {
            return self.refuse("this list is empty", expected, found);
        }
        Some(items)
    }

    /// A table.
    pub fn table(&self, expected: &str, found: &mut Diagnostics) -> Option<Table<'a>> {
        match self.value.get_ref() {
            DeValue::Table(entries) => Some(Table {
                source: self.source,
                span: self.value.span(),
                entries,
            }),
            _ => self.refuse_type(expected, found),
        }
    }
}
