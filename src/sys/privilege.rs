//! Becoming an unprivileged user for good.
//!
//! To be called before the process has threads or has read a byte from
//! outside. What this returns from without an error holds: the outcome is
//! read back from the kernel.

use std::fmt;
use std::io;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{
    Gid, Uid, geteuid, getgroups, getresgid, getresuid, setgroups, setresgid, setresuid,
};

/// Proof that the process has dropped everything it may not keep.
#[derive(Debug)]
pub struct Dropped(());

/// What stood in the way.
#[derive(Debug)]
pub enum PrivilegeError {
    /// A system call refused; its name.
    Refused(&'static str, Errno),
    /// The kernel says afterwards that something was kept.
    Kept(&'static str),
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(call, errno) => {
                write!(f, "cannot drop privileges: {call}: {}", errno.desc())
            }
            Self::Kept(what) => write!(f, "cannot drop privileges: {what} remained"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// Becomes `uid` and `gid` alone: no other groups, no capability in any set,
/// no new privileges by exec, no core dumps or ptrace by others of that uid.
///
/// A process that a service manager started as that user, with whatever
/// capabilities, ends up the same, but for the bounding set: without a right
/// to change it, there is none left to gain by exec either.
pub fn drop_to(uid: Uid, gid: Gid) -> Result<Dropped, PrivilegeError> {
    let refused = |call| move |errno| PrivilegeError::Refused(call, errno);
    let privileged = geteuid().is_root();
    if privileged {
        empty_bounding_set().map_err(refused("prctl(PR_CAPBSET_DROP)"))?;
        setgroups(&[]).map_err(refused("setgroups"))?;
        setresgid(gid, gid, gid).map_err(refused("setresgid"))?;
        setresuid(uid, uid, uid).map_err(refused("setresuid"))?;
    }
    // Takes them out of the ambient set as well (capabilities(7)).
    empty_capability_sets().map_err(refused("capset"))?;
    prctl::set_no_new_privs().map_err(refused("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    prctl::set_dumpable(false).map_err(refused("prctl(PR_SET_DUMPABLE)"))?;
    verify(uid, gid, privileged)
}

fn verify(uid: Uid, gid: Gid, bounding_too: bool) -> Result<Dropped, PrivilegeError> {
    let uids = getresuid().map_err(|errno| PrivilegeError::Refused("getresuid", errno))?;
    let gids = getresgid().map_err(|errno| PrivilegeError::Refused("getresgid", errno))?;
    if [uids.real, uids.effective, uids.saved] != [uid; 3] || uid.is_root() {
        return Err(PrivilegeError::Kept("a user id"));
    }
    if [gids.real, gids.effective, gids.saved] != [gid; 3] {
        return Err(PrivilegeError::Kept("a group id"));
    }
    if getgroups().map_or(true, |groups| groups.iter().any(|group| *group != gid)) {
        return Err(PrivilegeError::Kept("a supplementary group"));
    }
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|_| PrivilegeError::Kept("an unreadable /proc/self/status"))?;
    let empty = |field: &str| {
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        value.is_some_and(|value| value.trim().bytes().all(|digit| digit == b'0'))
    };
    let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"];
    if !sets.into_iter().all(empty) || (bounding_too && !empty("CapBnd:")) {
        return Err(PrivilegeError::Kept("a capability"));
    }
    Ok(Dropped(()))
}

fn empty_bounding_set() -> Result<(), Errno> {
    for capability in 0..=63 {
        // SAFETY: PR_CAPBSET_DROP takes a number and touches no memory of ours.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match Errno::result(result) {
            Ok(_) => {}
            // Past the last capability this kernel knows.
            Err(Errno::EINVAL) => return Ok(()),
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

fn empty_capability_sets() -> Result<(), Errno> {
    // linux/capability.h: version 3, this thread; then effective, permitted
    // and inheritable, twice 32 bits each.
    let header: [u32; 2] = [0x2008_0522, 0];
    let sets = [0_u32; 6];
    // SAFETY: both arrays have the sizes that version 3 asks for, and the
    // kernel only reads them.
    let result = unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), sets.as_ptr()) };
    Errno::result(result).map(drop)
}

/// Processes and threads of the daemon's user, helpers included: some tens
/// are needed.
const PROCESSES_MAX: u64 = 512;

/// Raises the soft limit of open descriptors to the hard one, which it
/// returns, and lowers those of what the daemon never does: dump core, lock
/// memory, keep message queues, be many.
pub fn limit_resources() -> io::Result<usize> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    for (resource, most) in [
        (Resource::RLIMIT_CORE, 0),
        (Resource::RLIMIT_MEMLOCK, 0),
        (Resource::RLIMIT_MSGQUEUE, 0),
        (Resource::RLIMIT_NPROC, PROCESSES_MAX),
    ] {
        let (_, hard) = getrlimit(resource)?;
        let most = most.min(hard);
        setrlimit(resource, most, most)?;
    }
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    Ok(usize::try_from(hard).unwrap_or(usize::MAX))
}
