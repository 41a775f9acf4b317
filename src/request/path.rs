//! Request target → canonical path. Total: any bytes give a path or a named
//! reason; idempotent: a canonical path parses to itself.
//!
//! This is the only reading of a path in the program. Rules judge it and the
//! upstream request is rebuilt from it, so the two cannot disagree. It must
//! never guess: what two programs could read differently is refused.

use std::borrow::Cow;
use std::fmt;

use crate::provider::{Class, Keep, Provider};

/// Why a target has no canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PathError {
    /// Not origin-form: absolute-form, authority-form or `*`.
    TargetForm,
    /// A query; a key's own `?` cannot occur on EC2.
    Query,
    /// A fragment, which no client sends.
    Fragment,
    /// A `.` or `..` segment, also one that an escape spelled.
    DotSegment,
    /// A byte that may not stand in a path unescaped.
    Byte,
    /// A `%` that is not an escape of a plain path byte.
    Escape,
}

impl PathError {
    /// The word for audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::TargetForm => "target_form",
            Self::Query => "query",
            Self::Fragment => "fragment",
            Self::DotSegment => "dot_segment",
            Self::Byte => "path_byte",
            Self::Escape => "path_escape",
        }
    }
}

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TargetForm => "the path must begin with `/`",
            Self::Query => "a query (`?`) is not part of a metadata path",
            Self::Fragment => "a fragment (`#`) is not part of a metadata path",
            Self::DotSegment => "`.` and `..` segments are not allowed",
            Self::Byte => "a byte that may not stand in a path",
            Self::Escape => "a `%` escape other than of A-Z a-z 0-9 + = , . @ _ : -",
        })
    }
}

/// The path within an `http://` URL, for people who paste one where a path is
/// meant. A request that carries one is malformed.
pub fn path_of_url(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("http://")?;
    Some(match rest.find('/') {
        Some(at) => rest.get(at..).unwrap_or_default(),
        None => "/",
    })
}

/// One path in its only form: a single slash between segments, escapes
/// decoded, and the client's trailing slash kept for the service, which on
/// some paths tells the two apart. Rules never see that slash.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CanonicalPath {
    /// As sent to the service, e.g. `/latest/meta-data/iam/`.
    text: String,
    /// Where the resource begins in `text`: behind the version segment.
    resource_at: usize,
    class: Class,
    keep: Keep,
}

impl CanonicalPath {
    /// Reads a request target.
    pub fn parse(provider: Provider, target: &[u8]) -> Result<Self, PathError> {
        if target.first() != Some(&b'/') {
            return Err(PathError::TargetForm);
        }
        let decoded = decode(target)?;
        let mut text = String::with_capacity(decoded.len());
        for segment in decoded.split('/').filter(|segment| !segment.is_empty()) {
            if segment == "." || segment == ".." {
                return Err(PathError::DotSegment);
            }
            text.push('/');
            text.push_str(segment);
        }
        let resource_at = match segments_of(&text).next() {
            Some(first) if provider.is_version(first) => first.len() + 1,
            _ => 0,
        };
        let (class, keep) = {
            let resource = text.get(resource_at..).unwrap_or_default();
            let segments: Vec<_> = segments_of(resource).collect();
            (provider.classify(&segments), provider.keep(&segments))
        };
        if text.is_empty() || decoded.ends_with('/') {
            text.push('/');
        }
        Ok(Self {
            text,
            resource_at,
            class,
            keep,
        })
    }

    /// The whole path as judged, sent and recorded, trailing slash included.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The path below the version, without a trailing slash; `/` for the root
    /// of a version and for the list of versions.
    pub fn resource(&self) -> &str {
        match self
            .text
            .get(self.resource_at..)
            .unwrap_or_default()
            .trim_end_matches('/')
        {
            "" => "/",
            resource => resource,
        }
    }

    /// The segments below the version.
    pub fn segments(&self) -> impl Iterator<Item = &str> + Clone {
        segments_of(self.resource())
    }

    /// What the provider says the path holds.
    pub fn class(&self) -> Class {
        self.class
    }

    /// How long the provider says an answer holds.
    pub fn keep(&self) -> Keep {
        self.keep
    }
}

impl fmt::Debug for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CanonicalPath({:?}, {:?})", self.text, self.class)
    }
}

impl fmt::Display for CanonicalPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn segments_of(path: &str) -> impl Iterator<Item = &str> + Clone {
    path.split('/').filter(|segment| !segment.is_empty())
}

