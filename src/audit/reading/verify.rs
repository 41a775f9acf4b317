//! Whether a log is as it was written: each record hangs on the line before
//! it, and the head of the chain says where the log ended.
//!
//! What is wrong is named where it stands; nothing is judged twice. A chain
//! may begin in the middle: what was rotated away and removed is not missed.

use std::borrow::Cow;
use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use super::lines::{Ended, Line};
use super::{Logs, Progress, ReadingError, files};
use crate::audit::chain::{Digest, Link};
use crate::audit::head::Head;
use crate::sorted;

/// Of a log that is wrong from end to end, so much is told.
const PROBLEMS_MAX: usize = 1000;
/// Gaps into which a record may still come; far more than a sane log has.
const GAPS_MAX: usize = 100_000;
/// For a record that is being written.
const PATIENCE: Duration = Duration::from_millis(500);

/// What came of it.
#[derive(Debug, Default, Serialize)]
pub struct Verified {
    /// How many files were read.
    pub files: usize,
    /// How many records stand in them.
    pub records: u64,
    /// The number of the first.
    pub first: Option<u64>,
    /// The last, on which the next one will hang.
    pub last: Option<Link>,
    /// How many at its beginning are of a release that made no chain.
    pub unchained: u64,
    /// What was kept of the log outside of it.
    pub head: Option<Head>,
    /// How many records stand behind that.
    pub behind: u64,
    /// What is wrong, the first thousand.
    pub problems: Vec<Problem>,
    /// How much more is.
    pub more: u64,
}

/// Something that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// What.
    pub kind: Kind,
    /// Where it shows.
    pub file: PathBuf,
    /// Counted from 1.
    pub line: u64,
    /// The record, or the first of them.
    pub seq: Option<u64>,
    /// The last of them.
    pub to: Option<u64>,
}

/// Kinds of things that can be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A record is not the one that was written: the next one, or the head of
    /// the chain, has another hash of it.
    Altered,
    /// Records are not there.
    Missing,
    /// A record stands behind later ones.
    Reordered,
    /// A record with a number that was there before.
    Repeated,
    /// A part of a record.
    HalfWritten,
    /// A line that is no record.
    Foreign,
    /// Another chain begins, without anything before it.
    Anew,
    /// The log ends before the head of the chain.
    Cut,
    /// Records behind the last of a daemon that has ended.
    Added,
    /// What is compressed breaks off.
    Damaged,
}

impl Verified {
    /// Whether nothing is wrong.
    pub fn is_whole(&self) -> bool {
        self.problems.is_empty()
    }
}

impl Logs {
    /// Follows the chain through all files. `head` is what is kept of a log
    /// that goes on, read before this was opened.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn verify(
        mut self,
        head: Option<Head>,
        progress: &mut dyn FnMut(Progress),
    ) -> Result<Verified, ReadingError> {
        let total = self.0.iter().map(super::LogFile::len).sum();
        files::sort_by_number(&mut self.0);
        let mut chain = Chain::new(head);
        let mut before = 0;
        for file in self.0 {
            let len = file.len();
            chain.begin(file.path());
            let told = &mut |done| {
                let done = before + done;
                progress(Progress { done, total });
            };
            let ended = file.lines(told, &mut |line| {
                chain.line(line);
                true
            });
            match ended {
                Ok(Ended::Whole) => {}
                Ok(Ended::Damaged) => chain.say(Kind::Damaged, None, None),
                Err(error) => return Err(ReadingError::File(chain.at.file, error)),
            }
            before += len;
        }
        Ok(chain.end())
    }
}

#[derive(Clone, Debug, Default)]
struct At {
    file: PathBuf,
    line: u64,
}

/// Records that have not come yet.
struct Gap {
    from: u64,
    to: u64,
    /// Of the record before them.
    before: Digest,
    /// What the record behind them says of the last of them.
    after: Option<Digest>,
    at: At,
}

