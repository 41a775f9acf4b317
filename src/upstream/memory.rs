//! What the service said and still holds: facts of this boot, and credentials
//! for a moment.
//!
//! Pure: the time is handed in. This decides nothing about who may read; it is
//! asked by permit, like the service. It must never give out credentials that
//! end soon, nor a set after a newer one of the same role has been seen.

use std::collections::HashMap;
use std::ops::Range;
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use serde::Deserialize;

use super::Answer;
use crate::ids::MetadataAddr;
use crate::provider::Keep;
use crate::request::CanonicalPath;

/// A thousand clients that come at once at boot come within this.
const CREDENTIALS_FOR: Duration = Duration::from_secs(5);
/// SDKs take less than about 25 minutes for an outage, and ask anew. Half an
/// hour must be left when the answer arrives, and before it leaves it may wait
/// for the witness and for its record: hence some seconds more.
const LEFT_MIN: Duration = Duration::from_secs(30 * 60 + 5);
/// Of all bodies together, and of one, in bytes.
const BYTES_MAX: usize = 1024 * 1024;
const BODY_MAX: usize = 64 * 1024;
const ENTRIES_MAX: usize = 512;
/// Roles that are told apart; an instance has one or two.
const ROLES_MAX: usize = 64;

/// One thing that can be asked, by GET and with a token of the daemon's.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Key {
    pub(super) service: MetadataAddr,
    pub(super) path: CanonicalPath,
}

#[derive(Default)]
pub(super) struct Memory {
    entries: HashMap<Key, Entry>,
    bytes: usize,
    newest: HashMap<String, Set>,
}

struct Entry {
    answer: Answer,
    /// By a clock that may be set back. `None`: for the boot, which ends with
    /// this process.
    holds: Option<Range<SystemTime>>,
}

/// One set of credentials, by what tells it from others.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Set {
    key_id: String,
    ends: SystemTime,
}

/// Of a credentials document; the keys in it are not read.
#[derive(Deserialize)]
struct Document {
    #[serde(rename = "Code")]
    code: String,
    #[serde(rename = "AccessKeyId")]
    key_id: String,
    #[serde(rename = "Expiration")]
    expiration: String,
}

impl Memory {
    /// What was said of this, where it still holds.
    pub(super) fn recall(&mut self, key: &Key, now: SystemTime) -> Option<Answer> {
        let entry = self.entries.get(key)?;
        match &entry.holds {
            Some(holds) if !holds.contains(&now) => {
                self.forget(key);
                None
            }
            _ => Some(entry.answer.clone()),
        }
    }

    /// Takes in an answer: keeps it where it may be kept, and learns from
    /// credentials which set is the newest.
    pub(super) fn learn(&mut self, key: &Key, answer: &Answer, now: SystemTime) {
        self.forget(key);
        let keep = key.path.keep();
        if keep == Keep::Never || answer.status() != StatusCode::OK {
            return;
        }
        let holds = match (keep, Set::of(answer)) {
            (Keep::Boot, None) if !answer.names_a_secret_key() => None,
            (Keep::Briefly, Some(set)) => {
                if self.supersedes(&key.path, &set) {
                    return;
                }
                let last = set.ends.checked_sub(LEFT_MIN);
                // Also one that ends too soon to be kept is the newest.
                self.rotated(&key.path, set);
                match last {
                    Some(last) if now < last => Some(now..last.min(now + CREDENTIALS_FOR)),
                    _ => return,
                }
            }
            // Credentials where none belong, or none where they do.
            _ => return,
        };
        let size = answer.body().len();
        if size > BODY_MAX {
            return;
        }
        if self.entries.len() >= ENTRIES_MAX || self.bytes + size > BYTES_MAX {
            // More than a host's programs ever ask for: somebody makes up
            // paths. What is in use will be back with the next answer.
            self.entries.clear();
            self.bytes = 0;
        }
        self.bytes += size;
        let answer = answer.clone();
        self.entries.insert(key.clone(), Entry { answer, holds });
    }

    /// Whether a newer set of the same role was seen than the one in this
    /// answer.
    pub(super) fn is_superseded(&self, path: &CanonicalPath, answer: &Answer) -> bool {
        Set::of(answer).is_some_and(|set| self.supersedes(path, &set))
    }

    fn supersedes(&self, path: &CanonicalPath, set: &Set) -> bool {
        let newest = role(path).and_then(|role| self.newest.get(role));
        newest.is_some_and(|newest| newest.ends > set.ends)
    }

    /// All that is kept of older sets of this role goes.
    fn rotated(&mut self, path: &CanonicalPath, set: Set) {
        let Some(role) = role(path) else { return };
        if self.newest.get(role) == Some(&set) {
            return;
        }
        let of_role =
            |key: &Key| key.path.keep() == Keep::Briefly && self::role(&key.path) == Some(role);
        let old: Vec<Key> = self
            .entries
            .keys()
            .filter(|key| of_role(key))
            .cloned()
            .collect();
        for key in old {
            self.forget(&key);
        }
        if self.newest.len() >= ROLES_MAX {
            self.newest.clear();
        }
        self.newest.insert(role.to_owned(), set);
    }

    fn forget(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes = self.bytes.saturating_sub(entry.answer.body().len());
        }
    }
}

impl Set {
    fn of(answer: &Answer) -> Option<Self> {
        let document: Document = serde_json::from_slice(answer.body()).ok()?;
        let ends = humantime::parse_rfc3339(&document.expiration).ok()?;
        (document.code == "Success").then_some(Self {
            key_id: document.key_id,
            ends,
        })
    }
}

/// The last segment names it, under every version and parent.
fn role(path: &CanonicalPath) -> Option<&str> {
    path.segments().last()
}

#[cfg(test)]
mod tests;
