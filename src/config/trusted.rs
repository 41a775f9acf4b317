//! The only way in for config and policy files: what is read must be the
//! work of root and of nobody else.
//!
//! Owner and mode are those of the file that was opened, never of its path,
//! so that nothing can be swapped in between. A symlink is followed: what it
//! leads to is held to the same terms.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use crate::diagnose::{Diagnostics, Place, Source};

/// A policy of ten thousand rules takes about 2 MiB; what is larger than this
/// is not a file that somebody wrote for us.
pub const MAX_FILE_BYTES: u64 = 8 << 20;

const EXPECTED_OWNER: &str = "expected: owned by root, not writable by group or others";

/// A candidate that is read where an installed file would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The path it would be installed at, whether or not a file is there now.
    pub installed: PathBuf,
    /// The file to read instead.
    pub candidate: PathBuf,
}

/// What reading a file came to.
#[derive(Debug)]
pub enum Reading {
    /// Its text.
    Text(Arc<Source>),
    /// There is no such file.
    Absent,
    /// Something is wrong with it, and has been recorded.
    Refused,
}

/// Reads the file at `path`.
pub fn read(path: &Path, replacements: &[Replacement], found: &mut Diagnostics) -> Reading {
    match replacements.iter().find(|it| it.installed == path) {
        Some(replacement) => read_candidate(replacement, found),
        None => read_at(AT_FDCWD, path, path, found),
    }
}

/// Reads every `*.toml` of a directory, in the order of their names. A
/// directory that is not there holds nothing; one that somebody else could
/// put files into is an error.
pub fn read_directory(
    directory: &Path,
    replacements: &[Replacement],
    found: &mut Diagnostics,
) -> Vec<(String, Arc<Source>)> {
    let mut names = Vec::new();
    let opened = match open_directory(directory, found) {
        Some(mut opened) => {
            names = match file_names(&mut opened) {
                Ok(names) => names,
                Err(error) => {
                    refuse_io(directory, error, found);
                    return Vec::new();
                }
            };
            Some(opened)
        }
        None => None,
    };
    names.retain(|name| {
        let is_read = is_policy_name(name);
        if !is_read {
            found.warning(
                Place::of_file(directory.join(name).to_string_lossy()),
                "is not read",
                "its name does not end in .toml",
            );
        }
        is_read
    });
    let candidate_of = |name: &str| {
        let installed = directory.join(name);
        replacements.iter().find(|r| r.installed == installed)
    };
    names.extend(replacements.iter().filter_map(|replacement| {
        let name = replacement
            .installed
            .strip_prefix(directory)
            .ok()?
            .to_str()?;
        is_policy_name(name).then(|| name.to_owned())
    }));
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| {
            let reading = match (candidate_of(&name), &opened) {
                (Some(replacement), _) => read_candidate(replacement, found),
                (None, Some(opened)) => {
                    read_at(opened, Path::new(&name), &directory.join(&name), found)
                }
                (None, None) => Reading::Absent,
            };
            match reading {
                Reading::Text(source) => Some((name, source)),
                // Removed since the directory was listed.
                Reading::Absent | Reading::Refused => None,
            }
        })
        .collect()
}

/// A candidate that is not there is a slip of the pen, never "no file".
fn read_candidate(replacement: &Replacement, found: &mut Diagnostics) -> Reading {
    let path = &replacement.candidate;
    match read_at(AT_FDCWD, path, path, found) {
        Reading::Absent => {
            found.error(
                Place::of_file(path.to_string_lossy()),
                "there is no such file",
                "expected the candidate that `--replace` names",
            );
            Reading::Refused
        }
        reading => reading,
    }
}

/// `*.toml` as a shell would take it.
fn is_policy_name(name: &str) -> bool {
    name.ends_with(".toml") && !name.starts_with('.') && !name.contains('/')
}

/// Without hidden files: those are an editor's.
fn file_names(directory: &mut Dir) -> Result<Vec<String>, Errno> {
    let mut names = Vec::new();
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy();
        if !name.starts_with('.') {
            names.push(name.into_owned());
        }
    }
    Ok(names)
}

fn open_directory(path: &Path, found: &mut Diagnostics) -> Option<Dir> {
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
    let opened = openat(AT_FDCWD, path, flags, Mode::empty())
        .and_then(|fd| Ok((fstat(&fd)?, Dir::from_fd(fd)?)));
    match opened {
        Ok((stat, directory)) => is_trusted(path, &stat, found).then_some(directory),
        Err(Errno::ENOENT) => None,
        Err(error) => {
            refuse_io(path, error, found);
            None
        }
    }
}

fn read_at(directory: impl AsFd, name: &Path, shown: &Path, found: &mut Diagnostics) -> Reading {
    // Without O_NONBLOCK, opening a pipe would wait for a writer.
    let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let opened = openat(directory, name, flags, Mode::empty()).and_then(|fd| Ok((fstat(&fd)?, fd)));
    let (stat, fd) = match opened {
        Ok(opened) => opened,
        Err(Errno::ENOENT) => return Reading::Absent,
        Err(error) => {
            refuse_io(shown, error, found);
            return Reading::Refused;
        }
    };
    if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != SFlag::S_IFREG {
        found.error(
            Place::of_file(shown.to_string_lossy()),
            "this is not a regular file",
            "expected a regular file",
        );
        return Reading::Refused;
    }
    if !is_trusted(shown, &stat, found) {
        return Reading::Refused;
    }
    match text_of(fd) {
        Ok(text) => Reading::Text(Source::new(shown.to_string_lossy(), text)),
        Err(error) => {
            let place = Place::of_file(shown.to_string_lossy());
            found.error(
                place,
                error.to_string(),
                format!("expected UTF-8 text of at most {MAX_FILE_BYTES} bytes"),
            );
            Reading::Refused
        }
    }
}

fn text_of(fd: OwnedFd) -> io::Result<String> {
    let mut bytes = Vec::new();
    File::from(fd)
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_FILE_BYTES {
        return Err(io::Error::other("this file is too large"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        io::Error::other(format!("this file is not UTF-8 text (byte {at})"))
    })
}

fn is_trusted(path: &Path, stat: &FileStat, found: &mut Diagnostics) -> bool {
    let shared = Mode::S_IWGRP | Mode::S_IWOTH;
    let foreign = stat.st_uid != 0;
    let writable = Mode::from_bits_truncate(stat.st_mode).intersects(shared);
    let shown = path.to_string_lossy();
    let (message, mend) = match (foreign, writable) {
        (false, false) => return true,
        (true, false) => (
            format!("owned by uid {}, who could change it", stat.st_uid),
            format!("chown root '{shown}'"),
        ),
        (false, true) => (
            format!(
                "mode {:04o} lets others than root change it",
                stat.st_mode & 0o7777
            ),
            format!("chmod go-w '{shown}'"),
        ),
        (true, true) => (
            format!(
                "owned by uid {} with mode {:04o}: others than root could change it",
                stat.st_uid,
                stat.st_mode & 0o7777
            ),
            format!("chown root '{shown}' && chmod go-w '{shown}'"),
        ),
    };
    found
        .error(Place::of_file(shown), message, EXPECTED_OWNER)
        .help(format!("read it over, then: {mend}"));
    false
}

fn refuse_io(path: &Path, error: Errno, found: &mut Diagnostics) {
    let finding = found.error(
        Place::of_file(path.to_string_lossy()),
        format!("cannot be read: {}", error.desc()),
        "expected to be able to read this",
    );
    if error == Errno::EACCES {
        finding.help("run this as root, or let this user read it");
    }
}
