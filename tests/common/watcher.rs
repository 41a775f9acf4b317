//! `imdsfw rules watch`, started and ended as a service manager would: root's,
//! with CAP_NET_ADMIN and nothing else.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use super::host::BINARY;

/// Killed when dropped.
pub(crate) struct Watcher(Child);

impl Watcher {
    /// Returns when the watcher says that the rules are loaded and watched.
    pub(crate) fn start(config: &Path) -> Self {
        Self::start_with("+net_admin", config)
    }

    /// The same with other capabilities, as setpriv(1) writes them.
    pub(crate) fn start_with(capabilities: &str, config: &Path) -> Self {
        let name = config.with_file_name("watch-notify.sock");
        let _ = fs::remove_file(&name);
        let manager = UnixDatagram::bind(&name).unwrap();
        fs::set_permissions(&name, Permissions::from_mode(0o777)).unwrap();
        manager
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let child = Command::new("setpriv")
            .args(["--inh-caps", "-all", "--bounding-set"])
            .arg(format!("-all,{capabilities}"))
            .arg(BINARY)
            .args(["rules", "watch", "--config"])
            .arg(config)
            .env("NOTIFY_SOCKET", &name)
            .spawn()
            .unwrap();
        let watcher = Self(child);
        let mut state = [0; 64];
        let len = manager.recv(&mut state).expect("the watcher is not ready");
        assert_eq!(&state[..len], b"READY=1");
        let len = manager.recv(&mut state).expect("no sign of life");
        assert_eq!(&state[..len], b"WATCHDOG=1");
        watcher
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// SIGKILL, and waits for the end.
    pub(crate) fn kill(self) {
        drop(self);
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
