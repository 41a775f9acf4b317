//! A file's text, and places in it.

use std::cmp::Ordering;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A file as it was read.
#[derive(Debug, PartialEq, Eq)]
pub struct Source {
    name: String,
    text: String,
    /// Byte offset at which each line begins; never empty.
    line_starts: Vec<usize>,
}

impl Source {
    /// A file's name, as the admin would type it, and its text.
    pub fn new(name: impl Into<String>, text: impl Into<String>) -> Arc<Self> {
        let text = text.into();
        let line_starts = std::iter::once(0)
            .chain(text.match_indices('\n').map(|(at, _)| at + 1))
            .collect();
        Arc::new(Self {
            name: name.into(),
            text,
            line_starts,
        })
    }

    /// The file's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The file's text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The line that holds a byte offset: its number from 1, the offset it
    /// begins at, and its text without the line end.
    pub(super) fn line_at(&self, offset: usize) -> (usize, usize, &str) {
        let number = self.line_starts.partition_point(|start| *start <= offset);
        let start = self
            .line_starts
            .get(number.saturating_sub(1))
            .copied()
            .unwrap_or_default();
        let rest = self.text.get(start..).unwrap_or_default();
        let line = rest.split('\n').next().unwrap_or_default();
        (number, start, line.strip_suffix('\r').unwrap_or(line))
    }
}

/// A stretch of a file's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub source: Arc<Source>,
    /// Byte offsets in its text.
    pub span: Range<usize>,
}

impl Place {
    /// A stretch of `source`.
    pub fn new(source: &Arc<Source>, span: Range<usize>) -> Self {
        Self {
            source: Arc::clone(source),
            span,
        }
    }

    /// A file as a whole, for what is wrong with it before its text counts
    /// (absent, not to be trusted); its first line and column stand for it.
    pub fn of_file(name: impl Into<String>) -> Self {
        Self {
            source: Source::new(name, ""),
            span: 0..0,
        }
    }

    /// Whether it is a file of which there is no text to show.
    pub(super) fn is_of_file(&self) -> bool {
        self.source.text.is_empty()
    }

    /// Line and column (in characters), both from 1.
    pub fn line_and_column(&self) -> (usize, usize) {
        let (number, start, _) = self.source.line_at(self.span.start);
        let before = self.source.text.get(start..self.span.start);
        (number, before.unwrap_or_default().chars().count() + 1)
    }

    /// The place as `file:line`.
    pub fn file_and_line(&self) -> String {
        format!("{}:{}", self.source.name, self.line_and_column().0)
    }
}

/// `file:line:col`.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.line_and_column();
        write!(f, "{}:{line}:{column}", self.source.name)
    }
}

impl Ord for Place {
    fn cmp(&self, other: &Self) -> Ordering {
        (self.source.name.as_str(), self.span.start)
            .cmp(&(other.source.name.as_str(), other.span.start))
            .then(self.span.end.cmp(&other.span.end))
    }
}

impl PartialOrd for Place {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
