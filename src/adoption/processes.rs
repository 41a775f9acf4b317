//! Processes without a service manager: started so that they outlive who
//! started them, and ended by what they are, never by a name.

use std::fs::{self, File};
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::ControlMessageOwned::ScmCredentials;
use nix::sys::socket::{MsgFlags, UnixCredentials, recvmsg, setsockopt, sockopt};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

/// For a process to be ready, or to end as it was told.
const READY_WITHIN: Duration = Duration::from_secs(20);
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// One process, and no other that has its number later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// What it does, in the words of the command line.
    pub does: String,
    pid: i32,
    /// Ticks from boot to its start.
    started: u64,
}

impl Process {
    /// Starts `imdsfw WORDS` in a session of its own, and returns when it says
    /// that it is ready. What it prints goes to `log`.
    pub(super) fn start_ready(words: &[&str], config: &Path, log: &Path) -> Result<Self, String> {
        let name = format!("imdsfw-adoption-{}", getrandom::u64().unwrap_or(0));
        let hears = Hears::bind(&name).map_err(|it| it.to_string())?;
        let mut words: Vec<_> = words.iter().map(std::ffi::OsStr::new).collect();
        words.extend(["--config".as_ref(), config.as_os_str()]);
        let process = Self::start(&words, log, Some(&format!("@{name}")))?;
        let begun = Instant::now();
        while begun.elapsed() < READY_WITHIN {
            if hears.ready_of(process.pid) {
                return Ok(process);
            }
            if !process.is_alive() {
                return Err(format!("{} ended: {}", process.does, last_words(log)));
            }
        }
        process.end();
        Err(format!(
            "{} was not ready in time: {}",
            process.does,
            last_words(log)
        ))
    }

    /// Starts `imdsfw WORDS` in a session of its own: it outlives this process,
    /// its terminal and its shell.
    pub(super) fn start(
        words: &[&std::ffi::OsStr],
        log: &Path,
        notify: Option<&str>,
    ) -> Result<Self, String> {
        let does: Vec<_> = words.iter().map(|word| word.to_string_lossy()).collect();
        let does = does.join(" ");
        let failed = |error: io::Error| format!("`imdsfw {does}` cannot be started: {error}");
        let log = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(log)
            .map_err(failed)?;
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .arg("detach")
            .args(words)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            .env_remove("NOTIFY_SOCKET")
            .env_remove("WATCHDOG_USEC");
        if let Some(notify) = notify {
            command.env("NOTIFY_SOCKET", notify);
        }
        let child = command.spawn().map_err(failed)?;
        let pid = i32::try_from(child.id()).map_err(|error| failed(io::Error::other(error)))?;
        let started = started(pid).ok_or_else(|| format!("`imdsfw {does}` ended at once"))?;
        Ok(Self { does, pid, started })
    }

    /// The one of this number now.
    pub(super) fn of(pid: u32, does: &str) -> Option<Self> {
        let pid = i32::try_from(pid).ok()?;
        Some(Self {
            does: does.to_owned(),
            pid,
            started: started(pid)?,
        })
    }

    /// Whether it still runs.
    pub(super) fn is_alive(&self) -> bool {
        started(self.pid) == Some(self.started)
    }

    /// SIGTERM, and SIGKILL where that does not help; returns when it is gone.
    pub(super) fn end(&self) {
        for signal in [Signal::SIGTERM, Signal::SIGKILL] {
            if !self.is_alive() {
                return;
            }
            // It may be gone by now.
            let _ = kill(Pid::from_raw(self.pid), signal);
            let begun = Instant::now();
            while self.is_alive() && begun.elapsed() < ENDS_WITHIN {
                std::thread::sleep(LOOK_EVERY);
            }
        }
    }
}

/// Where a process says that it is ready (sd_notify(3)). Every user can find the
/// socket and send what they like; who did, the kernel says.
struct Hears(UnixDatagram);

impl Hears {
    fn bind(name: &str) -> io::Result<Self> {
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
        setsockopt(&socket, sockopt::PassCred, &true)?;
        socket.set_read_timeout(Some(LOOK_EVERY))?;
        Ok(Self(socket))
    }

    /// Whether the next message, if there is one in a moment, is that of `pid`.
    fn ready_of(&self, pid: i32) -> bool {
        let mut told = [0; 256];
        let mut parts = [IoSliceMut::new(&mut told)];
        let mut control = nix::cmsg_space!(UnixCredentials);
        let (fd, flags) = (self.0.as_raw_fd(), MsgFlags::MSG_CMSG_CLOEXEC);
        let Ok(message) = recvmsg::<()>(fd, &mut parts, Some(&mut control), flags) else {
            return false;
        };
        let is_its = message.cmsgs().is_ok_and(|mut all| {
            all.any(|it| matches!(it, ScmCredentials(sender) if sender.pid() == pid))
        });
        is_its && (message.iovs().next()).is_some_and(|it| it.starts_with(b"READY=1"))
    }
}

/// When a process that lives began; a dead one that nobody has waited for does
/// not.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    (!matches!(state, "Z" | "X")).then(|| fields.nth(18)?.parse().ok())?
}

fn last_words(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let last: Vec<_> = text.lines().rev().take(3).collect();
    match last.is_empty() {
        true => format!("see {}", log.display()),
        false => last.into_iter().rev().collect::<Vec<_>>().join("\n"),
    }
}
