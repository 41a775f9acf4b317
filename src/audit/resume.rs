//! Where the chain goes on after a start: what the files hold, against what the
//! run before has left of it.
//!
//! A daemon that was killed leaves records behind the head that it kept, and
//! they hang on it. Whatever does not is nobody's to go on from, and is told.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::chain::{Digest, Link};
use super::head::{Head, Left};
use super::{file, reading, rotate};

/// Where the next record hangs.
pub(super) struct Resumed {
    pub(super) head: Option<Link>,
    /// The log is not as it was left.
    pub(super) altered: Option<Altered>,
}

/// What is told of that.
#[derive(Debug, Serialize)]
pub(super) struct Altered {
    file: PathBuf,
    left: Option<Link>,
    found: Option<Link>,
}

/// `last`: of the log at `path`.
pub(super) fn resume(path: &Path, last: Option<Link>, left: Left) -> io::Result<Resumed> {
    let whole = |head| Resumed {
        head,
        altered: None,
    };
    let altered = |head, left, found| Resumed {
        head,
        altered: Some(Altered {
            file: path.to_owned(),
            left,
            found,
        }),
    };
    let Left::Head(Head { link: left, ended }) = left else {
        let newest = newest(last, rotated(path).map(|(_, link)| link));
        return Ok(match left {
            Left::Unreadable => altered(newest, None, newest),
            _ => whole(newest),
        });
    };
    if last == Some(left) {
        return Ok(whole(last));
    }
    let mut reached = None;
    if last.is_some_and(|last| last.seq > left.seq) {
        let from = file::start_of(&mut File::open(path)?, left.seq)?;
        reached = follow(&[(path, from)], left)?;
        if reached.is_some() && reached == last {
            return Ok(match ended {
                // A daemon that has ended has left none behind.
                true => altered(Some(left), Some(left), last),
                false => whole(last),
            });
        }
    }
    // Rotated since, by whomever.
    let Some((rotated, link)) = rotated(path) else {
        return Ok(altered(reached.or(Some(left)), Some(left), last));
    };
    let newest = newest(last, Some(link));
    if reached.is_none() {
        reached = match newest == Some(left) {
            true => newest,
            false => follow(&[(&rotated, 0), (path, 0)], left)?,
        };
    }
    Ok(
        match newest == reached && !(ended && reached != Some(left)) {
            true => whole(reached),
            false => altered(reached.or(Some(left)), Some(left), newest),
        },
    )
}

fn newest(one: Option<Link>, other: Option<Link>) -> Option<Link> {
    match (one, other) {
        (Some(one), Some(other)) if other.seq > one.seq => Some(other),
        (one, other) => one.or(other),
    }
}

fn rotated(path: &Path) -> Option<(PathBuf, Link)> {
    rotate::newest(path)
        .inspect_err(|error| tracing::warn!("what was rotated away cannot be read: {error}"))
        .ok()
        .flatten()
}

/// The last record that hangs on `from`, by those in between, in files from
/// these places on; `None` where it is not there itself. What comes a second
/// time, as where a copy was made and nothing cut, is passed over.
fn follow(files: &[(&Path, u64)], from: Link) -> io::Result<Option<Link>> {
    #[derive(Deserialize)]
    struct Chained {
        seq: u64,
        prev: Option<Digest>,
    }
    let mut reached = None;
    for (path, offset) in files {
        reading::each_line(path, *offset, &mut |line| {
            let Ok(Chained { seq, prev }) = serde_json::from_slice(line) else {
                return;
            };
            let hangs = |on: Link| seq == on.seq.saturating_add(1) && prev == Some(on.hash);
            let is_next = match reached {
                None => seq == from.seq,
                Some(last) => hangs(last),
            };
            if is_next {
                let hash = Digest::of(line);
                let link = Link { seq, hash };
                if reached.is_some() || link == from {
                    reached = Some(link);
                }
            }
        })?;
    }
    Ok(reached)
}

#[cfg(test)]
mod tests;
