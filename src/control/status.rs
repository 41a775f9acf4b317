//! How things stand, as the daemon knows it: for `imdsfw status`.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::clock::boottime;
use super::orders::By;
use crate::audit::Counted;
use crate::config::Mode;

/// All of it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    /// Of the program that runs.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// For how long it has run.
    pub uptime_s: u64,
    /// Whether verdicts bind, a bypass aside.
    pub mode: Mode,
    /// What gives verdicts.
    pub policy: PolicyStatus,
    /// Ahead of it.
    pub grants: Vec<GrantStatus>,
    /// Credentials for nobody.
    pub lockdown: Option<LockdownStatus>,
    /// The policy is off.
    pub bypass: Option<BypassStatus>,
    /// Who restores the kernel rules.
    pub watcher: WatcherStatus,
    /// Whether somebody can say who holds a connection.
    pub witness: bool,
    /// What this run's records add up to.
    pub counts: Counted,
    /// Why what is ordered now would not outlive the daemon.
    pub state: Option<String>,
}

/// What gives verdicts.
#[derive(Debug, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Its hash.
    pub policy: String,
    /// In force since.
    pub since: String,
    /// For so long.
    pub age_s: u64,
    /// Where it came from.
    pub from: From,
    /// How many rules.
    pub rules: usize,
    /// In the order they were read.
    pub files: Vec<String>,
    /// Whether files are taken when they change.
    pub watch: bool,
    /// What a reload would do.
    pub on_disk: OnDisk,
}

/// Where a policy came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum From {
    /// The files, when the daemon started.
    Start,
    /// The snapshot of the last good one, because the files were bad.
    Snapshot,
    /// `imdsfw reload`.
    Reload,
    /// SIGHUP.
    Signal,
    /// Files that had changed.
    Watch,
    /// `imdsfw rollback`.
    Rollback,
}

/// What the files say now.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum OnDisk {
    /// What runs.
    Same {
        /// Whether the config differs in what only a restart takes.
        restart: bool,
    },
    /// Something else.
    Differs {
        /// Its hash.
        policy: String,
        /// Its mode.
        mode: Mode,
        /// As above.
        restart: bool,
    },
    /// Nothing that could be taken.
    Refused {
        /// The first thing wrong with it.
        error: String,
    },
}

/// A grant.
#[derive(Debug, Serialize, Deserialize)]
pub struct GrantStatus {
    /// To revoke it by.
    pub id: String,
    /// Principals.
    pub who: Vec<String>,
    /// Patterns and `@sets`.
    pub paths: Vec<String>,
    /// Why.
    pub reason: String,
    /// When it ends.
    pub until: String,
    /// In so long.
    pub left_s: u64,
    /// Requests that it let through.
    pub uses: u64,
    /// Whose doing.
    pub by: By,
}

/// A lockdown.
#[derive(Debug, Serialize, Deserialize)]
pub struct LockdownStatus {
    /// On since.
    pub since: String,
    /// Principals.
    pub except: Vec<String>,
    /// Why.
    pub reason: Option<String>,
    /// Whose doing.
    pub by: By,
}

/// A bypass.
#[derive(Debug, Serialize, Deserialize)]
pub struct BypassStatus {
    /// When it ends.
    pub until: String,
    /// In so long.
    pub left_s: u64,
    /// Why.
    pub reason: String,
    /// Whose doing.
    pub by: By,
}

/// The watcher of the kernel rules, as far as it was heard.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct WatcherStatus {
    /// So long ago; `null` where none ever was.
    pub heard_ms: Option<u64>,
    /// Nobody is served: the rules are broken, or it is silent.
    pub unguarded: bool,
    /// Changes that it found.
    pub drifts: u64,
    /// What it found last.
    pub last_drift: Option<String>,
    /// Until when it leaves the rules out of the kernel.
    pub hard_bypass_until: Option<String>,
}

/// What is heard of the watcher, for [`Status`]. Clones share it.
#[derive(Clone, Default)]
pub struct Vitals(Arc<Heard>);

#[derive(Default)]
struct Heard {
    /// By boot time; 0 for never.
    at: AtomicU64,
    unguarded: AtomicBool,
    drifts: AtomicU64,
    last_drift: Mutex<Option<String>>,
    hard_bypass_until: Mutex<Option<String>>,
}

impl Vitals {
    /// The watcher said something.
    pub fn heard(&self) {
        self.0.at.store(boottime().0, Ordering::Relaxed);
    }

    /// Nobody is served, or everybody again.
    pub fn set_unguarded(&self, unguarded: bool) {
        self.0.unguarded.store(unguarded, Ordering::Relaxed);
    }

    /// It found rules changed.
    pub fn drifted(&self, first: Option<String>) {
        self.0.drifts.fetch_add(1, Ordering::Relaxed);
        *lock(&self.0.last_drift) = first;
    }

    /// The rules are out of the kernel until then, or in force.
    pub fn set_hard_bypass(&self, until: Option<String>) {
        *lock(&self.0.hard_bypass_until) = until;
    }

    pub(super) fn status(&self) -> WatcherStatus {
        let at = self.0.at.load(Ordering::Relaxed);
        WatcherStatus {
            heard_ms: (at > 0).then(|| boottime().0.saturating_sub(at)),
            unguarded: self.0.unguarded.load(Ordering::Relaxed),
            drifts: self.0.drifts.load(Ordering::Relaxed),
            last_drift: lock(&self.0.last_drift).clone(),
            hard_bypass_until: lock(&self.0.hard_bypass_until).clone(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
