//! The head of the chain, kept in `[state] directory`: which record was the
//! last, and its hash.
//!
//! Written after the records it speaks of, about once a second while records
//! come, and at the end: so it may be behind the log, by what a killed daemon
//! wrote in its last second, and must never be ahead of it. Not synced: a
//! record is not either.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::chain::Link;

const NAME: &str = "chain-head";
/// All heads are of one length, so that each covers the one before.
const LEN: usize = 160;

/// What is kept of a log outside of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// A record, and all before it.
    #[serde(flatten)]
    pub link: Link,
    /// It was the last, and the daemon has ended: none is behind it.
    #[serde(default)]
    pub ended: bool,
}

/// The file, open for as long as the daemon runs.
pub(super) struct HeadFile(File);

/// What an earlier run left there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nothing,
    Head(Head),
    /// It was damaged since.
    Unreadable,
}

impl HeadFile {
    /// Opens it.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Left)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(directory.join(NAME))?;
        let left = match parse(&mut file) {
            Ok(None) => Left::Nothing,
            Ok(Some(head)) => Left::Head(head),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Left::Unreadable,
            Err(error) => return Err(error),
        };
        Ok((Self(file), left))
    }

    pub(super) fn save(&mut self, head: Head) -> io::Result<()> {
        let mut text = serde_json::to_vec(&head)?;
        text.resize(LEN - 1, b' ');
        text.push(b'\n');
        self.0.seek(SeekFrom::Start(0))?;
        self.0.write_all(&text)
    }
}

/// What is kept in `directory`; `None` where no daemon has kept anything.
///
/// # Errors
/// What is there cannot be read, or is no head.
pub fn read(directory: &Path) -> io::Result<Option<Head>> {
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(directory.join(NAME));
    match opened {
        Ok(mut file) => parse(&mut file),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn parse(file: &mut File) -> io::Result<Option<Head>> {
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    let head = serde_json::from_slice(&text);
    let no_head = |error| io::Error::new(io::ErrorKind::InvalidData, error);
    head.map(Some).map_err(no_head)
}

#[cfg(test)]
mod tests {
    use super::super::chain::Digest;
    use super::*;

    #[test]
    fn the_last_head_is_the_one_that_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let (mut file, left) = HeadFile::open(dir.path()).unwrap();
        assert_eq!(left, Left::Nothing);
        let head = |seq, ended| {
            let hash = Digest::of(b"x");
            let link = Link { seq, hash };
            Head { link, ended }
        };
        for head in [head(u64::MAX, false), head(7, true), head(8, false)] {
            file.save(head).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Some(head));
        }
        let (_, left) = HeadFile::open(dir.path()).unwrap();
        assert_eq!(left, Left::Head(head(8, false)));
        // As a power failure may leave it; the next head heals it.
        std::fs::write(dir.path().join(NAME), [0; LEN]).unwrap();
        assert!(read(dir.path()).is_err());
        let (mut file, left) = HeadFile::open(dir.path()).unwrap();
        assert_eq!(left, Left::Unreadable);
        file.save(head(9, false)).unwrap();
        assert_eq!(read(dir.path()).unwrap(), Some(head(9, false)));
    }
}
