//! A uid's account and groups, as NSS gives them.
//!
//! NSS modules may block, and inside a sandbox they fail in silence; whoever
//! must not wait or be fooled asks from outside of it, with a deadline.

use std::ffi::CString;

use nix::unistd;

use crate::ids::{Gid, Uid};
use crate::limits::Owners;
use crate::policy::{Account, AccountFacts, Group};

/// What NSS says of a uid. A uid without account, and every failure, is
/// undecidable: that no name was found does not say that there is none.
pub fn lookup(uid: Uid) -> Account {
    match facts(uid) {
        Some(facts) => Account::Known(facts),
        None => without_name(uid, &Owners::of_this_host()),
    }
}

/// What there is to say of a uid of which NSS says nothing.
pub(super) fn without_name(uid: Uid, owners: &Owners) -> Account {
    match owners.borrowers(uid) {
        borrowers if borrowers.is_empty() => Account::Undecidable,
        borrowers => Account::Subordinate(borrowers),
    }
}

/// [`lookup`] where NSS may be failing in silence: nothing is believed of it
/// while [`nss_works`] says no.
pub fn lookup_warily(uid: Uid) -> Account {
    if nss_works() {
        lookup(uid)
    } else {
        without_name(uid, &Owners::of_this_host())
    }
}

/// Whether NSS finds the group of this process's own account (or, without
/// one, of root's). Where the files are kept from it, it says "not found" of
/// every name, and every account would seem to be in no group. Root's are no
/// proof where others are to be had: nss-systemd knows them without a file.
pub fn nss_works() -> bool {
    let account = |uid| unistd::User::from_uid(uid).ok().flatten();
    account(unistd::geteuid())
        .or_else(|| account(unistd::Uid::from_raw(0)))
        .is_some_and(|own| matches!(unistd::Group::from_gid(own.gid), Ok(Some(_))))
}

fn facts(uid: Uid) -> Option<AccountFacts> {
    let user = unistd::User::from_uid(unistd::Uid::from_raw(uid.0)).ok()??;
    let login = CString::new(user.name.as_str()).ok()?;
    let groups = unistd::getgrouplist(&login, user.gid)
        .ok()?
        .into_iter()
        .map(|gid| {
            let name = unistd::Group::from_gid(gid).ok()?.map(|group| group.name);
            Some(Group {
                gid: Gid(gid.as_raw()),
                name,
            })
        })
        .collect::<Option<Vec<_>>>()?;
    Some(AccountFacts {
        user: user.name,
        gid: Gid(user.gid.as_raw()),
        groups,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_a_uid_without_account_is_undecidable() {
        let Account::Known(root) = lookup(Uid::ROOT) else {
            panic!("NSS does not know root");
        };
        assert_eq!((root.user.as_str(), root.gid), ("root", Gid(0)));
        assert!(root.groups.iter().any(|group| group.gid == Gid(0)));
        assert_eq!(lookup(Uid(0xffff_fff0)), Account::Undecidable);
    }
}
