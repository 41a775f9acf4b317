//! What /proc says of one holder (proc(5)). All of it is read below one
//! descriptor of the process's own directory: once that process has ended,
//! nothing is read any more, and never another's that has its number now.

use std::os::fd::BorrowedFd;

use rustix::fs::{Mode, OFlags, openat, readlinkat_raw};
use rustix::io::{Errno, read};

use super::scan::Abandoned;
use super::{EXE_MAX, Holder, Ids};
use crate::caller::units;
use crate::ids::Uid;

/// Longer than what is read of any file here, except of /proc/PID/cgroup on
/// hosts with many hierarchies of version 1, of which the end is left out.
const FILE_MAX: usize = 8192;
/// A uid or session as the kernel writes it where there is none.
const UNSET: u32 = u32::MAX;
/// PF_FORKNOEXEC (linux/sched.h): forked, and no exec since.
const FORKED_ALONE: u64 = 0x40;

/// The facts of the process, or thread, whose directory this is. `None` where
/// it has ended.
pub(super) fn holder(process: BorrowedFd, pid: u32) -> Result<Option<Holder>, Abandoned> {
    let (Some(status), Some(stat)) = (file(process, c"status")?, file(process, c"stat")?) else {
        return Ok(None);
    };
    let ids = ids(&status).ok_or(Abandoned::Unreadable)?;
    let [parent, flags, started] = numbers(&stat).ok_or(Abandoned::Unreadable)?;
    let number = |name| -> Result<Option<i64>, Abandoned> {
        let text = file(process, name)?;
        Ok(text.as_deref().and_then(number_or_unset))
    };
    let cgroup = file(process, c"cgroup")?.unwrap_or_default();
    Ok(Some(Holder {
        pid,
        ids,
        exe: exe(process),
        comm: file(process, c"comm")?.map(|name| name.trim_end_matches('\n').to_owned()),
        loginuid: number(c"loginuid")?,
        ses: number(c"sessionid")?,
        unit: cgroup.lines().find_map(unit),
        started,
        forked_from: (flags & FORKED_ALONE != 0)
            .then(|| u32::try_from(parent).ok())
            .flatten(),
    }))
}

/// As whom a process runs: that is anybody's to read.
pub(super) fn ids_of(process: BorrowedFd) -> Result<Option<Ids>, Abandoned> {
    match file(process, c"status")? {
        Some(status) => ids(&status).map(Some).ok_or(Abandoned::Unreadable),
        None => Ok(None),
    }
}

/// `None` where the process has ended, or the kernel has no such file.
fn file(process: BorrowedFd, name: &std::ffi::CStr) -> Result<Option<String>, Abandoned> {
    let mut bytes = Vec::with_capacity(FILE_MAX);
    let read = openat(
        process,
        name,
        OFlags::RDONLY | OFlags::CLOEXEC,
        Mode::empty(),
    )
    .and_then(|file| read(&file, rustix::buffer::spare_capacity(&mut bytes)));
    match read {
        Ok(_) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(Errno::NOENT | Errno::SRCH) => Ok(None),
        Err(_) => Err(Abandoned::Unreadable),
    }
}

/// Threads of the kernel have none.
fn exe(process: BorrowedFd) -> Option<String> {
    let mut path = [0; EXE_MAX];
    let len = readlinkat_raw(process, c"exe", &mut path).ok()?;
    Some(String::from_utf8_lossy(path.get(..len)?).into_owned())
}

fn ids(status: &str) -> Option<Ids> {
    let line = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    let mut uids = line.split_whitespace().map(|it| it.parse().ok().map(Uid));
    let mut next = || uids.next().flatten();
    Some(Ids {
        real: next()?,
        effective: next()?,
        saved: next()?,
        fs: next()?,
    })
}

/// The parent, the kernel's flags and the start, which are fields 4, 9 and 22;
/// the second is the process's own choice, and may hold spaces and parentheses.
fn numbers(stat: &str) -> Option<[u64; 3]> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let number = |at: usize| fields.split(' ').nth(at - 3)?.parse().ok();
    Some([number(4)?, number(9)?, number(22)?])
}

fn number_or_unset(text: &str) -> Option<i64> {
    match text.trim_end().parse().ok()? {
        UNSET => Some(-1),
        number => Some(i64::from(number)),
    }
}

/// Of the lines of version 2, and of systemd's own hierarchy on hosts without.
fn unit(line: &str) -> Option<String> {
    let path = line
        .strip_prefix("0::")
        .or_else(|| line.split_once(":name=systemd:").map(|(_, path)| path))?;
    let mut directories = path.split('/').filter(|it| !it.is_empty());
    // Below what is no slice, names are its own affair.
    let first = directories.find(|it| !units::is_slice(it.as_ref()))?;
    Some(units::unit_name(first.as_ref())?.as_ref().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_pass_for_the_fields_behind_it() {
        let mut stat = String::from("7 (x) R 1 1 1 1 1 1 1 ) S");
        for field in 4..=30 {
            stat += &format!(" {field}");
        }
        assert_eq!(numbers(&stat), Some([4, 9, 22]));
    }

    #[test]
    fn the_four_uids_in_their_order() {
        let status = "Name:\tcurl\nUid:\t4001\t1\t2\t3\nGid:\t5\t5\t5\t5\n";
        let ids = ids(status).unwrap();
        assert_eq!(ids.all(), [Uid(4001), Uid(1), Uid(2), Uid(3)]);
        assert!(super::ids("Uid:\t1\t2\t3\n").is_none());
    }

    #[test]
    fn nobody_logged_in_is_not_a_uid() {
        assert_eq!(number_or_unset("4294967295"), Some(-1));
        assert_eq!(number_or_unset("1000\n"), Some(1000));
        assert_eq!(number_or_unset(""), None);
    }

    #[test]
    fn the_unit_is_that_of_version_2_or_of_systemd() {
        for (line, expected) in [
            ("0::/system.slice/cron.service", Some("cron.service")),
            (
                "1:name=systemd:/user.slice/session-3.scope/x.service",
                Some("session-3.scope"),
            ),
            ("4:memory:/system.slice/cron.service", None),
            ("0::/", None),
        ] {
            assert_eq!(unit(line).as_deref(), expected, "{line}");
        }
    }
}
