//! A hard bypass: the rules out of the kernel for a while, for the night in
//! which nothing else helps.
//!
//! It is one small file of root's, at a fixed place that a boot empties, and
//! asks for nothing: no config, no daemon, no account, no log. Whoever looks
//! after the rules heeds it, and puts them back when its time is over or it is
//! gone. A file that anybody but root could have written says nothing.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};

use crate::control::clock::{boot_id, in_seconds, on_the_wall, until};
use crate::control::{By, Peer};
use crate::ids::Uid;
use crate::lock::lock;
use crate::token::Moment;
use crate::utc;

/// Not in a directory of anybody's but root's, whatever the config says.
const PATH: &str = "/run/imdsfw-bypass.json";
const BYTES_MAX: u64 = 64 * 1024;
/// One order at a time, from the file to the rules.
const ORDERS: &str = "/run/imdsfw-bypass.lock";
/// For the one before to be carried out.
const ORDERED_WITHIN: Duration = Duration::from_secs(20);
/// Held by whoever has taken the rules out, until they are back.
const RULES: &str = "/run/imdsfw-bypass-rules.lock";
const BACK_WITHIN: Duration = Duration::from_secs(10);

/// What the file says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HardBypass {
    schema: u32,
    boot_id: String,
    /// Of the network whose rules it is about: its inode.
    network: u64,
    ends: Moment,
    /// The same on the wall.
    pub until: String,
    /// For how long it was to be.
    pub seconds: u64,
    /// Why.
    pub reason: String,
    /// Whose doing.
    pub by: By,
}

impl HardBypass {
    /// From now on, on this network.
    pub fn new(seconds: u64, reason: String) -> io::Result<Self> {
        let ends = in_seconds(seconds);
        Ok(Self {
            schema: 1,
            boot_id: boot_id().to_owned(),
            network: network()?,
            ends,
            until: utc::rfc3339_seconds(on_the_wall(ends)),
            seconds,
            reason,
            by: By {
                peer: Peer {
                    uid: Uid(nix::unistd::getuid().as_raw()),
                    pid: i32::try_from(std::process::id()).ok(),
                },
                login: crate::control::login(),
            },
        })
    }

    /// Puts it in force.
    pub fn write(&self) -> io::Result<()> {
        let new = format!("{PATH}.new");
        let _ = fs::remove_file(&new);
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o644)
            .open(&new)?;
        file.write_all(&serde_json::to_vec(self)?)?;
        fs::rename(&new, PATH)
    }

    /// The one in force for this network.
    pub fn standing() -> Option<Self> {
        let bypass = read(Path::new(PATH)).ok()?;
        bypass.holds(network().ok()?).then_some(bypass)
    }

    /// Ends it; whether there was one.
    pub fn lift() -> io::Result<bool> {
        let stood = Self::standing().is_some();
        match fs::remove_file(PATH) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(stood),
        }
    }

    /// How long it holds yet.
    pub fn left(&self) -> Duration {
        until(self.ends)
    }

    fn holds(&self, network: u64) -> bool {
        let is_here = !self.boot_id.is_empty() && self.boot_id == boot_id();
        is_here && self.network == network && !self.left().is_zero()
    }
}

/// Orders are given and taken back one after the other; `None` where the one
/// before does not come to an end.
pub fn order() -> io::Result<Option<Flock<File>>> {
    lock(Path::new(ORDERS), ORDERED_WITHIN)
}

/// What is taken out, nobody else takes out or puts back meanwhile; `None`
/// where somebody has, and does not put it back.
pub(super) fn hold_rules() -> io::Result<Option<Flock<File>>> {
    lock(Path::new(RULES), BACK_WITHIN)
}

fn read(path: &Path) -> io::Result<HardBypass> {
    let file = File::options()
        .read(true)
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    if !meta.is_file() || meta.uid() != 0 || meta.mode() & 0o022 != 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut bytes = Vec::new();
    file.take(BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(serde_json::from_slice(&bytes)?)
}

fn network() -> io::Result<u64> {
    Ok(fs::metadata("/proc/self/ns/net")?.ino())
}

/// Says it where it is heard without a daemon: in the kernel log and in the
/// system's. Where neither can be had, nothing is lost but the word.
pub fn proclaim(what: &str) {
    let what: String = what.chars().filter(|c| !c.is_control()).collect();
    // Of the kernel's own levels, a warning; the rest of a line is cut off.
    let line: String = format!("<4>imdsfw: {what}\n").chars().take(900).collect();
    let kernel = OpenOptions::new().write(true).open("/dev/kmsg");
    if let Err(error) = kernel.and_then(|mut log| log.write_all(line.as_bytes())) {
        tracing::warn!("not in the kernel log: {error}");
    }
    // auth.warning, as syslogd and journald take it.
    let system = UnixDatagram::unbound().and_then(|socket| {
        socket.connect("/dev/log")?;
        socket.set_nonblocking(true)?;
        socket.send(format!("<36>imdsfw[{}]: {what}", std::process::id()).as_bytes())
    });
    // Many hosts have none, and what runs as a unit is heard anyway.
    let _ = system;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    fn bypass() -> HardBypass {
        HardBypass::new(60, "a test".into()).unwrap()
    }

    #[test]
    fn it_is_of_one_boot_one_network_and_its_time() {
        let bypass = bypass();
        let here = network().unwrap();
        assert!(bypass.holds(here));
        assert!(!bypass.holds(here + 1));
        let other = HardBypass {
            boot_id: "another".into(),
            ..bypass.clone()
        };
        assert!(!other.holds(here));
        let over = HardBypass {
            ends: Moment(1),
            ..bypass
        };
        assert!(!over.holds(here));
    }

    #[test]
    fn only_root_can_have_written_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bypass");
        fs::write(&path, serde_json::to_vec(&bypass()).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap().reason, "a test");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&path).is_err());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        chown(&path, Some(4001), None).unwrap();
        assert!(read(&path).is_err());
        chown(&path, Some(0), None).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(read(&link).is_err());
    }
}
