//! Records as lines: numbered and chained, as they are in the file and as
//! every sink gets them.

use std::io::Write as _;

use super::chain::{Digest, Link};
use super::record::{SCHEMA, Traits};

/// Lines, one after the other, each with its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    bytes: Vec<u8>,
    marks: Vec<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    /// Where the line ends in the bytes, its line feed included.
    end: usize,
    seq: Option<u64>,
    traits: Traits,
    stands_for: u64,
}

/// One of them, without its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Line<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) seq: Option<u64>,
    pub(super) traits: Traits,
    /// How many records are lost with it.
    pub(super) stands_for: u64,
}

impl Lines {
    pub(super) fn with_capacity(bytes: usize, lines: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(bytes + lines * 128),
            marks: Vec::with_capacity(lines),
        }
    }

    /// Adds a record, an object whole but for its number and what it hangs on.
    pub(super) fn add(&mut self, record: &[u8], traits: Traits, head: &mut Option<Link>) {
        let seq = head.map_or(0, |head| head.seq).saturating_add(1);
        let start = self.open(record, Some(seq));
        self.bytes.extend_from_slice(b",\"prev\":");
        match head {
            Some(head) => {
                self.bytes.push(b'"');
                head.hash.write(&mut self.bytes);
                self.bytes.push(b'"');
            }
            None => self.bytes.extend_from_slice(b"null"),
        }
        self.bytes.push(b'}');
        let hash = Digest::of(self.bytes.get(start..).unwrap_or_default());
        *head = Some(Link { seq, hash });
        self.close(Some(seq), traits, 1);
    }

    /// Adds a record that is for a sink alone, and no part of the log; it may
    /// stand for many.
    pub(super) fn add_aside(&mut self, record: &[u8], traits: Traits, stands_for: u64) {
        self.open(record, None);
        self.bytes.extend_from_slice(b",\"prev\":null}");
        self.close(None, traits, stands_for);
    }

    /// All but the brace at the end; gives where it begins.
    fn open(&mut self, record: &[u8], seq: Option<u64>) -> usize {
        let start = self.bytes.len();
        // Writing to a Vec cannot fail.
        let _ = write!(self.bytes, "{{\"schema\":{SCHEMA},\"seq\":");
        let _ = match seq {
            Some(seq) => write!(self.bytes, "{seq},"),
            None => write!(self.bytes, "null,"),
        };
        let inner = record.get(1..record.len().saturating_sub(1));
        self.bytes.extend_from_slice(inner.unwrap_or_default());
        start
    }

    fn close(&mut self, seq: Option<u64>, traits: Traits, stands_for: u64) {
        self.bytes.push(b'\n');
        let end = self.bytes.len();
        self.marks.push(Mark {
            end,
            seq,
            traits,
            stands_for,
        });
    }

    /// Copies a line.
    pub(super) fn push(&mut self, line: Line<'_>) {
        self.bytes.extend_from_slice(line.bytes);
        self.close(line.seq, line.traits, line.stands_for);
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(super) fn len(&self) -> usize {
        self.marks.len()
    }

    /// How many records are lost with them.
    pub(super) fn stand_for(&self) -> u64 {
        let weights = self.marks.iter().map(|mark| mark.stands_for);
        weights.fold(0, u64::saturating_add)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Line<'_>> {
        let mut start = 0;
        self.marks.iter().map(move |mark| {
            let end = mark.end.saturating_sub(1);
            let bytes = self.bytes.get(start..end).unwrap_or_default();
            start = mark.end;
            Line {
                bytes,
                seq: mark.seq,
                traits: mark.traits,
                stands_for: mark.stands_for,
            }
        })
    }

    /// Adds all of other lines.
    pub(super) fn extend(&mut self, other: &Self) {
        other.iter().for_each(|line| self.push(line));
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::record::Event;
    use super::*;

    /// These records, as those of requests.
    pub(in super::super) fn lines(records: &[&serde_json::Value]) -> Lines {
        let traits = Traits {
            event: Event::Request,
            reason: None,
            decision: None,
            class: None,
            uid: None,
        };
        let (mut lines, mut head) = (Lines::default(), None);
        for record in records {
            lines.add(record.to_string().as_bytes(), traits, &mut head);
        }
        lines
    }
}
