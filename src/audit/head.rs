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

use super::chain::Link;

const NAME: &str = "chain-head";
/// All heads are of one length, so that each covers the one before.
const LEN: usize = 128;

/// The file, open for as long as the daemon runs.
pub(super) struct HeadFile(File);

impl HeadFile {
    /// Opens it, and gives what an earlier run left there.
    pub(super) fn open(directory: &Path) -> io::Result<(Self, Option<Link>)> {
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(directory.join(NAME))?;
        let kept = parse(&mut file)?;
        Ok((Self(file), kept))
    }

    pub(super) fn save(&mut self, head: Link) -> io::Result<()> {
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
pub fn read(directory: &Path) -> io::Result<Option<Link>> {
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

fn parse(file: &mut File) -> io::Result<Option<Link>> {
    let mut text = Vec::new();
    file.take(4096).read_to_end(&mut text)?;
    if text.is_empty() {
        return Ok(None);
    }
    Ok(Some(serde_json::from_slice(&text)?))
}

#[cfg(test)]
mod tests {
    use super::super::chain::Digest;
    use super::*;

    #[test]
    fn the_last_head_is_the_one_that_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap(), None);
        let (mut file, kept) = HeadFile::open(dir.path()).unwrap();
        assert_eq!(kept, None);
        for seq in [u64::MAX, 7] {
            let hash = Digest::of(b"x");
            file.save(Link { seq, hash }).unwrap();
            assert_eq!(read(dir.path()).unwrap(), Some(Link { seq, hash }));
        }
        let (_, kept) = HeadFile::open(dir.path()).unwrap();
        assert_eq!(kept.unwrap().seq, 7);
        std::fs::write(dir.path().join(NAME), "{").unwrap();
        assert!(read(dir.path()).is_err());
    }
}