struct Chain {
    found: Verified,
    at: At,
    /// Where the line stands in the file, as far as that is known.
    offset: Option<u64>,
    last: Option<Link>,
    last_at: At,
    gaps: Vec<Gap>,
    /// Lines behind the last record that were one.
    broken: Vec<usize>,
    /// What stands at the end of a file, without an end.
    torn: Option<(At, Vec<u8>, Option<u64>)>,
    /// A record with a place in the chain was there.
    chained: bool,
    /// Records that were there before, and hang on each other.
    again: Option<Again>,
}

/// As where a file was copied, and is not cut yet: the same once more.
struct Again {
    at: At,
    first: u64,
    last: Link,
    /// It hangs on nothing: else another chain.
    is_new: bool,
    /// It has another record in place of the head.
    misses_head: bool,
}

#[derive(Deserialize)]
struct Chained<'a> {
    seq: u64,
    #[serde(borrow, default, deserialize_with = "there")]
    prev: Option<Prev<'a>>,
}

/// `None` in the first record of all.
#[derive(Deserialize)]
struct Prev<'a>(#[serde(borrow)] Option<Cow<'a, str>>);

fn there<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Prev<'de>>, D::Error> {
    Prev::deserialize(from).map(Some)
}

impl Chain {
    fn new(head: Option<Head>) -> Self {
        Self {
            found: Verified {
                head,
                ..Verified::default()
            },
            at: At::default(),
            offset: Some(0),
            last: None,
            last_at: At::default(),
            gaps: Vec::new(),
            broken: Vec::new(),
            torn: None,
            chained: false,
            again: None,
        }
    }

    fn begin(&mut self, path: &Path) {
        self.found.files += 1;
        self.at = At {
            file: path.to_owned(),
            line: 0,
        };
        self.offset = Some(0);
    }

