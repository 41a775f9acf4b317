//! `imdsfw rules watch`, started and ended as its unit has a service manager
//! do it: root's, with CAP_NET_ADMIN, nothing else and no way to more.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::again::again;
use super::host::BINARY;

const PATIENCE: Duration = Duration::from_secs(20);

/// Killed when dropped.
pub(crate) struct Watcher {
    child: Child,
    manager: UnixDatagram,
}

impl Watcher {
    /// Returns when the watcher says that the rules are loaded and watched.
    pub(crate) fn start(config: &Path) -> Self {
        Self::start_with("+net_admin", config)
    }

    /// The same with other capabilities, as setpriv(1) writes them.
    pub(crate) fn start_with(capabilities: &str, config: &Path) -> Self {
        let watcher = Self::start_by(Self::command(capabilities, config), config);
        watcher.await_ready();
        watcher
    }

    pub(crate) fn command(capabilities: &str, config: &Path) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--no-new-privs", "--inh-caps", "-all", "--bounding-set"])
            .arg(format!("-all,{capabilities}"))
            .arg(BINARY)
            .args(["rules", "watch", "--config"])
            .arg(config);
        command
    }

    /// Returns at once.
    pub(crate) fn start_by(mut command: Command, config: &Path) -> Self {
        let name = config.with_file_name("watch-notify.sock");
        let _ = fs::remove_file(&name);
        let manager = UnixDatagram::bind(&name).unwrap();
        fs::set_permissions(&name, Permissions::from_mode(0o777)).unwrap();
        manager.set_read_timeout(Some(PATIENCE)).unwrap();
        let child = command.env("NOTIFY_SOCKET", &name).spawn().unwrap();
        Self { child, manager }
    }

    fn await_ready(&self) {
        self.await_told("READY=1");
        self.await_told("WATCHDOG=1");
    }

    /// The next thing that it tells its manager, while it is patient.
    pub(crate) fn tells(&self) -> Option<String> {
        let mut state = [0; 1024];
        let len = again(|| self.manager.recv(&mut state)).ok()?;
        Some(String::from_utf8(state[..len].to_vec()).unwrap())
    }

    /// Waits until it tells something that begins so; the whole of it.
    pub(crate) fn await_told(&self, beginning: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let told = self.tells().unwrap_or_default();
            if told.starts_with(beginning) {
                return told;
            }
        }
        panic!("it never told {beginning:?}");
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().try_into().unwrap())
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(self) {
        drop(self);
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) {
        kill(self.pid(), Signal::SIGTERM).unwrap();
        self.await_told("STOPPING=1");
        assert!(self.await_end().success());
    }

    /// Waits for the end of one that was told to stop, or cannot go on.
    pub(crate) fn await_end(&mut self) -> ExitStatus {
        self.child.wait().unwrap()
    }

    /// From now on waits so long for what it tells.
    pub(crate) fn be_patient_for(&self, at_most: Duration) {
        self.manager.set_read_timeout(Some(at_most)).unwrap();
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
