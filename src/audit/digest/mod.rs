//! What a log comes to: who asked for what, and what became of it, counted in
//! one pass.
//!
//! However long the log, and whatever somebody got into it, what is kept is
//! bounded; what finds no room is counted under one head, never left out.

mod history;
#[cfg(test)]
mod tests;
mod timeline;
mod words;

use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;

use serde::Deserialize;

use super::reading::{Record, When};
use crate::sorted;
pub use history::{Gap, Happened, History, Host};
pub use timeline::{Column, Timeline};
pub use words::Word;
use words::Words;

/// Accounts told apart.
const ACCOUNTS_MAX: usize = 2000;
/// Programs, paths, keys and words of their own kind told apart.
const PROGRAMS_MAX: usize = 4000;
const PATHS_MAX: usize = 20_000;
const KEYS_MAX: usize = 4000;
const REASONS_MAX: usize = 200;
/// Kinds of requests told apart; of one account, so that no account takes the
/// room of the others.
const KINDS_MAX: usize = 50_000;
const KINDS_OF_ACCOUNT_MAX: usize = 1000;
/// Rows of the other tables.
const ROWS_MAX: usize = 10_000;

/// How many, by what became of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Answered, and rightly.
    pub allowed: u64,
    /// Answered although the policy refuses it: observe, or a bypass.
    pub observed: u64,
    /// Refused.
    pub denied: u64,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Outcome {
    /// Refused.
    Denied,
    /// Answered although the policy refuses it.
    Observed,
    /// Answered.
    Allowed,
}

/// An account that asked, by its number in [`Digest::accounts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AccountId(usize);

/// An account that asked; the first one stands for all that found no room.
#[derive(Clone, Debug, Default)]
pub struct Account {
    /// As recorded.
    pub uid: Option<u32>,
    /// As recorded; not known of requests that were refused early.
    pub user: Option<String>,
    /// By class; `None` is what has none, as a malformed request.
    pub classes: BTreeMap<Option<&'static str>, Counts>,
    kinds: usize,
}

/// Requests alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind {
    /// Who asked.
    pub account: AccountId,
    /// The program.
    pub exe: Word,
    /// Of the path.
    pub class: Option<&'static str>,
    /// The path, or the raw target.
    pub path: Word,
    /// What became of it.
    pub outcome: Outcome,
    /// Why.
    pub reason: Word,
}

/// How often, and from when to when.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// How often.
    pub count: u64,
    /// When first and last.
    pub when: When,
}

/// A hand-out of credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HandOut {
    /// The key's id.
    pub key: Word,
    /// To whom.
    pub account: AccountId,
    /// By which program.
    pub exe: Word,
    /// The role.
    pub role: Word,
    /// When it ends.
    pub expiration: Word,
}

/// A limit that somebody ran into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LimitHit {
    /// Whose.
    pub account: AccountId,
    /// `limit` or `host_budget`.
    pub reason: Word,
    /// Which.
    pub detail: Word,
}

/// Requests without a token.
#[derive(Clone, Debug, Default)]
pub struct V1 {
    /// What became of them.
    pub counts: Counts,
    /// When first and last.
    pub when: When,
}

/// A program that asked.
#[derive(Clone, Debug, Default)]
pub struct Program {
    /// What became of it.
    pub counts: Counts,
    /// Who ran it; as many as are named.
    pub accounts: Vec<AccountId>,
}

/// Accounts that a program lists.
const ACCOUNTS_OF_PROGRAM: usize = 64;

/// What the log comes to.
#[derive(Debug)]
pub struct Digest {
    /// From the first record to the last.
    pub when: When,
    /// All of them.
    pub records: u64,
    /// Of requests and refused connections.
    pub counts: Counts,
    /// By time.
    pub timeline: Timeline,
    /// What happened beside requests, and what is missing.
    pub history: History,
    accounts: Vec<Account>,
    numbers: HashMap<(Option<u32>, Word), AccountId>,
    /// The account behind a uid, where a record names the uid alone.
    by_uid: HashMap<(Word, u32), AccountId>,
    kinds: HashMap<Kind, Seen>,
    programs: HashMap<Word, Program>,
    hand_outs: HashMap<HandOut, Seen>,
    limits: HashMap<LimitHit, Seen>,
    v1: HashMap<(AccountId, Word), V1>,
    /// Denials of which only a count was recorded.
    pub summarised: u64,
    users: Words,
    hosts: Words,
    exes: Words,
    paths: Words,
    keys: Words,
    reasons: Words,
}

