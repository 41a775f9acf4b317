//! One pass over /proc for all questions that wait; by two threads, where it is
//! but one.
//!
//! A pass is whole or worth nothing: who was not looked at could hold the
//! socket. Processes that end meanwhile hold nothing any more.

use std::mem::MaybeUninit;
use std::os::fd::AsFd as _;
use std::sync::Arc;
use std::time::Instant;

use rustix::fs::{CWD, RawDir};

use super::helper::Helper;
use super::scan::{self, Abandoned, Found, Job, Scanner};
use super::{HOLDERS_MAX, Seen};
use crate::sorted;

/// Fewer processes are looked at before a helper has woken up.
const WORTH_HELP: usize = 8;

/// How many of the host's processors a pass may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effort {
    /// One: others have something to do as well.
    Alone,
    /// Two, if there are two.
    Helped,
}

/// What passes need, kept from one to the next.
pub(super) struct Passes {
    processes: Box<[MaybeUninit<u8>]>,
    scanner: Scanner,
    helper: Option<Helper>,
}

impl Passes {
    /// With the threads it will ever have. Without a second one it is slower.
    pub(super) fn new() -> Self {
        let processors = std::thread::available_parallelism();
        let has_two = processors.is_ok_and(|count| count.get() > 1);
        Self {
            processes: Box::new_uninit_slice(scan::BUFFER),
            scanner: Scanner::new(),
            helper: has_two.then(Helper::start).and_then(Result::ok),
        }
    }

    /// Looks at every process and thread for holders of these sockets.
    pub(super) fn pass(
        &mut self,
        inodes: &[u32],
        effort: Effort,
        until: Instant,
    ) -> Result<Found, Abandoned> {
        let mut found = Found::none_yet(inodes);
        let proc = scan::directory(CWD, c"/proc")?.ok_or(Abandoned::Unreadable)?;
        let mut listing = RawDir::new(&proc, &mut self.processes);
        // To the very end: who was born meanwhile comes behind all others.
        loop {
            let mut pids = Vec::new();
            while let Some(pid) = scan::next_number(&mut listing)? {
                pids.push(pid);
                if listing.is_buffer_empty() {
                    break;
                }
            }
            if pids.is_empty() {
                return match found.shielded.len() > HOLDERS_MAX {
                    true => Err(Abandoned::Unreadable),
                    false => Ok(found),
                };
            }
            let is_worth = effort == Effort::Helped && pids.len() >= WORTH_HELP;
            let job = Arc::new(Job::new(pids, inodes, until));
            let helper = self.helper.as_ref().filter(|_| is_worth);
            if let Some(helper) = helper {
                helper.begin(&job);
            }
            let own = self.scanner.take_part(proc.as_fd(), &job);
            let others = helper.and_then(|helper| helper.end(&job));
            found.add(own?);
            if let Some(others) = others {
                found.add(others?);
            }
        }
    }
}

impl Found {
    /// What there is to say of one socket. `None` where too many hold it.
    pub(super) fn of(&self, inode: u32) -> Option<Seen> {
        let sighting = self.sightings.get(&inode)?;
        (!sighting.more).then(|| {
            let mut holders = sighting.holders.clone();
            // Two threads found them in any order.
            sorted::by_key(&mut holders, |holder| holder.pid);
            Seen {
                holders,
                shielded: self.shielded.iter().copied().collect(),
            }
        })
    }
}
