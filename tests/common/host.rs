//! A host with the firewall on it: accounts of its own, the simulated service
//! behind the veth, the rules loaded and the real daemon running.

use std::cell::{Cell, OnceCell};
use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, IoSlice};
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, bind, listen,
    sendmsg, socket,
};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use super::again::again;
use super::net::Net;
use super::schema;
use super::user::{ALICE, BOB, CWAGENT, DAEMON, INSTANCE_CONNECT, User};

pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");
/// Requests of one log that are held against the schema.
const SHOWN_MAX: usize = 1000;
/// For a daemon or simulator to be ready or gone; none takes this long.
const PATIENCE: Duration = Duration::from_secs(20);

/// Passes on the sockets that come by standard input: uid, gid, the command.
const ACTIVATE: &str = "
import fcntl, os, socket, sys
uid, gid, *command = sys.argv[1:]
_, held, _, _ = socket.recv_fds(socket.socket(fileno=os.dup(0)), 1, 8)
held = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in held]
for at, fd in enumerate(held):
    os.dup2(fd, 3 + at)
os.dup2(os.open('/dev/null', os.O_RDONLY), 0)
os.closerange(3 + len(held), 200)
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(held)))
os.execv(command[0], command)
";

/// Everything a test may want otherwise.
pub(crate) struct Setup {
    /// The one policy file.
    pub(crate) policy: String,
    /// Appended to the config.
    pub(crate) config: String,
    /// Beside those that every host has.
    pub(crate) accounts: Vec<(&'static str, User)>,
    /// Further arguments of `imdsfw sim`.
    pub(crate) sim: Vec<&'static str>,
    /// Whether the simulated service runs.
    pub(crate) service: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            policy: include_str!("../../policies/multi-user.toml").into(),
            config: String::new(),
            accounts: Vec::new(),
            sim: Vec::new(),
            service: true,
        }
    }
}

pub(crate) struct Host<'a> {
    net: &'a Net,
    dir: TempDir,
    sim: Option<Child>,
    daemon: Option<Child>,
    /// What a service manager would hold.
    held: OnceCell<[OwnedFd; 3]>,
    /// How many records of the log were held against the schema.
    looked_at: Cell<usize>,
}

impl<'a> Host<'a> {
    /// Prepares accounts, files, service and rules, and starts the daemon.
    pub(crate) fn start(net: &'a Net, setup: &Setup) -> Self {
        let mut host = Self::prepare(net, setup);
        host.run("rules apply");
        host.start_daemon();
        host
    }

    /// The service behind its cable, and nothing on the host.
    pub(crate) fn service_alone(net: &'a Net) -> Self {
        let mut host = Self::bare(net);
        host.start_service(&[]);
        host
    }

    fn bare(net: &'a Net) -> Self {
        let dir = tempfile::Builder::new()
            .prefix("imdsfw-test-")
            .tempdir()
            .unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self {
            net,
            dir,
            sim: None,
            daemon: None,
            held: OnceCell::new(),
            looked_at: Cell::new(0),
        }
    }

    /// All but rules and daemon.
    pub(crate) fn prepare(net: &'a Net, setup: &Setup) -> Self {
        let mut host = Self::bare(net);
        host.provide_accounts(&setup.accounts);
        fs::create_dir(host.path("policy.d")).unwrap();
        fs::create_dir(host.path("log")).unwrap();
        chown(host.path("log"), Some(DAEMON.uid), Some(DAEMON.gid)).unwrap();
        host.write_policy(&setup.policy);
        host.write_config(&setup.config);
        if setup.service {
            host.start_service(&setup.sim);
        }
        host
    }

