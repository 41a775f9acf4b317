//! Rotation: the log's own, by size and age, and what others' leaves behind.
//!
//! Rotated files of our own making are called after the time at which that was
//! (`audit.jsonl.20261121T214000.123456Z`), so that none ever changes its name,
//! and what logrotate numbers beside them is left alone.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::chain::Link;
use super::file::{self, LogFile};
use super::reading;
use crate::config::Rotation;
use crate::utc;

/// `20261121T214000.123456Z`.
const STAMP: usize = 23;
/// How often a file is looked for that has just got another name.
const LOOKS: u32 = 10;

/// Whether the log is to be rotated before it is written again.
pub(super) fn is_due(rotation: &Rotation, file: &LogFile) -> bool {
    let age = || file.began().elapsed().unwrap_or_default();
    file.len() > 0
        && ((rotation.size > 0 && file.len() >= rotation.size)
            || (!rotation.age.is_zero() && age() >= rotation.age))
}

/// Gives the log another name.
pub(super) fn rotate(path: &Path) -> io::Result<PathBuf> {
    let stamp: String = utc::rfc3339_micros(SystemTime::now())
        .chars()
        .filter(|it| !"-:".contains(*it))
        .collect();
    let mut to = path.as_os_str().to_owned();
    to.push(".");
    to.push(stamp);
    let to = PathBuf::from(to);
    // Neither this nor `unlinkat` has a call in the standard library that the
    // sandbox lets through.
    renameat(AT_FDCWD, path, AT_FDCWD, &to)?;
    Ok(to)
}

/// Removes the oldest that are too many, but never `newest`: by their records,
/// for the clock may have been ahead when the others got their names.
pub(super) fn prune(rotation: &Rotation, path: &Path, newest: &Path) -> io::Result<()> {
    if rotation.keep == 0 {
        return Ok(());
    }
    let mut own: Vec<_> = own(path)?
        .into_iter()
        .map(|name| path.with_file_name(name))
        .filter(|other| other != newest)
        .map(|other| (reading::first_seq(&other).ok().flatten(), other))
        .collect();
    own.sort();
    let too_many = (own.len() + 1).saturating_sub(rotation.keep);
    let mut failed = Ok(());
    for (_, other) in own.into_iter().take(too_many) {
        match unlinkat(AT_FDCWD, &other, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // The others all the same.
            Err(error) => failed = Err(error.into()),
        }
    }
    failed
}

/// What was rotated away here before, compressed since or not.
fn own(path: &Path) -> io::Result<Vec<OsString>> {
    let (Some(directory), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(Vec::new());
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        let other = entry?.file_name().into_vec();
        let rest = other.strip_prefix(name.as_bytes());
        if rest.is_some_and(is_stamp) {
            found.push(OsString::from_vec(other));
        }
    }
    Ok(found)
}

fn is_stamp(rest: &[u8]) -> bool {
    let rest = reading::compressed_of(rest).unwrap_or(rest);
    let Some(stamp) = rest.strip_prefix(b".").filter(|it| it.len() == STAMP) else {
        return false;
    };
    let is_like = |(byte, like): (&u8, &u8)| match like {
        b'0' => byte.is_ascii_digit(),
        _ => byte == like,
    };
    stamp.iter().zip(b"00000000T000000.000000Z").all(is_like)
}

/// Of what was rotated away here, whoever did it, the file with the last record
/// of all, and that. By the records, again; only of what is compressed, which
/// has to be read whole, no more than the last.
pub(super) fn newest(path: &Path) -> io::Result<Option<(PathBuf, Link)>> {
    let mut looks = 0;
    'look: loop {
        let mut newest: Option<(PathBuf, Link)> = None;
        for (other, is_compressed) in reading::rotated(path)? {
            let last = match is_compressed {
                false => File::open(&other).and_then(|mut file| file::last(&mut file)),
                true => last_compressed(&other),
            };
            match last {
                Ok(Some(last)) if newest.as_ref().is_none_or(|(_, it)| it.seq < last.seq) => {
                    newest = Some((other, last));
                }
                Ok(_) => {}
                // Compressed or renamed in between, it has another name.
                Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS => {
                    looks += 1;
                    continue 'look;
                }
                Err(error) => return Err(error),
            }
        }
        return Ok(newest);
    }
}

fn last_compressed(path: &Path) -> io::Result<Option<Link>> {
    let mut last = None;
    reading::each_line(path, 0, &mut |line| last = file::link_of(line).or(last))?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_our_own_go_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let others = ["audit.jsonl.1", "audit.jsonl.2.gz", "audit.jsonl.bak"];
        let old = [
            "audit.jsonl.20261121T214000.123456Z.gz",
            "audit.jsonl.20261122T214000.123456Z",
        ];
        for name in others.iter().chain(&old) {
            std::fs::write(dir.path().join(name), "x").unwrap();
        }
        let rotation = Rotation {
            size: 1,
            keep: 2,
            ..Rotation::default()
        };
        std::fs::write(&path, "new").unwrap();
        let to = rotate(&path).unwrap();
        prune(&rotation, &path, &to).unwrap();
        assert_eq!(std::fs::read(&to).unwrap(), b"new");
        let there = |name: &str| dir.path().join(name).exists();
        assert!(others.iter().all(|name| there(name)));
        assert_eq!(old.map(there), [false, true]);
        assert!(!path.exists());
        // What cannot be removed keeps nothing else.
        std::fs::create_dir(dir.path().join(old[0])).unwrap();
        std::fs::write(&path, "newer").unwrap();
        let newer = rotate(&path).unwrap();
        assert!(prune(&rotation, &path, &newer).is_err());
        assert_eq!([to.exists(), newer.exists()], [true, true]);
        assert_eq!(old.map(there), [true, false]);
    }

    #[test]
    fn the_oldest_are_those_with_the_oldest_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let record =
            |seq| format!("{{\"schema\":1,\"seq\":{seq},\"time\":\"x\",\"event\":\"request\"}}\n");
        // The clock was ahead.
        let ahead = [
            "audit.jsonl.20310101T000000.000001Z",
            "audit.jsonl.20310101T000000.000002Z",
        ];
        for (name, seq) in ahead.iter().zip([1, 5]) {
            std::fs::write(dir.path().join(name), record(seq)).unwrap();
        }
        std::fs::write(&path, record(9)).unwrap();
        let rotation = Rotation {
            size: 1,
            keep: 2,
            ..Rotation::default()
        };
        let to = rotate(&path).unwrap();
        prune(&rotation, &path, &to).unwrap();
        assert!(to.exists());
        assert_eq!(
            ahead.map(|name| dir.path().join(name).exists()),
            [false, true]
        );
        assert_eq!(newest(&path).unwrap().unwrap().1.seq, 9);
    }
}
