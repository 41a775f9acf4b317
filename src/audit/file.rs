//! The file under the log: opening, whole appends, and cutting back what a
//! crash left half written.
//!
//! Must never follow a symbolic link and never leave a line unended.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::chain::{Digest, Link};

/// So much of a file's end is looked at for its last record; far more than any
/// has.
const TAIL: u64 = 1024 * 1024;
/// How far from its beginning the time of its first record stands.
const BEGIN: u64 = 256;

/// The log, open for appending.
pub(super) struct LogFile {
    path: PathBuf,
    file: File,
    /// Where it ended when it was last written.
    len: u64,
    /// When its first record was made.
    began: SystemTime,
}

/// What became of an append.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Appended {
    /// All of it stands at the end.
    Whole,
    /// The file was cut, as copytruncate does, since it was last written:
    /// nothing was appended.
    Cut,
}

impl LogFile {
    /// Opens the log for appending, readable by its group, and gives its last
    /// record.
    pub(super) fn open(path: PathBuf) -> io::Result<(Self, Option<Link>)> {
        let mut file = open(&path)?;
        let last = repair(&mut file)?;
        let len = file.metadata()?.len();
        let began = first_time(&mut file)?.unwrap_or_else(SystemTime::now);
        let log = Self {
            path,
            file,
            len,
            began,
        };
        Ok((log, last))
    }

    /// Opens what has its name now, and gives its last record.
    pub(super) fn reopen(&mut self) -> io::Result<Option<Link>> {
        let (reopened, last) = Self::open(self.path.clone())?;
        *self = reopened;
        Ok(last)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn began(&self) -> SystemTime {
        self.began
    }

    /// Whether the file has no name any more.
    pub(super) fn is_removed(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() == 0)
    }

    /// Whether it is shorter than it was left.
    pub(super) fn is_cut(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.len() < self.len)
    }

    /// Appends all of it or, as far as the disk lets us, none of it.
    pub(super) fn append(&mut self, bytes: &[u8]) -> io::Result<Appended> {
        let before = self.file.metadata()?.len();
        if before < self.len {
            return Ok(Appended::Cut);
        }
        if let Err(error) = self.file.write_all(bytes) {
            // Should this fail as well, the next opening cuts the line. Cut
            // meanwhile by somebody else, it must not grow by this.
            if self.file.metadata().is_ok_and(|it| it.len() > before) {
                let _ = self.file.set_len(before);
            }
            return Err(error);
        }
        let end = self.file.stream_position()?;
        let len = u64::try_from(bytes.len()).map_err(io::Error::other)?;
        if end < before + len {
            // Between the look and the write.
            self.file.set_len(end.saturating_sub(len))?;
            self.len = before;
            return Ok(Appended::Cut);
        }
        self.len = end;
        Ok(Appended::Whole)
    }

    /// Takes a file that was cut for what it is now; gives its last record.
    pub(super) fn settle(&mut self) -> io::Result<Option<Link>> {
        let last = repair(&mut self.file)?;
        self.len = self.file.metadata()?.len();
        if self.len == 0 {
            self.began = SystemTime::now();
        }
        Ok(last)
    }
}

fn open(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(0o640)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "not a regular file",
        )),
    }
}

/// Cuts off what stands behind the last whole line; gives the last record.
pub(crate) fn repair(file: &mut File) -> io::Result<Option<Link>> {
    let end = end(file)?;
    if end < file.metadata()?.len() {
        file.set_len(end)?;
    }
    last_before(file, end)
}

/// The last whole record of a file, which is left as it is.
pub(super) fn last(file: &mut File) -> io::Result<Option<Link>> {
    let end = end(file)?;
    last_before(file, end)
}

/// Where the last whole line ends. Behind it, a power failure may leave any
/// number of zeros.
fn end(file: &mut File) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let (bytes, from) = before(file, end)?;
        if let Some(at) = memchr::memrchr(b'\n', &bytes) {
            return Ok(from + u64::try_from(at + 1).map_err(io::Error::other)?);
        }
        end = from;
    }
    Ok(0)
}