/// What `limit.denials_summarised` says.
#[derive(Deserialize)]
struct Summary<'a> {
    uid: Option<u32>,
    #[serde(borrow)]
    reason: Option<std::borrow::Cow<'a, str>>,
    #[serde(borrow)]
    class: Option<std::borrow::Cow<'a, str>>,
    count: u64,
}

impl Default for Digest {
    fn default() -> Self {
        Self {
            when: When::default(),
            records: 0,
            counts: Counts::default(),
            timeline: Timeline::default(),
            history: History::default(),
            accounts: vec![Account::default()],
            numbers: HashMap::new(),
            by_uid: HashMap::new(),
            kinds: HashMap::new(),
            programs: HashMap::new(),
            hand_outs: HashMap::new(),
            limits: HashMap::new(),
            v1: HashMap::new(),
            summarised: 0,
            users: Words::new(ACCOUNTS_MAX),
            hosts: Words::new(REASONS_MAX),
            exes: Words::new(PROGRAMS_MAX),
            paths: Words::new(PATHS_MAX),
            keys: Words::new(KEYS_MAX),
            reasons: Words::new(REASONS_MAX),
        }
    }
}

impl Digest {
    /// One more record.
    pub fn add(&mut self, record: &Record<'_>) {
        self.records += 1;
        self.when.add(&record.time);
        self.history.add(record);
        match &*record.event {
            "request" | "connection.refused" => self.request(record),
            "limit.denials_summarised" => self.summary(record),
            _ => {}
        }
    }

    fn request(&mut self, record: &Record<'_>) {
        let outcome = Outcome::of(record);
        let account = self.account(record);
        let exe = self.exes.word(record.caller.exe.as_deref());
        let reason = self.reasons.word(record.reason.as_deref());
        let request = &record.request;
        let counted = self.count(
            Kind {
                account,
                exe,
                class: class(request.class.as_deref()),
                path: Word::None,
                outcome,
                reason,
            },
            request.path.as_deref().or(request.raw.as_deref()),
            1,
            &record.time,
        );
        if let Some(program) = room(&mut self.programs, exe, PROGRAMS_MAX) {
            program.counts += counted;
            if program.accounts.len() < ACCOUNTS_OF_PROGRAM && !program.accounts.contains(&account)
            {
                program.accounts.push(account);
            }
        }
        if request.imds.as_deref() == Some("v1")
            && let Some(v1) = room(&mut self.v1, (account, exe), ROWS_MAX)
        {
            v1.counts += counted;
            v1.when.add(&record.time);
        }
        if let Some(credential) = &record.credential {
            let mut word = |text: &Option<_>| self.keys.word(text.as_deref());
            let hand_out = HandOut {
                key: word(&credential.access_key_id),
                role: word(&credential.role),
                expiration: word(&credential.expiration),
                account,
                exe,
            };
            if let Some(seen) = room(&mut self.hand_outs, hand_out, ROWS_MAX) {
                seen.add(1, &record.time);
            }
        }
        if matches!(record.reason.as_deref(), Some("limit" | "host_budget")) {
            let detail = self.reasons.word(record.detail_word().as_deref());
            self.limit(account, reason, detail, 1, &record.time);
        }
    }

