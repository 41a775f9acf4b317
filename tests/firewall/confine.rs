//! What is left to an attacker who speaks with the daemon's voice. A debugger
//! puts system calls into its mouth: into the serving daemon's, and, to show
//! that they would work, into a bystander's of the same user.

use std::ffi::c_void;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command};

use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{DAEMON, ROOT};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

/// A field of `/proc/PID/task/TID/status`.
fn field(status: &str, name: &str) -> String {
    let mut lines = status.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
    value.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn every_thread_is_confined_and_the_record_says_so() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        // So that the threads which come with requests are there too.
        get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60)));
        let pid = host.daemon_pid();
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            assert_eq!(field(&status, "Seccomp:"), "2", "a filter");
            assert_eq!(field(&status, "Seccomp_filters:"), "2");
            assert_eq!(field(&status, "NoNewPrivs:"), "1");
            threads += 1;
        }
        assert!(threads >= 3, "serving, the log, cgroups: {threads}");

        let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        for (limit, most) in [
            ("Max core file size", "0 0"),
            ("Max locked memory", "0 0"),
            ("Max msgqueue size", "0 0"),
            ("Max processes", "512 512"),
        ] {
            assert!(field(&limits, limit).starts_with(most), "{limits}");
        }
        let started = host.events("daemon.started").pop().unwrap();
        let sandbox = &started["detail"]["sandbox"];
        assert_eq!(sandbox["seccomp"], "full");
        assert_eq!(sandbox["landlock"], "full");
    });
}

/// The same user without any confinement.
fn bystander() -> Child {
    let mut sleep = Command::new("sleep");
    sleep.arg("60").uid(DAEMON.uid).gid(DAEMON.gid);
    sleep.spawn().unwrap()
}

/// A process that waits in a system call, stopped there.
struct Hijacked(Pid);

impl Hijacked {
    fn seize(pid: Pid) -> Self {
        // In the middle of starting, it waits for nothing; and whoever traces it
        // would hear of the end of a child first.
        let children = format!("/proc/{pid}/task/{pid}/children");
        let is_nft = |child: &str| {
            let name = fs::read_to_string(format!("/proc/{child}/comm"));
            name.is_ok_and(|name| name == "nft\n")
        };
        wait_for("the end of nft", || {
            let children = fs::read_to_string(&children).ok()?;
            (!children.split_whitespace().any(is_nft)).then_some(())
        });
        wait_for("a system call that waits", || {
            let wchan = fs::read_to_string(format!("/proc/{pid}/syscall")).ok()?;
            (!wchan.starts_with("running")).then_some(())
        });
        ptrace::attach(pid).unwrap();
        waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        Self(pid)
    }

    /// Makes it call; `Err` with the signal that it died of.
    fn call(&self, number: i64, arguments: [Argument; 4]) -> Result<Result<u64, Errno>, Signal> {
        let before = ptrace::getregs(self.0).unwrap();
        let mut regs = before;
        // Far below what the stopped code has on its stack.
        let mut free = before.rsp - 4096;
        let mut values = [0; 4];
        for (value, argument) in values.iter_mut().zip(&arguments) {
            *value = match argument {
                Argument::Number(number) => *number,
                Argument::Bytes(bytes) => {
                    free -= 1024;
                    self.write(free, bytes);
                    free
                }
            };
        }
        [regs.rdi, regs.rsi, regs.rdx, regs.r10] = values;
        // Fifth and sixth, of mmap: no file.
        (regs.r8, regs.r9) = (u64::MAX, 0);
        // It stands right behind the instruction that made its call.
        regs.rip -= 2;
        regs.rax = number as u64;
        regs.orig_rax = u64::MAX;
        ptrace::setregs(self.0, regs).unwrap();
        ptrace::step(self.0, None).unwrap();
        match waitpid(self.0, Some(WaitPidFlag::__WALL)).unwrap() {
            WaitStatus::Signaled(_, signal, _) => return Err(signal),
            WaitStatus::Stopped(_, Signal::SIGTRAP) => {}
            other => panic!("{other:?}"),
        }
        let returned = ptrace::getregs(self.0).unwrap().rax as i64;
        ptrace::setregs(self.0, before).unwrap();
        Ok(match returned {
            -4095..0 => Err(Errno::from_raw(-returned as i32)),
            value => Ok(value as u64),
        })
    }

