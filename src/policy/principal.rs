//! `user:NAME`, `uid:N`, `uid:N-M`, `uid:N-`, `group:NAME`, `gid:N`, `any`.

use std::ops::RangeInclusive;

use super::names::{Asker, Name, NameId, Names, Truth};
use crate::diagnose::{Place, did_you_mean};
use crate::ids::{Borrower, Gid, Uid};

/// The kernel's "no such id", -1: never that of a process.
pub(super) const NO_ID: u32 = u32::MAX;

/// Whom a rule speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Principal {
    Any,
    Uids(RangeInclusive<u32>),
    Name(NameId),
}

/// Why a text is no principal, in the parts of a finding.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PrincipalError {
    pub(super) message: String,
    pub(super) expected: String,
}

/// What a principal may be, for findings.
pub(super) const FORMS: &str =
    "expected user:NAME, uid:N, uid:N-M, uid:N-, group:NAME, gid:N or any";

impl Principal {
    pub(super) fn parse(
        text: &str,
        place: &Place,
        names: &mut Names,
    ) -> Result<Self, PrincipalError> {
        let error = |message: String, expected: &str| {
            Err(PrincipalError {
                message,
                expected: expected.to_owned(),
            })
        };
        let Some((kind, value)) = text.split_once(':') else {
            return match text {
                "any" => Ok(Self::Any),
                _ => error(format!("\"{text}\" is no principal"), FORMS),
            };
        };
        let name = match kind {
            "user" | "group" if !is_name(value) => {
                let expected = format!("expected {kind}:NAME, without spaces around the name");
                return error(format!("no {kind} can be called \"{value}\""), &expected);
            }
            "user" if value == "root" => return Ok(Self::Uids(0..=0)),
            "user" => Name::User(value.to_owned()),
            "group" => Name::Group(value.to_owned()),
            "gid" => match id(value) {
                Some(gid) => Name::Gid(Gid(gid)),
                None => {
                    return error(
                        format!("\"{value}\" is no group number"),
                        "expected gid:N, N from 0 to 4294967294",
                    );
                }
            },
            "uid" => {
                return match uids(value) {
                    Some(range) => Ok(Self::Uids(range)),
                    None => error(
                        format!("\"{value}\" is no user number and no range of them"),
                        "expected uid:N, uid:N-M (N at most M) or uid:N-, up to 4294967294",
                    ),
                };
            }
            _ => return error(format!("\"{kind}:\" is no kind of principal"), FORMS),
        };
        Ok(Self::Name(names.intern(name, place)))
    }

    /// Whether it speaks, by number, of one of these, as far as anybody knows.
    pub(super) fn may_cover(&self, borrowers: &[Borrower]) -> bool {
        let Self::Uids(range) = self else {
            return false;
        };
        borrowers.iter().any(|owner| match owner {
            Borrower::Uid(uid) => range.contains(&uid.0),
            Borrower::Unknown => true,
        })
    }

    pub(super) fn covers(&self, asker: &Asker, names: &Names) -> Truth {
        let holds = match self {
            Self::Any => true,
            Self::Uids(range) => range.contains(&asker.uid.0),
            Self::Name(id) => return asker.holds(*id, names),
        };
        if holds { Truth::Yes } else { Truth::No }
    }

    /// The one uid it speaks of, if it is one.
    pub(super) fn single_uid(&self) -> Option<Uid> {
        match self {
            Self::Uids(range) if range.start() == range.end() => Some(Uid(*range.start())),
            _ => None,
        }
    }

    /// Whether it covers every uid there can be.
    pub(super) fn is_everyone(&self) -> bool {
        match self {
            Self::Any => true,
            Self::Uids(range) => *range.start() == 0 && *range.end() >= NO_ID - 1,
            Self::Name(_) => false,
        }
    }

    /// Whether it certainly covers whomever `other` covers; in doubt, no.
    pub(super) fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            _ if self.is_everyone() => true,
            (Self::Uids(wide), Self::Uids(narrow)) => {
                wide.start() <= narrow.start() && narrow.end() <= wide.end()
            }
            _ => self == other,
        }
    }

    /// As it would be written in a policy.
    pub(super) fn text(&self, names: &Names) -> String {
        match self {
            Self::Any => "any".to_owned(),
            Self::Uids(range) if *range == (0..=0) => "user:root".to_owned(),
            Self::Uids(range) if range.start() == range.end() => format!("uid:{}", range.start()),
            Self::Uids(range) if *range.end() == NO_ID - 1 => format!("uid:{}-", range.start()),
            Self::Uids(range) => format!("uid:{}-{}", range.start(), range.end()),
            Self::Name(id) => names.get(*id).map(ToString::to_string).unwrap_or_default(),
        }
    }
}