    /// In the test's own mount namespace, so that NSS knows the test's people.
    fn provide_accounts(&self, more: &[(&str, User)]) {
        let people = [
            ("imdsfw", DAEMON),
            ("alice", ALICE),
            ("bob", BOB),
            ("ec2-instance-connect", INSTANCE_CONNECT),
            ("cwagent", CWAGENT),
        ];
        let mut passwd = String::from("root:x:0:0:root:/root:/bin/sh\n");
        let mut group = String::from("root:x:0:\nops:x:7000:alice\nstaff:x:7001:alice,bob\n");
        for (name, user) in people.iter().chain(more) {
            let shell = match *name {
                "imdsfw" | "ec2-instance-connect" | "cwagent" => "/usr/sbin/nologin",
                _ => "/bin/sh",
            };
            passwd += &format!("{name}:x:{}:{}::/nonexistent:{shell}\n", user.uid, user.gid);
            group += &format!("g-{name}:x:{}:\n", user.gid);
        }
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none: Option<&str> = None;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        for (file, text) in [("passwd", passwd), ("group", group)] {
            let ours = self.path(file);
            fs::write(&ours, text).unwrap();
            mount(
                Some(&ours),
                &Path::new("/etc").join(file),
                none,
                MsFlags::MS_BIND,
                none,
            )
            .unwrap();
        }
    }

    /// Subordinate uids, in the mount namespace of [`Host::prepare`].
    pub(crate) fn provide_subuid(&self, text: &str) {
        let ours = self.path("subuid");
        fs::write(&ours, text).unwrap();
        let none: Option<&str> = None;
        mount(Some(&ours), "/etc/subuid", none, MsFlags::MS_BIND, none).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.path("imdsfw.toml")
    }

    pub(crate) fn write_policy(&self, text: &str) {
        fs::write(self.path("policy.d/50-test.toml"), text).unwrap();
    }

    /// `more` comes behind the keys below, in the same form: `audit.on_failure = …`.
    pub(crate) fn write_config(&self, more: &str) {
        let dir = self.dir.path().display();
        // Tests that are not about limits send more than one user may.
        let limits = match more.contains("limits.enabled") {
            true => "",
            false => "limits.enabled = false\n",
        };
        // And those that are not about memory count what the service sees.
        let memory = match more.contains("memory.enabled") {
            true => "",
            false => "memory.enabled = false\n",
        };
        let text = format!(
            "schema = 1\nuser = \"imdsfw\"\n\
             policy.directories = [\"{dir}/policy.d\"]\n\
             audit.file = \"{dir}/log/audit.jsonl\"\n\
             control.socket = \"{dir}/control.sock\"\n\
             state.directory = \"{dir}/state\"\n\
             {limits}{memory}{more}\n"
        );
        fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn start_service(&mut self, arguments: &[&str]) {
        let log = self.path("sim.log");
        let mut sim = self.net.service(|| {
            Command::new(BINARY)
                .args([
                    "sim",
                    "--listen",
                    "169.254.169.254:80",
                    "[fd00:ec2::254]:80",
                ])
                .arg("--request-log")
                .arg(log)
                .args(arguments)
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        });
        let mut lines = BufReader::new(sim.stdout.take().unwrap()).lines();
        for _ in 0..2 {
            let line = lines.next().expect("the simulator ended").unwrap();
            assert!(line.starts_with("listening on "), "{line}");
        }
        self.sim = Some(sim);
    }

    pub(crate) fn stop_service(&mut self) {
        if let Some(mut sim) = self.sim.take() {
            sim.kill().unwrap();
            sim.wait().unwrap();
        }
    }

    /// Runs `imdsfw WORDS --config …` on the host; it must succeed.
    pub(crate) fn run(&self, words: &str) {
        let output = self.command(words).output().unwrap();
        assert!(
            output.status.success(),
            "{words}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// `imdsfw WORDS --config …`.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = Command::new(BINARY);
        command
            .args(words.split(' '))
            .arg("--config")
            .arg(self.config());
        command
    }

    /// Starts the daemon and returns when it says that it serves.
    pub(crate) fn start_daemon(&mut self) {
        self.start_daemon_by(self.command("run"));
    }

    /// The same by another command, which becomes `imdsfw run`; returns the
    /// socket on which it goes on telling how it is.
    pub(crate) fn start_daemon_by(&mut self, mut command: Command) -> UnixDatagram {
        let name = self.path("notify.sock");
        let _ = fs::remove_file(&name);
        let notify = UnixDatagram::bind(&name).unwrap();
        fs::set_permissions(&name, Permissions::from_mode(0o777)).unwrap();
        notify.set_read_timeout(Some(PATIENCE)).unwrap();
        let daemon = command.env("NOTIFY_SOCKET", &name).spawn().unwrap();
        self.daemon = Some(daemon);
        let mut state = [0; 64];
        let len = again(|| notify.recv(&mut state)).expect("the daemon is not ready");
        assert_eq!(&state[..len], b"READY=1");
        notify
    }

    /// `imdsfw run` as a service manager starts it: by `user`, with sockets
    /// that it holds (sd_listen_fds(3)): these two, and for as long as this
    /// host is there, one each for the watcher of the rules, for the witness and
    /// for root's orders.
    pub(crate) fn activated(&self, user: User, first: &dyn AsFd, second: &dyn AsFd) -> Command {
        self.activated_with(user, &[first, second])
    }

    /// The same with these sockets, however many.
    pub(crate) fn activated_with(&self, user: User, sockets: &[&dyn AsFd]) -> Command {
        // Where that user can execute it.
        let copy = self.path("imdsfw");
        if !copy.exists() {
            copy_program(BINARY, &copy);
        }
        let [watcher, witness, control] = self.held.get_or_init(|| {
            [
                ("watch.sock", SockType::Stream),
                ("witness.sock", SockType::SeqPacket),
                ("control.sock", SockType::Stream),
            ]
            .map(|(name, kind)| listening_at(&self.path(name), kind))
        });
        let held = [watcher, witness, control].map(AsFd::as_fd);
        let sockets = sockets.iter().map(|it| it.as_fd());
        let held: Vec<_> = sockets.chain(held).map(|fd| fd.as_raw_fd()).collect();
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (message, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&held)]);
        sendmsg::<()>(ours.as_raw_fd(), &message, &rights, MsgFlags::empty(), None).unwrap();
        let mut command = Command::new("/usr/bin/python3");
        command.args(["-Ic", ACTIVATE]);
        command.args([user.uid, user.gid].map(|id| id.to_string()));
        command
            .arg(copy)
            .args(["run", "--config"])
            .arg(self.config());
        command.stdin(OwnedFd::from(theirs));
        command
    }

