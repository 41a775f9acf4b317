//! What adoption has to remember, in the directory of the control socket: it
//! is root's, and gone after a boot, as is what it speaks of.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::Flock;
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use serde::{Deserialize, Serialize};

use super::processes::Process;
use super::session::Session;
use crate::config::{Config, Mode, drop_in_directory};

/// How long another command may take.
const LOCK_WITHIN: Duration = Duration::from_secs(30);

/// Where things are; of the paths alone, so that undoing needs no config.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Places {
    /// The config file.
    pub config: PathBuf,
    /// Of the control socket.
    pub runtime: PathBuf,
}

/// All that is remembered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Where it was done.
    pub places: Places,
    /// What was started without a service manager, and still runs.
    pub started: Vec<Process>,
    /// What is undone unless somebody says yes.
    pub window: Option<Window>,
    /// Whether the directory of drop-ins was not there before.
    pub made_directory: bool,
    /// What became of the last one, for who comes too late.
    pub last: Option<String>,
}

/// A change that waits for a yes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Window {
    /// Tells it from others.
    pub id: u64,
    /// What is undone.
    pub what: What,
    /// When, in seconds of the kernel's clock of this boot.
    pub until: u64,
    /// The same, for people.
    pub until_shown: String,
    /// Whose yes does not count.
    pub session: Session,
    /// Who waits to undo it, where that is no timer of the service manager's.
    pub undoer: Option<Process>,
}

/// What a window is about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// The whole firewall.
    Enable {
        /// The rules were in force before, and stay.
        had_rules: bool,
        /// Units that did not run before.
        units: Vec<String>,
        /// The mode to keep, where one was asked for.
        observe: bool,
    },
    /// That denials bind.
    Enforce,
}

impl Places {
    /// Also with a config that nobody can read: then as by default.
    pub fn of(config: &Path) -> Self {
        let read = Config::load(config).unwrap_or_default();
        let runtime = read
            .control_socket
            .parent()
            .unwrap_or(Path::new("/run/imdsfw"));
        Self {
            // The undoing runs elsewhere.
            config: std::path::absolute(config).unwrap_or_else(|_| config.to_owned()),
            runtime: runtime.to_owned(),
        }
    }

    pub(super) fn state(&self) -> PathBuf {
        self.runtime.join("adoption.json")
    }

    /// Read by every start of the daemon: a mode that somebody said yes to.
    pub(super) fn mode(&self) -> PathBuf {
        drop_in_directory(&self.config).join("90-adoption.toml")
    }

    /// One that waits for a yes. A link, behind which there is nothing after a
    /// boot: then it says nothing.
    pub(super) fn mode_for_now(&self) -> PathBuf {
        drop_in_directory(&self.config).join("91-adoption-unconfirmed.toml")
    }

    pub(super) fn behind_the_link(&self) -> PathBuf {
        self.runtime.join("adoption-mode.toml")
    }

    /// Whether a boot takes away what is written there.
    pub(super) fn is_forgotten_at_boot(&self) -> bool {
        statfs(&self.runtime).is_ok_and(|it| it.filesystem_type() == TMPFS_MAGIC)
    }
}

impl State {
    /// What is remembered; nothing where nothing was written.
    ///
    /// # Errors
    /// A file that is there and is not root's, or cannot be read.
    pub fn load(places: &Places) -> io::Result<Self> {
        let path = places.state();
        let empty = Self {
            places: places.clone(),
            started: Vec::new(),
            window: None,
            made_directory: false,
            last: None,
        };
        let file = match OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
            .open(&path)
        {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(empty),
            Err(error) => return Err(error),
        };
        let meta = file.metadata()?;
        if meta.uid() != 0 || meta.mode() & 0o022 != 0 {
            return Err(io::Error::other("it is not root's alone"));
        }
        Ok(serde_json::from_reader(file)?)
    }

    /// Whole or not at all.
    pub(super) fn save(&self) -> io::Result<()> {
        write_whole(
            &self.places.state(),
            serde_json::to_string(self)?.as_bytes(),
            0o600,
        )
    }
}

/// By a new file in place of the old.
pub(super) fn write_whole(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let new = PathBuf::from(name);
    let _ = fs::remove_file(&new);
    let written = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&new)
        .and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        })
        .and_then(|()| fs::rename(&new, path));
    written.inspect_err(|_| {
        let _ = fs::remove_file(&new);
    })
}

/// A drop-in that sets the mode, and nothing else.
pub(super) fn mode_file(mode: Mode) -> String {
    let word = match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe",
    };
    format!(
        "# Written by `imdsfw enable` and `imdsfw enforce`; `imdsfw disable` removes it.\n\
         schema = 1\n\n[policy]\nmode = \"{word}\"\n"
    )
}

/// One command at a time; who undoes does not wait for one that hangs.
pub(super) fn lock(places: &Places) -> io::Result<Option<Flock<File>>> {
    crate::lock::lock(&places.runtime.join("adoption.lock"), LOCK_WITHIN)
}

/// Seconds since this boot, also those asleep.
pub(super) fn seconds_of_boot() -> u64 {
    use nix::time::{ClockId, clock_gettime};
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
    now.as_secs()
}

/// When something is due, for people.
pub(super) fn shown(within: Duration) -> String {
    let at = SystemTime::now() + within;
    crate::utc::rfc3339_seconds(at)
        .replace('T', " ")
        .replace('Z', " UTC")
}