    fn line(&mut self, line: Line<'_>) {
        self.at.line += 1;
        if let Some((at, torn, _)) = self.torn.take() {
            // Copytruncate copies a file that is being written: what it has
            // only a part of stands whole in the next.
            if !matches!(line, Line::Whole(line) if line.starts_with(&torn)) {
                self.say_at(at, Kind::HalfWritten, None, None);
            }
        }
        match line {
            Line::Whole(line) => {
                match serde_json::from_slice::<Chained<'_>>(line) {
                    Ok(record) => self.record(&record, line),
                    Err(_) => self.no_record(line),
                }
                let len = u64::try_from(line.len()).unwrap_or(0) + 1;
                self.offset = self.offset.map(|offset| offset + len);
            }
            Line::TooLong => {
                self.say(Kind::Foreign, None, None);
                self.offset = None;
            }
            Line::Unended(rest) => {
                self.torn = Some((self.at.clone(), rest.to_owned(), self.offset));
            }
        }
    }

    fn no_record(&mut self, line: &[u8]) {
        let is_json = || serde_json::from_slice::<IgnoredAny>(line).is_ok();
        if line.starts_with(b"{") && !is_json() {
            self.say(Kind::HalfWritten, None, None);
            if let Some(said) = self.found.problems.len().checked_sub(1) {
                self.broken.push(said);
            }
        } else {
            self.say(Kind::Foreign, None, None);
        }
    }

    fn record(&mut self, record: &Chained<'_>, line: &[u8]) {
        let hash = Digest::of(line);
        let mut link = Link {
            seq: record.seq,
            hash,
        };
        let prev = match &record.prev {
            Some(Prev(prev)) => prev.as_deref().and_then(Digest::parse),
            None => None,
        };
        self.found.records += 1;
        let broken = std::mem::take(&mut self.broken);
        let is_unchained = record.prev.is_none() && !self.chained;
        self.found.unchained += u64::from(is_unchained);
        self.chained |= !is_unchained;
        if self.is_again(link, prev) {
            return;
        }
        let Some(last) = self.last else {
            self.found.first = Some(link.seq);
            self.begin_behind_head(link.seq, prev);
            return self.take(link);
        };
        let next = last.seq.saturating_add(1);
        let hangs = prev == Some(last.hash) || is_unchained;
        if hangs && link.seq != next && !is_unchained {
            // It says what it hangs on, so its number is what is wrong.
            self.say(Kind::Altered, Some(next), None);
            link.seq = next;
        }
        if link.seq == next {
            if !hangs {
                let at = self.last_at.clone();
                self.say_at(at, Kind::Altered, Some(last.seq), None);
            }
            self.take(link);
        } else if link.seq > next {
            let count = u64::try_from(broken.len()).unwrap_or(0);
            if link.seq - next == count {
                for (said, seq) in broken.iter().zip(next..) {
                    if let Some(problem) = self.found.problems.get_mut(*said) {
                        problem.seq = Some(seq);
                    }
                }
            } else if self.gaps.len() < GAPS_MAX {
                self.gaps.push(Gap {
                    from: next,
                    to: link.seq - 1,
                    before: last.hash,
                    after: prev,
                    at: self.at.clone(),
                });
            } else {
                self.say(Kind::Missing, Some(next), Some(link.seq - 1));
            }
            self.take(link);
        } else if let Some(at) = self.gap_with(link.seq) {
            self.say(Kind::Reordered, Some(link.seq), None);
            self.fill(at, link, prev);
        } else {
            self.again = Some(Again {
                at: self.at.clone(),
                first: link.seq,
                last: link,
                is_new: prev.is_none() && link.seq == 1,
                misses_head: self.misses_head(link),
            });
        }
    }

    /// No log that is whole begins behind its head, but for what was removed
    /// with all before it.
    fn begin_behind_head(&mut self, first: u64, prev: Option<Digest>) {
        if let Some(head) = self.found.head.map(|head| head.link)
            && first > head.seq
            && !(first == head.seq.saturating_add(1) && prev == Some(head.hash))
        {
            self.say(Kind::Missing, Some(head.seq), Some(first - 1));
        }
    }

    /// Whether the record goes on with what was there before. If that leads to
    /// the last record, all of it is the same; else it is told.
    fn is_again(&mut self, link: Link, prev: Option<Digest>) -> bool {
        let Some(mut again) = self.again.take() else {
            return false;
        };
        let goes_on = link.seq == again.last.seq.saturating_add(1) && prev == Some(again.last.hash);
        if self.last == Some(again.last) {
            return false;
        }
        if !goes_on {
            self.tell_again(again);
            return false;
        }
        again.last = link;
        again.misses_head |= self.misses_head(link);
        self.again = Some(again);
        true
    }

    fn tell_again(&mut self, again: Again) {
        if self.last == Some(again.last) {
            return;
        }
        let (first, last) = (again.first, again.last);
        let to = Some(last.seq).filter(|to| *to > first);
        if !again.is_new {
            return self.say_at(again.at, Kind::Repeated, Some(first), to);
        }
        self.say_at(again.at, Kind::Anew, Some(first), None);
        if again.misses_head {
            let head = self.found.head.map(|head| head.link.seq);
            self.say(Kind::Altered, head, None);
        }
        self.last = Some(last);
        self.last_at = self.at.clone();
    }

    fn take(&mut self, link: Link) {
        self.check_head(link);
        self.last = Some(link);
        self.last_at = self.at.clone();
    }

    fn check_head(&mut self, link: Link) {
        let head = self.found.head.map(|head| head.link);
        self.found.behind += u64::from(head.is_some_and(|head| link.seq > head.seq));
        if self.misses_head(link) {
            self.say(Kind::Altered, Some(link.seq), None);
        }
    }

    fn misses_head(&self, link: Link) -> bool {
        let head = self.found.head.map(|head| head.link);
        head.is_some_and(|head| head.seq == link.seq && head.hash != link.hash)
    }

    fn gap_with(&self, seq: u64) -> Option<usize> {
        let holds = |gap: &Gap| (gap.from..=gap.to).contains(&seq);
        self.gaps.iter().position(holds)
    }

    /// A record came late; it must hang where it belongs all the same.
    fn fill(&mut self, at: usize, link: Link, prev: Option<Digest>) {
        self.check_head(link);
        let gap = self.gaps.remove(at);
        let hangs_before = link.seq > gap.from || prev == Some(gap.before);
        let hangs_behind = link.seq < gap.to || gap.after == Some(link.hash);
        if !hangs_before || !hangs_behind {
            self.say(Kind::Altered, Some(link.seq), None);
        }
        if link.seq > gap.from {
            self.gaps.push(Gap {
                to: link.seq - 1,
                after: prev,
                at: gap.at.clone(),
                ..gap
            });
        }
        if link.seq < gap.to {
            self.gaps.push(Gap {
                from: link.seq + 1,
                before: link.hash,
                ..gap
            });
        }
    }

    fn end(mut self) -> Verified {
        if let Some((at, torn, offset)) = self.torn.take()
            && !is_being_written(&at.file, &torn, offset)
        {
            self.say_at(at, Kind::HalfWritten, None, None);
        }
        sorted::by_key(&mut self.gaps, |gap| gap.from);
        for gap in std::mem::take(&mut self.gaps) {
            self.say_at(gap.at, Kind::Missing, Some(gap.from), Some(gap.to));
        }
        if let Some(again) = self.again.take() {
            self.tell_again(again);
        }
        let last = self.last.map_or(0, |last| last.seq);
        if let Some(Head { link, ended }) = self.found.head {
            if link.seq > last {
                self.say(Kind::Cut, Some(last + 1), Some(link.seq));
            } else if ended && last > link.seq {
                self.say(Kind::Added, Some(link.seq + 1), Some(last));
            }
        }
        self.found.last = self.last;
        self.found
    }

    fn say(&mut self, kind: Kind, seq: Option<u64>, to: Option<u64>) {
        self.say_at(self.at.clone(), kind, seq, to);
    }

    fn say_at(&mut self, At { file, line }: At, kind: Kind, seq: Option<u64>, to: Option<u64>) {
        let problem = Problem {
            kind,
            file,
            line,
            seq,
            to,
        };
        if self.found.problems.len() >= PROBLEMS_MAX {
            self.found.more += 1;
        } else if !self.found.problems.contains(&problem) {
            self.found.problems.push(problem);
        }
    }
}

