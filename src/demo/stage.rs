//! The stage: a host and a metadata service as two network namespaces with a
//! cable between them, people of the demo's own, the rules and the daemon.
//!
//! ```text
//!  host ───────────── service
//!  10.77.0.2, fd77::2      169.254.169.254, fd00:ec2::254
//! ```

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

use super::{DemoError, SELF};

/// A file system of the demo's own lies over this folder of the host.
const DIRECTORY: &str = "/run";
const PATIENCE: Duration = Duration::from_secs(10);

/// One of the demo's people. Uid and gid differ, as they do in life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

pub(super) const ROOT: Person = Person {
    name: "root",
    uid: 0,
    gid: 0,
};
pub(super) const ALICE: Person = Person {
    name: "alice",
    uid: 4001,
    gid: 4100,
};
const BOB: Person = Person {
    name: "bob",
    uid: 4002,
    gid: 4200,
};
const DAEMON: Person = Person {
    name: "imdsfw",
    uid: 64000,
    gid: 64100,
};

/// The programs the demo runs, and the packages that bring them.
const TOOLS: [(&str, &str); 3] = [("ip", "iproute2"), ("nft", "nftables"), ("curl", "curl")];

pub(super) fn check_tools() -> Result<(), DemoError> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let missing = TOOLS.iter().find(|(tool, _)| {
        !std::env::split_paths(&path)
            .chain(["/usr/sbin".into(), "/sbin".into()])
            .any(|folder| folder.join(tool).is_file())
    });
    missing.map_or(Ok(()), |(tool, package)| {
        Err(DemoError::Missing(tool, package))
    })
}

/// Everything stands; dropped, the processes end.
pub(super) struct Stage {
    service: Child,
    daemon: Child,
}

impl Stage {
    pub(super) fn build() -> Result<Self, DemoError> {
        let program = std::env::current_exe().map_err(file("imdsfw"))?;
        private_mounts()?;
        provide_programs(&program)?;
        let service = lay_cable()?;
        write("imdsfw.toml", CONFIG)?;
        fs::create_dir(path("policy.d")).map_err(file("policy.d"))?;
        write(
            "policy.d/90-base.toml",
            include_str!("../../policies/multi-user.toml"),
        )?;
        fs::create_dir(path("log")).map_err(file("log"))?;
        chown(path("log"), Some(DAEMON.uid), Some(DAEMON.gid)).map_err(file("log"))?;
        let service = start_service(&service)?;
        finished("imdsfw rules apply", own("rules apply"))?;
        let daemon = start_daemon()?;
        Ok(Self { service, daemon })
    }

