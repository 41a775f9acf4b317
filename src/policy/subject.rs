//! Whom a verdict is about.

use crate::ids::{Gid, Uid};

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
