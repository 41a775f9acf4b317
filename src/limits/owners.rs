//! Whose share a uid counts towards: one user may be given 65,536
//! subordinate uids (subuid(5)), and must not get as many shares with them.
//!
//! Asks no name service: that could hold up the start of the host. Only
//! names in the local account file become their owner's uid; the ranges of
//! another name together are one share of their own.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use crate::ids::Uid;
use crate::sorted;

/// Of the larger of the two files, in bytes; what is behind that is ignored.
const FILE_MAX: u64 = 1024 * 1024;

/// Ranges of subordinate uids and whose they are.
#[derive(Debug, Default)]
pub struct Owners {
    /// By first uid; of ranges that overlap, the one that begins last counts.
    ranges: Vec<Range>,
}

#[derive(Debug)]
struct Range {
    first: u32,
    last: u32,
    owner: Uid,
}

impl Owners {
    /// As this host has them. Without the files there are no subordinate uids.
    pub fn of_this_host() -> Self {
        let subuid = text(Path::new("/etc/subuid"));
        Self::parse(&subuid, &text(Path::new("/etc/passwd")))
    }

    /// From the text of subuid(5) and passwd(5); lines that are neither are
    /// passed over.
    pub fn parse(subuid: &str, passwd: &str) -> Self {
        let accounts: HashMap<&str, Uid> = passwd.lines().filter_map(account).collect();
        let mut strangers: HashMap<&str, Uid> = HashMap::new();
        let mut ranges: Vec<Range> = subuid
            .lines()
            .filter_map(|line| {
                let (login, first, last) = range(line)?;
                let known = login.parse().ok().map(Uid);
                let owner = known.or_else(|| accounts.get(login).copied());
                // Root's subordinates are no more than anybody's.
                let owner = owner
                    .filter(|owner| *owner != Uid::ROOT)
                    .unwrap_or_else(|| *strangers.entry(login).or_insert(Uid(first)));
                Some(Range { first, last, owner })
            })
            .collect();
        sorted::by_key(&mut ranges, |range| range.first);
        Self { ranges }
    }

    /// Whose share `uid` counts towards; its own where it is nobody's.
    pub fn owner(&self, uid: Uid) -> Uid {
        let begun = self.ranges.partition_point(|range| range.first <= uid.0);
        begun
            .checked_sub(1)
            .and_then(|at| self.ranges.get(at))
            .filter(|range| uid.0 <= range.last)
            .map_or(uid, |range| range.owner)
    }
}

fn text(path: &Path) -> String {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(FILE_MAX).read_to_end(&mut bytes);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// `login:…:uid:…`
fn account(line: &str) -> Option<(&str, Uid)> {
    let mut fields = line.split(':');
    let login = fields.next()?;
    Some((login, Uid(fields.nth(1)?.parse().ok()?)))
}

/// `login:first:count`; uid 0 is never subordinate.
fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.trim().split(':');
    let login = fields.next().filter(|login| !login.is_empty())?;
    let first: u32 = fields.next()?.parse().ok()?;
    let count: u32 = fields.next()?.parse().ok()?;
    let last = first.checked_add(count.checked_sub(1)?)?;
    (first > 0).then_some((login, first, last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nalice:x:4001:4100::/:/bin/sh\n";

    #[test]
    fn a_subordinate_uid_is_its_owners_by_name_and_by_number() {
        let owners = Owners::parse("alice:100000:65536\n4002:200000:10\n", PASSWD);
        for (uid, owner) in [
            (99_999, 99_999),
            (100_000, 4001),
            (165_535, 4001),
            (165_536, 165_536),
            (200_009, 4002),
            (200_010, 200_010),
            (0, 0),
        ] {
            assert_eq!(owners.owner(Uid(uid)), Uid(owner), "{uid}");
        }
    }

    #[test]
    fn ranges_of_an_unknown_name_and_of_root_are_one_share_that_is_not_roots() {
        let text = "carol:300000:10\ncarol:400000:10\nroot:500000:10\n0:600000:10\n";
        let owners = Owners::parse(text, PASSWD);
        assert_eq!(owners.owner(Uid(300_009)), owners.owner(Uid(400_000)));
        for uid in [500_005, 600_005] {
            assert_eq!(owners.owner(Uid(uid)), Uid(uid - 5));
        }
    }

    #[test]
    fn lines_that_are_no_range_are_passed_over() {
        let text = "\n# no\nalice\nalice:0:10\nalice:5:0\nalice:4294967295:2\nalice:x:1\n";
        let owners = Owners::parse(text, PASSWD);
        assert!(owners.ranges.is_empty());
    }

    proptest! {
        #[test]
        fn total_on_any_text(subuid in ".{0,200}", passwd in ".{0,200}", uid: u32) {
            let _ = Owners::parse(&subuid, &passwd).owner(Uid(uid));
        }
    }
}
