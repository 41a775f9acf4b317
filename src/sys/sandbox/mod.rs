//! What is left to the daemon once it serves, should an attacker ever speak
//! with its voice: a list of system calls (seccomp) and a few directories
//! (Landlock).
//!
//! To be entered while there is one thread, for threads made later are inside
//! as well. Must never be left out in silence.

mod landlock;
mod seccomp;

use std::fmt;
use std::path::PathBuf;

use ::landlock::RulesetError;
use serde::Serialize;

use super::privilege::Dropped;

/// Everything a daemon needs of the world outside of it. Directories and not
/// files, because a file that is replaced is another one to the kernel; what
/// does not exist is left out.
#[derive(Debug, Default)]
pub struct Reach {
    /// Files in and below these are read.
    pub readable: Vec<PathBuf>,
    /// Only the names in and below these are read.
    pub listable: Vec<PathBuf>,
    /// Files in and below these are also made, written and cut.
    pub appendable: Vec<PathBuf>,
    /// Files in and below these are also renamed and removed.
    pub writable: Vec<PathBuf>,
    /// TCP ports that are connected to.
    pub ports: Vec<u16>,
    /// Whether sockets of this host are connected to (unix(7)) that take
    /// datagrams,
    pub unix_datagrams: bool,
    /// and those that take a stream.
    pub unix_streams: bool,
    /// Whether files in the writable ones are ever removed.
    pub removes: bool,
}

/// What the kernel enforces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct InForce {
    /// The list of system calls.
    pub seccomp: Extent,
    /// The directories and ports.
    pub landlock: Extent,
}

/// How much of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Extent {
    /// All of it.
    Full,
    /// As much as this kernel knows of it.
    Partial,
    /// Nothing: this kernel, or this processor, has none.
    None,
}

/// Why a sandbox could not be entered that the kernel has.
#[derive(Debug)]
pub enum SandboxError {
    /// The system calls.
    Seccomp(seccompiler::Error),
    /// The files.
    Landlock(RulesetError),
}

/// Gives up everything but `reach` and the calls a daemon makes.
///
/// # Errors
/// [`SandboxError`]; what a kernel lacks is none, it is said in [`InForce`].
pub fn enter(_: &Dropped, reach: &Reach) -> Result<InForce, SandboxError> {
    Ok(InForce {
        landlock: landlock::restrict(reach).map_err(SandboxError::Landlock)?,
        seccomp: seccomp::restrict(reach).map_err(SandboxError::Seccomp)?,
    })
}

impl fmt::Display for SandboxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seccomp(error) => write!(f, "cannot restrict system calls: {error}"),
            Self::Landlock(error) => write!(f, "cannot restrict file access: {error}"),
        }
    }
}

impl std::error::Error for SandboxError {}
