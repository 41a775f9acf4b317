//! One pass over /proc for all questions that wait.
//!
//! A pass is whole or worth nothing: who was not looked at could hold the
//! socket. Processes that end meanwhile hold nothing any more.

use std::collections::{BTreeSet, HashMap};
use std::ffi::CStr;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Instant;

use nix::unistd::Pid;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, RawDir, StatxFlags, openat, readlinkat_raw, statx};
use rustix::io::Errno;

use super::{HOLDERS_MAX, Holder, Ids, facts};
use crate::sys::kcmp;

/// About a thousand entries.
const BUFFER: usize = 32 * 1024;
/// `socket:[4294967295]`, and one more so that a longer one is not taken for it.
const LINK_MAX: usize = 20;
/// `4294967295/task`, and the zero behind it.
const NAME_MAX: usize = 16;
/// The links of /proc/PID/task are two, and one for each thread (fs/proc/base.c,
/// `proc_task_getattr`).
const OF_ONE_THREAD: u32 = 3;

/// The sockets asked for, by inode, and who was seen with them.
pub(super) type Wanted = HashMap<u32, Sighting>;

#[derive(Default)]
pub(super) struct Sighting {
    pub(super) holders: Vec<Holder>,
    /// There are more than are listed.
    pub(super) more: bool,
}

/// Why a pass says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    Overdue,
    Unreadable,
}

/// What a pass needs, kept for the next.
pub(super) struct Scanner {
    processes: Buffer,
    threads: Buffer,
    descriptors: Buffer,
}

type Buffer = Box<[MaybeUninit<u8>]>;

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            processes: Box::new_uninit_slice(BUFFER),
            threads: Box::new_uninit_slice(BUFFER),
            descriptors: Box::new_uninit_slice(BUFFER),
        }
    }

    /// Looks at every process and thread for holders of what is wanted;
    /// returns as whom those run that could not be looked into.
    pub(super) fn pass(
        &mut self,
        wanted: &mut Wanted,
        until: Instant,
    ) -> Result<Vec<Ids>, Abandoned> {
        let mut look = Look {
            wanted,
            until,
            shielded: BTreeSet::new(),
            descriptors: &mut self.descriptors,
        };
        let proc = directory(CWD, c"/proc")?.ok_or(Abandoned::Unreadable)?;
        let mut processes = RawDir::new(&proc, &mut self.processes);
        while let Some(pid) = next_number(&mut processes)? {
            look.at(proc.as_fd(), &Name::new(pid, "/fd"), pid)?;
            look.at_threads(proc.as_fd(), pid, &mut self.threads)?;
        }
        let shielded = look.shielded;
        if shielded.len() > HOLDERS_MAX {
            return Err(Abandoned::Unreadable);
        }
        Ok(shielded.into_iter().collect())
    }
}

struct Look<'p> {
    wanted: &'p mut Wanted,
    until: Instant,
    shielded: BTreeSet<Ids>,
    descriptors: &'p mut Buffer,
}

