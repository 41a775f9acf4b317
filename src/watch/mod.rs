//! `imdsfw rules watch`: keeps the kernel rules as they must be.
//!
//! ```text
//! netlink (changes) ─► verify ─► apply        (intercept)
//!                         └────► report ─►    the daemon, every second (link)
//! ```
//!
//! One thread does one thing at a time: while it verifies or applies, the
//! kernel keeps what else happens for it. It must never report rules as whole
//! that it has not verified, nor fall silent for another reason than its end.

mod changes;
mod held;
mod link;
pub mod report;

use std::fmt;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use crate::config::{Backend, Config};
use crate::intercept::{self, Drift, InterceptError, RuleSet};
use crate::notify::Manager;
use changes::{Changes, Seen};
use held::Held;
use link::Link;
use report::{Changer, Found, HEARTBEAT, Report, Restored};

/// What an admin reads in `systemctl status`.
const IN_FORCE: &str = "the rules are in force";

/// Why nothing is watched.
#[derive(Debug)]
pub enum WatchError {
    /// The signals that end it cannot be waited for.
    Signals(Errno),
    /// The kernel's notifications cannot be had.
    Changes(Errno),
    /// The rules cannot be loaded.
    Load(InterceptError),
    /// They were loaded, and still differ.
    Drift(Vec<Drift>),
}

/// Loads the rules where they are not loaded, and restores them whenever they
/// change, until SIGTERM or SIGINT; the rules stay however it ends.
///
/// # Errors
/// [`WatchError`].
pub fn run(config: &Config, rules: RuleSet) -> Result<(), WatchError> {
    // As others see it in a process list.
    let _ = nix::sys::prctl::set_name(c"imdsfw-watch");
    let end = end_signals().map_err(WatchError::Signals)?;
    let changes = Changes::subscribe().map_err(WatchError::Changes)?;
    let mut watcher = Watcher {
        manager: Manager::connect(),
        held: config.rules.egress_deny.then(|| Held::new(&rules)),
        link: Link::new(report::socket(config)),
        rules,
        changes,
        polls: false,
        broken: None,
    };
    watcher.start()?;
    watcher.manager.ready();
    watcher.manager.status(IN_FORCE);
    tracing::info!("watching");
    let mut beat = Instant::now();
    loop {
        let at_most = HEARTBEAT.saturating_sub(beat.elapsed());
        let seen = watcher.changes.wait(at_most, end.as_fd());
        if let Ok(Some(_)) = end.read_signal() {
            watcher.manager.stopping();
            tracing::info!("ending; the rules stay, and nobody restores them any more");
            return Ok(());
        }
        let seen = seen.concerning(watcher.polls);
        if seen.is_anything() {
            watcher.check(&seen);
        }
        if beat.elapsed() >= HEARTBEAT {
            beat = Instant::now();
            watcher.beat();
        }
    }
}

/// Held back, for the loop to find: no step is left half done.
fn end_signals() -> Result<SignalFd, Errno> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

struct Watcher {
    manager: Manager,
    rules: RuleSet,
    held: Option<Held>,
    link: Link,
    changes: Changes,
    /// Whether the rules may change without the kernel saying so, or by a
    /// change of any table: iptables, whose legacy variant has no notices.
    polls: bool,
    broken: Option<Broken>,
}

/// Rules that could not be restored.
struct Broken {
    since: Instant,
    by: Vec<Changer>,
    why: String,
    /// Whether the daemon knows what differs.
    is_told: bool,
}

impl Watcher {
    /// Without a daemon, rules that are absent are what a host begins with.
    fn start(&mut self) -> Result<(), WatchError> {
        let found = self.open().map_err(WatchError::Load)?;
        let is_drift = !found.is_empty() && self.link.reaches(self.rules.daemon_uid());
        if is_drift {
            self.tell_of(&found, Vec::new());
        }
        let applied = intercept::apply(&self.rules).map_err(WatchError::Load)?;
        // What there was to see so far were the rules being loaded; what comes
        // while they are verified, and later, is looked at.
        self.changes.read();
        self.polls = applied.backend != Backend::Nft;
        let left = self.open().map_err(WatchError::Load)?;
        if !left.is_empty() {
            return Err(WatchError::Drift(left));
        }
        tracing::info!("loaded {}: {}", applied.backend.place(), self.rules);
        self.rules = self.rules.clone().through(Some(applied.backend));
        if let Some(ended) = applied.ended {
            tracing::info!("{ended}");
        }
        if is_drift {
            // Nobody saw when it began.
            self.restored(None, Vec::new());
        }
        self.hold();
        self.link.tell(Report::Ok);
        Ok(())
    }

