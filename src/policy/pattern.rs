//! Path patterns: whole segments, `*` within one, `**` for any number.

use std::fmt;

use crate::provider::Provider;
use crate::request::{CanonicalPath, PathError, path_of_url};

/// A pattern that some canonical path can match.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Pattern {
    text: String,
    segments: Vec<Segment>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Segment {
    Literal(String),
    /// The pieces around the stars: `a*b` is `["a", "b"]`.
    Glob(Vec<String>),
    AnyDepth,
}

/// Why a text is no pattern, in two halves of a finding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PatternError {
    pub(super) message: String,
    pub(super) expected: String,
}

impl Pattern {
    pub(super) fn parse(provider: Provider, text: &str) -> Result<Self, PatternError> {
        check(provider, text)?;
        Ok(Self::of_segments(text))
    }

    /// A pattern for files, in the same language.
    pub(super) fn of_files(text: &str) -> Result<Self, PatternError> {
        let refused = |message: String| PatternError {
            message,
            expected: "expected an absolute path, such as \"/usr/bin/aws\" or \"/opt/app/**\""
                .into(),
        };
        let Some(relative) = text.strip_prefix('/') else {
            return Err(refused(format!("\"{text}\" is no absolute path")));
        };
        let is_no_name = |word: &str| {
            matches!(word, "" | "." | "..")
                || word.contains(char::is_control)
                || word.contains("**") && word != "**"
        };
        match relative.split('/').find(|word| is_no_name(word)) {
            Some(_) => Err(refused(format!("no program is called \"{text}\""))),
            None => Ok(Self::of_segments(text)),
        }
    }

    /// A pattern for units of the service manager, one word each.
    pub(super) fn of_units(text: &str) -> Result<Self, PatternError> {
        let refused = |message: String| PatternError {
            message,
            expected:
                "expected a service or scope, such as \"nginx.service\" or \"session-*.scope\""
                    .into(),
        };
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ":-_.\\@*".contains(c);
        if text.is_empty() || text.contains("**") || !text.chars().all(is_plain) {
            return Err(refused(format!("no unit is called \"{text}\"")));
        }
        // A slice holds units, and no process of its own.
        let end = text.rsplit('*').next().unwrap_or_default();
        let can_end = |kind: &str| end.ends_with(kind) || text != end && kind.ends_with(end);
        if ![".service", ".scope"].into_iter().any(can_end) {
            return Err(refused(format!("\"{text}\" is no service and no scope")));
        }
        Ok(Self::of_segments(text))
    }

    fn of_segments(text: &str) -> Self {
        let segments = text
            .split('/')
            .filter(|segment| !segment.is_empty())
            .map(|segment| match segment {
                "**" => Segment::AnyDepth,
                _ if segment.contains('*') => {
                    Segment::Glob(segment.split('*').map(str::to_owned).collect())
                }
                _ => Segment::Literal(segment.to_owned()),
            })
            .collect();
        Self {
            text: text.to_owned(),
            segments,
        }
    }

    /// Whether it covers a path, given by its segments. Only the last `**` is
    /// ever tried again, so the time is at most pattern times path.
    pub(super) fn matches(&self, path: &[&str]) -> bool {
        let (mut pattern_at, mut path_at) = (0, 0);
        let mut retry = None;
        loop {
            match (self.segments.get(pattern_at), path.get(path_at)) {
                (None, None) => return true,
                (Some(Segment::AnyDepth), _) => {
                    pattern_at += 1;
                    retry = Some((pattern_at, path_at));
                }
                (Some(segment), Some(word)) if segment.matches(word) => {
                    pattern_at += 1;
                    path_at += 1;
                }
                _ => match retry {
                    Some((after, from)) if from < path.len() => {
                        (pattern_at, path_at) = (after, from + 1);
                        retry = Some((after, from + 1));
                    }
                    _ => return false,
                },
            }
        }
    }

