//! What narrows a rule beside `who` and `except`: `methods`, `unit`, `exe` and
//! `loginuid`. All that a rule has must hold.
//!
//! A unit is set by the service manager, a login by PAM: nobody can choose
//! another. A program is what an ordinary user says it is, who can run any
//! other under its name; it narrows what root does, and keeps nobody out.
//! What is not known neither matches nor fails to.

use std::fmt;
use std::ops::RangeInclusive;

use super::names::{Asker, Name, NameId, Names, Truth};
use super::pattern::Pattern;
use super::principal::{NO_ID, Principal, PrincipalError};
use super::rule::Status;
use super::{Login, Program, Unit};
use crate::diagnose::Place;
use crate::request::ReadMethod;

/// The methods a rule speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Methods {
    pub(super) get: bool,
    pub(super) head: bool,
}

impl Methods {
    pub(super) const ALL: Self = Self {
        get: true,
        head: true,
    };

    pub(super) fn new(listed: &[ReadMethod]) -> Self {
        Self {
            get: listed.contains(&ReadMethod::Get),
            head: listed.contains(&ReadMethod::Head),
        }
    }

    pub(super) fn contain(self, method: ReadMethod) -> bool {
        match method {
            ReadMethod::Get => self.get,
            ReadMethod::Head => self.head,
        }
    }

    pub(super) fn include(self, other: Self) -> bool {
        self.get >= other.get && self.head >= other.head
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.get, self.head) {
            (true, true) => "GET, HEAD",
            (true, false) => "GET",
            (false, _) => "HEAD",
        })
    }
}

/// Units that users are in, or that run what users hand them: these stand for
/// all.
const OF_USERS: [&str; 12] = [
    "session-1.scope",
    "user@1000.service",
    "apache2.service",
    "atd.service",
    "cron.service",
    "crond.service",
    "gitlab-runner.service",
    "httpd.service",
    "php-fpm.service",
    "postfix.service",
    "slurmd.service",
    "sshd.service",
];

/// Lists of which one entry each must hold, where there are any.
#[derive(Debug, Default)]
pub(super) struct Narrow {
    pub(super) unit: Vec<Condition<Pattern>>,
    pub(super) exe: Vec<Condition<Pattern>>,
    pub(super) loginuid: Vec<Condition<LoggedIn>>,
}

/// One entry, and the number by which it is supposed to hold where it is not
/// known whether it does.
#[derive(Debug)]
pub(super) struct Condition<T> {
    id: NameId,
    pub(super) test: T,
}

impl<T> Condition<T> {
    pub(super) fn new(name: Name, test: T, place: &Place, names: &mut Names) -> Self {
        let id = names.intern(name, place);
        Self { id, test }
    }
}

impl Narrow {
    pub(super) fn is_empty(&self) -> bool {
        self.unit.is_empty() && self.exe.is_empty() && self.loginuid.is_empty()
    }

    /// The first that fails, else the first that is not known.
    pub(super) fn status(&self, asker: &Asker, names: &Names) -> Status<'static> {
        let mut status = Status::Decides;
        for (found, otherwise) in [
            (self.unit_holds(asker, names), Status::OtherUnit),
            (self.exe_holds(asker, names), Status::OtherProgram),
            (self.login_holds(asker, names), Status::OtherLogin),
        ] {
            match found {
                Found::No => return otherwise,
                Found::Unknown(id) if status == Status::Decides => {
                    status = Status::Undecidable(id);
                }
                _ => {}
            }
        }
        status
    }

    fn unit_holds(&self, asker: &Asker, names: &Names) -> Found {
        let known = match &asker.origin.unit {
            Unit::Unknown => Truth::Unknown,
            Unit::Outside => Truth::No,
            Unit::Named(unit) => any(&self.unit, |pattern| truth(pattern.matches(&[unit]))),
        };
        found(&self.unit, known, asker, names)
    }

    fn exe_holds(&self, asker: &Asker, names: &Names) -> Found {
        let known = of_every_holder(asker, |program| match &program.exe {
            None => Truth::Unknown,
            Some(exe) => {
                let words: Vec<_> = exe.split('/').filter(|word| !word.is_empty()).collect();
                any(&self.exe, |pattern| truth(pattern.matches(&words)))
            }
        });
        found(&self.exe, known, asker, names)
    }

    fn login_holds(&self, asker: &Asker, names: &Names) -> Found {
        let known = of_every_holder(asker, |program| {
            any(&self.loginuid, |test| test.covers(&program.login))
        });
        found(&self.loginuid, known, asker, names)
    }

    /// Whether it certainly lets through whatever `other` does; in doubt, no.
    /// No `other` is one that lets everything through.
    pub(super) fn includes(&self, other: Option<&Self>) -> bool {
        let nothing = Self::default();
        let other = other.unwrap_or(&nothing);
        within(&self.unit, &other.unit, Pattern::includes)
            && within(&self.exe, &other.exe, Pattern::includes)
            && within(&self.loginuid, &other.loginuid, LoggedIn::includes)
    }

    /// Whether it leaves out those who merely log in. In which unit they are
    /// they cannot choose; what they run, they can, and whoever has no loginuid
    /// may take any (audit's loginuid is open as long as it is unset).
    pub(super) fn keeps_users_out(&self) -> bool {
        let of_users =
            |unit: &Condition<Pattern>| OF_USERS.iter().any(|user| unit.test.matches(&[*user]));
        !self.unit.is_empty() && !self.unit.iter().any(of_users)
    }

    pub(super) fn units(&self) -> String {
        list(&self.unit)
    }

    pub(super) fn programs(&self) -> String {
        list(&self.exe)
    }

    pub(super) fn logins(&self) -> String {
        list(&self.loginuid)
    }
}

