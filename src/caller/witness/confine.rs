//! What the witness takes from itself before it reads the first question:
//! every capability but two and its uid if that is root's, before it speaks to
//! anybody; then all system calls but those it looks with.

use std::collections::BTreeMap;
use std::fmt;

use caps::{CapSet, Capability, CapsHashSet, errors::CapsError};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::unistd::{Gid, Uid, geteuid, setgroups, setresgid, setresuid};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

use super::RunAs;

/// To look into the descriptors of other users' processes.
const KEPT: [Capability; 2] = [Capability::CAP_SYS_PTRACE, Capability::CAP_DAC_READ_SEARCH];

/// System calls with any arguments.
const ALLOWED: [i64; 19] = [
    // Looking.
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_statx,
    libc::SYS_read,
    libc::SYS_close,
    libc::SYS_kcmp,
    libc::SYS_clock_gettime,
    // Answering.
    libc::SYS_ppoll,
    libc::SYS_restart_syscall,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    // Memory; mapping it is below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Last words and the end.
    libc::SYS_write,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_exit_group,
];

/// As in the unit that is shipped for it (setpriority(2)).
const PRIORITY: i32 = -10;

/// linux/fcntl.h.
const F_GETFD: u64 = 1;
/// Without the flags: which memory, which clock (linux/futex.h).
const FUTEX_COMMAND: u64 = 0x7f;

/// Why the witness does not begin.
#[derive(Debug)]
pub enum ConfineError {
    /// Run as root with nobody named to become.
    Root,
    /// Not root, and without the two capabilities.
    Lacking,
    /// A system call refused; its name.
    Refused(&'static str, Errno),
    /// So did one about capabilities.
    Capabilities(CapsError),
    /// The list of system calls cannot be put in force.
    Seccomp(String),
    /// Something was kept that may not be.
    Kept(&'static str),
}

impl fmt::Display for ConfineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the witness cannot be confined: ")?;
        match self {
            Self::Root => f.write_str("it may not stay root"),
            Self::Lacking => f.write_str(
                "it needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH; start it as root, or by a \
                 service manager that gives it these two",
            ),
            Self::Refused(call, errno) => write!(f, "{call}: {}", errno.desc()),
            Self::Capabilities(error) => write!(f, "{error}"),
            Self::Seccomp(error) => write!(
                f,
                "{error}; it needs a kernel with CONFIG_SECCOMP_FILTER on x86_64, aarch64 or \
                 riscv64"
            ),
            Self::Kept(what) => write!(f, "{what} remained"),
        }
    }
}

impl std::error::Error for ConfineError {}

impl From<CapsError> for ConfineError {
    fn from(error: CapsError) -> Self {
        Self::Capabilities(error)
    }
}

/// Leaves this process, which has one thread and has read nothing, the two
/// capabilities and nothing else, for good.
pub(super) fn give_up(run_as: Option<RunAs>) -> Result<(), ConfineError> {
    let kept: CapsHashSet = KEPT.into_iter().collect();
    if geteuid().is_root() {
        // On a busy host it may not come last: credentials wait for it, and
        // clients do not wait long. Without, it is merely slower.
        let _ = rustix::process::setpriority_process(None, PRIORITY);
        become_other(run_as.ok_or(ConfineError::Root)?, &kept)?;
    }
    if !caps::read(None, CapSet::Permitted)?.is_superset(&kept) {
        return Err(ConfineError::Lacking);
    }
    caps::clear(None, CapSet::Ambient)?;
    caps::set(None, CapSet::Effective, &kept)?;
    caps::set(None, CapSet::Permitted, &kept)?;
    caps::clear(None, CapSet::Inheritable)?;
    prctl::set_no_new_privs().map_err(refused("prctl(PR_SET_NO_NEW_PRIVS)"))?;
    prctl::set_dumpable(false).map_err(refused("prctl(PR_SET_DUMPABLE)"))?;
    verify(&kept)
}

/// And these system calls alone, in each of its threads.
pub(super) fn restrict_calls() -> Result<(), ConfineError> {
    let filter = filter().map_err(|error| ConfineError::Seccomp(error.to_string()))?;
    seccompiler::apply_filter_all_threads(&filter)
        .map_err(|error| ConfineError::Seccomp(error.to_string()))
}

fn refused(call: &'static str) -> impl Fn(Errno) -> ConfineError {
    move |errno| ConfineError::Refused(call, errno)
}

fn become_other(RunAs { uid, gid }: RunAs, kept: &CapsHashSet) -> Result<(), ConfineError> {
    for capability in caps::read(None, CapSet::Bounding)?.difference(kept) {
        caps::drop(None, CapSet::Bounding, *capability)?;
    }
    let (uid, gid) = (Uid::from_raw(uid.0), Gid::from_raw(gid.0));
    caps::securebits::set_keepcaps(true)?;
    setgroups(&[]).map_err(refused("setgroups"))?;
    setresgid(gid, gid, gid).map_err(refused("setresgid"))?;
    setresuid(uid, uid, uid).map_err(refused("setresuid"))?;
    caps::securebits::set_keepcaps(false)?;
    Ok(())
}

/// Read back from the kernel.
fn verify(kept: &CapsHashSet) -> Result<(), ConfineError> {
    let uids = nix::unistd::getresuid().map_err(refused("getresuid"))?;
    if [uids.real, uids.effective, uids.saved]
        .iter()
        .any(|uid| uid.is_root())
    {
        return Err(ConfineError::Kept("a user id of root"));
    }
    for (set, expected) in [
        (CapSet::Effective, kept),
        (CapSet::Permitted, kept),
        (CapSet::Inheritable, &CapsHashSet::new()),
        (CapSet::Ambient, &CapsHashSet::new()),
    ] {
        if caps::read(None, set)? != *expected {
            return Err(ConfineError::Kept("a capability"));
        }
    }
    Ok(())
}

/// Files are opened to be read, memory is mapped to hold data, and nothing
/// else is done; what tries to, is not the witness any more, and ends.
fn filter() -> Result<BpfProgram, seccompiler::BackendError> {
    use SeccompCmpArgLen::Dword;
    let lacks = |argument, bits: i32| -> Result<SeccompRule, seccompiler::BackendError> {
        let bits = u64::from(bits.unsigned_abs());
        let none = SeccompCondition::new(argument, Dword, SeccompCmpOp::MaskedEq(bits), 0)?;
        SeccompRule::new(vec![none])
    };
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALLOWED.into_iter().map(|call| (call, vec![])).collect();
    let writing = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
    // With debug assertions, Rust asks this of what it closes.
    let asks = SeccompCondition::new(1, Dword, SeccompCmpOp::Eq, F_GETFD)?;
    rules.insert(libc::SYS_fcntl, vec![SeccompRule::new(vec![asks])?]);
    let operation = |operation: i32| -> Result<SeccompRule, seccompiler::BackendError> {
        let is = SeccompCmpOp::MaskedEq(FUTEX_COMMAND);
        let operation = u64::from(operation.unsigned_abs());
        SeccompRule::new(vec![SeccompCondition::new(1, Dword, is, operation)?])
    };
    // The helper waits, and is woken.
    let waits = [libc::FUTEX_WAIT, libc::FUTEX_WAKE, libc::FUTEX_WAIT_BITSET];
    let waits: Result<_, _> = waits.into_iter().map(operation).collect();
    rules.insert(libc::SYS_futex, waits?);
    rules.insert(libc::SYS_openat, vec![lacks(2, writing)?]);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![lacks(2, libc::PROT_EXEC)?]);
    }
    SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::try_from(std::env::consts::ARCH)?,
    )?
    .try_into()
}
