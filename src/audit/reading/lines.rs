//! Bytes → lines, of which no more than one and a chunk are held at a time.

use std::io::{self, Read};

use memchr::{memchr, memchr_iter};

/// Far more than any record has; what is longer is not one.
pub(super) const LINE_MAX: usize = 1024 * 1024;

/// What stands in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line<'a> {
    /// Without its end.
    Whole(&'a [u8]),
    /// Passed over.
    TooLong,
    /// What stands behind the last line feed.
    Unended(&'a [u8]),
}

/// How a file ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Whole,
    /// What is compressed in it breaks off.
    Damaged,
}

/// Hands each line to `each`, until that has seen enough.
pub(super) fn split(
    mut from: impl Read,
    chunk: usize,
    each: &mut dyn FnMut(Line<'_>) -> bool,
) -> io::Result<Ended> {
    let mut buffer = vec![0; chunk];
    // Of which so many bytes, a line without its end, are from before.
    let mut kept = 0;
    let mut is_too_long = false;
    let ended = loop {
        if kept == buffer.len() {
            if buffer.len() >= LINE_MAX {
                is_too_long = true;
                kept = 0;
            } else {
                buffer.resize((buffer.len() * 2).min(LINE_MAX), 0);
            }
        }
        let space = buffer.get_mut(kept..).unwrap_or_default();
        let filled = match from.read(space) {
            Ok(0) => break Ended::Whole,
            Ok(len) => kept + len,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => match error.kind() {
                io::ErrorKind::UnexpectedEof
                | io::ErrorKind::InvalidData
                | io::ErrorKind::InvalidInput => break Ended::Damaged,
                _ => return Err(error),
            },
        };
        let bytes = buffer.get(..filled).unwrap_or_default();
        let mut start = 0;
        for end in memchr_iter(b'\n', bytes) {
            let line = bytes.get(start..end).unwrap_or_default();
            start = end + 1;
            let line = match std::mem::take(&mut is_too_long) {
                true => Line::TooLong,
                false => Line::Whole(line),
            };
            if !each(line) {
                return Ok(Ended::Whole);
            }
        }
        buffer.copy_within(start..filled, 0);
        kept = filled - start;
    };
    if is_too_long {
        each(Line::TooLong);
    } else if kept > 0 {
        each(Line::Unended(buffer.get(..kept).unwrap_or_default()));
    }
    Ok(ended)
}

/// Takes the whole lines off the front of what has been read so far, for a
/// file that grows.
pub(super) fn take_whole(buffer: &mut Vec<u8>, each: &mut dyn FnMut(&[u8])) {
    let mut start = 0;
    while let Some(len) = memchr(b'\n', buffer.get(start..).unwrap_or_default()) {
        each(buffer.get(start..start + len).unwrap_or_default());
        start += len + 1;
    }
    buffer.drain(..start);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &[u8], chunk: usize) -> (Vec<String>, Ended) {
        let mut seen = Vec::new();
        let ended = split(text, chunk, &mut |line| {
            seen.push(match line {
                Line::Whole(line) => String::from_utf8_lossy(line).into_owned(),
                Line::Unended(rest) => format!("unended {}", String::from_utf8_lossy(rest)),
                Line::TooLong => "too long".into(),
            });
            true
        });
        (seen, ended.unwrap())
    }

    #[test]
    fn lines_are_the_same_whatever_is_read_at_once() {
        for chunk in [1, 2, 3, 7, 64] {
            let (seen, _) = of(b"one\n\nthree\nfo", chunk);
            assert_eq!(seen, ["one", "", "three", "unended fo"], "{chunk}");
        }
    }

    #[test]
    fn a_line_of_endless_length_is_passed_over_without_being_held() {
        let mut text = vec![b'x'; 3 * LINE_MAX];
        text.extend_from_slice(b"\nnext\n");
        assert_eq!(of(&text, 1024).0, ["too long", "next"]);
    }
}
