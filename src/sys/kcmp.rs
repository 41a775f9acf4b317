//! Whether two threads share what a process shares: kcmp(2).

use nix::errno::Errno;
use nix::unistd::Pid;

/// linux/kcmp.h.
const KCMP_FILES: libc::c_int = 2;

/// Whether both threads have the same table of descriptors. Needs the right
/// to ptrace both.
pub fn same_descriptors(one: Pid, other: Pid) -> Result<bool, Errno> {
    // SAFETY: KCMP_FILES takes numbers and touches no memory of ours.
    let order = unsafe { libc::syscall(libc::SYS_kcmp, one.as_raw(), other.as_raw(), KCMP_FILES) };
    Errno::result(order).map(|order| order == 0)
}
