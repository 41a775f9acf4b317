//! What was asked for and answered, by account and kind of path: what a draft
//! of a policy is made of.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::recorded::{self, NotJudged, Recorded, When};
use crate::audit::reading::Record;
use crate::authorize::TokenState;
use crate::policy::PathFilter;
use crate::provider::{Class, Provider};
use crate::request::CanonicalPath;

/// Single paths that are named for one account; more are counted.
const PATHS_NAMED: usize = 24;
/// Different questions that are remembered.
const REMEMBERED: usize = 100_000;
/// Below it accounts are the system's own (login.defs(5), UID_MIN).
const FIRST_PERSON: u32 = 1000;
const NOBODY: u32 = 65534;

/// The collection.
pub struct Learnt {
    provider: Provider,
    role: Option<PathFilter>,
    pub(super) accounts: BTreeMap<String, Learner>,
    pub(super) requests: u64,
    pub(super) learnt: u64,
    pub(super) refused: u64,
    pub(super) left: BTreeMap<NotJudged, u64>,
    /// Of paths that no rule can name, or that are too many to name.
    pub(super) unnameable: u64,
    pub(super) when: When,
    pub(super) hosts: BTreeSet<String>,
    /// When each boot was seen first and last.
    pub(super) boots: BTreeMap<String, When>,
    known: HashMap<String, Lesson>,
    key: String,
}

/// What one record teaches.
#[derive(Clone)]
enum Lesson {
    Nothing,
    Left(NotJudged),
    Refused,
    /// The principal, and what it read, where that can be said.
    Read(String, Option<Asked>),
}

/// Whom an account belongs to, as far as it can be told: only programs of the
/// system's are granted what is no routine fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Of the system's own programs.
    Service,
    /// Of somebody who logs in, for all that is known.
    Person,
}

/// One account and what it read.
pub(super) struct Learner {
    pub(super) kind: Kind,
    pub(super) user: Option<String>,
    pub(super) uid: u32,
    pub(super) reads: BTreeMap<Asked, u64>,
}

/// What was read, as a policy would say it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Asked {
    /// Without a token.
    pub(super) v1: bool,
    pub(super) class: Class,
    /// `@set` or a pattern.
    pub(super) text: String,
}

impl Learnt {
    /// Begins with nothing.
    pub fn new(provider: Provider) -> Self {
        Self {
            provider,
            role: PathFilter::parse(provider, "@role").ok(),
            accounts: BTreeMap::new(),
            requests: 0,
            learnt: 0,
            refused: 0,
            left: BTreeMap::new(),
            unnameable: 0,
            when: When::default(),
            hosts: BTreeSet::new(),
            boots: BTreeMap::new(),
            known: HashMap::new(),
            key: String::new(),
        }
    }

    /// Whether anything was learnt.
    pub fn is_empty(&self) -> bool {
        self.learnt == 0
    }

    /// Adds a record; `kind` says whose account one of that uid and name is.
    pub fn add(&mut self, record: &Record<'_>, kind: &dyn Fn(u32, &str) -> Kind) {
        if &*record.event != "request" {
            return;
        }
        self.requests += 1;
        self.note_when(record);
        recorded::key(record, &mut self.key);
        if !self.known.contains_key(&self.key) {
            let lesson = self.lesson(record, kind);
            if self.known.len() >= REMEMBERED {
                self.known.clear();
            }
            self.known.insert(self.key.clone(), lesson);
        }
        match self.known.get(&self.key) {
            None | Some(Lesson::Nothing) => {}
            Some(Lesson::Left(why)) => *self.left.entry(*why).or_default() += 1,
            Some(Lesson::Refused) => self.refused += 1,
            Some(Lesson::Read(who, asked)) => {
                let learner = self.accounts.get_mut(who);
                let count = asked.as_ref().zip(learner).and_then(|(asked, learner)| {
                    let is_new = !learner.reads.contains_key(asked);
                    if is_new && asked.is_single() && learner.reads.len() >= PATHS_NAMED {
                        return None;
                    }
                    Some(learner.reads.entry(asked.clone()).or_default())
                });
                match count {
                    Some(count) => {
                        *count += 1;
                        self.learnt += 1;
                    }
                    None => self.unnameable += 1,
                }
            }
        }
    }

