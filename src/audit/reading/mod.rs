//! Reading audit logs back: plain, gzip and zstd, the configured file together
//! with what was rotated away, or files that somebody names.
//!
//! ```text
//! files (open, order) ─► lines (split, bounded) ─► filter ─► Record ─► who asked
//!                                    follow (a log that grows) ─┘
//! ```
//!
//! A log is read as it is: what is no record is counted and passed over, never
//! fatal, and what a record says is text from outside, which must not reach a
//! terminal before it went through [`crate::diagnose::plain_text`]. Nothing
//! here may write to a log, or hold more of it than one line.

mod files;
mod filter;
mod follow;
mod lines;
mod record;
mod stream;
#[cfg(test)]
mod tests;
mod verify;
mod when;
mod words;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use files::LogFile;
pub(super) use files::{compressed_of, each_line, first_seq, rotated};
pub use filter::Filter;
use filter::Sieve;
pub use follow::{Follow, Followed};
use lines::{Ended, Line};

pub use record::{Caller, Credential, HostNames, Record, Request, Text};
pub use stream::Stream;
pub use verify::{Kind, Problem, Verified};
pub use when::When;
pub use words::{account, one_line, what};

/// The logs to be read, oldest first, open already: a rotation meanwhile
/// changes nothing.
#[derive(Debug)]
pub struct Logs(Vec<LogFile>);

/// Why a log was not read.
#[derive(Debug)]
pub enum ReadingError {
    /// It could not be opened or read.
    File(PathBuf, io::Error),
    /// What was read could not be passed on; a closed pipe, mostly.
    Output(io::Error),
}

/// What was in the logs, and what of it was no record.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Lines with something on them.
    pub lines: u64,
    /// Records that the filter let through.
    pub matched: u64,
    /// Lines that are no record of this program.
    pub foreign: u64,
    /// Last lines without an end: half written, or being written.
    pub unended: u64,
    /// Records with fields that this version does not know.
    pub unknown_fields: u64,
    /// Compressed files that break off or are damaged.
    pub damaged: Vec<PathBuf>,
}

/// How far the reading is, in bytes as they are on disk.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Read so far.
    pub done: u64,
    /// Of all files whose size is known.
    pub total: u64,
}

impl Logs {
    /// Whether none of them was changed for so long.
    pub fn is_untouched_for(&self, time: Duration) -> bool {
        self.0.iter().all(|file| file.is_untouched_for(time))
    }

    /// `file` and what was rotated away beside it. No file at all is no error:
    /// there is nothing in it.
    ///
    /// # Errors
    /// A file that is there and cannot be opened.
    pub fn with_rotated(file: &Path) -> Result<Self, ReadingError> {
        files::with_rotated(file).map(Self)
    }

