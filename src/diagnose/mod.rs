//! What is wrong in a file the admin wrote: where, what, and what was
//! expected there. Pure: files come in as text, findings go out as text.
//!
//! All findings are gathered before any is shown. Nothing that came from a
//! file may reach a terminal as a control character.

mod render;
pub mod schema;
mod source;
mod suggest;
pub mod toml;
mod unclosed;

use crate::sorted;
use std::fmt;

pub use render::{Style, plain_text, wrap};
pub use source::{Place, Source};
pub use suggest::did_you_mean;

/// A record holds so many findings,
const RECORDED_MAX: usize = 64;
/// and of them so many bytes;
const RECORD_MAX: usize = 32 * 1024;
/// each of their texts has so many characters.
const TEXT_MAX: usize = 1024;

/// How much a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The file is refused.
    Error,
    /// The file holds, but says something its author may not have meant.
    Warning,
}

/// One finding.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// Whether it refuses the file.
    pub severity: Severity,
    /// The text it is about.
    pub place: Place,
    /// What is wrong.
    pub message: String,
    /// What was expected there.
    pub expected: String,
    /// What to do about it, where that does not follow from `expected`.
    pub help: Option<String>,
}

impl Diagnostic {
    /// Adds what to do about it.
    pub fn help(&mut self, help: impl Into<String>) -> &mut Self {
        self.help = Some(help.into());
        self
    }

    fn shortened(&self) -> Self {
        let short = |text: &String| match text.char_indices().nth(TEXT_MAX) {
            Some((end, _)) => text
                .get(..end)
                .map_or_else(String::new, |it| format!("{it}…")),
            None => text.clone(),
        };
        Self {
            severity: self.severity,
            place: self.place.clone(),
            message: short(&self.message),
            expected: short(&self.expected),
            help: self.help.as_ref().map(short),
        }
    }
}

/// Everything found, in the order of files and of lines within them.
#[derive(Clone, Debug, Default)]
pub struct Diagnostics {
    found: Vec<Diagnostic>,
}

impl Diagnostics {
    /// Nothing found yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Records an error.
    pub fn error(
        &mut self,
        place: Place,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Error, place, message.into(), expected.into())
    }

    /// Records a warning.
    pub fn warning(
        &mut self,
        place: Place,
        message: impl Into<String>,
        expected: impl Into<String>,
    ) -> &mut Diagnostic {
        self.add(Severity::Warning, place, message.into(), expected.into())
    }

    fn add(
        &mut self,
        severity: Severity,
        place: Place,
        message: String,
        expected: String,
    ) -> &mut Diagnostic {
        // Kept sorted while it grows; findings mostly arrive in order.
        let at = self.found.partition_point(|earlier| earlier.place <= place);
        self.found.insert(
            at,
            Diagnostic {
                severity,
                place,
                message,
                expected,
                help: None,
            },
        );
        #[expect(clippy::indexing_slicing, reason = "inserted there just above")]
        &mut self.found[at]
    }

    /// Takes over what another reader found.
    pub fn append(&mut self, other: Self) {
        self.found.extend(other.found);
        sorted::by(&mut self.found, |a, b| a.place.cmp(&b.place));
    }

    /// Whether anything refuses the files.
    pub fn has_errors(&self) -> bool {
        self.iter()
            .any(|finding| finding.severity == Severity::Error)
    }

    /// As many as a record may hold, errors first, and how many more there are.
    /// Texts are shortened: they may quote what the file says at any length.
    pub fn for_record(&self) -> (Vec<Diagnostic>, usize) {
        let of = |severity| self.iter().filter(move |it| it.severity == severity);
        let mut left = RECORD_MAX;
        let all = of(Severity::Error).chain(of(Severity::Warning));
        let short = all.take(RECORDED_MAX).map(Diagnostic::shortened);
        let found: Vec<_> = short
            .take_while(|it| {
                // As JSON has it, where a control character takes six bytes.
                let len = serde_json::to_string(it).map_or(usize::MAX, |json| json.len());
                let rest = left.checked_sub(len);
                left = rest.unwrap_or(0);
                rest.is_some()
            })
            .collect();
        let omitted = self.found.len() - found.len();
        (found, omitted)
    }

    /// Whether nothing at all was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// Every finding.
    pub fn iter(&self) -> impl Iterator<Item = &Diagnostic> {
        self.found.iter()
    }

    /// Makes every warning an error.
    pub fn deny_warnings(&mut self) {
        for finding in &mut self.found {
            finding.severity = Severity::Error;
        }
    }

    /// All findings for people to read, 80 columns wide, with a final newline.
    pub fn render(&self, style: Style) -> String {
        render::render(&self.found, style)
    }

    /// The same for a log, as many as a record may hold.
    pub fn brief(&self) -> String {
        let (found, omitted) = self.for_record();
        let mut text = render::render(&found, Style::Plain);
        if omitted > 0 {
            text += &format!("\nand {omitted} more: `imdsfw check` shows all of them\n");
        }
        text
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.render(Style::Plain).trim_end())
    }
}

impl std::error::Error for Diagnostics {}

impl serde::Serialize for Diagnostics {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(&self.found)
    }
}

impl serde::Serialize for Diagnostic {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        struct Flat<'a> {
            file: &'a str,
            line: usize,
            col: usize,
            severity: Severity,
            message: &'a str,
            expected: &'a str,
            help: Option<&'a str>,
        }
        let (line, col) = self.place.line_and_column();
        Flat {
            file: self.place.source.name(),
            line,
            col,
            severity: self.severity,
            message: &self.message,
            expected: &self.expected,
            help: self.help.as_deref(),
        }
        .serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_holds_what_fits_errors_first_and_counts_the_rest() {
        let source = Source::new("20-site.toml", "x".repeat(4000));
        let place = |at| Place::new(&source, at..at + 1);
        let mut found = Diagnostics::new();
        for at in 0..1000 {
            found.warning(place(at), "odd", "even");
        }
        found.error(place(3000), "\u{1}".repeat(100_000), "a word");
        let (recorded, omitted) = found.for_record();
        assert_eq!((recorded.len(), omitted), (64, 1001 - 64));
        assert_eq!(recorded[0].severity, Severity::Error);
        assert!(recorded[0].message.chars().count() == TEXT_MAX + 1);
        for at in 0..100 {
            found.error(place(at), "x".repeat(5000), "y".repeat(5000));
        }
        let (recorded, omitted) = found.for_record();
        assert_eq!(recorded.len() + omitted, 1101);
        assert!(!recorded.is_empty());
        assert!(serde_json::to_string(&recorded).unwrap().len() <= RECORD_MAX + 64);
    }
}