/// Whether the rest of a line comes while one looks.
fn is_being_written(path: &Path, torn: &[u8], offset: Option<u64>) -> bool {
    let Some(offset) = offset else { return false };
    let look = || -> io::Result<bool> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open(path)?;
        if !file.metadata()?.is_file() {
            return Ok(false);
        }
        file.seek(SeekFrom::Start(offset))?;
        let mut bytes = Vec::new();
        file.take(2 * 1024 * 1024).read_to_end(&mut bytes)?;
        let len = memchr::memchr(b'\n', &bytes);
        Ok(len.is_some() && bytes.starts_with(torn))
    };
    let begun = Instant::now();
    // Standard input, and what is gone, says nothing more.
    while let Ok(ended) = look() {
        if ended || begun.elapsed() > PATIENCE {
            return ended;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    false
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = crate::diagnose::plain_text(&self.file.to_string_lossy());
        write!(f, "{file}:{}: ", self.line)?;
        let seq = match (self.seq, self.to) {
            (Some(seq), Some(to)) if to > seq => format!("records #{seq} to #{to}"),
            (Some(seq), _) => format!("record #{seq}"),
            (None, _) => "a record".to_owned(),
        };
        let are = match self.to > self.seq {
            true => "are",
            false => "is",
        };
        match self.kind {
            Kind::Altered => write!(f, "{seq} is altered"),
            Kind::Missing => write!(f, "{seq} {are} missing before this line"),
            Kind::Reordered => write!(f, "{seq} stands behind later ones"),
            Kind::Repeated => match self.to > self.seq {
                true => write!(f, "{seq} were there before"),
                false => write!(f, "{seq} was there before"),
            },
            Kind::HalfWritten => write!(f, "{seq} is half written"),
            Kind::Foreign => f.write_str("this line is no record"),
            Kind::Anew => f.write_str("another chain begins here"),
            Kind::Cut => write!(f, "the log ends here; {seq} {are} missing behind it"),
            Kind::Added => write!(f, "{seq} {are} behind the last of a daemon that had ended"),
            Kind::Damaged => f.write_str("what is compressed breaks off, or is damaged"),
        }
    }
}