    /// What may have changed unseen is looked at, what is broken is tried
    /// again, and the daemon is told how things stand.
    fn beat(&mut self) {
        if self.polls || self.broken.is_some() {
            self.check(&Seen::nothing());
        }
        self.hold();
        self.manager.alive();
        self.link.tell(match &self.broken {
            None => Report::Ok,
            Some(broken) => Report::Broken {
                why: broken.why.clone(),
            },
        });
    }

    fn hold(&mut self) {
        if let Some(held) = &mut self.held {
            held.ensure();
        }
    }

    /// Verifies, and restores what differs.
    fn check(&mut self, seen: &Seen) {
        // A second time: a flush also takes the table that verifying makes.
        let found = match self.open().or_else(|_| self.open()) {
            Ok(found) => found,
            Err(error) => return self.fail(seen.since(), seen.by(), error.to_string()),
        };
        if found.is_empty() {
            if let Some(broken) = self.broken.take() {
                self.restored(Some(broken.since.elapsed()), broken.by);
            }
            return;
        }
        // What came while it was verified belongs to it.
        let by = seen.by_also(&self.changes.read().concerning(self.polls));
        if !self.broken.as_ref().is_some_and(|broken| broken.is_told) {
            self.tell_of(&found, by.clone());
        }
        match self.restore().or_else(|_| self.restore()) {
            Ok(at) => {
                let (since, by) = match self.broken.take() {
                    Some(broken) => (broken.since, broken.by),
                    None => (seen.since(), by),
                };
                self.restored(Some(at.saturating_duration_since(since)), by);
            }
            Err(why) => {
                self.fail(seen.since(), by, why);
                if let Some(broken) = &mut self.broken {
                    broken.is_told = true;
                }
            }
        }
    }

    /// The differences by which somebody may get past.
    fn open(&mut self) -> Result<Vec<Drift>, InterceptError> {
        let verified = intercept::verify(&self.rules);
        if self.polls {
            self.changes.forget_verifying();
        }
        let mut drifts = verified?;
        drifts.retain(Drift::is_open);
        Ok(drifts)
    }

    fn tell_of(&mut self, found: &[Drift], by: Vec<Changer>) {
        if let Some(first) = found.first() {
            tracing::warn!("drift: {first} (and {} more)", found.len() - 1);
        }
        self.link.tell(Report::Drift(Found::new(found, by)));
    }

    /// When the rules were in force again.
    fn restore(&mut self) -> Result<Instant, String> {
        let backend = self.rules.backend().unwrap_or(Backend::Nft);
        intercept::restore(&self.rules, backend).map_err(|error| error.to_string())?;
        let at = Instant::now();
        // What came so far is our own doing, or cannot be told from it: laid
        // to nobody's charge, and what it did shows below.
        self.changes.read();
        let left = self.open().map_err(|error| error.to_string())?;
        match left.first() {
            None => Ok(at),
            Some(first) => Err(format!("the rules were loaded, and still differ: {first}")),
        }
    }

    /// `open`: for how long they were not in force, if that is known.
    fn restored(&mut self, open: Option<Duration>, by: Vec<Changer>) {
        match open {
            Some(open) => tracing::warn!("restored {open:?} after the change"),
            None => tracing::warn!("restored"),
        }
        self.manager.status(IN_FORCE);
        self.link.tell(Report::Restored(Restored {
            by,
            open_us: open.map(|open| u64::try_from(open.as_micros()).unwrap_or(u64::MAX)),
            denied_meanwhile: self.held.as_ref().is_some_and(Held::is_in_force),
        }));
        self.link.tell(Report::Ok);
    }

    fn fail(&mut self, since: Instant, by: Vec<Changer>, why: String) {
        let first = self.broken.is_none();
        let broken = self.broken.get_or_insert(Broken {
            since,
            by,
            why: String::new(),
            is_told: false,
        });
        if first || broken.why != why {
            tracing::error!("cannot restore the rules: {why}");
            let status = format!("the rules are not in force, and cannot be restored: {why}");
            self.manager.status(&status);
        }
        broken.why.clone_from(&why);
        self.link.tell(Report::Broken { why });
    }
}

impl fmt::Display for WatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signals(errno) => write!(f, "signals cannot be waited for: {}", errno.desc()),
            Self::Changes(errno) => write!(
                f,
                "the kernel does not tell of changed rules: {}; run this as root, or with the \
                 capability CAP_NET_ADMIN",
                errno.desc()
            ),
            Self::Load(error) => error.fmt(f),
            Self::Drift(drifts) => {
                f.write_str("the rules were loaded, and still differ:\n")?;
                for difference in drifts.iter().take(8) {
                    writeln!(f, "  {difference}")?;
                }
                f.write_str("see what else loads rules on this host")
            }
        }
    }
}

impl std::error::Error for WatchError {}