fn decode(target: &[u8]) -> Result<Cow<'_, str>, PathError> {
    if target.iter().all(|byte| may_stand_plain(*byte))
        && let Ok(text) = std::str::from_utf8(target)
    {
        return Ok(text.into());
    }
    let mut out = String::with_capacity(target.len());
    let mut bytes = target.iter().copied();
    while let Some(byte) = bytes.next() {
        let byte = match byte {
            b'?' => return Err(PathError::Query),
            b'#' => return Err(PathError::Fragment),
            b'%' => {
                let high = bytes.next().and_then(hex_digit).ok_or(PathError::Escape)?;
                let low = bytes.next().and_then(hex_digit).ok_or(PathError::Escape)?;
                let byte = high << 4 | low;
                if !may_be_escaped(byte) {
                    return Err(PathError::Escape);
                }
                byte
            }
            byte if may_stand_plain(byte) => byte,
            _ => return Err(PathError::Byte),
        };
        out.push(char::from(byte));
    }
    Ok(out.into())
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// The bytes a path may hold as they are.
pub(crate) fn may_stand_plain(byte: u8) -> bool {
    matches!(byte,
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'+' | b'-' | b'=' | b'.' | b',' | b'_' | b':'
            | b'@' | b'~' | b'*' | b'!' | b'\'' | b'(' | b')' | b'$' | b'&' | b'/')
}

/// The bytes whose escape means the same as the byte to every reader.
fn may_be_escaped(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
        || matches!(byte, b'+' | b'=' | b',' | b'.' | b'@' | b'_' | b':' | b'-')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(target: &str) -> Result<CanonicalPath, PathError> {
        CanonicalPath::parse(Provider::Aws, target.as_bytes())
    }

    #[test]
    fn slashes_collapse_and_the_last_one_stays_for_the_service() {
        for (target, sent, resource) in [
            ("/", "/", "/"),
            ("//", "/", "/"),
            ("/latest", "/latest", "/"),
            ("/latest/", "/latest/", "/"),
            (
                "//latest//meta-data/ramdisk-id",
                "/latest/meta-data/ramdisk-id",
                "/meta-data/ramdisk-id",
            ),
            (
                "/latest/meta-data/iam//",
                "/latest/meta-data/iam/",
                "/meta-data/iam",
            ),
            (
                "/2021-03-23/user-data",
                "/2021-03-23/user-data",
                "/user-data",
            ),
            ("/user-data", "/user-data", "/user-data"),
        ] {
            let path = parse(target).unwrap();
            assert_eq!(
                (path.as_str(), path.resource()),
                (sent, resource),
                "{target}"
            );
        }
    }

    #[test]
    fn only_one_version_segment_is_stripped() {
        let path = parse("/latest/latest/user-data").unwrap();
        assert_eq!(
            (path.resource(), path.class()),
            ("/latest/user-data", Class::Unclassified)
        );
    }

    #[test]
    fn another_case_is_another_path() {
        assert_eq!(
            parse("/Latest/user-data").unwrap().class(),
            Class::Unclassified
        );
    }

    #[test]
    fn an_escape_of_a_plain_byte_is_decoded_once() {
        let path = parse("/latest/%75ser%2ddata").unwrap();
        assert_eq!(
            (path.as_str(), path.class()),
            ("/latest/user-data", Class::Secrets)
        );
        assert_eq!(parse("/%2575ser-data"), Err(PathError::Escape));
    }

    #[test]
    fn what_could_be_read_two_ways_is_refused() {
        for (target, error) in [
            ("", PathError::TargetForm),
            ("*", PathError::TargetForm),
            ("http://169.254.169.254/latest", PathError::TargetForm),
            ("169.254.169.254:80", PathError::TargetForm),
            ("/latest?x", PathError::Query),
            ("/latest#x", PathError::Fragment),
            ("/latest/./user-data", PathError::DotSegment),
            ("/latest/a/../user-data", PathError::DotSegment),
            ("/latest/%2e%2E/user-data", PathError::DotSegment),
            ("/latest/a\\b", PathError::Byte),
            ("/latest/a;b", PathError::Byte),
            ("/latest/a\tb", PathError::Byte),
            ("/latest/a b", PathError::Byte),
            ("/latest/\u{e9}", PathError::Byte),
            ("/latest/a%2Fb", PathError::Escape),
            ("/latest/a%00", PathError::Escape),
            ("/latest/a%5c", PathError::Escape),
            ("/latest/a%", PathError::Escape),
            ("/latest/a%4", PathError::Escape),
            ("/latest/a%+1", PathError::Escape),
        ] {
            assert_eq!(parse(target).unwrap_err(), error, "{target}");
        }
    }

    proptest! {
        #[test]
        fn total_on_any_bytes(target in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = CanonicalPath::parse(Provider::Aws, &target);
        }

        #[test]
        fn idempotent_and_made_of_plain_bytes(target in "(/{1,2}(latest|1\\.0|meta-data|security-credentials|%2e|%41|[a-z.*~]{1,4})){0,6}/{0,2}") {
            if let Ok(path) = parse(&target) {
                prop_assert_eq!(parse(path.as_str()).unwrap(), path.clone());
                prop_assert!(path.as_str().bytes().all(may_stand_plain));
                prop_assert!(!path.as_str().contains("//"));
            }
        }

        #[test]
        fn a_trailing_slash_never_changes_what_is_judged(target in "(/[a-z-]{1,8}){1,5}") {
            let (bare, slash) = (parse(&target).unwrap(), parse(&format!("{target}/")).unwrap());
            prop_assert_eq!(bare.resource(), slash.resource());
            prop_assert_eq!(bare.class(), slash.class());
        }
    }
}