enum Found {
    Yes,
    No,
    Unknown(NameId),
}

/// What is known, else what is supposed.
fn found<T>(conditions: &[Condition<T>], known: Truth, asker: &Asker, names: &Names) -> Found {
    match known {
        _ if conditions.is_empty() => return Found::Yes,
        Truth::Yes => return Found::Yes,
        Truth::No => return Found::No,
        Truth::Unknown => {}
    }
    let mut open = Found::No;
    for condition in conditions {
        match asker.assumed.holds(condition.id, names) {
            Truth::Yes => return Found::Yes,
            Truth::Unknown if matches!(open, Found::No) => open = Found::Unknown(condition.id),
            _ => {}
        }
    }
    open
}

/// Yes and no are what is so of every process that holds the socket.
fn of_every_holder(asker: &Asker, test: impl Fn(&Program) -> Truth) -> Truth {
    let Ok(holders) = &asker.origin.holders else {
        return Truth::Unknown;
    };
    let mut all = holders.iter().map(test);
    let Some(first) = all.next() else {
        return Truth::Unknown;
    };
    match all.all(|other| other == first) {
        true => first,
        false => Truth::Unknown,
    }
}

fn any<T>(conditions: &[Condition<T>], test: impl Fn(&T) -> Truth) -> Truth {
    let mut found = Truth::No;
    for condition in conditions {
        match test(&condition.test) {
            Truth::Yes => return Truth::Yes,
            Truth::Unknown => found = Truth::Unknown,
            Truth::No => {}
        }
    }
    found
}

fn truth(holds: bool) -> Truth {
    if holds { Truth::Yes } else { Truth::No }
}

fn within<T>(
    wide: &[Condition<T>],
    narrow: &[Condition<T>],
    includes: impl Fn(&T, &T) -> bool,
) -> bool {
    let is_included = |one: &Condition<T>| wide.iter().any(|it| includes(&it.test, &one.test));
    wide.is_empty() || !narrow.is_empty() && narrow.iter().all(is_included)
}

fn list<T: fmt::Display>(conditions: &[Condition<T>]) -> String {
    let texts: Vec<_> = conditions.iter().map(|it| it.test.to_string()).collect();
    texts.join(", ")
}

/// Who logged in, as `loginuid` says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LoggedIn {
    /// Nobody.
    None,
    Uids(RangeInclusive<u32>),
    User(String),
}

/// What `loginuid` may list, for findings.
pub(super) const LOGINS: &str =
    "expected user:NAME, uid:N, uid:N-M, uid:N-, any (whoever logged in) or none";

impl LoggedIn {
    pub(super) fn parse(text: &str, place: &Place) -> Result<Self, PrincipalError> {
        if text == "none" {
            return Ok(Self::None);
        }
        let mut names = Names::default();
        let refused = || PrincipalError {
            message: format!("\"{text}\" cannot log in"),
            expected: LOGINS.to_owned(),
        };
        match Principal::parse(text, place, &mut names) {
            Ok(Principal::Any) => Ok(Self::Uids(0..=NO_ID - 1)),
            Ok(Principal::Uids(range)) => Ok(Self::Uids(range)),
            Ok(Principal::Name(id)) => match names.get(id) {
                Some(Name::User(user)) => Ok(Self::User(user.clone())),
                _ => Err(refused()),
            },
            Err(error) if text.contains(':') => Err(error),
            Err(_) => Err(refused()),
        }
    }

    fn covers(&self, login: &Login) -> Truth {
        match (self, login) {
            (_, Login::Unknown) => Truth::Unknown,
            (Self::None, Login::Nobody) => Truth::Yes,
            (Self::None, Login::As(_)) | (_, Login::Nobody) => Truth::No,
            (Self::Uids(range), Login::As(subject)) => truth(range.contains(&subject.uid.0)),
            (Self::User(user), Login::As(subject)) => match subject.account.facts() {
                Some(facts) => truth(facts.user == *user),
                None => Truth::Unknown,
            },
        }
    }

    fn includes(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Uids(wide), Self::Uids(narrow)) => {
                wide.start() <= narrow.start() && narrow.end() <= wide.end()
            }
            _ => self == other,
        }
    }
}

impl fmt::Display for LoggedIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = match self {
            Self::None => return f.write_str("none"),
            Self::User(user) => return write!(f, "user:{user}"),
            Self::Uids(range) => (*range.start(), *range.end()),
        };
        match (first, last) {
            (0, 0) => f.write_str("user:root"),
            (0, last) if last == NO_ID - 1 => f.write_str("any"),
            (first, last) if first == last => write!(f, "uid:{first}"),
            (first, last) if last == NO_ID - 1 => write!(f, "uid:{first}-"),
            (first, last) => write!(f, "uid:{first}-{last}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_login_is_read_and_shown_again() {
        let parse = |text: &str| {
            let parsed = LoggedIn::parse(text, &Place::of_file("x"))?;
            Ok::<_, PrincipalError>(parsed.to_string())
        };
        for text in [
            "none",
            "any",
            "user:alice",
            "user:root",
            "uid:1000",
            "uid:1000-",
            "uid:1-9",
        ] {
            assert_eq!(parse(text).as_deref(), Ok(text));
        }
        for text in ["", "alice", "group:ops", "gid:7", "None", "-1", "uid:x"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
