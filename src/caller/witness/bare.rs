//! Processes that had no descriptor when they were last looked at, as threads
//! of the kernel never have: these are asked how many they have before their
//! table is opened, which takes a third of the time. What is remembered here
//! decides what is asked first, and never who is not looked at.

use std::collections::BTreeSet;
use std::ffi::CStr;
use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use rustix::io::Errno;

/// More are forgotten, all at once; those that ended are among them.
const REMEMBERED_MAX: usize = 16 * 1024;

pub(super) struct Bare {
    kernel: Kernel,
    pids: BTreeSet<u32>,
}

/// Whether the size of /proc/PID/fd is how many descriptors there are: since
/// Linux 6.2 (fs/proc/fd.c, `proc_fd_getattr`). Before, it is 0 for any.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Counts,
    SaysNothing,
}

impl Bare {
    pub(super) fn new() -> Self {
        // We have some ourselves.
        let kernel = match size(CWD, c"/proc/self/fd") {
            Ok(1..) => Kernel::Counts,
            Ok(0) | Err(_) => Kernel::SaysNothing,
        };
        Self {
            kernel,
            pids: BTreeSet::new(),
        }
    }

    /// Whether this process had none, and has none now in the table of this
    /// name.
    pub(super) fn still_has_none(&self, pid: u32, within: BorrowedFd, table: &CStr) -> bool {
        self.pids.contains(&pid) && size(within, table) == Ok(0)
    }

    pub(super) fn remember(&mut self, pid: u32, has_any: bool) {
        if has_any {
            self.pids.remove(&pid);
        } else if self.kernel == Kernel::Counts {
            if self.pids.len() >= REMEMBERED_MAX {
                self.pids.clear();
            }
            self.pids.insert(pid);
        }
    }
}

fn size(within: BorrowedFd, table: &CStr) -> Result<u64, Errno> {
    let of = statx(within, table, AtFlags::empty(), StatxFlags::SIZE)?;
    Ok(of.stx_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_the_kernel_says_nothing_every_table_is_opened() {
        // Of size 0 with something in it, as every table before Linux 6.2.
        let table = c"/proc/self/task";
        assert_eq!(size(CWD, table), Ok(0));
        for (kernel, trusted) in [(Kernel::Counts, true), (Kernel::SaysNothing, false)] {
            let mut bare = Bare {
                kernel,
                pids: BTreeSet::new(),
            };
            bare.remember(7, false);
            assert_eq!(bare.still_has_none(7, CWD, table), trusted, "{kernel:?}");
        }
    }
}
