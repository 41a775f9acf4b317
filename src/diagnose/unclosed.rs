//! Slips of the pen that TOML's reader notices far from where they were made:
//! a bracket that is not closed, and a header with one bracket too few.

use std::ops::Range;

/// The bracket on an earlier line that is still open at `error`, if the line
/// of the error begins as only a new entry would: with a header or a key. A
/// line that goes on with the list has an error of its own.
pub(super) fn unclosed_before(text: &str, error: usize) -> Option<Range<usize>> {
    let before = text.get(..error)?;
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let line = text.get(line_start..)?.lines().next().unwrap_or_default();
    let first_word = line.trim_start();
    let is_key = first_word
        .trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-')
        .trim_start()
        .starts_with('=');
    if !(is_key || first_word.starts_with('[')) {
        return None;
    }
    let at = innermost_open(before.get(..line_start)?)?;
    Some(at..at + 1)
}

/// `[name]` above a `[[name]]` at `error`: its place and the name.
pub(super) fn lone_header(text: &str, error: usize) -> Option<(Range<usize>, &str)> {
    let name = text
        .get(error..)?
        .split(']')
        .next()
        .filter(|_| text.get(..error).is_some_and(|it| it.ends_with("[[")))?;
    let header = format!("[{name}]");
    let at = text
        .get(..error)?
        .match_indices(&header)
        .map(|(at, _)| at)
        .find(|at| *at == 0 || text.get(..*at).is_some_and(|it| it.ends_with('\n')))?;
    Some((at..at + header.len(), name))
}

/// The `[name]` whose name is at `error`, and the name.
pub(super) fn header_at(text: &str, error: usize) -> Option<(Range<usize>, &str)> {
    let start = error.checked_sub(1)?;
    let (name, _) = text.get(start..)?.strip_prefix('[')?.split_once(']')?;
    let before = text.get(..start)?;
    let is_line = before.is_empty() || before.ends_with('\n');
    is_line.then(|| (start..error + name.len() + 1, name))
}

/// Where the last bracket of a value opens that is not closed by the end.
fn innermost_open(text: &str) -> Option<usize> {
    let mut open = Vec::new();
    let mut at_line_start = true;
    let mut rest = text;
    while let Some(char) = rest.chars().next() {
        let at = text.len() - rest.len();
        let length = match char {
            '#' => line_length(rest),
            // A header, not a value.
            '[' if at_line_start && open.is_empty() => line_length(rest),
            '"' | '\'' => string_length(rest, char),
            _ => char.len_utf8(),
        };
        match char {
            '[' if at_line_start && open.is_empty() => {}
            '[' | '{' => open.push(at),
            ']' | '}' => {
                open.pop();
            }
            _ => {}
        }
        at_line_start = char == '\n' || at_line_start && char.is_whitespace();
        rest = rest.get(length..).unwrap_or_default();
    }
    open.pop()
}

fn line_length(text: &str) -> usize {
    text.find('\n').unwrap_or(text.len())
}

/// The bytes of the string that `text` begins with, quotes included.
fn string_length(text: &str, quote: char) -> usize {
    let long: String = [quote; 3].iter().collect();
    let short = quote.to_string();
    let closing = if text.starts_with(&long) { long } else { short };
    let mut at = closing.len();
    while let Some(rest) = text.get(at..).filter(|rest| !rest.is_empty()) {
        if rest.starts_with(&closing) {
            return at + closing.len();
        }
        let mut chars = rest.chars();
        at += chars.next().map_or(1, char::len_utf8);
        if quote == '"' && rest.starts_with('\\') {
            at += chars.next().map_or(0, char::len_utf8);
        }
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(text: &str) -> Option<usize> {
        let (before, after) = text.split_once('!').unwrap();
        let place = unclosed_before(&format!("{before}{after}"), before.len())?;
        Some(before[..place.start].matches('\n').count() + 1)
    }

    #[test]
    fn the_bracket_is_found_past_strings_comments_and_headers() {
        for (text, line) in [
            ("[[rule]]\nwho = [\"a\"\n!paths = [\"b\"]", Some(2)),
            ("a = [\"]\", ']', # ]\n\n[[!rule]]", Some(1)),
            ("a = [\"\"\"\n]\\\"\"\"\"\n[!rule]", Some(1)),
            ("a = [\n  { b = [1] },\n!c = 1", Some(1)),
            ("a = [\n  { b = 1,\n!c = 1", Some(2)),
            // A comma is missing, no bracket.
            ("a = [\n  \"b\"\n  !\"c\"\n]", None),
            ("a = [1]\n[[rule]\n!b = 1", None),
            ("a = [1]\n!b = = 1", None),
            ("a = [1!", None),
        ] {
            assert_eq!(opened(text), line, "{text}");
        }
    }

    #[test]
    fn a_header_with_one_bracket_is_found_by_its_name() {
        let text = "# [rule]\n[rule]\nx = 1\n[[rule]]\n";
        let error = text.rfind("rule").unwrap();
        assert_eq!(lone_header(text, error), Some((9..15, "rule")));
        assert_eq!(lone_header("[rule]\n[rule]\n", 8), None);
        assert_eq!(header_at("[rule]\n[rule]\n", 8), Some((7..13, "rule")));
        assert_eq!(header_at("a = [rule]\n", 5), None);
    }
}