impl Look<'_> {
    /// One table of descriptors, of this process or a thread of it. Whose it
    /// is, is read in the directory above the very table that was read.
    fn at(&mut self, within: BorrowedFd, table: &Name, pid: u32) -> Result<(), Abandoned> {
        let Some(table) = directory(within, table.as_ref())? else {
            return Ok(());
        };
        let mut held: Vec<u32> = Vec::new();
        let mut entries = RawDir::new(&table, self.descriptors);
        while let Some(descriptor) = next_number(&mut entries)? {
            if Instant::now() >= self.until {
                return Err(Abandoned::Overdue);
            }
            let mut link = [0; LINK_MAX];
            match readlinkat_raw(&table, Name::new(descriptor, "").as_ref(), &mut link) {
                Ok(len) => held.extend(
                    link.get(..len)
                        .and_then(socket_inode)
                        .filter(|inode| self.wanted.contains_key(inode)),
                ),
                // Denied for one is denied for all.
                Err(Errno::ACCESS | Errno::PERM) => {
                    if let Some(of) = directory(table.as_fd(), c"..")? {
                        self.shielded.extend(facts::ids_of(of.as_fd())?);
                    }
                    break;
                }
                Err(error) => ended(error)?,
            }
        }
        if held.is_empty() {
            return Ok(());
        }
        held.sort_unstable();
        held.dedup();
        let Some(of) = directory(table.as_fd(), c"..")? else {
            return Ok(());
        };
        if let Some(holder) = facts::holder(of.as_fd(), pid)? {
            for inode in held {
                if let Some(sighting) = self.wanted.get_mut(&inode) {
                    sighting.add(&holder);
                }
            }
        }
        Ok(())
    }

    /// The threads of a process that do not share its table.
    fn at_threads(
        &mut self,
        proc: BorrowedFd,
        pid: u32,
        buffer: &mut Buffer,
    ) -> Result<(), Abandoned> {
        let tasks = Name::new(pid, "/task");
        match statx(proc, tasks.as_ref(), AtFlags::empty(), StatxFlags::NLINK) {
            Ok(of) if of.stx_nlink == OF_ONE_THREAD => return Ok(()),
            Ok(_) => {}
            Err(error) => return ended(error),
        }
        let Some(tasks) = directory(proc, tasks.as_ref())? else {
            return Ok(());
        };
        let mut threads = RawDir::new(&tasks, buffer);
        while let Some(tid) = next_number(&mut threads)? {
            if Instant::now() >= self.until {
                return Err(Abandoned::Overdue);
            }
            // A kernel without kcmp, or a thread that ends: looking is sure.
            if tid != pid && !kcmp::same_descriptors(number(pid), number(tid)).unwrap_or(false) {
                self.at(tasks.as_fd(), &Name::new(tid, "/fd"), pid)?;
            }
        }
        Ok(())
    }
}

impl Sighting {
    fn add(&mut self, holder: &Holder) {
        if self.holders.len() < HOLDERS_MAX {
            self.holders.push(holder.clone());
        } else {
            self.more = true;
        }
    }
}

/// `None` where what it belongs to has ended.
fn directory(within: BorrowedFd, name: &CStr) -> Result<Option<OwnedFd>, Abandoned> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(within, name, flags, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) => ended(error).map(|()| None),
    }
}

/// The next entry that is a number: a process, thread or descriptor.
fn next_number(entries: &mut RawDir<'_, &OwnedFd>) -> Result<Option<u32>, Abandoned> {
    while let Some(entry) = entries.next() {
        match entry {
            Ok(entry) => {
                let name = entry.file_name().to_str();
                if let Some(number) = name.ok().and_then(|it| it.parse().ok()) {
                    return Ok(Some(number));
                }
            }
            Err(error) => {
                ended(error)?;
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// A number, and a name below it.
struct Name([u8; NAME_MAX]);

impl Name {
    fn new(number: u32, below: &str) -> Self {
        let mut bytes = [0; NAME_MAX];
        // There is room for any, and for the zero behind it.
        let _ = write!(bytes.as_mut_slice(), "{number}{below}");
        Self(bytes)
    }
}

impl AsRef<CStr> for Name {
    fn as_ref(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

fn ended(error: Errno) -> Result<(), Abandoned> {
    match error {
        Errno::NOENT | Errno::SRCH => Ok(()),
        _ => Err(Abandoned::Unreadable),
    }
}

/// `socket:[N]`, as proc_pid_fd(5) has it.
fn socket_inode(link: &[u8]) -> Option<u32> {
    let number = link.strip_prefix(b"socket:[")?.strip_suffix(b"]")?;
    std::str::from_utf8(number).ok()?.parse().ok()
}

/// Numbers of the kernel's end at 2^22.
fn number(of: u32) -> Pid {
    Pid::from_raw(i32::try_from(of).unwrap_or(0))
}
