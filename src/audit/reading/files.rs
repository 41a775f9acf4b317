//! Which files make up a log, in which order, and what is in them once they
//! are decompressed. Names say which files belong to it; their first records
//! say the order, so that any scheme of rotation will do.

use std::cell::Cell;
use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::StreamingDecoder;

use super::ReadingError;
use super::lines::{self, Ended, Line};
use super::record::Record;
use crate::sorted;
use crate::utc;

/// What is read at once.
const CHUNK: usize = 1024 * 1024;
/// How many lines are looked at for the first record.
const LINES_TO_FIRST: usize = 64;
/// How often files are looked for while they are being renamed.
const LOOKS: usize = 20;
const GZIP: &[u8] = &[0x1f, 0x8b];
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
const COMPRESSED: [&str; 3] = [".gz", ".zst", ".zstd"];

/// One file, open.
#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    source: Source,
    len: u64,
    /// Device and inode.
    id: (u64, u64),
    first: Option<First>,
}

/// What a file begins with.
#[derive(Debug, PartialEq, Eq)]
struct First {
    /// Of its first record, or else of its last change.
    time: String,
    /// Of its first record.
    seq: Option<u64>,
}

#[derive(Debug)]
enum Source {
    File(File),
    /// Can be read once: a pipe.
    Stream(File),
    Stdin,
}

/// All files of a log as they were at one moment, whatever is rotated meanwhile.
pub(super) fn with_rotated(file: &Path) -> Result<Vec<LogFile>, ReadingError> {
    let mut files = open_all(file)?;
    for _ in 0..LOOKS {
        // Listed again, names and files are the same: nothing moved between.
        let names = |files: &[LogFile]| -> Vec<_> {
            files.iter().map(|it| (it.path.clone(), it.id)).collect()
        };
        let again = open_all(file)?;
        let stood_still = names(&files) == names(&again);
        files = again;
        if stood_still {
            break;
        }
    }
    Ok(files)
}

fn open_all(file: &Path) -> Result<Vec<LogFile>, ReadingError> {
    let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else {
        return Ok(Vec::new());
    };
    let names = match rotated_names(directory, name) {
        Ok(names) => names,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(ReadingError::File(directory.to_owned(), error)),
    };
    let mut files = Vec::new();
    for name in &names {
        let path = directory.join(name);
        match open(&path, libc::O_NOFOLLOW | libc::O_NONBLOCK) {
            // Only what the daemon or a rotation can have made.
            Ok(found) if matches!(found.source, Source::File(_)) => files.push(found),
            Ok(_) => {}
            // Renamed or removed since the directory was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(ReadingError::File(path, error)),
        }
    }
    sort(&mut files);
    Ok(files)
}

/// The names of a log's files, itself among them.
fn rotated_names(directory: &Path, name: &OsStr) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory)? {
        let found = entry?.file_name();
        if is_rotated(name.as_bytes(), found.as_bytes()) {
            names.push(found);
        }
    }
    // While it is being compressed, a file is there twice, and the plain one is
    // whole.
    let plain: HashSet<_> = names.iter().cloned().collect();
    names.retain(|name| {
        let of = compressed_of(name.as_bytes());
        !of.is_some_and(|of| plain.contains(OsStr::from_bytes(of)))
    });
    Ok(names)
}

/// What was rotated away beside this log, and whether that is compressed: all
/// that is not, and what was compressed last.
pub(in crate::audit) fn rotated(file: &Path) -> io::Result<Vec<(PathBuf, bool)>> {
    let (Some(directory), Some(name)) = (file.parent(), file.file_name()) else {
        return Ok(Vec::new());
    };
    let mut plain = Vec::new();
    let mut compressed: Option<(SystemTime, PathBuf)> = None;
    for found in rotated_names(directory, name)? {
        let path = directory.join(&found);
        let meta = match fs::symlink_metadata(&path) {
            Ok(meta) if meta.is_file() && found != name => meta,
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => continue,
        };
        if compressed_of(found.as_bytes()).is_none() {
            plain.push((path, false));
            continue;
        }
        let changed = meta.modified()?;
        if compressed.as_ref().is_none_or(|(than, _)| changed > *than) {
            compressed = Some((changed, path));
        }
    }
    plain.extend(compressed.map(|(_, path)| (path, true)));
    Ok(plain)
}

/// The number of a file's first record.
pub(in crate::audit) fn first_seq(path: &Path) -> io::Result<Option<u64>> {
    let file = open(path, libc::O_NOFOLLOW | libc::O_NONBLOCK)?;
    Ok(file.first.and_then(|first| first.seq))
}