    pub(super) fn directory(&self) -> &'static Path {
        Path::new(DIRECTORY)
    }

    pub(super) fn config(&self) -> PathBuf {
        path("imdsfw.toml")
    }

    /// Programs for the shell.
    pub(super) fn programs(&self) -> PathBuf {
        path("bin")
    }

    pub(super) fn audit_log(&self) -> PathBuf {
        path("log/audit.jsonl")
    }

    /// What the simulated service received.
    pub(super) fn service_log(&self) -> PathBuf {
        path("service.log")
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        for child in [&mut self.daemon, &mut self.service] {
            // Ended already, or about to be with the process namespace.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

const CONFIG: &str = "\
schema = 1
user = \"imdsfw\"

[policy]
directories = [\"/run/policy.d\"]

[audit]
file = \"/run/log/audit.jsonl\"

[control]
socket = \"/run/control.sock\"

[state]
directory = \"/run/state\"
";

/// A file system of our own for files, our own people in /etc, and a /proc of
/// the process namespace.
fn private_mounts() -> Result<(), DemoError> {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|errno| DemoError::Namespace("mount", "CONFIG_NAMESPACES", errno))?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(|errno| DemoError::Mount("/ privately", errno))?;
    mount(
        Some("imdsfw-demo"),
        DIRECTORY,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
    .map_err(|errno| DemoError::Mount("a tmpfs", errno))?;
    mount(Some("proc"), "/proc", Some("proc"), MsFlags::empty(), none)
        .map_err(|errno| DemoError::Mount("/proc", errno))?;
    let people = [ROOT, ALICE, BOB, DAEMON];
    let passwd: String = people
        .iter()
        .map(|it| format!("{}:x:{}:{}::/run:/bin/sh\n", it.name, it.uid, it.gid))
        .collect();
    let group: String = people
        .iter()
        .map(|it| format!("{}:x:{}:\n", it.name, it.gid))
        .collect();
    for (name, text) in [("passwd", passwd), ("group", group)] {
        write(name, &text)?;
        let target = Path::new("/etc").join(name);
        mount(Some(&path(name)), &target, none, MsFlags::MS_BIND, none)
            .map_err(|errno| DemoError::Mount("accounts of its own", errno))?;
    }
    Ok(())
}

/// For the shell: this program, and one to ask as somebody else.
fn provide_programs(program: &Path) -> Result<(), DemoError> {
    const AS: &str = "\
#!/bin/sh
# as NAME COMMAND...: runs it as one of the demo's people.
who=$1; shift
exec setpriv --reuid \"$who\" --regid \"$(id -g \"$who\")\" --clear-groups \"$@\"
";
    fs::create_dir(path("bin")).map_err(file("bin"))?;
    symlink(program, path("bin/imdsfw")).map_err(file("bin/imdsfw"))?;
    write("bin/as", AS)?;
    fs::set_permissions(path("bin/as"), fs::Permissions::from_mode(0o755)).map_err(file("bin/as"))
}

/// Makes both network namespaces and leaves this process in the host's.
fn lay_cable() -> Result<File, DemoError> {
    let service = network_namespace()?;
    ip("link set lo up")?;
    let host = network_namespace()?;
    // A name that the child can open as well.
    let peer = format!("/proc/1/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&service));
    ip(&format!(
        "link set lo up
         link add eth0 index 10 type veth peer name eth0 index 20 netns {peer}
         addr add 10.77.0.2/24 dev eth0
         addr add fd77::2/64 dev eth0 nodad
         link set eth0 up"
    ))?;
    enter(&service)?;
    ip("addr add 169.254.169.254/32 dev eth0
        addr add 10.77.0.1/24 dev eth0
        addr add fd00:ec2::254/128 dev eth0 nodad
        addr add fd77::1/64 dev eth0 nodad
        link set eth0 up")?;
    enter(&host)?;
    ip("route add default via 10.77.0.1
        route add default via fd77::1")?;
    await_cable()?;
    Ok(service)
}

/// The kernel lets packets through a new link a little later, and a lost one
/// costs a second. Nobody listens there: the refusal comes from the far end.
fn await_cable() -> Result<(), DemoError> {
    let start = Instant::now();
    for far_end in [
        ([10, 77, 0, 1], 9).into(),
        ([0xfd77, 0, 0, 0, 0, 0, 0, 1], 9).into(),
    ] {
        let attempt = || TcpStream::connect_timeout(&far_end, Duration::from_millis(100));
        while attempt().is_err_and(|error| error.kind() != io::ErrorKind::ConnectionRefused) {
            if start.elapsed() > PATIENCE {
                return Err(DemoError::Failed("ip", "no packet passes the link".into()));
            }
        }
    }
    Ok(())
}

fn network_namespace() -> Result<File, DemoError> {
    unshare(CloneFlags::CLONE_NEWNET)
        .map_err(|errno| DemoError::Namespace("network", "CONFIG_NET_NS", errno))?;
    // Link-local addresses are of use at once.
    let dad = "/proc/sys/net/ipv6/conf/default/accept_dad";
    fs::write(dad, "0").map_err(file(dad))?;
    let own = "/proc/thread-self/ns/net";
    File::open(own).map_err(file(own))
}

fn enter(namespace: &File) -> Result<(), DemoError> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET)
        .map_err(|errno| DemoError::Namespace("network", "CONFIG_NET_NS", errno))
}

/// Runs `ip` commands, one a line.
fn ip(commands: &str) -> Result<(), DemoError> {
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = ip.spawn().map_err(|error| DemoError::Run("ip", error))?;
    if let Some(mut stdin) = child.stdin.take() {
        let text = format!("{commands}\n");
        stdin
            .write_all(text.as_bytes())
            .map_err(|error| DemoError::Run("ip", error))?;
    }
    let output = child
        .wait_with_output()
        .map_err(|error| DemoError::Run("ip", error))?;
    if !output.status.success() {
        return Err(DemoError::Failed(
            "ip",
            String::from_utf8_lossy(&output.stderr).into(),
        ));
    }
    Ok(())
}

/// The simulator, in the service's namespace; it is ready on return.
fn start_service(namespace: &File) -> Result<Child, DemoError> {
    const WHAT: &str = "the simulated service";
    let host = "/proc/thread-self/ns/net";
    let host = File::open(host).map_err(file(host))?;
    enter(namespace)?;
    let started = Command::new(SELF)
        .arg0("imdsfw")
        .args([
            "sim",
            "--listen",
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
        ])
        .args(["--request-log", "/run/service.log"])
        .env_remove(super::INSIDE)
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| DemoError::Run(WHAT, error));
    enter(&host)?;
    let mut service = started?;
    let lines = service
        .stdout
        .take()
        .map(|stdout| BufReader::new(stdout).lines());
    if lines
        .into_iter()
        .flatten()
        .take(2)
        .filter(Result::is_ok)
        .count()
        < 2
    {
        return Err(DemoError::Failed(
            WHAT,
            "it ended before it was ready".into(),
        ));
    }
    Ok(service)
}

/// The daemon; it serves on return.
fn start_daemon() -> Result<Child, DemoError> {
    const WHAT: &str = "imdsfw run";
    let socket = path("notify.sock");
    let notify = UnixDatagram::bind(&socket).map_err(file("notify.sock"))?;
    fs::set_permissions(&socket, fs::Permissions::from_mode(0o777)).map_err(file("notify.sock"))?;
    notify
        .set_read_timeout(Some(PATIENCE))
        .map_err(file("notify.sock"))?;
    let log = File::create(path("daemon.log")).map_err(file("daemon.log"))?;
    let mut daemon = own("run")
        .env("NOTIFY_SOCKET", &socket)
        .stderr(log)
        .spawn()
        .map_err(|error| DemoError::Run(WHAT, error))?;
    let mut ready = [0; 16];
    while notify.recv(&mut ready).is_err() {
        if !matches!(daemon.try_wait(), Ok(None)) {
            let said = fs::read_to_string(path("daemon.log")).unwrap_or_default();
            return Err(DemoError::Failed(WHAT, said));
        }
    }
    Ok(daemon)
}

fn own(words: &str) -> Command {
    let mut command = Command::new(SELF);
    command
        .args(words.split(' '))
        .args(["--config", "/run/imdsfw.toml"]);
    command.env_remove(super::INSIDE);
    command
}

fn finished(what: &'static str, mut command: Command) -> Result<(), DemoError> {
    let output = command
        .output()
        .map_err(|error| DemoError::Run(what, error))?;
    if !output.status.success() {
        return Err(DemoError::Failed(
            what,
            String::from_utf8_lossy(&output.stderr).into(),
        ));
    }
    Ok(())
}

fn path(name: &str) -> PathBuf {
    Path::new(DIRECTORY).join(name)
}

fn write(name: &str, text: &str) -> Result<(), DemoError> {
    fs::write(path(name), text).map_err(file(name))
}

fn file(name: &str) -> impl FnOnce(std::io::Error) -> DemoError {
    move |error| DemoError::File(name.to_owned(), error)
}
