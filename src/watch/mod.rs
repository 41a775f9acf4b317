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

mod bypass;
mod changes;
mod held;
mod hold;
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
pub use bypass::{HardBypass, order, proclaim};
pub use hold::{OUT, hold, stand_by};

use changes::{Changes, Seen};
use held::Held;
use link::Link;
use report::{Changer, Found, HEARTBEAT, Lifted, Report, Restored};

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
        aside: None,
    };
    watcher.start()?;
    watcher.manager.ready();
    if watcher.aside.is_none() {
        watcher.manager.status(IN_FORCE);
    }
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
        watcher.heed_bypass();
        if seen.is_anything() && watcher.aside.is_none() {
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
    /// The rules are to be out of the kernel for so long.
    aside: Option<HardBypass>,
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
    fn start(&mut self) -> Result<(), WatchError> {
        match HardBypass::standing() {
            Some(bypass) => {
                self.step_aside(bypass);
                Ok(())
            }
            None => self.load(true),
        }
    }

    /// Takes the rules out where root has ordered that, and puts them back when
    /// it is over.
    fn heed_bypass(&mut self) {
        match (HardBypass::standing(), self.aside.take()) {
            (Some(bypass), None) => self.step_aside(bypass),
            (Some(bypass), Some(_)) => self.aside = Some(bypass),
            (None, Some(bypass)) => self.step_back(&bypass),
            (None, None) => {}
        }
    }

    fn step_aside(&mut self, bypass: HardBypass) {
        let until = &bypass.until;
        tracing::warn!(
            "hard bypass until {until}: the rules are taken out: {}",
            bypass.reason
        );
        self.manager
            .status(&format!("hard bypass until {until}: there are no rules"));
        if let Some(held) = &mut self.held {
            held.release();
        }
        self.broken = None;
        if let Err(error) = intercept::remove(None) {
            tracing::error!("the rules cannot be taken out: {error}");
        }
        self.link.tell(Report::BypassStarted(bypass.clone()));
        self.aside = Some(bypass);
    }

    fn step_back(&mut self, bypass: &HardBypass) {
        let why = match bypass.left().is_zero() {
            true => "expired",
            false => "revoked",
        };
        match self.load(false) {
            Ok(()) => {
                self.manager.status(IN_FORCE);
                proclaim(&format!(
                    "the hard bypass has ended ({why}): the rules are in force again"
                ));
            }
            // From here on as rules that cannot be restored.
            Err(error) => self.fail(Instant::now(), Vec::new(), error.to_string()),
        }
        tracing::warn!("the hard bypass has ended: {why}");
        self.link
            .tell(Report::BypassEnded(Lifted { why: why.into() }));
    }

    /// Without a daemon, rules that are absent are what a host begins with, and
    /// at the end of a bypass they are what was ordered.
    fn load(&mut self, may_be_drift: bool) -> Result<(), WatchError> {
        let found = self.open().map_err(WatchError::Load)?;
        let is_drift =
            may_be_drift && !found.is_empty() && self.link.reaches(self.rules.daemon_uid());
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
        if let Some(bypass) = &self.aside {
            let until = bypass.until.clone();
            self.link.tell(Report::Bypassed { until });
            self.manager.alive();
            return;
        }
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