    fn write(&self, mut at: u64, bytes: &[u8]) {
        for chunk in bytes.chunks(8).chain([[0; 8].as_slice()]) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            ptrace::write(self.0, at as *mut c_void, i64::from_ne_bytes(word)).unwrap();
            at += 8;
        }
    }

    fn release(self) {
        ptrace::detach(self.0, None).unwrap();
    }
}

#[derive(Clone)]
enum Argument {
    Number(u64),
    Bytes(Vec<u8>),
}

use Argument::{Bytes, Number};

fn open(path: &std::path::Path, flags: i32) -> (i64, [Argument; 4]) {
    let path = Bytes(path.as_os_str().as_bytes().to_vec());
    let cwd = Number(libc::AT_FDCWD as u64);
    let arguments = [cwd, path, Number(flags as u64), Number(0o600)];
    (libc::SYS_openat, arguments)
}

fn numbers(call: i64, [a, b, c, d]: [i32; 4]) -> (i64, [Argument; 4]) {
    (call, [a, b, c, d].map(|number| Number(number as u64)))
}

/// linux/in.h; 10.77.0.1, the service's other address.
fn sockaddr(port: u16) -> Vec<u8> {
    let mut bytes = libc::AF_INET.to_ne_bytes()[..2].to_vec();
    bytes.extend(port.to_be_bytes());
    bytes.extend([10, 77, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[test]
fn with_the_daemons_voice_nothing_else_can_be_done() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let elsewhere = host.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        chown(&elsewhere, Some(DAEMON.uid), Some(DAEMON.gid)).unwrap();
        let new = libc::O_CREAT | libc::O_WRONLY;
        let tcp = [libc::AF_INET, libc::SOCK_STREAM, 0, 0];
        let connect = |port, fd| {
            let address = Bytes(sockaddr(port));
            (
                libc::SYS_connect,
                [Number(fd), address, Number(16), Number(0)],
            )
        };
        let mut free = bystander();
        let free_pid = Pid::from_raw(free.id() as i32);
        let executable = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;
        let attempts = [
            (open("/etc/passwd".as_ref(), 0), Errno::EACCES),
            (open("/proc/self/maps".as_ref(), 0), Errno::EACCES),
            (open(&elsewhere.join("x"), new), Errno::EACCES),
            (
                numbers(libc::SYS_mmap, [0, 4096, executable, anonymous]),
                Errno::ENOSYS,
            ),
            (
                numbers(libc::SYS_socket, [libc::AF_UNIX, libc::SOCK_DGRAM, 0, 0]),
                Errno::ENOSYS,
            ),
            (
                numbers(libc::SYS_socket, [libc::AF_NETLINK, libc::SOCK_RAW, 0, 0]),
                Errno::ENOSYS,
            ),
            (
                numbers(libc::SYS_socket, [libc::AF_INET, libc::SOCK_DGRAM, 0, 0]),
                Errno::ENOSYS,
            ),
            (
                numbers(libc::SYS_kill, [free_pid.as_raw(), 0, 0, 0]),
                Errno::ENOSYS,
            ),
            (
                (
                    libc::SYS_memfd_create,
                    [Bytes(b"x".into()), Number(0), Number(0), Number(0)],
                ),
                Errno::ENOSYS,
            ),
        ];
        let captive = Hijacked::seize(host.daemon_pid());
        let at_large = Hijacked::seize(free_pid);
        for ((call, arguments), refusal) in attempts {
            let outcome = captive.call(call, arguments.clone()).unwrap();
            assert_eq!(outcome, Err(refusal), "{call}");
            let outcome = at_large.call(call, arguments).unwrap();
            assert!(outcome.is_ok(), "{call}: {outcome:?} without the sandbox");
        }
        for (process, port, met) in [
            (&captive, 80, Errno::ECONNREFUSED),
            (&captive, 8080, Errno::EACCES),
            (&at_large, 8080, Errno::ECONNREFUSED),
        ] {
            let (call, arguments) = numbers(libc::SYS_socket, tcp);
            let fd = process.call(call, arguments).unwrap().unwrap();
            let (call, arguments) = connect(port, fd);
            assert_eq!(process.call(call, arguments).unwrap(), Err(met), "{port}");
        }
        captive.release();
        at_large.release();
        free.kill().unwrap();
        free.wait().unwrap();
        let answer = get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60)));
        assert_eq!(answer.status, 200, "none the worse for it");
    });
}