    /// The segments before the first wildcard, as a path without its last
    /// slash: whatever the pattern covers begins with these.
    pub(super) fn literal_prefix(&self) -> String {
        self.segments
            .iter()
            .map_while(|segment| match segment {
                Segment::Literal(word) => Some(["/", word]),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Whether it certainly covers whatever `other` covers; in doubt, no.
    pub(super) fn includes(&self, other: &Self) -> bool {
        let within = match self.segments.split_last() {
            Some((Segment::AnyDepth, before)) => other.segments.starts_with(before),
            _ => self == other,
        };
        within || other.is_literal() && self.matches(&other.words())
    }

    /// Whether it is `/**`.
    pub(super) fn is_everything(&self) -> bool {
        matches!(self.segments.as_slice(), [Segment::AnyDepth])
    }

    /// Whether it covers one path alone.
    pub(super) fn is_literal(&self) -> bool {
        self.segments
            .iter()
            .all(|segment| matches!(segment, Segment::Literal(_)))
    }

    /// Whether it can cover a path that begins with this segment.
    pub(super) fn can_begin_with(&self, word: &str) -> bool {
        match self.segments.first() {
            Some(Segment::AnyDepth) | None => true,
            Some(segment) => segment.matches(word),
        }
    }

    /// The words between the slashes, wildcards as they are written.
    pub(super) fn words(&self) -> Vec<&str> {
        self.text
            .split('/')
            .filter(|word| !word.is_empty())
            .collect()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Segment {
    fn matches(&self, word: &str) -> bool {
        match self {
            Self::Literal(literal) => literal == word,
            Self::Glob(pieces) => glob_matches(pieces, word),
            Self::AnyDepth => false,
        }
    }
}

/// The first piece begins the word, the last one ends it, and those between
/// stand in their order in what is left.
fn glob_matches(pieces: &[String], word: &str) -> bool {
    let [first, middle @ .., last] = pieces else {
        return false;
    };
    let Some(mut rest) = word
        .strip_prefix(first.as_str())
        .and_then(|rest| rest.strip_suffix(last.as_str()))
    else {
        return false;
    };
    middle
        .iter()
        .all(|piece| match rest.split_once(piece.as_str()) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
}

/// Lets the reader of requests itself say whether a path could ever look so:
/// a pattern that it would change can never match anything.
fn check(provider: Provider, text: &str) -> Result<(), PatternError> {
    let error = |message: &str, expected: String| {
        Err(PatternError {
            message: message.to_owned(),
            expected,
        })
    };
    let canonical = match CanonicalPath::parse(provider, text.as_bytes()) {
        Ok(canonical) => canonical,
        Err(PathError::TargetForm) => {
            let inside = path_of_url(text)
                .and_then(|path| CanonicalPath::parse(provider, path.as_bytes()).ok());
            if let Some(path) = inside {
                return error(
                    "a pattern is a path, without host and version",
                    format!("expected \"{}\"", path.resource()),
                );
            }
            return error(
                "a pattern must begin with `/`",
                match text {
                    "" => {
                        "expected a path such as \"/user-data\", or a set such as \"@role\"".into()
                    }
                    "*" | "**" | "all" | "ALL" | "any" => "expected \"/**\" for every path".into(),
                    _ if text.contains(['/', '*']) => format!("expected \"/{text}\""),
                    _ => format!("expected \"/{text}\", or \"@{text}\" if a set is meant"),
                },
            );
        }
        Err(reason) => {
            return error(
                "no path can ever match this pattern",
                format!("expected a path as it is judged, but {reason}"),
            );
        }
    };
    let first = canonical.as_str().split('/').nth(1);
    if first.is_some_and(|first| provider.is_version(first)) {
        return error(
            "a pattern has no version: it holds for all",
            format!("expected \"{}\"", canonical.resource()),
        );
    }
    if canonical.resource() != text {
        return error(
            "no path can ever match this pattern",
            format!("expected its canonical form: \"{}\"", canonical.resource()),
        );
    }
    if text
        .split('/')
        .any(|segment| segment.contains("**") && segment != "**")
    {
        return error(
            "`**` stands for whole segments",
            "expected `*` inside a segment, or `/**/` between slashes".into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Pattern, PatternError> {
        Pattern::parse(Provider::Aws, text)
    }

    fn matches(pattern: &str, path: &str) -> bool {
        let path = CanonicalPath::parse(Provider::Aws, path.as_bytes()).unwrap();
        parse(pattern)
            .unwrap()
            .matches(&path.segments().collect::<Vec<_>>())
    }

    #[test]
    fn whole_segments_only() {
        for (pattern, path, expected) in [
            ("/user-data", "/latest/user-data", true),
            ("/user-data", "/1.0//user-data/", true),
            ("/user-data", "/latest/user-database", false),
            ("/user-data", "/latest/user-data/x", false),
            ("/user-data", "/latest/User-Data", false),
            ("/meta-data/*", "/latest/meta-data/mac", true),
            ("/meta-data/*", "/latest/meta-data", false),
            ("/meta-data/*", "/latest/meta-data/a/b", false),
            ("/meta-data/**", "/latest/meta-data", true),
            ("/meta-data/**", "/latest/meta-data/a/b", true),
            ("/**/macs/**/x", "/latest/a/macs/b/macs/x", true),
            ("/**/macs/**/x", "/latest/a/macs/b/macs/y", false),
            ("/tags/Build*", "/latest/tags/Build", true),
            ("/tags/Build*", "/latest/tags/BuildId", true),
            ("/tags/*Build", "/latest/tags/BuildId", false),
            ("/tags/a*b*a", "/latest/tags/aba", true),
            ("/tags/a*b*a", "/latest/tags/aa", false),
            ("/tags/aa*aa", "/latest/tags/aaa", false),
            ("/", "/latest/", true),
            ("/", "/latest/x", false),
            ("/**", "/latest", true),
        ] {
            assert_eq!(matches(pattern, path), expected, "{pattern} {path}");
        }
    }

    #[test]
    fn what_no_path_can_look_like_is_refused_with_what_to_write() {
        for (text, expected) in [
            ("", "such as \"/user-data\""),
            ("user-data", "\"/user-data\""),
            (
                "http://169.254.169.254/latest/user-data",
                "expected \"/user-data\"",
            ),
            ("http://[fd00:ec2::254]", "expected \"/\""),
            ("/latest/user-data", "expected \"/user-data\""),
            ("/latest/", "expected \"/\""),
            ("/2021-03-23/user-data", "expected \"/user-data\""),
            ("/user-data/", "canonical form: \"/user-data\""),
            ("//user-data", "canonical form: \"/user-data\""),
            ("/a//b", "canonical form: \"/a/b\""),
            ("/%75ser-data", "canonical form: \"/user-data\""),
            ("/user%20data", "but a `%` escape"),
            ("/user-data?x", "but a query"),
            ("/a/../b", "but `.` and `..`"),
            ("/a b", "but a byte"),
            ("/\u{e9}", "but a byte"),
            ("/a\\b", "but a byte"),
            ("/a**", "`*` inside a segment"),
            ("/***", "`*` inside a segment"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.expected.contains(expected), "{text}: {error:?}");
        }
    }

    #[test]
    fn what_includes_what() {
        for (wide, narrow, expected) in [
            ("/**", "/user-data", true),
            ("/meta-data/**", "/meta-data", true),
            ("/meta-data/**", "/meta-data/*/x", true),
            ("/meta-data/**", "/**", false),
            ("/meta-data/*", "/meta-data/mac", true),
            ("/meta-data/*", "/meta-data/*", true),
            ("/**/x", "/x", true),
            ("/**/x", "/x/*", false),
        ] {
            let includes = parse(wide).unwrap().includes(&parse(narrow).unwrap());
            assert_eq!(includes, expected, "{wide} {narrow}");
        }
    }

    #[test]
    fn many_wildcards_do_not_blow_up() {
        let pattern = parse(&"/**/a*a*a*a*b".repeat(40)).unwrap();
        let word = "a".repeat(200);
        let path = vec![word.as_str(); 200];
        let start = std::time::Instant::now();
        assert!(!pattern.matches(&path));
        assert!(start.elapsed() < std::time::Duration::from_secs(1));
    }

    /// The meaning of a pattern, word by word and as slow as it likes.
    fn naive(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern, path) {
            ([], []) => true,
            (["**", rest @ ..], _) => {
                naive(rest, path) || matches!(path, [_, tail @ ..] if naive(pattern, tail))
            }
            ([first, rest @ ..], [word, tail @ ..]) => {
                naive_word(first.as_bytes(), word.as_bytes()) && naive(rest, tail)
            }
            _ => false,
        }
    }

    fn naive_word(pattern: &[u8], word: &[u8]) -> bool {
        match (pattern, word) {
            ([], []) => true,
            ([b'*', rest @ ..], _) => {
                naive_word(rest, word)
                    || matches!(word, [_, tail @ ..] if naive_word(pattern, tail))
            }
            ([a, rest @ ..], [b, tail @ ..]) => a == b && naive_word(rest, tail),
            _ => false,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        #[test]
        fn agrees_with_its_definition(
            pattern in "(/(\\*\\*|\\*|\\*?[ab]{1,2}(\\*[ab]{1,2}){0,2}\\*?)){1,5}",
            path in "(/[ab]{1,4}){1,6}",
        ) {
            let parsed = parse(&pattern).unwrap();
            let segments: Vec<_> = path.split('/').skip(1).collect();
            prop_assert_eq!(parsed.matches(&segments), naive(&parsed.words(), &segments));
            if parsed.matches(&segments) {
                prop_assert!(path.starts_with(&parsed.literal_prefix()));
            }
        }
    }
}
