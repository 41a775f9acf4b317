//! Why the daemon does not start, and what the admin can do about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::errno::Errno;

use super::HandedError;
use crate::caller::witness::WitnessError;
use crate::ids::Uid;
use crate::intercept::{Drift, InterceptError, Open, RuleSetError};
use crate::sys::activation::ActivationError;
use crate::sys::privilege::PrivilegeError;
use crate::sys::sandbox::SandboxError;

/// What stood in the way.
#[derive(Debug)]
pub enum StartError {
    /// Not started as root, and without listeners.
    NotRoot,
    /// Started as this uid, which is neither root's nor the daemon's own.
    NotTheDaemon(Uid, Uid),
    /// Callers would be named by other uids than the host's.
    UserNamespace,
    /// Whether they would cannot be read.
    UidMap(io::Error),
    /// What was handed over by the environment.
    Activation(ActivationError),
    /// The listeners that were handed over.
    Handed(HandedError),
    /// The config makes no rule set.
    RuleSet(RuleSetError),
    /// The rules cannot be verified.
    Verify(InterceptError),
    /// The rules are not, or not all, loaded.
    Drift(Vec<Drift>),
    /// The rules cannot be read, and are not felt.
    Unguarded(Open),
    /// The policy has errors; rendered.
    Policy(String),
    /// A listener for this metadata address, at this port.
    Bind(SocketAddr, u16, io::Error),
    /// The log or its directory.
    Audit(PathBuf, io::Error),
    /// The socket for the watcher of the rules.
    Post(PathBuf, io::Error),
    /// The socket for root's orders.
    Control(PathBuf, io::Error),
    /// The socket on which the log is followed.
    Stream(PathBuf, io::Error),
    /// The limits of open descriptors and the like.
    Limits(io::Error),
    /// The process that looks up names.
    Names(io::Error),
    /// There is no witness.
    Witness(WitnessError),
    /// Privileges cannot be dropped.
    Privilege(PrivilegeError),
    /// The sandbox cannot be entered.
    Sandbox(SandboxError),
    /// The kernel does not answer who owns a socket.
    SockDiag(Errno),
    /// The kernel gives no random numbers.
    Random(getrandom::Error),
    /// Threads, timers or signals.
    Runtime(io::Error),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot => f.write_str(
                "the daemon must be started as root: it verifies the kernel rules and binds \
                 its ports, then drops to its own user (try `sudo imdsfw run`); or as that \
                 user, by a service manager that hands it its listeners (LISTEN_FDS)",
            ),
            Self::NotTheDaemon(started, own) => write!(
                f,
                "started as uid {started}, but the rules exempt uid {own} alone; start it as \
                 root, or as `user` in the config (`User=` in the service unit)"
            ),
            Self::UserNamespace => f.write_str(
                "started in a user namespace, in which users of this host have other uids than \
                 outside, or all the same one, so that they would be taken for each other; start \
                 it outside (without `PrivateUsers=` in the unit, or in a container that has \
                 none of its own)",
            ),
            Self::UidMap(error) => write!(
                f,
                "cannot read /proc/self/uid_map, which says whether callers are named by their \
                 own uids: {error}; mount /proc"
            ),
            Self::Activation(error) => error.fmt(f),
            Self::Handed(error) => error.fmt(f),
            Self::RuleSet(error) => error.fmt(f),
            Self::Verify(error) => error.fmt(f),
            Self::Drift(drift) => {
                f.write_str("the kernel rules are not as they must be; nobody is served:\n")?;
                for difference in drift.iter().take(8) {
                    writeln!(f, "  {difference}")?;
                }
                f.write_str("load them with `imdsfw rules apply`, then start again")
            }
            Self::Unguarded(open) => write!(
                f,
                "the kernel rules are not in force; nobody is served: {open}; load them with \
                 `imdsfw rules apply` as root, see `imdsfw rules verify`, then start again"
            ),
            Self::Policy(shown) => {
                write!(f, "the policy is refused; nothing was started\n{shown}")
            }
            Self::Bind(service, port, error) => {
                let host = if service.is_ipv4() {
                    "127.0.0.1"
                } else {
                    "[::1]"
                };
                write!(f, "cannot listen on {host}:{port}: {error}; ")?;
                match error.kind() {
                    io::ErrorKind::AddrInUse => write!(
                        f,
                        "see who does with `ss -tlnp sport = :{port}`, or choose another `port` \
                         in [listen] and apply the rules again"
                    ),
                    io::ErrorKind::AddrNotAvailable => f.write_str(
                        "bring up the loopback interface, or leave that address out of \
                         `addresses` in [upstream]",
                    ),
                    _ => f.write_str("ports below 1024 need root"),
                }
            }
            Self::Audit(path, error) => write!(
                f,
                "cannot open the audit log {}: {error}; the daemon's user must be able to \
                 write there",
                path.display()
            ),
            Self::Post(path, error) => write!(
                f,
                "cannot listen on {}, where `imdsfw rules watch` reports: {error}; choose \
                 another directory with `socket` under [control]",
                path.display()
            ),
            Self::Stream(path, error) => write!(
                f,
                "cannot listen on {} for those who follow the log: {error}",
                path.display()
            ),
            Self::Control(path, error) => write!(
                f,
                "cannot listen on {}, where `imdsfw status` and the like ask: {error}; choose \
                 another path with `socket` under [control]",
                path.display()
            ),
            Self::Limits(error) => write!(f, "cannot set resource limits: {error}"),
            Self::Names(error) => write!(
                f,
                "cannot start the process that looks up names (imdsfw-names): {error}"
            ),
            Self::Witness(error) => error.fmt(f),
            Self::Privilege(error) => error.fmt(f),
            Self::Sandbox(error) => error.fmt(f),
            Self::SockDiag(errno) => write!(
                f,
                "the kernel cannot be asked who owns a socket: {}; it needs CONFIG_INET_DIAG \
                 (try `modprobe tcp_diag`)",
                errno.desc()
            ),
            Self::Random(error) => write!(f, "the kernel gives no random numbers: {error}"),
            Self::Runtime(error) => write!(f, "cannot serve: {error}"),
        }
    }
}

impl std::error::Error for StartError {}