/// Hands each whole line of a file, from a place on, to `each`; what is
/// compressed has no other place than its beginning.
pub(in crate::audit) fn each_line(
    path: &Path,
    from: u64,
    each: &mut dyn FnMut(&[u8]),
) -> io::Result<()> {
    let found = open(path, libc::O_NOFOLLOW | libc::O_NONBLOCK)?;
    if let Source::File(file) = &found.source {
        let mut file = file;
        file.seek(SeekFrom::Start(from))?;
    }
    let ended = found.lines(&mut |_| {}, &mut |line| {
        if let Line::Whole(line) = line {
            each(line);
        }
        true
    })?;
    match ended {
        Ended::Whole => Ok(()),
        Ended::Damaged => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

/// What a compressed file was called before; `None` where it is not compressed.
pub(in crate::audit) fn compressed_of(name: &[u8]) -> Option<&[u8]> {
    COMPRESSED
        .iter()
        .find_map(|end| name.strip_suffix(end.as_bytes()))
}

/// `audit.jsonl` itself, `audit.jsonl.1`, `audit.jsonl.2.gz`,
/// `audit.jsonl-20261121.zst`: the name, and behind it a number or a time.
fn is_rotated(name: &[u8], found: &[u8]) -> bool {
    let Some(rest) = found.strip_prefix(name) else {
        return false;
    };
    let rest = compressed_of(rest).unwrap_or(rest);
    match rest {
        [] => true,
        [b'.' | b'-', rest @ ..] => {
            rest.first().is_some_and(u8::is_ascii_digit)
                && rest
                    .iter()
                    .all(|byte| byte.is_ascii_digit() || b".-_:TZ".contains(byte))
        }
        _ => false,
    }
}

pub(super) fn named(files: &[PathBuf]) -> Result<Vec<LogFile>, ReadingError> {
    let mut opened = Vec::new();
    for path in files {
        if path.as_os_str() == "-" {
            opened.push(LogFile {
                path: path.clone(),
                source: Source::Stdin,
                len: 0,
                id: (0, 0),
                first: None,
            });
            continue;
        }
        let file = open(path, 0).map_err(|error| ReadingError::File(path.clone(), error))?;
        opened.push(file);
    }
    sort(&mut opened);
    Ok(opened)
}

/// By their first records; what has none comes last, as it was named.
fn sort(files: &mut [LogFile]) {
    sorted::by(files, |one, other| match (&one.first, &other.first) {
        (Some(one), Some(other)) => one.time.cmp(&other.time),
        (one, other) => other.is_some().cmp(&one.is_some()),
    });
}

/// By the numbers of their first records: clocks are set back. Where several
/// logs began here, one after the other, each for itself. Of two that begin
/// alike, the longer one goes on.
pub(super) fn sort_by_number(files: &mut [LogFile]) {
    let seq = |file: &LogFile| file.first.as_ref().and_then(|first| first.seq);
    let mut starts = Vec::new();
    let mut before = None;
    for (at, file) in files.iter().enumerate() {
        // A copy of a log's beginning begins no other one.
        if seq(file) == Some(1) && before != file.first.as_ref() {
            starts.push(at);
        }
        before = file.first.as_ref();
    }
    // What stands before the only beginning is there by its clock alone.
    let mut rest = files;
    for at in starts.into_iter().skip(1).rev() {
        let (before, own) = rest.split_at_mut(at.min(rest.len()));
        sorted::by_key(own, |file| (seq(file).is_none(), seq(file), file.len));
        rest = before;
    }
    sorted::by_key(rest, |file| (seq(file).is_none(), seq(file), file.len));
}

fn open(path: &Path, flags: i32) -> io::Result<LogFile> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags | libc::O_CLOEXEC)
        .open(path)?;
    let meta = file.metadata()?;
    if meta.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    if !meta.is_file() {
        return Ok(LogFile {
            path: path.to_owned(),
            source: Source::Stream(file),
            len: 0,
            id: (meta.dev(), meta.ino()),
            first: None,
        });
    }
    let mut found = LogFile {
        path: path.to_owned(),
        source: Source::File(file),
        len: meta.len(),
        id: (meta.dev(), meta.ino()),
        first: None,
    };
    found.first = found.look_for_first()?;
    // One without any record is of the time of its last change.
    if found.first.is_none() && found.len > 0 {
        let changed = meta.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        found.first = Some(First {
            time: utc::rfc3339_micros(changed),
            seq: None,
        });
    }
    Ok(found)
}

/// The log itself, for who follows it.
pub(super) fn open_growing(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "only a regular file can be followed",
        )),
    }
}

