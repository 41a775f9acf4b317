//! Which records are asked for. Several values of one kind: any of them; of
//! several kinds: all.

use memchr::memmem::Finder;

use super::record::Record;
use crate::policy::PathFilter;
use crate::provider::Provider;
use crate::request::CanonicalPath;

/// How far behind the beginning of a line its time stands, at most.
const TIME_WITHIN: usize = 64;
const TIME_KEY: &[u8] = b"\"time\":\"";

/// What is asked for; the default is everything.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// By the names of accounts.
    pub users: Vec<String>,
    /// By uids.
    pub uids: Vec<u32>,
    /// By patterns and sets, as a policy has them.
    pub paths: Vec<PathFilter>,
    /// By path classes.
    pub classes: Vec<String>,
    /// `allow` or `deny`.
    pub decision: Option<String>,
    /// By reasons.
    pub reasons: Vec<String>,
    /// By events.
    pub events: Vec<String>,
    /// By programs: a whole path, or the name of its file.
    pub exes: Vec<String>,
    /// By units, also without what follows the last dot.
    pub units: Vec<String>,
    /// From this time on, in the form of records.
    pub since: Option<String>,
    /// Before this time.
    pub until: Option<String>,
    /// Of this id.
    pub id: Option<String>,
    /// That handed out this key.
    pub access_key: Option<String>,
}

/// A filter, made ready: it looks for the words that are asked for before a
/// line is read, which is far quicker where few have them.
pub(super) struct Sieve<'f> {
    filter: &'f Filter,
    needles: Vec<Needle>,
}

/// Bytes, one of which each line that matters has.
struct Needle(Vec<Finder<'static>>);

impl<'f> Sieve<'f> {
    pub(super) fn new(filter: &'f Filter) -> Self {
        let uids: Vec<_> = filter.uids.iter().map(ToString::to_string).collect();
        let words = [
            uids.as_slice(),
            &filter.users,
            &filter.classes,
            &filter.reasons,
            &filter.events,
            &filter.exes,
            &filter.units,
            filter.decision.as_slice(),
            filter.id.as_slice(),
            filter.access_key.as_slice(),
        ];
        Self {
            filter,
            needles: words
                .into_iter()
                .filter(|words| !words.is_empty())
                .map(Needle::new)
                .collect(),
        }
    }

    /// Whether all that is older than `time` is too old.
    pub(super) fn is_before(&self, time: &str) -> bool {
        let since = self.filter.since.as_deref();
        since.is_some_and(|since| time <= since)
    }

    /// Whether a line certainly does not matter; in doubt, no.
    pub(super) fn rules_out(&self, line: &[u8]) -> bool {
        if self.filter.since.is_some() || self.filter.until.is_some() {
            let begin = line.get(..TIME_WITHIN.min(line.len())).unwrap_or_default();
            let time = memchr::memmem::find(begin, TIME_KEY)
                .and_then(|at| line.get(at + TIME_KEY.len()..))
                .and_then(|rest| rest.get(..memchr::memchr(b'"', rest)?))
                .and_then(|time| std::str::from_utf8(time).ok());
            if time.is_some_and(|time| !self.filter.is_within(time)) {
                return true;
            }
        }
        !self.needles.iter().all(|needle| needle.is_in(line))
    }

    pub(super) fn lets_through(&self, record: &Record<'_>) -> bool {
        self.filter.lets_through(record)
    }
}

impl Filter {
    fn is_within(&self, time: &str) -> bool {
        self.since.as_deref().is_none_or(|since| time >= since)
            && self.until.as_deref().is_none_or(|until| time < until)
    }

    /// Whether it is asked for.
    pub fn lets_through(&self, record: &Record<'_>) -> bool {
        let caller = &record.caller;
        let path = || record.request.path.as_deref();
        self.is_within(&record.time)
            && is_one_of(&self.users, caller.user.as_deref())
            && (self.uids.is_empty() || caller.uid.is_some_and(|uid| self.uids.contains(&uid)))
            && is_one_of(&self.classes, record.request.class.as_deref())
            && is_one_of(self.decision.as_slice(), record.decision.as_deref())
            && is_one_of(&self.reasons, record.reason.as_deref())
            && is_one_of(&self.events, Some(&record.event))
            && is_one_of(self.id.as_slice(), record.id.as_deref())
            && (self.exes.is_empty() || caller.exe.as_deref().is_some_and(|it| self.is_exe(it)))
            && (self.units.is_empty() || caller.unit.as_deref().is_some_and(|it| self.is_unit(it)))
            && (self.paths.is_empty() || path().is_some_and(|it| self.is_path(it)))
            && (self.access_key.is_none()
                || record
                    .credential
                    .as_ref()
                    .is_some_and(|it| it.access_key_id.as_deref() == self.access_key.as_deref()))
    }

    fn is_exe(&self, exe: &str) -> bool {
        let name = exe.rsplit('/').next();
        self.exes
            .iter()
            .any(|wanted| wanted == exe || Some(wanted.as_str()) == name)
    }

    fn is_unit(&self, unit: &str) -> bool {
        let bare = unit.rsplit_once('.').map(|(bare, _)| bare);
        self.units
            .iter()
            .any(|wanted| wanted == unit || Some(wanted.as_str()) == bare)
    }

    fn is_path(&self, path: &str) -> bool {
        // The one provider whose records there are.
        let path = CanonicalPath::parse(Provider::Aws, path.as_bytes());
        path.is_ok_and(|path| self.paths.iter().any(|wanted| wanted.covers(&path)))
    }
}

fn is_one_of(wanted: &[String], value: Option<&str>) -> bool {
    wanted.is_empty() || value.is_some_and(|value| wanted.iter().any(|it| it == value))
}

impl Needle {
    /// Words as they stand in JSON.
    fn new(words: &[String]) -> Self {
        let finders = words.iter().filter_map(|word| {
            let quoted = serde_json::to_string(word).ok()?;
            let inner = quoted.strip_prefix('"')?.strip_suffix('"')?;
            Some(Finder::new(inner.as_bytes()).into_owned())
        });
        Self(finders.collect())
    }

    fn is_in(&self, line: &[u8]) -> bool {
        self.0.iter().any(|finder| finder.find(line).is_some())
    }
}