    /// A witness as a service manager starts it, in a unit of its own.
    pub(crate) fn start_witness(&self) -> Running {
        let socket = self.path("witness.sock");
        let words = format!("witness --connect {}", socket.display());
        Running(self.command(&words).spawn().unwrap())
    }

    /// What is connected so, once the daemon has a socket more for it.
    pub(crate) fn handed_over<T>(&self, connect: impl FnOnce() -> T) -> T {
        let descriptors = format!("/proc/{}/fd", self.daemon_pid());
        let sockets = || -> BTreeSet<_> {
            let open = fs::read_dir(&descriptors).unwrap();
            let what = open.filter_map(|it| fs::read_link(it.ok()?.path()).ok());
            what.filter(|it| it.to_string_lossy().starts_with("socket:"))
                .collect()
        };
        let before = sockets();
        let connected = connect();
        wait_for("the connection to be handed over", || {
            (!sockets().is_subset(&before)).then_some(())
        });
        connected
    }

    /// How many the daemon has open.
    pub(crate) fn descriptors(&self) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.daemon_pid()));
        open.unwrap().count()
    }

    pub(crate) fn daemon_pid(&self) -> Pid {
        Pid::from_raw(self.daemon.as_ref().unwrap().id().try_into().unwrap())
    }

    /// The witness that the daemon started.
    pub(crate) fn witness_pid(&self) -> Pid {
        let daemon = self.daemon_pid();
        let witnesses = fs::read_dir("/proc").unwrap().filter_map(|entry| {
            let name = entry.unwrap().file_name();
            let pid: i32 = name.to_str()?.parse().ok()?;
            let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            let is_it = status.starts_with("Name:\timdsfw-witness\n")
                && status.contains(&format!("\nPPid:\t{daemon}\n"));
            is_it.then_some(Pid::from_raw(pid))
        });
        let witnesses: Vec<_> = witnesses.collect();
        assert_eq!(witnesses.len(), 1, "{witnesses:?}");
        witnesses[0]
    }

    /// Runs `imdsfw run`, which must not come to serve; returns what it says.
    pub(crate) fn refused(&self) -> String {
        refused(self.command("run"))
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill_daemon(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
    }

    /// Takes note of the end of a daemon, which a debugger has waited for.
    pub(crate) fn daemon_is_gone(&mut self) {
        drop(self.daemon.take());
    }

    /// Runs `f` while the daemon stands still, and what happens to its
    /// connections is the kernel's doing alone.
    pub(crate) fn while_daemon_stands_still<T>(&self, f: impl FnOnce() -> T) -> T {
        let pid = self.daemon_pid();
        kill(pid, Signal::SIGSTOP).unwrap();
        wait_for("the daemon to stand still", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") T ").then_some(())
        });
        let result = f();
        kill(pid, Signal::SIGCONT).unwrap();
        result
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop_daemon(&mut self) {
        kill(self.daemon_pid(), Signal::SIGTERM).unwrap();
        self.await_end();
    }

    /// Waits for the end of a daemon that was told to stop.
    pub(crate) fn await_end(&mut self) {
        let mut daemon = self.daemon.take().unwrap();
        assert!(daemon.wait().unwrap().success(), "the daemon ends cleanly");
    }

    /// Puts a file system of so many KiB under the log, for it to be filled.
    pub(crate) fn mount_small_log(&self, kib: u32) {
        let size = format!("size={kib}k,uid={},gid={}", DAEMON.uid, DAEMON.gid);
        mount(
            Some("tmpfs"),
            &self.path("log"),
            Some("tmpfs"),
            MsFlags::empty(),
            Some(size.as_str()),
        )
        .unwrap();
    }

    /// The records of one kind of event.
    pub(crate) fn events(&self, event: &str) -> Vec<Value> {
        let mut events = self.audit();
        events.retain(|it| it["event"] == event);
        events
    }

    /// Every whole record in the log now, each one that the schema has.
    pub(crate) fn audit(&self) -> Vec<Value> {
        let records = json_lines(&self.path("log/audit.jsonl"));
        let new = records.iter().enumerate();
        let new = new.skip(self.looked_at.replace(records.len()));
        // Of the requests of a flood, the first will do.
        new.filter(|(at, it)| *at < SHOWN_MAX || it["event"] != "request")
            .for_each(|(_, record)| schema::must_hold(record));
        records
    }

    /// The records of requests and refused connections, once there are `count`.
    pub(crate) fn records(&self, count: usize) -> Vec<Value> {
        wait_for(&format!("{count} records"), || {
            let records: Vec<_> = self
                .audit()
                .into_iter()
                .filter(|it| it["event"] == "request" || it["event"] == "connection.refused")
                .collect();
            (records.len() >= count).then_some(records)
        })
    }

    /// What the service received, by event: `connection` or `request`.
    pub(crate) fn seen_by_service(&self, event: &str) -> Vec<Value> {
        let mut seen = json_lines(&self.path("sim.log"));
        seen.retain(|line| line["event"] == event);
        seen
    }
}

