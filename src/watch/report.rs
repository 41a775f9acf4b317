//! What the watcher tells the daemon: one JSON object a line, over a Unix
//! stream socket of the daemon's.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::bypass::HardBypass;
use crate::config::Config;
use crate::intercept::Drift;

/// How often the watcher says how things stand, and looks at rules that may
/// change without notice.
pub const HEARTBEAT: Duration = Duration::from_millis(500);
/// Differences that a report lists; the rest is counted.
const CHANGED_MAX: usize = 32;

/// The socket: beside the control socket.
pub fn socket(config: &Config) -> PathBuf {
    config.control_socket.with_file_name("watch.sock")
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "snake_case")]
pub enum Report {
    /// The rules are as they must be.
    Ok,
    /// They are not, and could not be restored.
    Broken {
        /// What stood in the way.
        why: String,
    },
    /// They had been changed.
    Drift(Found),
    /// They are as they must be again.
    Restored(Restored),
    /// They were taken out, as root ordered.
    BypassStarted(HardBypass),
    /// They are out until then.
    Bypassed {
        /// On the wall.
        until: String,
    },
    /// They are back.
    BypassEnded(Lifted),
}

/// Why a bypass has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lifted {
    /// `expired`, `revoked`, or `signal`.
    pub why: String,
}

/// What was found changed, and by whom.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Found {
    /// The first differences.
    pub changed: Vec<Drift>,
    /// How many more there were.
    pub changed_omitted: usize,
    /// The processes that changed rules just then, as the kernel names them.
    /// Empty where it did not say.
    pub by: Vec<Changer>,
}

/// A process that changed the rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Changer {
    /// In the initial pid namespace.
    pub pid: u32,
    /// Its `comm`, escaped.
    pub name: String,
}

/// How a drift ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// As in the drift.
    pub by: Vec<Changer>,
    /// At most so long the rules were not in force, in microseconds; `None`
    /// where the change was found when the watcher started.
    pub open_us: Option<u64>,
    /// Whether everybody but the daemon was denied the service meanwhile.
    pub denied_meanwhile: bool,
}

impl Found {
    /// Cuts the list to a length that fits a record.
    pub fn new(drifts: &[Drift], by: Vec<Changer>) -> Self {
        Self {
            changed: drifts.iter().take(CHANGED_MAX).cloned().collect(),
            changed_omitted: drifts.len().saturating_sub(CHANGED_MAX),
            by,
        }
    }
}