/// Where to begin in order to come by the record of this number: not long
/// before it.
pub(super) fn start_of(file: &mut File, seq: u64) -> io::Result<u64> {
    let mut end = file.metadata()?.len();
    while end > 0 {
        let (bytes, from) = before(file, end)?;
        // The first line may be only the end of one.
        let mut lines = bytes.split(|byte| *byte == b'\n').skip(1);
        if lines.find_map(link_of).is_some_and(|link| link.seq <= seq) {
            return Ok(from);
        }
        end = from;
    }
    Ok(0)
}

fn last_before(file: &mut File, end: u64) -> io::Result<Option<Link>> {
    let (bytes, _) = before(file, end)?;
    Ok(bytes.rsplit(|byte| *byte == b'\n').find_map(link_of))
}

/// What stands before this place, and where that begins.
fn before(file: &mut File, end: u64) -> io::Result<(Vec<u8>, u64)> {
    let from = end.saturating_sub(TAIL);
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(end - from).read_to_end(&mut bytes)?;
    Ok((bytes, from))
}

pub(super) fn link_of(line: &[u8]) -> Option<Link> {
    #[derive(serde::Deserialize)]
    struct Numbered {
        seq: u64,
    }
    let Numbered { seq } = serde_json::from_slice(line).ok()?;
    let hash = Digest::of(line);
    Some(Link { seq, hash })
}

fn first_time(file: &mut File) -> io::Result<Option<SystemTime>> {
    let mut begin = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(BEGIN).read_to_end(&mut begin)?;
    let begin = String::from_utf8_lossy(&begin);
    let time = begin.split_once("\"time\":\"");
    let time = time.and_then(|(_, rest)| rest.split('"').next());
    Ok(time.and_then(|time| humantime::parse_rfc3339(time).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opened(content: &str) -> (String, u64) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        std::fs::write(&path, content).unwrap();
        let (_, last) = LogFile::open(path.clone()).unwrap();
        let seq = last.map_or(0, |last| last.seq);
        (std::fs::read_to_string(&path).unwrap(), seq)
    }

    #[test]
    fn numbering_goes_on_behind_the_last_whole_record() {
        let whole = "{\"schema\":1,\"seq\":7}\n{\"schema\":1,\"seq\":8}\n";
        assert_eq!(opened(whole), (whole.into(), 8));
        assert_eq!(
            opened(&format!("{whole}{{\"schema\":1,\"se")),
            (whole.into(), 8)
        );
        let foreign = format!("{whole}no record\n");
        assert_eq!(opened(&foreign), (foreign.clone(), 8));
        assert_eq!(opened("{\"schema\":1,\"se"), (String::new(), 0));
        assert_eq!(opened(""), (String::new(), 0));
        // As some file systems leave it after a power failure.
        let zeros = "\0".repeat(3 * 1024 * 1024);
        assert_eq!(opened(&format!("{whole}{zeros}")), (whole.into(), 8));
        assert_eq!(opened(&zeros), (String::new(), 0));
    }

    #[test]
    fn a_symbolic_link_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (target, link) = (dir.path().join("target"), dir.path().join("audit.jsonl"));
        std::fs::write(&target, "").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(LogFile::open(link).is_err());
    }

    #[test]
    fn a_file_that_was_cut_takes_nothing_until_that_is_seen_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let (mut log, _) = LogFile::open(path.clone()).unwrap();
        assert_eq!(log.append(b"{\"seq\":1}\n").unwrap(), Appended::Whole);
        assert!(!log.is_cut().unwrap());
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(4)
            .unwrap();
        assert!(log.is_cut().unwrap());
        assert_eq!(log.append(b"{\"seq\":2}\n").unwrap(), Appended::Cut);
        assert_eq!(log.settle().unwrap(), None);
        assert_eq!(log.append(b"{\"seq\":2}\n").unwrap(), Appended::Whole);
        assert_eq!(std::fs::read(&path).unwrap(), b"{\"seq\":2}\n");
    }
}
