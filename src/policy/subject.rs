//! What a verdict is about: who asks, from where, and for what.

use std::sync::Arc;

use crate::ids::{Borrower, Gid, Uid};
use crate::request::{CanonicalPath, ReadMethod};

/// A request as the rules see it.
#[derive(Clone, Copy, Debug)]
pub struct Query<'q> {
    /// Who asks.
    pub subject: &'q Subject,
    /// From where.
    pub origin: &'q Origin,
    /// How.
    pub method: ReadMethod,
    /// For what.
    pub path: &'q CanonicalPath,
}

impl<'q> Query<'q> {
    /// One of which nobody knows where it comes from.
    pub fn new(subject: &'q Subject, method: ReadMethod, path: &'q CanonicalPath) -> Self {
        static UNKNOWN: Origin = Origin::of_unit(Unit::Unknown);
        Self {
            subject,
            origin: &UNKNOWN,
            method,
            path,
        }
    }
}

/// A caller as the rules see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// From the caller's own socket.
    pub uid: Uid,
    /// What NSS says of that uid.
    pub account: Account,
}

/// The account and groups of a uid, as far as they could be learnt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Account {
    /// NSS answered.
    Known(AccountFacts),
    /// NSS failed, was too slow, or knows no account for a live caller: a
    /// name neither matches nor fails to.
    Undecidable,
    /// The same of a uid that was lent to another one (subuid(5)): what keeps
    /// that one out keeps this one out, and what lets that one in does not.
    Subordinate(Vec<Borrower>),
}

impl Account {
    /// What NSS says, where it says anything.
    pub fn facts(&self) -> Option<&AccountFacts> {
        match self {
            Self::Known(facts) => Some(facts),
            Self::Undecidable | Self::Subordinate(_) => None,
        }
    }
}

/// An account and all its groups.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFacts {
    /// The login name.
    pub user: String,
    /// The primary group.
    pub gid: Gid,
    /// All groups, the primary one included.
    pub groups: Vec<Group>,
}

/// One group; its name is `None` where NSS knows only the number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Its number.
    pub gid: Gid,
    /// Its name.
    pub name: Option<String>,
}

/// Where a request comes from, as far as that was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// In which unit its socket was made.
    pub unit: Unit,
    /// Every process that holds the socket.
    pub holders: Result<Vec<Program>, Obscured>,
}

impl Origin {
    /// One of which only the unit was asked for.
    pub const fn of_unit(unit: Unit) -> Self {
        Self {
            unit,
            holders: Err(Obscured::NotAsked),
        }
    }
}

impl std::fmt::Display for Origin {
    /// What is known of it: `unit cron.service, exe /usr/bin/aws`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut known = Vec::new();
        match &self.unit {
            Unit::Unknown => {}
            Unit::Outside => known.push("no unit".to_owned()),
            Unit::Named(unit) => known.push(format!("unit {unit}")),
        }
        for program in self.holders.iter().flatten() {
            known.extend(program.exe.as_ref().map(|exe| format!("exe {exe}")));
            match &program.login {
                Login::Unknown => {}
                Login::Nobody => known.push("no loginuid".to_owned()),
                Login::As(subject) => known.push(match subject.account.facts() {
                    Some(facts) => format!("loginuid {}", facts.user),
                    None => format!("loginuid {}", subject.uid),
                }),
            }
        }
        f.write_str(&known.join(", "))
    }
}

/// A unit of the service manager.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Nobody can tell.
    Unknown,
    /// Certainly none.
    Outside,
    /// This one.
    Named(Arc<str>),
}

/// A process that holds the caller's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The file it runs.
    pub exe: Option<String>,
    /// Who logged in.
    pub login: Login,
}

/// Whose login a process goes back to (loginuid, pam_loginuid(8)).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nobody can tell.
    Unknown,
    /// Nobody's: a service, or what was started at boot.
    Nobody,
    /// This account's.
    As(Arc<Subject>),
}

/// Why it is not known which programs hold a socket, or not of all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Obscured {
    /// Nobody has asked.
    NotAsked,
    /// There is no witness.
    Gone,
    /// It did not answer in time.
    Slow,
    /// Not every process could be looked at.
    Incomplete,
    /// More processes than are told one by one.
    TooMany,
    /// No process holds it.
    Nobody,
    /// A process that nobody may look into could hold it.
    Shielded,
    /// It is so of one that holds it, and not, or not known, of another.
    Differ,
}
