//! Which system calls the daemon makes once it serves.
//!
//! Two filters. What no daemon of ours could ever mean, because it is a step
//! of an attack, ends the process: its end is seen, and the next one serves.
//! Everything else that is not on the list does not exist (ENOSYS), so that a
//! C library newer than the ones tried falls back as on an older kernel.

use std::collections::BTreeMap;
use std::ffi::c_long;

use libc::{CLONE_THREAD, FIONBIO, PROT_EXEC};
use seccompiler::{
    BackendError, BpfProgram, Error, SeccompAction, SeccompCmpArgLen, SeccompCmpOp,
    SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use super::{Extent, Reach};
use crate::sorted;

/// Made while serving, draining and ending, with whatever arguments: on what
/// they act, the process already holds.
const ALLOWED: &[c_long] = &[
    // Sockets of clients and of the service.
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_getpeername,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fcntl,
    // The event loop.
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_epoll_wait,
    // The machine's name.
    libc::SYS_uname,
    // The log, the policy, names of cgroups.
    libc::SYS_openat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_lseek,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_readlink,
    libc::SYS_readlinkat,
    // Notice of changed files; what outlives the daemon, written whole.
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_fsync,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_renameat,
    #[cfg(target_arch = "aarch64")]
    libc::SYS_renameat,
    libc::SYS_renameat2,
    // Memory and threads.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_futex,
    libc::SYS_rseq,
    libc::SYS_set_robust_list,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    // These cannot fail: an error would be taken for an id.
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    // What was started before.
    libc::SYS_wait4,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_getrandom,
];

/// Steps of an attack: other programs, other processes, other rights, other
/// namespaces, the kernel itself, and the ways around a list like this one.
const DEADLY: &[c_long] = &[
    libc::SYS_execve,
    libc::SYS_execveat,
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_pidfd_getfd,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_kexec_load,
    libc::SYS_add_key,
    libc::SYS_keyctl,
];

/// On a kernel or processor without seccomp filters, says so.
pub(super) fn restrict(reach: &Reach) -> Result<Extent, Error> {
    let Ok(arch) = TargetArch::try_from(std::env::consts::ARCH) else {
        return Ok(Extent::None);
    };
    // The list comes second: it would not let the other one be loaded.
    for filter in [deadly(arch)?, allowed(arch, reach)?] {
        match seccompiler::apply_filter(&filter) {
            Ok(()) => {}
            // prctl(2): not configured into this kernel.
            Err(Error::Prctl(error) | Error::Seccomp(error))
                if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOSYS)) =>
            {
                return Ok(Extent::None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(Extent::Full)
}

fn deadly(arch: TargetArch) -> Result<BpfProgram, Error> {
    let rules = DEADLY.iter().map(|call| (*call, vec![])).collect();
    program(
        rules,
        SeccompAction::Allow,
        SeccompAction::KillProcess,
        arch,
    )
}

fn allowed(arch: TargetArch, reach: &Reach) -> Result<BpfProgram, Error> {
    let mut rules = sorted::map(ALLOWED.iter().map(|call| (*call, vec![])));
    rules.extend(conditional(reach)?);
    // Of rotated logs, the oldest.
    if reach.removes {
        rules.insert(libc::SYS_unlinkat, vec![]);
    }
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    program(rules, absent, SeccompAction::Allow, arch)
}

/// Calls of which one use is needed and another would be a way out.
fn conditional(reach: &Reach) -> Result<Vec<(c_long, Vec<SeccompRule>)>, BackendError> {
    let socket = |family, kind| {
        SeccompRule::new(vec![
            is(0, ALL, family)?,
            // SOCK_NONBLOCK and SOCK_CLOEXEC stand above the type.
            is(1, 0xf, kind)?,
            is(2, ALL, 0)?,
        ])
    };
    let tcp4 = socket(libc::AF_INET, libc::SOCK_STREAM)?;
    let tcp6 = socket(libc::AF_INET6, libc::SOCK_STREAM)?;
    let mut sockets = vec![tcp4, tcp6];
    if reach.unix_datagrams {
        sockets.push(socket(libc::AF_UNIX, libc::SOCK_DGRAM)?);
    }
    if reach.unix_streams {
        sockets.push(socket(libc::AF_UNIX, libc::SOCK_STREAM)?);
    }
    let not_executable = || SeccompRule::new(vec![is(2, PROT_EXEC.unsigned_abs(), 0)?]);
    // clone3 has its flags where no filter can see them; without it, threads
    // are made by clone.
    let thread = SeccompRule::new(vec![is(0, CLONE_THREAD.unsigned_abs(), CLONE_THREAD)?])?;
    let name = SeccompRule::new(vec![is(0, ALL, libc::PR_SET_NAME)?])?;
    let nonblocking = SeccompRule::new(vec![SeccompCondition::new(
        1,
        SeccompCmpArgLen::Dword,
        SeccompCmpOp::Eq,
        FIONBIO,
    )?])?;
    Ok(vec![
        (libc::SYS_socket, sockets),
        (libc::SYS_mmap, vec![not_executable()?]),
        (libc::SYS_mprotect, vec![not_executable()?]),
        (libc::SYS_clone, vec![thread]),
        (libc::SYS_prctl, vec![name]),
        (libc::SYS_ioctl, vec![nonblocking]),
    ])
}

const ALL: u32 = u32::MAX;

/// That these bits of an argument, of which the lower half counts, are as in
/// `value`.
fn is(argument: u8, bits: u32, value: i32) -> Result<SeccompCondition, BackendError> {
    let operator = SeccompCmpOp::MaskedEq(bits.into());
    let value = value.unsigned_abs().into();
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)
}

fn program(
    rules: BTreeMap<c_long, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
    arch: TargetArch,
) -> Result<BpfProgram, Error> {
    let filter = SeccompFilter::new(rules, otherwise, matching, arch)?;
    Ok(BpfProgram::try_from(filter)?)
}
