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

use nix::fcntl::{AT_FDCWD, renameat};
use nix::unistd::{UnlinkatFlags, unlinkat};

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

/// Gives the log another name, and removes the oldest that are too many.
pub(super) fn rotate(rotation: &Rotation, path: &Path) -> io::Result<PathBuf> {
    let stamp: String = utc::rfc3339_micros(SystemTime::now())
        .chars()
        .filter(|it| !"-:".contains(*it))
        .collect();
    let mut to = path.as_os_str().to_owned();
    to.push(".");
    to.push(stamp);
    let to = PathBuf::from(to);
    // Neither call of the standard library's is one that the sandbox has.
    renameat(AT_FDCWD, path, AT_FDCWD, &to)?;
    if rotation.keep > 0 {
        let mut own = own(path)?;
        own.sort();
        let too_many = own.len().saturating_sub(rotation.keep);
        for name in own.into_iter().take(too_many) {
            unlinkat(
                AT_FDCWD,
                &path.with_file_name(name),
                UnlinkatFlags::NoRemoveDir,
            )?;
        }
    }
    Ok(to)
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
    let Some((stamp, end)) = rest
        .strip_prefix(b".")
        .and_then(|rest| rest.split_at_checked(STAMP))
    else {
        return false;
    };
    let is_like = |(byte, like): (&u8, &u8)| match like {
        b'0' => byte.is_ascii_digit(),
        _ => byte == like,
    };
    stamp.iter().zip(b"00000000T000000.000000Z").all(is_like)
        && (end.is_empty()
            || [".gz", ".zst", ".zstd"]
                .iter()
                .any(|it| it.as_bytes() == end))
}

/// The number of the last record in what was rotated away last, whoever did
/// it; `None` where there is nothing.
pub(super) fn last_rotated(path: &Path) -> io::Result<Option<u64>> {
    let mut looks = 0;
    let (newest, mut opened) = loop {
        let Some(newest) = reading::newest_rotated(path)? else {
            return Ok(None);
        };
        match File::open(&newest) {
            Ok(opened) => break (newest, opened),
            // Compressed in between, it has another name.
            Err(error) if error.kind() == io::ErrorKind::NotFound && looks < LOOKS => looks += 1,
            Err(error) => return Err(error),
        }
    };
    if let Some(last) = file::last(&mut opened)? {
        return Ok(Some(last.seq));
    }
    // Compressed by now.
    let mut last = None;
    let logs = reading::Logs::named(&[newest]).map_err(io::Error::other)?;
    let filter = reading::Filter::default();
    logs.read(&filter, &mut |_| {}, &mut |record, _| {
        last = record.seq.or(last);
        Ok(())
    })
    .map_err(io::Error::other)?;
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
        let to = rotate(&rotation, &path).unwrap();
        assert_eq!(std::fs::read(to).unwrap(), b"new");
        let there = |name: &str| dir.path().join(name).exists();
        assert!(others.iter().all(|name| there(name)));
        assert_eq!(old.map(there), [false, true]);
        assert!(!path.exists());
    }
}
