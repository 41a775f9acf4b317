//! Looks into the tables of descriptors of one process after the other.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CStr;
use std::io::Write as _;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use nix::unistd::Pid;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, StatxFlags, openat, readlinkat_raw, statx};
use rustix::io::Errno;

use super::bare::Bare;
use super::{HOLDERS_MAX, Holder, Ids, facts};
use crate::sorted;
use crate::sys::kcmp;

/// About a thousand entries.
pub(super) const BUFFER: usize = 32 * 1024;
/// `socket:[4294967295]`, and one more so that a longer one is not taken for it.
const LINK_MAX: usize = 20;
/// `4294967295/task`, and the zero behind it.
const NAME_MAX: usize = 16;
/// The links of /proc/PID/task are two, and one for each thread (fs/proc/base.c,
/// `proc_task_getattr`).
const OF_ONE_THREAD: u32 = 3;

/// Who was seen with the sockets asked for, by their inodes. Ordered, for a
/// table that is hashed takes random numbers: a call that is not for looking.
pub(super) type Sightings = BTreeMap<u32, Sighting>;

#[derive(Default)]
pub(super) struct Sighting {
    pub(super) holders: Vec<Holder>,
    /// There are more than are listed.
    pub(super) more: bool,
}

/// What looking came to.
pub(super) struct Found {
    pub(super) sightings: Sightings,
    /// As whom those run that could not be looked into.
    pub(super) shielded: BTreeSet<Ids>,
}

/// Why a pass says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Abandoned {
    Overdue,
    Unreadable,
}

/// Processes to be looked at, by one thread or two.
pub(super) struct Job {
    pids: Vec<u32>,
    /// How many have been taken up.
    taken: AtomicUsize,
    inodes: Vec<u32>,
    pub(super) until: Instant,
}

/// What looking needs, kept for the next time.
pub(super) struct Scanner {
    threads: Buffer,
    descriptors: Buffer,
    bare: Bare,
}

type Buffer = Box<[MaybeUninit<u8>]>;

impl Job {
    pub(super) fn new(pids: Vec<u32>, inodes: &[u32], until: Instant) -> Self {
        Self {
            pids,
            taken: AtomicUsize::new(0),
            inodes: inodes.to_vec(),
            until,
        }
    }

    /// The next process that nobody has taken up.
    fn next(&self) -> Option<u32> {
        let at = self.taken.fetch_add(1, Ordering::Relaxed);
        self.pids.get(at).copied()
    }

    /// A part that says nothing makes the others worth nothing.
    fn abandon(&self) {
        self.taken.store(self.pids.len(), Ordering::Relaxed);
    }
}

impl Scanner {
    pub(super) fn new() -> Self {
        Self {
            threads: Box::new_uninit_slice(BUFFER),
            descriptors: Box::new_uninit_slice(BUFFER),
            bare: Bare::new(),
        }
    }

    /// Looks at processes, and their threads, until none is left to be taken
    /// up.
    pub(super) fn take_part(&mut self, proc: BorrowedFd, job: &Job) -> Result<Found, Abandoned> {
        let mut found = Found::none_yet(&job.inodes);
        let mut look = Look {
            found: &mut found,
            until: job.until,
            descriptors: &mut self.descriptors,
        };
        while let Some(pid) = job.next() {
            in_time(job.until)
                .and_then(|()| look.at_process(proc, pid, &mut self.bare))
                .and_then(|()| look.at_threads(proc, pid, &mut self.threads))
                .inspect_err(|_| job.abandon())?;
        }
        Ok(found)
    }
}

struct Look<'p> {
    found: &'p mut Found,
    until: Instant,
    descriptors: &'p mut Buffer,
}

impl Look<'_> {
    fn at_process(&mut self, proc: BorrowedFd, pid: u32, bare: &mut Bare) -> Result<(), Abandoned> {
        let table = Name::new(pid, "/fd");
        if !bare.still_has_none(pid, proc, table.as_ref()) {
            let has_any = self.at(proc, &table, pid)?;
            bare.remember(pid, has_any);
        }
        Ok(())
    }

    /// One table of descriptors, of this process or a thread of it, and whether
    /// anything is in it. Whose it is, is read in the directory above the very
    /// table that was read.
    fn at(&mut self, within: BorrowedFd, table: &Name, pid: u32) -> Result<bool, Abandoned> {
        let Some(table) = directory(within, table.as_ref())? else {
            return Ok(false);
        };
        let mut has_any = false;
        let mut held: BTreeSet<u32> = BTreeSet::new();
        let mut entries = RawDir::new(&table, self.descriptors);
        while let Some(descriptor) = next_number(&mut entries)? {
            in_time(self.until)?;
            has_any = true;
            let mut link = [0; LINK_MAX];
            match readlinkat_raw(&table, Name::new(descriptor, "").as_ref(), &mut link) {
                Ok(len) => held.extend(
                    link.get(..len)
                        .and_then(socket_inode)
                        .filter(|inode| self.found.sightings.contains_key(inode)),
                ),
                // Denied for one is denied for all.
                Err(Errno::ACCESS | Errno::PERM) => {
                    if let Some(of) = directory(table.as_fd(), c"..")? {
                        self.found.shielded.extend(facts::ids_of(of.as_fd())?);
                    }
                    break;
                }
                Err(error) => ended(error)?,
            }
        }
        if held.is_empty() {
            return Ok(has_any);
        }
        let Some(of) = directory(table.as_fd(), c"..")? else {
            return Ok(has_any);
        };
        if let Some(holder) = facts::holder(of.as_fd(), pid)? {
            for inode in held {
                if let Some(sighting) = self.found.sightings.get_mut(&inode) {
                    sighting.add(&holder);
                }
            }
        }
        Ok(has_any)
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
            in_time(self.until)?;
            // A kernel without kcmp, or a thread that ends: looking is sure.
            if tid != pid && !kcmp::same_descriptors(number(pid), number(tid)).unwrap_or(false) {
                self.at(tasks.as_fd(), &Name::new(tid, "/fd"), pid)?;
            }
        }
        Ok(())
    }
}

impl Found {
    pub(super) fn none_yet(inodes: &[u32]) -> Self {
        let none_yet = |inode: &u32| (*inode, Sighting::default());
        Self {
            sightings: sorted::map(inodes.iter().map(none_yet)),
            shielded: BTreeSet::new(),
        }
    }

    /// What was found of the same sockets among other processes.
    pub(super) fn add(&mut self, other: Self) {
        for (inode, sighting) in other.sightings {
            let own = self.sightings.entry(inode).or_default();
            own.more |= sighting.more;
            for holder in &sighting.holders {
                own.add(holder);
            }
        }
        self.shielded.extend(other.shielded);
    }
}

impl Sighting {
    pub(super) fn add(&mut self, holder: &Holder) {
        if self.holders.len() < HOLDERS_MAX {
            self.holders.push(holder.clone());
        } else {
            self.more = true;
        }
    }
}

/// `None` where what it belongs to has ended.
pub(super) fn directory(within: BorrowedFd, name: &CStr) -> Result<Option<OwnedFd>, Abandoned> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    match openat(within, name, flags, Mode::empty()) {
        Ok(opened) => Ok(Some(opened)),
        Err(error) => ended(error).map(|()| None),
    }
}

/// The next entry that is a number: a process, thread or descriptor.
pub(super) fn next_number(entries: &mut RawDir<'_, &OwnedFd>) -> Result<Option<u32>, Abandoned> {
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

fn in_time(until: Instant) -> Result<(), Abandoned> {
    match Instant::now() < until {
        true => Ok(()),
        false => Err(Abandoned::Overdue),
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
