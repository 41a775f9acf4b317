//! Why the daemon does not start, and what the admin can do about it.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::errno::Errno;

use crate::caller::witness::WitnessError;
use crate::intercept::{Drift, InterceptError, RuleSetError};
use crate::sys::privilege::PrivilegeError;

/// What stood in the way.
#[derive(Debug)]
pub enum StartError {
    /// Not started as root.
    NotRoot,
    /// The config makes no rule set.
    RuleSet(RuleSetError),
    /// The rules cannot be verified.
    Verify(InterceptError),
    /// The rules are not, or not all, loaded.
    Drift(Vec<Drift>),
    /// The policy has errors; rendered.
    Policy(String),
    /// A listener for this metadata address, at this port.
    Bind(SocketAddr, u16, io::Error),
    /// The log or its directory.
    Audit(PathBuf, io::Error),
    /// The socket for the watcher of the rules.
    Post(PathBuf, io::Error),
    /// The limit of open descriptors.
    Descriptors(io::Error),
    /// There is no witness.
    Witness(WitnessError),
    /// Privileges cannot be dropped.
    Privilege(PrivilegeError),
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
                 its ports, then drops to its own user (try `sudo imdsfw run`)",
            ),
            Self::RuleSet(error) => error.fmt(f),
            Self::Verify(error) => error.fmt(f),
            Self::Drift(drift) => {
                f.write_str("the kernel rules are not as they must be; nobody is served:\n")?;
                for difference in drift.iter().take(8) {
                    writeln!(f, "  {difference}")?;
                }
                f.write_str("load them with `imdsfw rules apply`, then start again")
            }
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
            Self::Descriptors(error) => write!(f, "cannot raise the descriptor limit: {error}"),
            Self::Witness(error) => error.fmt(f),
            Self::Privilege(error) => error.fmt(f),
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