    fn summary(&mut self, record: &Record<'_>) {
        let Some(summary) = record
            .detail
            .and_then(|it| serde_json::from_str::<Summary<'_>>(it.get()).ok())
        else {
            return;
        };
        self.summarised += summary.count;
        let host = self.hosts.word(record.host.name.as_deref());
        let account = self.by_uid(host, summary.uid, None);
        let reason = self.reasons.word(summary.reason.as_deref());
        self.count(
            Kind {
                account,
                exe: Word::None,
                class: class(summary.class.as_deref()),
                path: Word::None,
                outcome: Outcome::Denied,
                reason,
            },
            None,
            summary.count,
            &record.time,
        );
        if matches!(summary.reason.as_deref(), Some("limit" | "host_budget")) {
            self.limit(account, reason, Word::None, summary.count, &record.time);
        }
    }

    fn limit(&mut self, account: AccountId, reason: Word, detail: Word, count: u64, time: &str) {
        let hit = LimitHit {
            account,
            reason,
            detail,
        };
        if let Some(seen) = room(&mut self.limits, hit, ROWS_MAX) {
            seen.add(count, time);
        }
    }

    fn count(&mut self, mut kind: Kind, path: Option<&str>, count: u64, time: &str) -> Counts {
        let counted = Counts::of(kind.outcome, count);
        self.counts += counted;
        self.timeline.add(time, counted);
        let Some(account) = self.accounts.get_mut(kind.account.0) else {
            return counted;
        };
        *account.classes.entry(kind.class).or_default() += counted;
        let is_full = account.kinds >= KINDS_OF_ACCOUNT_MAX || self.kinds.len() >= KINDS_MAX;
        kind.path = self.paths.word(path);
        if is_full && !self.kinds.contains_key(&kind) {
            // Fewer kinds: those of one account are then few.
            (kind.path, kind.exe) = (Word::Other, Word::Other);
        }
        let seen = self.kinds.entry(kind).or_insert_with(|| {
            account.kinds += 1;
            Seen::default()
        });
        seen.add(count, time);
        counted
    }

    fn account(&mut self, record: &Record<'_>) -> AccountId {
        let host = self.hosts.word(record.host.name.as_deref());
        self.by_uid(host, record.caller.uid, record.caller.user.as_deref())
    }

    fn by_uid(&mut self, host: Word, uid: Option<u32>, user: Option<&str>) -> AccountId {
        if let (None, Some(uid)) = (user, uid)
            && let Some(account) = self.by_uid.get(&(host, uid))
        {
            return *account;
        }
        let word = self.users.word(user);
        let account = match self.numbers.get(&(uid, word)) {
            Some(account) => *account,
            None if self.accounts.len() >= ACCOUNTS_MAX => AccountId(0),
            None => {
                let account = AccountId(self.accounts.len());
                self.numbers.insert((uid, word), account);
                self.accounts.push(Account {
                    uid,
                    user: self.users.text(word, OTHERS).map(str::to_owned),
                    ..Account::default()
                });
                account
            }
        };
        if let (Some(_), Some(uid)) = (user, uid)
            && (self.by_uid.len() < ACCOUNTS_MAX || self.by_uid.contains_key(&(host, uid)))
        {
            self.by_uid.insert((host, uid), account);
        }
        account
    }
}

/// What stands for texts that found no room.
const OTHERS: &str = "(others)";

impl Digest {
    /// Whoever asked, in the order of their coming.
    pub fn accounts(&self) -> impl Iterator<Item = (AccountId, &Account)> {
        let accounts = self.accounts.iter().enumerate();
        accounts
            .map(|(at, account)| (AccountId(at), account))
            .filter(|(_, account)| !account.classes.is_empty())
    }

    /// As people call it.
    pub fn name(&self, account: AccountId) -> String {
        match self.accounts.get(account.0) {
            Some(it) if account.0 > 0 => match (&it.user, it.uid) {
                (Some(user), _) => user.clone(),
                (None, Some(uid)) => format!("uid {uid}"),
                (None, None) => "unknown".to_owned(),
            },
            _ => OTHERS.to_owned(),
        }
    }

    /// Its uid.
    pub fn uid(&self, account: AccountId) -> Option<u32> {
        self.accounts.get(account.0)?.uid
    }

    /// Kinds of requests: what was refused first, then what was asked most.
    pub fn kinds(&self) -> Vec<(&Kind, &Seen)> {
        let mut kinds: Vec<_> = self.kinds.iter().collect();
        sorted::by(&mut kinds, |(one, seen), (other, also)| {
            let rest = |it: &Kind| (it.account, it.path, it.exe, it.class, it.reason);
            (one.outcome, also.count, rest(one)).cmp(&(other.outcome, seen.count, rest(other)))
        });
        kinds
    }