impl LogFile {
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len
    }

    pub(super) fn first(&self) -> Option<&str> {
        self.first.as_ref().map(|first| first.time.as_str())
    }

    pub(super) fn is_untouched_for(&self, time: Duration) -> bool {
        let (Source::File(file) | Source::Stream(file)) = &self.source else {
            return false;
        };
        let changed = file.metadata().and_then(|meta| meta.modified());
        changed.is_ok_and(|at| at.elapsed().is_ok_and(|since| since > time))
    }

    fn look_for_first(&self) -> io::Result<Option<First>> {
        let Source::File(file) = &self.source else {
            return Ok(None);
        };
        let mut first = None;
        let mut left = LINES_TO_FIRST;
        let reader = decompressed(file.try_clone()?, 64 * 1024)?;
        lines::split(reader, 64 * 1024, &mut |line| {
            if let Line::Whole(line) = line {
                first = Record::parse(line).map(|(record, _)| First {
                    time: record.time.to_string(),
                    seq: record.seq,
                });
            }
            left -= 1;
            first.is_none() && left > 0
        })?;
        let mut file = file;
        file.seek(SeekFrom::Start(0))?;
        Ok(first)
    }

    /// Hands every line to `each` until that has seen enough; `progress` gets
    /// the bytes read so far.
    pub(super) fn lines(
        self,
        progress: &mut dyn FnMut(u64),
        each: &mut dyn FnMut(Line<'_>) -> bool,
    ) -> io::Result<Ended> {
        let done = Rc::new(Cell::new(0));
        let counted = |inner: Box<dyn Read>| Counted {
            inner,
            done: Rc::clone(&done),
        };
        let raw = match self.source {
            Source::File(file) | Source::Stream(file) => counted(Box::new(file)),
            Source::Stdin => counted(Box::new(io::stdin().lock())),
        };
        let reader = decompressed(raw, CHUNK)?;
        let told = Told {
            inner: reader,
            done: &done,
            progress,
        };
        lines::split(told, CHUNK, each)
    }
}

/// By its first bytes, whatever its name.
fn decompressed<'a>(raw: impl Read + 'a, chunk: usize) -> io::Result<Box<dyn Read + 'a>> {
    let mut raw = BufReader::with_capacity(chunk, raw);
    let begin = raw.fill_buf()?;
    Ok(if begin.starts_with(GZIP) {
        Box::new(MultiGzDecoder::new(raw))
    } else if begin.starts_with(ZSTD) {
        Box::new(Frames(Some(StreamingDecoder::new(raw).map_err(damaged)?)))
    } else {
        Box::new(raw)
    })
}

fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// A file may hold several frames, one behind the other.
struct Frames<R: BufRead>(Option<StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>);

impl<R: BufRead> Read for Frames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while let Some(frame) = &mut self.0 {
            match frame.read(out) {
                Ok(0) if !out.is_empty() => {}
                Ok(len) => return Ok(len),
                Err(error) => return Err(damaged(error)),
            }
            let Some(frame) = self.0.take() else { break };
            let mut rest = frame.into_inner();
            if !rest.fill_buf()?.is_empty() {
                self.0 = Some(StreamingDecoder::new(rest).map_err(damaged)?);
            }
        }
        Ok(0)
    }
}

struct Counted {
    inner: Box<dyn Read>,
    done: Rc<Cell<u64>>,
}

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(out)?;
        self.done
            .set(self.done.get() + u64::try_from(len).unwrap_or(0));
        Ok(len)
    }
}

struct Told<'a, R> {
    inner: R,
    done: &'a Cell<u64>,
    progress: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Told<'_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        (self.progress)(self.done.get());
        self.inner.read(out)
    }
}

#[cfg(test)]
mod tests {
    use super::is_rotated;

    #[test]
    fn what_belongs_to_a_log() {
        let is_ours = |found: &str| is_rotated(b"audit.jsonl", found.as_bytes());
        for ours in [
            "audit.jsonl",
            "audit.jsonl.1",
            "audit.jsonl.12.gz",
            "audit.jsonl-20261121",
            "audit.jsonl-20261121-214000.zst",
            "audit.jsonl.2026-11-21T21:40:00Z.zst",
        ] {
            assert!(is_ours(ours), "{ours}");
        }
        for other in [
            "audit.jsonl.bak",
            "audit.jsonl~",
            "audit.jsonl.1.swp",
            "audit.jsonl.",
            "other.jsonl",
            "audit.jsonl2",
        ] {
            assert!(!is_ours(other), "{other}");
        }
    }
}
