//! What stands in the way of a step, and what to do about it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use super::session::ToldBy;
use super::state::What;
use crate::doctor::Finding;
use crate::intercept::InterceptError;

/// Why a step was not taken, or was taken back.
#[derive(Debug)]
pub enum AdoptionError {
    /// Only root may.
    NotRoot,
    /// Another of these commands does not end.
    Busy,
    /// What was done before waits for its yes, until then.
    Waiting(String),
    /// Nothing does; what became of the last one.
    NothingToConfirm(Option<String>),
    /// The yes comes from the login that asked for it.
    SameLogin(ToldBy, String),
    /// It is being undone.
    TooLate,
    /// A check failed; nothing was changed.
    Checks(Vec<Finding>),
    /// It was done, and taken back.
    Undone {
        /// Why.
        why: String,
        /// What the checks afterwards found.
        findings: Vec<Finding>,
        /// What could not be taken back.
        troubles: Vec<String>,
    },
    /// The undoing could not be started; nothing was changed.
    NoWayBack(String),
    /// This directory outlives a boot.
    Remembered(PathBuf),
    /// Rules are loaded that are not those of this config.
    OtherRules(String),
    /// A later file says another mode.
    OtherMode,
    /// No daemon runs.
    NoDaemon,
    /// One runs that others started.
    NotOurs,
    /// There is nothing to do.
    EnforcedAlready,
    /// Somebody else's watcher would restore the rules.
    Watched(u32),
    /// The config is refused.
    Config(String),
    /// The kernel rules cannot be read or changed.
    Rules(InterceptError),
    /// What has to be remembered cannot be.
    State(io::Error),
    /// The service manager refuses.
    Services(String),
}

impl From<InterceptError> for AdoptionError {
    fn from(error: InterceptError) -> Self {
        Self::Rules(error)
    }
}

impl From<io::Error> for AdoptionError {
    fn from(error: io::Error) -> Self {
        Self::State(error)
    }
}

impl AdoptionError {
    /// What the doctor found, to be shown first.
    pub fn findings(&self) -> &[Finding] {
        match self {
            Self::Checks(findings) | Self::Undone { findings, .. } => findings,
            _ => &[],
        }
    }
}

impl fmt::Display for AdoptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => f.write_str("only root may change the firewall; use sudo"),
            Self::Busy => f.write_str(
                "another enable, enforce, confirm or disable is under way, and does not end",
            ),
            Self::Waiting(until) => write!(
                f,
                "an earlier step waits to be confirmed until {until}: log in anew and run `imdsfw \
                 confirm`, or go back by `imdsfw disable`"
            ),
            Self::NothingToConfirm(None) => f.write_str("nothing waits to be confirmed"),
            Self::NothingToConfirm(Some(last)) => {
                write!(f, "nothing waits to be confirmed: {last}")
            }
            Self::SameLogin(told_by, until) => write!(
                f,
                "not confirmed: this is the login that asked for it ({told_by}). Log in anew, in \
                 the way that has to work, and run it there before {until}"
            ),
            Self::TooLate => f.write_str("the time is over, and it is being undone"),
            Self::Checks(_) => f.write_str("nothing was changed: mend what failed above first"),
            Self::Undone { why, troubles, .. } => {
                write!(f, "it was undone, because {why}")?;
                for trouble in troubles {
                    write!(f, "; {trouble}")?;
                }
                Ok(())
            }
            Self::NoWayBack(why) => {
                write!(f, "nothing was changed: there would be no way back ({why})")
            }
            Self::Remembered(directory) => write!(
                f,
                "nothing was changed: a boot would not undo it, because {} is on a disk; set \
                 `socket` under [control] to a path in /run",
                directory.display()
            ),
            Self::OtherRules(drift) => write!(
                f,
                "nothing was changed: rules are loaded that are not those of this config \
                 ({drift}); `imdsfw rules remove` or `imdsfw rules apply` first"
            ),
            Self::OtherMode => f.write_str(
                "another file in imdsfw.toml.d, read later, sets `mode` under [policy]; take it \
                 out there",
            ),
            Self::NoDaemon => f.write_str("no daemon runs; `imdsfw enable` starts it"),
            Self::NotOurs => f.write_str(
                "the daemon was not started by `imdsfw enable` or systemd, and cannot be started \
                 again from here; set `mode` under [policy] and start it again yourself",
            ),
            Self::EnforcedAlready => f.write_str("the mode is enforce already"),
            Self::Watched(pid) => write!(
                f,
                "nothing was removed: process {pid}, `imdsfw rules watch`, would restore the \
                 rules, and was not started by `imdsfw enable`. Stop it first: `kill {pid}`, or by \
                 what started it"
            ),
            Self::Config(said) => write!(f, "the config is refused\n{said}"),
            Self::Rules(error) => error.fmt(f),
            Self::State(error) => write!(f, "what must be remembered cannot be written: {error}"),
            Self::Services(said) => f.write_str(said),
        }
    }
}

impl std::error::Error for AdoptionError {}

impl fmt::Display for ToldBy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AuditSession => "the same audit session",
            Self::SshConnection => "the same SSH connection, and no audit sessions here",
            Self::Terminal => "the same terminal, and neither audit sessions nor SSH here",
        })
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Enable { .. } => "`imdsfw enable`",
            Self::Enforce => "`imdsfw enforce`",
        })
    }
}
