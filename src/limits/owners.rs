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

use crate::ids::{Borrower, Uid};
use crate::sorted;

/// Of the larger of the two files, in bytes; what is behind that is ignored.
/// Lines are some 25 bytes long.
const FILE_MAX: u64 = 16 * 1024 * 1024;

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
    /// Whose share it is.
    owner: Uid,
    borrower: Option<Borrower>,
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
                let borrower = match owner {
                    Some(Uid::ROOT) => None,
                    Some(owner) => Some(Borrower::Uid(owner)),
                    None => Some(Borrower::Unknown),
                };
                // Root's subordinates are no more than anybody's.
                let owner = owner
                    .filter(|owner| *owner != Uid::ROOT)
                    .unwrap_or_else(|| *strangers.entry(login).or_insert(Uid(first)));
                Some(Range {
                    first,
                    last,
                    owner,
                    borrower,
                })
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

    /// Everybody but root who was lent `uid`.
    pub fn borrowers(&self, uid: Uid) -> Vec<Borrower> {
        let of_it = (self.ranges.iter())
            .filter(|range| range.first <= uid.0 && uid.0 <= range.last)
            .filter_map(|range| range.borrower);
        of_it.filter(|it| *it != Borrower::Uid(uid)).collect()
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

/// As newuidmap(1) reads it: strtoul(3), base 0.
fn number(text: &str) -> Option<u64> {
    let (digits, radix) = match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => (digits, 16),
        None if text.len() > 1 && text.starts_with('0') => (text, 8),
        None => (text, 10),
    };
    u64::from_str_radix(digits, radix).ok()
}

/// `login:first:count`; uid 0 is never subordinate.
fn range(line: &str) -> Option<(&str, u32, u32)> {
    let mut fields = line.trim().split(':');
    let login = fields.next().filter(|login| !login.is_empty())?;
    let first = number(fields.next()?)?;
    let count = number(fields.next()?)?;
    let last = first.saturating_add(count.checked_sub(1)?);
    let last = u32::try_from(last).unwrap_or(u32::MAX);
    let first = u32::try_from(first.max(1)).ok()?;
    (first <= last).then_some((login, first, last))
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
        let text = "\n# no\nalice\nalice:5:0\nalice:4294967296:2\nalice:x:1\n:5:1\n";
        let owners = Owners::parse(text, PASSWD);
        assert!(owners.ranges.is_empty());
    }

    #[test]
    fn all_who_were_lent_a_uid_count_however_their_lines_are_written() {
        let text = "alice:100000:65536\nroot:100000:65536\nldap:100010:5\n4002:0x186a0:20\n\
                    4003:0303240:30\n4004:4000000000:4294967295\nroot:7:2\n4001:4001:1\n";
        let owners = Owners::parse(text, PASSWD);
        let (alice, of) = (Borrower::Uid(Uid(4001)), |uid| owners.borrowers(Uid(uid)));
        assert_eq!(of(100_100), [alice]);
        let numbered = |uid| Borrower::Uid(Uid(uid));
        for one in [alice, Borrower::Unknown, numbered(4002), numbered(4003)] {
            assert!(of(100_010).contains(&one), "{one:?}");
        }
        assert_eq!(of(100_019).len(), 3);
        assert_eq!(of(u32::MAX - 1), [numbered(4004)]);
        assert_eq!((of(7), of(4001), of(99_999)), (vec![], vec![], vec![]));
    }

    proptest! {
        #[test]
        fn total_on_any_text(subuid in ".{0,200}", passwd in ".{0,200}", uid: u32) {
            let owners = Owners::parse(&subuid, &passwd);
            let _ = (owners.owner(Uid(uid)), owners.borrowers(Uid(uid)));
        }
    }
}