    fn lesson(&mut self, record: &Record<'_>, kind: &dyn Fn(u32, &str) -> Kind) -> Lesson {
        let recorded = match Recorded::of(record, self.provider) {
            Ok(recorded) => recorded,
            Err(NotJudged::NoRead) => return Lesson::Nothing,
            Err(why) => return Lesson::Left(why),
        };
        if !recorded.was_allowed {
            return Lesson::Refused;
        }
        let uid = recorded.subject.uid.0;
        // Also of one with more groups than a record names.
        let (who, user) = match (record.caller.user.as_deref(), uid) {
            (_, 0) => ("user:root".to_owned(), Some("root".to_owned())),
            (Some(user), _) if is_plain(user) => (format!("user:{user}"), Some(user.to_owned())),
            (Some(_), _) => (format!("uid:{uid}"), None),
            (None, _) => return Lesson::Left(NotJudged::AccountUnknown),
        };
        let name = user.clone().unwrap_or_default();
        self.accounts.entry(who.clone()).or_insert_with(|| Learner {
            kind: kind(uid, &name),
            user,
            uid,
            reads: BTreeMap::new(),
        });
        let text = text(&recorded.path, self.role.as_ref());
        let asked = text.map(|text| Asked {
            v1: recorded.token == TokenState::Missing,
            class: recorded.path.class(),
            text,
        });
        Lesson::Read(who, asked)
    }

    fn note_when(&mut self, record: &Record<'_>) {
        self.when.add(&record.time);
        if let Some(name) = record.host.name.as_deref()
            && !self.hosts.contains(name)
        {
            self.hosts.insert(name.to_owned());
        }
        if let Some(boot) = record.host.boot_id.as_deref() {
            match self.boots.get_mut(boot) {
                Some(when) => when.add(&record.time),
                None => {
                    let mut when = When::default();
                    when.add(&record.time);
                    self.boots.insert(boot.to_owned(), when);
                }
            }
        }
    }
}

impl Asked {
    /// A path, not a set or a part of the tree.
    fn is_single(&self) -> bool {
        !self.text.starts_with('@') && !self.text.ends_with("**")
    }
}

/// By uid and, where the name is this host's, by what the account may do.
pub fn kind_on_this_host(uid: u32, user: &str) -> Kind {
    match uid {
        0..FIRST_PERSON => return Kind::Service,
        // Everybody's who has no account of their own.
        NOBODY => return Kind::Person,
        _ => {}
    }
    let account = nix::unistd::User::from_name(user).ok().flatten();
    let cannot_log_in = account.is_some_and(|account| {
        let shell = account.shell.file_name().and_then(|name| name.to_str());
        account.uid.as_raw() == uid && matches!(shell, Some("nologin" | "false"))
    });
    if cannot_log_in {
        Kind::Service
    } else {
        Kind::Person
    }
}

/// A name that a principal can have, and that a comment can. `user:root` would
/// be uid 0, whatever its name.
fn is_plain(user: &str) -> bool {
    !user.is_empty()
        && user != "root"
        && user
            .chars()
            .all(|it| it.is_ascii_graphic() && !matches!(it, ':' | '"' | '#' | '\'' | '`'))
}

/// In the words of a policy: a class where its paths are much alike, the part
/// of the tree where that is what programs ask for, else the path.
fn text(path: &CanonicalPath, role: Option<&PathFilter>) -> Option<String> {
    let resource = path.resource();
    let within = |folder: &str| {
        let rest = resource.strip_prefix(folder)?;
        (rest.is_empty() || rest.starts_with('/')).then(|| format!("{folder}/**"))
    };
    let part = match path.class() {
        class @ (Class::Routine | Class::Live) => Some(format!("@{}", class.as_str())),
        Class::Credentials if role.is_some_and(|role| role.covers(path)) => Some("@role".into()),
        // Its listing is of use by itself, and grants nothing more.
        Class::Identity if resource == "/meta-data/iam/security-credentials" => None,
        Class::Identity => Some("@identity".into()),
        Class::Secrets => within("/meta-data/tags"),
        Class::Ssh => within("/meta-data/managed-ssh-keys").or(within("/meta-data/public-keys")),
        Class::Credentials | Class::Unclassified => None,
    };
    // A star that was asked for would be one that stands for anything.
    part.or_else(|| (!resource.contains('*')).then(|| resource.to_owned()))
}