/// What somebody who wrote a text that is no principal most likely meant, as
/// the end of "did you mean …?".
pub(super) fn meant_by(text: &str) -> Option<String> {
    // As sudoers and sshd's list of keys write groups.
    if let Some(group) = text.strip_prefix(['%', '@']).filter(|name| is_name(name)) {
        return Some(format!("\"group:{group}\""));
    }
    // Several in one.
    if let Some((first, rest)) = text.split_once(',') {
        let all = [first, rest].map(|part| match part.trim() {
            part if part.contains(':') => Some(format!("\"{part}\"")),
            part => meant_by(part),
        });
        let [Some(first), Some(rest)] = all else {
            return None;
        };
        return Some(format!("{first}, {rest}"));
    }
    match text.split_once(':') {
        None if id(text).is_some() => Some(format!("\"uid:{text}\"")),
        None if matches!(text, "*" | "all" | "ALL" | "Any") => Some("\"any\"".to_owned()),
        None if is_name(text) => Some(format!("\"user:{text}\" or \"group:{text}\"")),
        None => None,
        Some((kind, value)) => {
            let kind = kind.to_ascii_lowercase();
            let meant = did_you_mean(&kind, ["user", "uid", "group", "gid"])?;
            let meant = format!("{meant}:{value}");
            (meant != text).then(|| format!("\"{meant}\""))
        }
    }
}

/// The account database separates its fields by colons and its lines by line
/// feeds; a space at an end is a slip of the pen.
fn is_name(name: &str) -> bool {
    !name.is_empty() && name.trim() == name && !name.contains(|c: char| c == ':' || c.is_control())
}

fn id(digits: &str) -> Option<u32> {
    // `parse` would take a sign as well.
    let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
    digits.parse().ok().filter(|id| plain && *id != NO_ID)
}

fn uids(text: &str) -> Option<RangeInclusive<u32>> {
    let (first, last) = match text.split_once('-') {
        None => (id(text)?, id(text)?),
        Some((first, "")) => (id(first)?, NO_ID - 1),
        Some((first, last)) => (id(first)?, id(last)?),
    };
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<String, PrincipalError> {
        let mut names = Names::default();
        let principal = Principal::parse(text, &Place::of_file("x"), &mut names)?;
        Ok(principal.text(&names))
    }

    #[test]
    fn every_form_is_read_and_shown_again() {
        for text in [
            "any",
            "user:alice",
            "user:CORP\\alice",
            "user:alice@corp.example",
            "group:domain users",
            "gid:4294967294",
            "uid:1000",
            "uid:1000-1999",
            "uid:1000-",
        ] {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
        assert_eq!(parse("user:root").as_deref(), Ok("user:root"));
        assert_eq!(parse("uid:0").as_deref(), Ok("user:root"));
    }

    #[test]
    fn other_tools_words_lead_to_ours() {
        for (text, meant) in [
            ("%ops", Some("\"group:ops\"")),
            ("@ops", Some("\"group:ops\"")),
            ("ops", Some("\"user:ops\" or \"group:ops\"")),
            ("1000", Some("\"uid:1000\"")),
            ("*", Some("\"any\"")),
            ("groups:ops", Some("\"group:ops\"")),
            ("users:x", Some("\"user:x\"")),
            ("User:bob", Some("\"user:bob\"")),
            (
                "alice, 1000,%ops",
                Some("\"user:alice\" or \"group:alice\", \"uid:1000\", \"group:ops\""),
            ),
            (
                "domain users",
                Some("\"user:domain users\" or \"group:domain users\""),
            ),
            ("user: bob", None),
            ("uid:x", None),
            ("role:x", None),
            ("", None),
        ] {
            assert_eq!(meant_by(text).as_deref(), meant, "{text}");
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "Any",
            "all",
            "*",
            "alice",
            "user:",
            "user: bob",
            "user:a:b",
            "group:",
            "gid:",
            "gid:-1",
            "gid:+1",
            "gid:ops",
            "uid:",
            "uid:x",
            "uid:+1",
            "uid:-5",
            "uid:5-4",
            "uid:4294967295",
            "uid:4294967296",
            "uid:1-2-3",
            "uid:1 ",
            "User:bob",
            "users:bob",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
