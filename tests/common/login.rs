//! A host on which the firewall is turned on and off by the steps of adoption.

use std::fs;
use std::process::{Command, Output};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::host::{BINARY, Host};

/// The directory of the control socket on a file system that a boot takes
/// away; what the steps have started is ended with it.
pub(crate) struct Runtime<'h, 'n> {
    host: &'h Host<'n>,
}

impl<'h, 'n> Runtime<'h, 'n> {
    pub(crate) fn new(host: &'h Host<'n>) -> Self {
        let run = host.path("run");
        fs::create_dir(&run).unwrap();
        let tmpfs = Some("tmpfs");
        mount(tmpfs, &run, tmpfs, MsFlags::empty(), Some("mode=755")).unwrap();
        let config = fs::read_to_string(host.config()).unwrap();
        let config = config.replace("/control.sock\"", "/run/control.sock\"");
        fs::write(host.config(), config).unwrap();
        Self { host }
    }

    /// Runs `imdsfw WORDS` as root does who has just logged in.
    pub(crate) fn login(&self, words: &str) -> Output {
        let mut command = Command::new("sh");
        command
            .args(["-c", "echo 4001 > /proc/self/loginuid && exec \"$@\"", "sh"])
            .arg(BINARY)
            .args(words.split(' '))
            .arg("--config")
            .arg(self.host.config())
            .env_remove("SSH_CONNECTION");
        command.output().unwrap()
    }
}

impl Drop for Runtime<'_, '_> {
    fn drop(&mut self) {
        self.login("disable");
        let _ = umount2(&self.host.path("run"), MntFlags::MNT_DETACH);
    }
}
