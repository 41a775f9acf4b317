//! The witness: who holds a socket?
//!
//! The kernel says who *made* a socket, not who has it now; that is only to
//! be found in the descriptor tables below /proc, which takes CAP_SYS_PTRACE
//! and CAP_DAC_READ_SEARCH. The daemon, which reads hostile bytes, may have
//! neither. So a process of its own looks for it: it has these two and
//! nothing else, a uid of its own and a short list of system calls, and
//! answers one question of fixed size, from the daemon alone.
//!
//! A holder can hide from this: a descriptor in flight between two processes
//! or registered with io_uring is in no table. The witness stops accidents and
//! confused programs, not two that work together.

mod bare;
mod budget;
mod client;
mod confine;
mod dial;
mod facts;
mod helper;
mod pass;
mod scan;
mod serve;
mod start;

use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use client::{Unwitnessed, Witness};
pub use confine::ConfineError;
pub use serve::{Ends, ServeError, serve};
pub use start::{WitnessError, start};

use crate::config::Config;
use crate::ids::{Gid, Uid};

/// More processes than this with one connection are not told one by one.
const HOLDERS_MAX: usize = 16;
/// No answer is longer: [`HOLDERS_MAX`] holders with their texts, escaped.
const ANSWER_MAX: usize = 64 * 1024;
const QUESTION_LEN: usize = 16;
/// Of the path of a program; what is longer is cut off.
const EXE_MAX: usize = 256;
/// What a witness says to the daemon that started it once it is confined.
const READY: &[u8] = b"ready";

/// Where the daemon hears a witness that it did not start: beside the control
/// socket.
pub fn socket(config: &Config) -> PathBuf {
    config.control_socket.with_file_name("witness.sock")
}

/// As whom a witness started by root is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunAs {
    /// Its uid; not the daemon's.
    pub uid: Uid,
    /// Its gid.
    pub gid: Gid,
}

/// Whether an answer is worth a look at every process right now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// Only to fill a record: if there was much of that of late, never mind.
    WhenIdle,
    /// A verdict waits for it.
    Now,
}

/// What is asked: `id`, `inode` and urgency, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Question {
    /// Comes back with the answer.
    id: u64,
    inode: u32,
    urgency: Urgency,
}

impl Question {
    fn to_bytes(self) -> Vec<u8> {
        let urgency: u32 = match self.urgency {
            Urgency::WhenIdle => 0,
            Urgency::Now => 1,
        };
        [
            self.id.to_le_bytes().as_slice(),
            &self.inode.to_le_bytes(),
            &urgency.to_le_bytes(),
        ]
        .concat()
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let (id, rest) = bytes.split_first_chunk()?;
        let (inode, urgency) = rest.split_first_chunk()?;
        Some(Self {
            id: u64::from_le_bytes(*id),
            inode: u32::from_le_bytes(*inode),
            urgency: match u32::from_le_bytes(urgency.try_into().ok()?) {
                0 => Urgency::WhenIdle,
                1 => Urgency::Now,
                _ => return None,
            },
        })
    }
}

/// An answer on its way.
#[derive(Debug, Serialize, Deserialize)]
struct Reply {
    id: u64,
    answer: Answer,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Seen(Seen),
    /// More than [`HOLDERS_MAX`].
    TooMany,
    /// Not looked for now.
    Busy,
    /// Not every process could be looked at, or not in time.
    Incomplete,
}

/// Who holds a socket.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// These, and no other that could be looked into.
    pub holders: Vec<Holder>,
    /// As whom those run that even the witness may not look into, as when a
    /// security module shields them: any of them may hold it, too.
    pub shielded: Vec<Ids>,
}

impl Seen {
    /// Every uid that may speak on the socket.
    pub fn uids(&self) -> BTreeSet<Uid> {
        let ids = self.holders.iter().map(|holder| holder.ids);
        ids.chain(self.shielded.iter().copied())
            .flat_map(|ids| ids.all())
            .collect()
    }

    /// The one holder there is, or the one from which all others were forked
    /// and have not called exec since.
    pub fn origin(&self) -> Option<&Holder> {
        let is_origin = |of: &&Holder| {
            let mut others = self.holders.iter().filter(|other| other.pid != of.pid);
            others.all(|other| other.forked_from == Some(of.pid))
        };
        only(self.holders.iter().filter(is_origin))
    }
}

/// A process that has the socket open, or a thread of it with descriptors of
/// its own (unshare(2), CLONE_FILES).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub pid: u32,
    /// As whom it runs.
    pub ids: Ids,
    /// The program it runs, as far as there is one; at most 256 bytes of it.
    pub exe: Option<String>,
    /// What it calls itself.
    pub comm: Option<String>,
    /// The uid that logged in; -1 for none.
    pub loginuid: Option<i64>,
    /// The audit session; -1 for none.
    pub ses: Option<i64>,
    /// The service manager's unit it runs in.
    pub unit: Option<String>,
    /// When it, or that thread, started, in clock ticks since boot.
    pub started: u64,
    /// Its parent, where it has not called exec since its fork: it has what
    /// its parent had, and runs what its parent runs.
    #[serde(default)]
    pub forked_from: Option<u32>,
}

impl Holder {
    /// The file of the program, whole. One that was replaced while it runs, as
    /// by an upgrade, has the same name still.
    pub fn program(&self) -> Option<&str> {
        let exe = self.exe.as_deref()?;
        let is_whole = exe.starts_with('/') && exe.len() < EXE_MAX;
        is_whole.then(|| exe.strip_suffix(" (deleted)").unwrap_or(exe))
    }
}

/// The uids of a process, in the initial user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ids {
    /// Who started it.
    pub real: Uid,
    /// As whom it acts.
    pub effective: Uid,
    /// As whom it can act again.
    pub saved: Uid,
    /// As whom it opens files and makes sockets.
    pub fs: Uid,
}

impl Ids {
    /// All four.
    pub fn all(self) -> [Uid; 4] {
        [self.real, self.effective, self.saved, self.fs]
    }
}

/// This process, as it would be seen by a witness.
pub fn oneself() -> Option<Holder> {
    let process = std::fs::File::open("/proc/self").ok()?;
    facts::holder(process.as_fd(), std::process::id()).ok()?
}

/// The one holder that a socket of `uid` speaks for: the only one there is,
/// else the only one that makes sockets as `uid`. Never a guess.
pub fn speaker(holders: &[Holder], uid: Uid) -> Option<&Holder> {
    let as_uid = |holder: &&Holder| holder.ids.fs == uid;
    only(holders.iter()).or_else(|| only(holders.iter().filter(as_uid)))
}

fn only<'h>(mut among: impl Iterator<Item = &'h Holder>) -> Option<&'h Holder> {
    let first = among.next()?;
    among.all(|other| other.pid == first.pid).then_some(first)
}

#[cfg(test)]
mod tests;
