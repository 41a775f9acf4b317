//! The names that a policy speaks of, and which of them a caller holds; and
//! the other conditions whose truth may not be known, by the same numbers.

use std::collections::HashMap;
use std::fmt;

use super::{Account, Origin, Query};
use crate::diagnose::Place;
use crate::ids::{Borrower, Gid, Uid};

/// What has to be found out of a caller: by NSS, by the caller's cgroup, or by
/// the witness.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// `user:NAME`; never root, which is uid 0 by definition.
    User(String),
    /// `group:NAME`.
    Group(String),
    /// `gid:N`.
    Gid(Gid),
    /// A pattern of `unit`.
    Unit(String),
    /// A pattern of `exe`.
    Exe(String),
    /// A principal of `loginuid`.
    Login(String),
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(name) => write!(f, "user:{name}"),
            Self::Group(name) => write!(f, "group:{name}"),
            Self::Gid(gid) => write!(f, "gid:{gid}"),
            Self::Unit(unit) => write!(f, "unit {unit}"),
            Self::Exe(exe) => write!(f, "exe {exe}"),
            Self::Login(login) => write!(f, "loginuid {login}"),
        }
    }
}

/// A name's number within one policy, so that judging compares no text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct NameId(usize);

impl NameId {
    pub(super) fn index(self) -> usize {
        self.0
    }
}

/// All names of one policy.
#[derive(Debug, Default)]
pub(super) struct Names {
    list: Vec<(Name, Place)>,
    users: HashMap<String, NameId>,
    groups: HashMap<String, NameId>,
    gids: HashMap<Gid, NameId>,
    conditions: HashMap<Name, NameId>,
}

impl Names {
    pub(super) fn intern(&mut self, name: Name, place: &Place) -> NameId {
        let next = NameId(self.list.len());
        let id = *match &name {
            Name::User(user) => self.users.entry(user.clone()).or_insert(next),
            Name::Group(group) => self.groups.entry(group.clone()).or_insert(next),
            Name::Gid(gid) => self.gids.entry(*gid).or_insert(next),
            Name::Unit(_) | Name::Exe(_) | Name::Login(_) => {
                self.conditions.entry(name.clone()).or_insert(next)
            }
        };
        if id == next {
            self.list.push((name, place.clone()));
        }
        id
    }

    pub(super) fn get(&self, id: NameId) -> Option<&Name> {
        self.list.get(id.0).map(|(name, _)| name)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&Name, &Place)> {
        self.list.iter().map(|(name, place)| (name, place))
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    fn is_user(&self, id: NameId) -> bool {
        matches!(self.get(id), Some(Name::User(_)))
    }
}

/// Yes, no, or nobody can tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Yes,
    No,
    Unknown,
}

/// A caller in the numbers of one policy.
#[derive(Clone, Debug)]
pub(super) struct Asker<'q> {
    pub(super) uid: Uid,
    /// Who was lent that uid.
    pub(super) borrowers: &'q [Borrower],
    pub(super) origin: &'q Origin,
    pub(super) holds: Holdings,
    /// Of what is not known.
    pub(super) assumed: Assumed,
}

#[derive(Clone, Debug)]
pub(super) enum Holdings {
    /// NSS answered: these, sorted, and no others.
    Known(Vec<NameId>),
    /// NSS did not answer.
    Undecidable,
}

impl<'q> Asker<'q> {
    pub(super) fn new(query: &Query<'q>, names: &Names) -> Self {
        let holds = match &query.subject.account {
            Account::Undecidable | Account::Subordinate(_) => Holdings::Undecidable,
            Account::Known(facts) => {
                let user = names.users.get(&facts.user);
                let gid = names.gids.get(&facts.gid);
                // A group that NSS knows by its number only has no name to match.
                let groups = facts.groups.iter().flat_map(|group| {
                    let name = group.name.as_ref().and_then(|name| names.groups.get(name));
                    name.into_iter().chain(names.gids.get(&group.gid))
                });
                let mut held: Vec<_> = user.into_iter().chain(gid).chain(groups).copied().collect();
                held.sort_unstable();
                held.dedup();
                Holdings::Known(held)
            }
        };
        let borrowers: &[Borrower] = match &query.subject.account {
            Account::Subordinate(borrowers) => borrowers,
            Account::Known(_) | Account::Undecidable => &[],
        };
        Self {
            uid: query.subject.uid,
            borrowers,
            origin: query.origin,
            holds,
            assumed: Assumed::default(),
        }
    }

    pub(super) fn holds(&self, id: NameId, names: &Names) -> Truth {
        match &self.holds {
            Holdings::Known(held) => match held.binary_search(&id) {
                Ok(_) => Truth::Yes,
                Err(_) => Truth::No,
            },
            Holdings::Undecidable => self.assumed.holds(id, names),
        }
    }
}

/// One way the world could be, as far as it has been asked about.
#[derive(Clone, Debug, Default)]
pub(super) struct Assumed {
    /// The account's name: there is only one.
    user: Option<NameId>,
    held: Vec<Option<bool>>,
}

impl Assumed {
    pub(super) fn holds(&self, id: NameId, names: &Names) -> Truth {
        let held = match self.user {
            Some(user) if names.is_user(id) => Some(user == id),
            _ => self.held.get(id.0).copied().flatten(),
        };
        match held {
            Some(true) => Truth::Yes,
            Some(false) => Truth::No,
            None => Truth::Unknown,
        }
    }

    /// Supposes that the caller holds a name, or does not.
    pub(super) fn suppose(&mut self, id: NameId, holds: bool, names: &Names) {
        if names.is_user(id) {
            self.user = holds.then_some(id);
        }
        if self.held.is_empty() {
            self.held = vec![None; names.list.len()];
        }
        if let Some(held) = self.held.get_mut(id.0) {
            *held = Some(holds);
        }
    }
}