    /// These files; `-` is standard input.
    ///
    /// # Errors
    /// A file that cannot be opened.
    pub fn named(files: &[PathBuf]) -> Result<Self, ReadingError> {
        files::named(files).map(Self)
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Hands every record that `filter` lets through to `each`, with the line
    /// it stands on, in the order of the files.
    ///
    /// # Errors
    /// A file that cannot be read, and what `each` fails with.
    pub fn read(
        self,
        filter: &Filter,
        progress: &mut dyn FnMut(Progress),
        each: &mut dyn FnMut(&Record<'_>, &str) -> io::Result<()>,
    ) -> Result<Tally, ReadingError> {
        let sieve = &Sieve::new(filter);
        let total = self.0.iter().map(LogFile::len).sum();
        let mut tally = Tally::default();
        let mut before = 0;
        let begins: Vec<_> = self
            .0
            .iter()
            .map(|it| it.first().map(str::to_owned))
            .collect();
        for (at, file) in self.0.into_iter().enumerate() {
            let len = file.len();
            // A file is over before the next one begins.
            let next = begins.get(at + 1).and_then(Option::as_deref);
            if next.is_none_or(|next| !sieve.is_before(next)) {
                let path = file.path().to_owned();
                let mut failed = None;
                let ended = file.lines(
                    &mut |done| {
                        let done = before + done;
                        progress(Progress { done, total });
                    },
                    &mut |line| match one(line, sieve, &mut tally, each) {
                        Ok(()) => true,
                        Err(error) => {
                            failed = Some(error);
                            false
                        }
                    },
                );
                if let Some(error) = failed {
                    return Err(ReadingError::Output(error));
                }
                match ended {
                    Ok(Ended::Whole) => {}
                    Ok(Ended::Damaged) => tally.damaged.push(path),
                    Err(error) => return Err(ReadingError::File(path, error)),
                }
            }
            before += len;
        }
        Ok(tally)
    }

    /// The line of the record with this id, the newest file first.
    ///
    /// # Errors
    /// As [`Logs::read`].
    pub fn find(mut self, id: &str) -> Result<Option<String>, ReadingError> {
        let filter = Filter {
            id: Some(id.to_owned()),
            ..Filter::default()
        };
        self.0.reverse();
        for file in self.0 {
            let mut found = None;
            let look = &mut |_: &Record<'_>, line: &str| {
                found = Some(line.to_owned());
                // Enough was read.
                Err(io::ErrorKind::Other.into())
            };
            match Self(vec![file]).read(&filter, &mut |_| {}, look) {
                Ok(_) | Err(ReadingError::Output(_)) => {}
                Err(error) => return Err(error),
            }
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }
}

fn one(
    line: Line<'_>,
    sieve: &Sieve<'_>,
    tally: &mut Tally,
    each: &mut dyn FnMut(&Record<'_>, &str) -> io::Result<()>,
) -> io::Result<()> {
    let line = match line {
        Line::Whole([]) => return Ok(()),
        Line::Whole(line) => {
            tally.lines += 1;
            line
        }
        Line::TooLong => {
            tally.lines += 1;
            tally.foreign += 1;
            return Ok(());
        }
        Line::Unended(_) => {
            tally.unended += 1;
            return Ok(());
        }
    };
    // What does not even look like a record is counted whatever is asked for.
    if !(line.starts_with(b"{") && line.ends_with(b"}")) {
        tally.foreign += 1;
        return Ok(());
    }
    if sieve.rules_out(line) {
        return Ok(());
    }
    let Some((record, line)) = Record::parse(line) else {
        tally.foreign += 1;
        return Ok(());
    };
    tally.unknown_fields += u64::from(record.unknown_fields > 0);
    if sieve.lets_through(&record) {
        tally.matched += 1;
        each(&record, line)?;
    }
    Ok(())
}

impl Tally {
    /// What was passed over, in words; `None` where nothing was.
    pub fn passed_over(&self) -> Option<String> {
        let mut parts = Vec::new();
        let mut say = |count: u64, one: &str, many: &str| match count {
            0 => {}
            1 => parts.push(format!("1 {one}")),
            _ => parts.push(format!("{count} {many}")),
        };
        say(self.foreign, "line is no record", "lines are no records");
        say(
            self.unended,
            "last line is not whole",
            "last lines are not whole",
        );
        say(
            self.unknown_fields,
            "record has fields unknown to this version",
            "records have fields unknown to this version",
        );
        for path in &self.damaged {
            parts.push(format!("{} breaks off or is damaged", path.display()));
        }
        (!parts.is_empty()).then(|| parts.join("; "))
    }
}

impl fmt::Display for ReadingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path, error) => {
                write!(f, "{} cannot be read: {error}", path.display())?;
                match error.kind() {
                    io::ErrorKind::PermissionDenied => {
                        f.write_str("; the log is for root and the daemon's group")
                    }
                    _ => Ok(()),
                }
            }
            Self::Output(error) => write!(f, "what was read could not be printed: {error}"),
        }
    }
}

impl std::error::Error for ReadingError {}
