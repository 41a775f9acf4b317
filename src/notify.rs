//! Tells a service manager how things stand: sd_notify(3), as far as the
//! daemon and the watcher use it. Without `NOTIFY_SOCKET` it tells nobody.

use std::env;
use std::os::fd::AsRawFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use nix::sys::socket::{MsgFlags, send};
use nix::time::{ClockId, clock_gettime};

/// For a place in the queue of who is told: others may be filling it, and being
/// ready is said once.
const PLACE_WITHIN: Duration = Duration::from_millis(200);

/// Who is told. Connected at the start, because the sandbox makes no such
/// sockets.
#[derive(Default)]
pub(crate) struct Manager {
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// From the environment. A manager that does not listen is no reason to
    /// fail.
    pub(crate) fn connect() -> Self {
        Self {
            socket: env::var_os("NOTIFY_SOCKET")
                .and_then(|name| connected(name.as_encoded_bytes())),
            watchdog: watchdog(),
        }
    }

    /// How long it may go without [`Manager::alive`], if it watches.
    pub(crate) fn watchdog(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn ready(&self) {
        self.send("READY=1", MsgFlags::empty());
    }

    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1");
    }

    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
    }

    /// How it stands, in words for an admin.
    pub(crate) fn status(&self, words: &str) {
        // A line of its own would be a message of its own.
        self.tell(&format!("STATUS={}", words.replace('\n', " ")));
    }

    /// To be followed by [`Manager::ready`].
    pub(crate) fn reloading(&self) {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from);
        let now = now.as_micros();
        self.tell(&format!("RELOADING=1\nMONOTONIC_USEC={now}"));
    }

    /// A manager that does not read must not hold up who serves.
    fn tell(&self, state: &str) {
        self.send(state, MsgFlags::MSG_DONTWAIT);
    }

    fn send(&self, state: &str, flags: MsgFlags) {
        if let Some(socket) = &self.socket {
            let _ = send(socket.as_raw_fd(), state.as_bytes(), flags);
        }
    }
}

fn connected(name: &[u8]) -> Option<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(String::from_utf8_lossy(name).as_ref()),
    };
    let socket = UnixDatagram::unbound().ok()?;
    socket.connect_addr(&address.ok()?).ok()?;
    socket.set_write_timeout(Some(PLACE_WITHIN)).ok()?;
    Some(socket)
}

/// sd_watchdog_enabled(3).
fn watchdog() -> Option<Duration> {
    let pid = env::var("WATCHDOG_PID");
    let for_us = pid.map_or(true, |pid| pid == std::process::id().to_string());
    let period = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    (for_us && period > 0).then(|| Duration::from_micros(period))
}
