//! A log that grows, across rotation by rename and by copytruncate.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use memchr::memrchr_iter;

use super::files;
use super::lines::{LINE_MAX, take_whole};

/// What is read at once.
const CHUNK: usize = 64 * 1024;

/// Where the reading of a log stands.
#[derive(Debug)]
pub struct Follow {
    path: PathBuf,
    open: Option<File>,
    at: u64,
    /// A line whose end has not come yet.
    rest: Vec<u8>,
}

/// What happened to the file meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It may have grown.
    On,
    /// Another file has its name now, or none has.
    Renamed,
    /// It was cut: what came since the last look and before that is not here.
    Truncated,
}

impl Follow {
    /// Begins with the last `lines` lines of the file there is.
    ///
    /// # Errors
    /// A file that is there and cannot be read. One that is not there may come.
    pub fn open(path: &Path, lines: usize) -> io::Result<Self> {
        let mut follow = Self {
            path: path.to_owned(),
            open: None,
            at: 0,
            rest: Vec::new(),
        };
        follow.reopen()?;
        if let Some(file) = &mut follow.open {
            follow.at = begin_of_last(file, lines)?;
            file.seek(SeekFrom::Start(follow.at))?;
        }
        Ok(follow)
    }

    /// Hands on every whole line that is new. Never waits.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<Followed> {
        self.drain(each)?;
        let named = std::fs::metadata(&self.path).ok();
        let open = self.open.as_ref().map(File::metadata).transpose()?;
        let id = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
        match (open, named) {
            (Some(open), Some(named)) if id(&open) == id(&named) => {
                if open.len() >= self.at {
                    return Ok(Followed::On);
                }
                self.rest.clear();
                self.at = 0;
                if let Some(file) = &mut self.open {
                    file.seek(SeekFrom::Start(0))?;
                }
                self.drain(each)?;
                Ok(Followed::Truncated)
            }
            (None, None) => Ok(Followed::On),
            // Its writer may not know of the new name yet.
            (Some(_), None) => Ok(Followed::On),
            (was, Some(_)) => {
                // What was written to the old file until its writer turned.
                self.drain(each)?;
                self.rest.clear();
                self.reopen()?;
                self.drain(each)?;
                Ok(match was {
                    Some(_) => Followed::Renamed,
                    None => Followed::On,
                })
            }
        }
    }

    fn reopen(&mut self) -> io::Result<()> {
        self.at = 0;
        self.open = match files::open_growing(&self.path) {
            Ok(file) => Some(file),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error),
        };
        Ok(())
    }

    fn drain(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<()> {
        let Some(file) = &mut self.open else {
            return Ok(());
        };
        let mut chunk = vec![0; CHUNK];
        loop {
            let len = match file.read(&mut chunk) {
                Ok(0) => return Ok(()),
                Ok(len) => len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.at += u64::try_from(len).unwrap_or(0);
            self.rest.extend(chunk.get(..len).unwrap_or_default());
            take_whole(&mut self.rest, each);
            if self.rest.len() > LINE_MAX {
                // No record; its end will be taken for a foreign line.
                self.rest.clear();
            }
        }
    }
}

/// Where the last so many lines begin.
fn begin_of_last(file: &mut File, lines: usize) -> io::Result<u64> {
    let len = file.metadata()?.len();
    let mut end = len;
    let mut left = lines;
    let mut chunk = vec![0; CHUNK];
    // The feed at the very end ends the last line, and begins none.
    let mut is_last = true;
    while end > 0 {
        let size = u64::try_from(CHUNK).unwrap_or(u64::MAX).min(end);
        let begin = end - size;
        file.seek(SeekFrom::Start(begin))?;
        let space = chunk
            .get_mut(..usize::try_from(size).unwrap_or(CHUNK))
            .unwrap_or_default();
        file.read_exact(space)?;
        for at in memrchr_iter(b'\n', space) {
            let behind = begin + u64::try_from(at).unwrap_or(0) + 1;
            if std::mem::take(&mut is_last) && behind == len && lines > 0 {
                continue;
            }
            if left <= 1 {
                return Ok(behind);
            }
            left -= 1;
        }
        end = begin;
    }
    Ok(if lines == 0 { len } else { 0 })
}