    /// Programs, those that asked most first.
    pub fn programs(&self) -> Vec<(Word, &Program)> {
        let mut programs: Vec<_> = self.programs.iter().map(|(exe, it)| (*exe, it)).collect();
        sorted::by_key(&mut programs, |(exe, it)| {
            (std::cmp::Reverse(it.counts.total()), *exe)
        });
        programs
    }

    /// Who was handed which key: the latest first.
    pub fn hand_outs(&self) -> Vec<(&HandOut, &Seen)> {
        let mut rows: Vec<_> = self.hand_outs.iter().collect();
        sorted::by(&mut rows, |(one, seen), (other, also)| {
            (&also.when.last, one).cmp(&(&seen.when.last, other))
        });
        rows
    }

    /// Who came without a token: those first that were answered.
    pub fn v1(&self) -> Vec<(AccountId, Word, &V1)> {
        let mut rows: Vec<_> = (self.v1.iter())
            .map(|((account, exe), v1)| (*account, *exe, v1))
            .collect();
        sorted::by_key(&mut rows, |(account, exe, v1)| {
            let counts = v1.counts;
            (
                std::cmp::Reverse((counts.allowed + counts.observed, counts.denied)),
                *account,
                *exe,
            )
        });
        rows
    }

    /// Who ran into which limit: most first.
    pub fn limits(&self) -> Vec<(&LimitHit, &Seen)> {
        let mut rows: Vec<_> = self.limits.iter().collect();
        sorted::by_key(&mut rows, |(hit, seen)| {
            (std::cmp::Reverse(seen.count), **hit)
        });
        rows
    }

    /// A program, or `None` where it is not known.
    pub fn exe(&self, word: Word) -> Option<&str> {
        self.exes.text(word, "(other programs)")
    }

    /// A path, or `None` where there is none.
    pub fn path(&self, word: Word) -> Option<&str> {
        self.paths.text(word, "(other paths)")
    }

    /// A reason, or a detail of one.
    pub fn reason(&self, word: Word) -> Option<&str> {
        self.reasons.text(word, OTHERS)
    }

    /// A key's id, a role, or an expiration.
    pub fn key(&self, word: Word) -> Option<&str> {
        self.keys.text(word, OTHERS)
    }
}

/// Its place, while there is room for it.
fn room<K: std::hash::Hash + Eq, V: Default>(
    map: &mut HashMap<K, V>,
    key: K,
    max: usize,
) -> Option<&mut V> {
    if map.len() >= max && !map.contains_key(&key) {
        return None;
    }
    Some(map.entry(key).or_default())
}

/// Only classes that there are.
fn class(text: Option<&str>) -> Option<&'static str> {
    let text = text?;
    crate::provider::Class::ALL
        .map(crate::provider::Class::as_str)
        .into_iter()
        .find(|class| *class == text)
}

impl Outcome {
    /// Of a request; what says nothing of it was not answered.
    pub fn of(record: &Record<'_>) -> Self {
        match (record.decision.as_deref(), record.reason.as_deref()) {
            (Some("allow"), Some("observed" | "bypassed")) => Self::Observed,
            (Some("allow"), _) => Self::Allowed,
            _ => Self::Denied,
        }
    }
}

impl Counts {
    /// So many of one outcome.
    pub(in crate::audit) fn of(outcome: Outcome, count: u64) -> Self {
        let mut counts = Self::default();
        match outcome {
            Outcome::Allowed => counts.allowed = count,
            Outcome::Observed => counts.observed = count,
            Outcome::Denied => counts.denied = count,
        }
        counts
    }

    /// All of them.
    pub fn total(&self) -> u64 {
        self.allowed + self.observed + self.denied
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.allowed += other.allowed;
        self.observed += other.observed;
        self.denied += other.denied;
    }
}

impl Seen {
    fn add(&mut self, count: u64, time: &str) {
        self.count += count;
        self.when.add(time);
    }
}