impl Drop for Host<'_> {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.sim].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        // What is mounted there would keep the directory from being removed.
        let _ = umount2(&self.path("log"), MntFlags::MNT_DETACH);
    }
}

/// Killed when dropped.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// As a service manager makes one that everybody may connect to.
pub(crate) fn listening_at(path: &Path, kind: SockType) -> OwnedFd {
    let family = AddressFamily::Unix;
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(fd.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    listen(&fd, Backlog::MAXCONN).unwrap();
    fd
}

/// Runs a command that must end with exit code 1; returns what it says.
pub(crate) fn refused(mut command: Command) -> String {
    let child = command.stderr(Stdio::piped()).spawn().unwrap();
    let pid = Pid::from_raw(child.id().try_into().unwrap());
    let (ended, end) = mpsc::channel::<()>();
    let timer = std::thread::spawn(move || {
        if end.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) {
            kill(pid, Signal::SIGKILL).unwrap();
        }
    });
    let output = child.wait_with_output().unwrap();
    drop(ended);
    timer.join().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    said
}

/// Puts a program where it can be run from. By a process of its own: while this
/// one has it open, so has whatever another thread forks, and a program that is
/// open to be written cannot be run (ETXTBSY, execve(2)).
pub(crate) fn copy_program(from: impl AsRef<Path>, to: impl AsRef<Path>) {
    let mut cp = Command::new("cp");
    let copied = cp.arg(from.as_ref()).arg(to.as_ref()).status().unwrap();
    assert!(copied.success());
}

/// Polls for what another process is about to do.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn json_lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}
