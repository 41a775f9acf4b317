//! How a daemon that is still root starts its witness.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{Group, User};

use super::{READY, RunAs};
use crate::ids::{Gid, Uid};

/// The program that this process runs, also where its file was replaced since.
const OWN_PROGRAM: &str = "/proc/self/exe";
/// A witness is confined within milliseconds.
const READY_SECONDS: i64 = 10;
/// Numbers that neither Debian nor systemd gives to accounts.
const UNUSED: std::ops::RangeInclusive<u32> = 65520..=65533;

/// Why there is no witness.
#[derive(Debug)]
pub enum WitnessError {
    /// The account is the daemon's own, or root's; its name.
    Account(String),
    /// There is no such account, and no free number to run as instead.
    NoNumber(String),
    /// The process cannot be started.
    Start(io::Error),
    /// It ended, or did not say that it is ready.
    NotReady,
}

impl fmt::Display for WitnessError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Account(account) => write!(
                f,
                "`witness_user = \"{account}\"` must be an account of its own: not root, and not \
                 the daemon's `user`, who could then tamper with what watches over it"
            ),
            Self::NoNumber(account) => write!(
                f,
                "there is no account {account:?} for the witness; create it with `useradd \
                 --system --no-create-home --shell /usr/sbin/nologin {account}`"
            ),
            Self::Start(error) => write!(f, "cannot start the witness: {error}"),
            Self::NotReady => f.write_str(
                "the witness, without which no credentials are given out, did not come up; \
                 what it said stands above",
            ),
        }
    }
}

impl std::error::Error for WitnessError {}

impl RunAs {
    /// The account of that name; where there is none, a number that no
    /// account has. Never root's or the daemon's.
    pub fn new(account: &str, daemon: Uid) -> Result<Self, WitnessError> {
        let found = match account.parse() {
            Ok(uid) => Some((uid, uid)),
            Err(_) => {
                let user = User::from_name(account).map_err(io::Error::from);
                let user = user.map_err(WitnessError::Start)?;
                user.map(|user| (user.uid.as_raw(), user.gid.as_raw()))
            }
        };
        let (uid, gid) = found
            .or_else(|| {
                let number = UNUSED.rev().find(|it| *it != daemon.0 && is_unused(*it))?;
                Some((number, number))
            })
            .ok_or_else(|| WitnessError::NoNumber(account.into()))?;
        if uid == 0 || uid == daemon.0 {
            return Err(WitnessError::Account(account.into()));
        }
        Ok(Self {
            uid: Uid(uid),
            gid: Gid(gid),
        })
    }
}

/// Only a clear "no such account" counts.
fn is_unused(number: u32) -> bool {
    matches!(User::from_uid(number.into()), Ok(None))
        && matches!(Group::from_gid(number.into()), Ok(None))
}

/// Starts the witness and returns the socket to ask it on, once it is
/// confined. It ends when that socket is closed. To be called as root.
///
/// # Errors
/// [`WitnessError`]; there is none then.
pub fn start(run_as: RunAs) -> Result<OwnedFd, WitnessError> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .map_err(|errno| WitnessError::Start(errno.into()))?;
    let RunAs { uid, gid } = run_as;
    // Nobody waits for its end; it outlives the daemon by no more than the
    // time it takes to see that its socket is closed.
    Command::new(OWN_PROGRAM)
        .arg0("imdsfw-witness")
        .arg("witness")
        .args(["--uid", &uid.to_string(), "--gid", &gid.to_string()])
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(WitnessError::Start)?;
    let patience = TimeVal::new(READY_SECONDS, 0);
    let mut said = [0; READY.len()];
    let patient = setsockopt(&ours, sockopt::ReceiveTimeout, &patience);
    let heard = patient.and_then(|()| {
        loop {
            match recv(ours.as_raw_fd(), &mut said, MsgFlags::empty()) {
                // As when another child ends.
                Err(Errno::EINTR) => {}
                heard => return heard,
            }
        }
    });
    match heard {
        Ok(_) if said == READY => Ok(ours),
        _ => Err(WitnessError::NotReady),
    }
}
