//! From which login a command comes: what confirms must be another than what
//! enabled, since the open question is whether anybody can still log in.
//!
//! The kernel's audit session says it for certain: each login through PAM gets
//! a new one, which sudo, su, screen and tmux keep. Where the kernel gives none,
//! the SSH connection says it, and where there is none either, the terminal's
//! session, which a new window has as well: that is said.

use std::fs;

use serde::{Deserialize, Serialize};

/// Of a process that no login began.
const UNSET: u32 = u32::MAX;
/// Processes above one that are looked at for its connection.
const ANCESTORS_MAX: usize = 64;
const SSH: &str = "SSH_CONNECTION=";

/// What there is to tell one login from another by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// `/proc/self/sessionid`, where it is set.
    pub audit: Option<u32>,
    /// Both ends of the SSH connection.
    pub ssh: Option<String>,
    /// The process that leads the terminal's session.
    pub terminal: i32,
}

/// By what a login was told from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToldBy {
    /// Its number differs, or only one has a number.
    AuditSession,
    /// There are no numbers; it differs, or only one is there.
    SshConnection,
    /// There is neither.
    Terminal,
}

impl Session {
    /// That of this process.
    pub fn own() -> Self {
        let sessionid = fs::read_to_string("/proc/self/sessionid").ok();
        let sessionid = sessionid.and_then(|text| text.trim().parse().ok());
        Self {
            audit: sessionid.filter(|id| *id != UNSET),
            ssh: ssh_connection(),
            terminal: nix::unistd::getsid(None).map_or(0, nix::unistd::Pid::as_raw),
        }
    }

    /// Whether this is another login than `earlier`; by what.
    ///
    /// # Errors
    /// By what it was seen to be the same.
    pub fn is_another_than(&self, earlier: &Self) -> Result<ToldBy, ToldBy> {
        let (told_by, is_another) = if self.audit.is_some() || earlier.audit.is_some() {
            (ToldBy::AuditSession, self.audit != earlier.audit)
        } else if self.ssh.is_some() || earlier.ssh.is_some() {
            (ToldBy::SshConnection, self.ssh != earlier.ssh)
        } else {
            (ToldBy::Terminal, self.terminal != earlier.terminal)
        };
        match is_another {
            true => Ok(told_by),
            false => Err(told_by),
        }
    }
}

/// That of this process, or of the nearest above it that has one: sudo takes
/// it out of the environment.
fn ssh_connection() -> Option<String> {
    let mut pid = std::process::id();
    for _ in 0..ANCESTORS_MAX {
        let environ = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let mut entries = environ.split(|byte| *byte == 0);
        if let Some(found) = entries.find_map(|entry| entry.strip_prefix(SSH.as_bytes())) {
            return Some(String::from_utf8_lossy(found).into_owned());
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything: the state and the parent.
        let (_, rest) = stat.rsplit_once(") ")?;
        pid = rest.split(' ').nth(1)?.parse().ok()?;
        if pid <= 1 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_counts_as_another_login() {
        let of = |audit: Option<u32>, ssh: Option<&str>, terminal| Session {
            audit,
            ssh: ssh.map(str::to_owned),
            terminal,
        };
        for (one, other, expected) in [
            (
                of(Some(3), None, 1),
                of(Some(4), None, 1),
                Ok(ToldBy::AuditSession),
            ),
            // A new window, and even a new connection, within one login.
            (
                of(Some(3), Some("a"), 1),
                of(Some(3), Some("b"), 2),
                Err(ToldBy::AuditSession),
            ),
            // SSM's sessions are no logins to PAM.
            (
                of(Some(3), Some("a"), 1),
                of(None, None, 2),
                Ok(ToldBy::AuditSession),
            ),
            (
                of(None, Some("a"), 1),
                of(None, Some("b"), 1),
                Ok(ToldBy::SshConnection),
            ),
            (
                of(None, Some("a"), 1),
                of(None, Some("a"), 2),
                Err(ToldBy::SshConnection),
            ),
            (
                of(None, Some("a"), 1),
                of(None, None, 1),
                Ok(ToldBy::SshConnection),
            ),
            (of(None, None, 1), of(None, None, 2), Ok(ToldBy::Terminal)),
            (of(None, None, 1), of(None, None, 1), Err(ToldBy::Terminal)),
        ] {
            assert_eq!(other.is_another_than(&one), expected, "{one:?} {other:?}");
        }
    }
}