/// Each sink, and rotation, adds what it needs and nothing else.
#[test]
fn what_is_not_configured_is_not_left_to_it() {
    let journal = "audit.sink = [ { kind = \"journald\", path = \"/run/none\" } ]\n\
                   audit.rotate_size = \"1GiB\"\naudit.keep = 0";
    let syslog = "audit.sink = [ { kind = \"syslog\", path = \"/run/none\" } ]\n\
                  audit.rotate_size = \"1GiB\"\naudit.keep = 1";
    for (config, is_syslog) in [(journal, false), (syslog, true)] {
        in_network(move |net| {
            let host = Host::start(
                net,
                &Setup {
                    config: config.into(),
                    ..Setup::default()
                },
            );
            let elsewhere = host.path("elsewhere");
            fs::write(&elsewhere, "").unwrap();
            let unlink = [
                Number(libc::AT_FDCWD as u64),
                Bytes(elsewhere.as_os_str().as_bytes().to_vec()),
                Number(0),
                Number(0),
            ];
            let socket = |kind| numbers(libc::SYS_socket, [libc::AF_UNIX, kind, 0, 0]);
            let captive = Hijacked::seize(host.daemon_pid());
            let call = |(number, arguments)| captive.call(number, arguments).unwrap();
            assert!(call(socket(libc::SOCK_DGRAM)).is_ok());
            let stream = call(socket(libc::SOCK_STREAM));
            let unlinked = call((libc::SYS_unlinkat, unlink));
            match is_syslog {
                true => assert!(stream.is_ok() && unlinked == Err(Errno::EACCES)),
                false => assert_eq!((stream, unlinked), (Err(Errno::ENOSYS), Err(Errno::ENOSYS))),
            }
            captive.release();
        });
    }
}

#[test]
fn a_step_of_an_attack_is_the_daemons_last() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let program = [Bytes(b"/bin/true".into()), Number(0), Number(0), Number(0)];
        for (call, arguments) in [
            (libc::SYS_execve, program),
            numbers(libc::SYS_unshare, [libc::CLONE_NEWUSER, 0, 0, 0]),
            numbers(libc::SYS_ptrace, [libc::PTRACE_TRACEME as i32, 0, 0, 0]),
            numbers(libc::SYS_io_uring_setup, [1, 0, 0, 0]),
        ] {
            let captive = Hijacked::seize(host.daemon_pid());
            let outcome = captive.call(call, arguments);
            assert_eq!(outcome, Err(Signal::SIGSYS), "{call}");
            host.daemon_is_gone();
            host.start_daemon();
        }
        let answer = get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60)));
        assert_eq!(answer.status, 200, "the next one serves");
    });
}

#[test]
fn its_log_is_not_led_elsewhere() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        let read = || get(ROOT, V4, CREDENTIALS, Some(&token)).status;
        assert_eq!(read(), 200);
        let elsewhere = host.path("elsewhere");
        fs::create_dir(&elsewhere).unwrap();
        chown(&elsewhere, Some(DAEMON.uid), Some(DAEMON.gid)).unwrap();
        fs::rename(host.path("log"), host.path("log.real")).unwrap();
        symlink(&elsewhere, host.path("log")).unwrap();
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        wait_for("a refusal", || (read() == 503).then_some(()));
        assert!(fs::read_dir(&elsewhere).unwrap().next().is_none());
        // Not for want of rights: its user may write there.
        let mut touch = Command::new("touch");
        touch
            .arg(elsewhere.join("x"))
            .uid(DAEMON.uid)
            .gid(DAEMON.gid);
        assert!(touch.status().unwrap().success());

        fs::remove_file(host.path("log")).unwrap();
        fs::rename(host.path("log.real"), host.path("log")).unwrap();
        wait_for("credentials again", || (read() == 200).then_some(()));
    });
}
