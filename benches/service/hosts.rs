//! Hosts with the simulated service, and what stands on them besides.

use std::fmt::Write as _;
use std::fs;
use std::process::{Child, Command};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::common::host::{Host, Setup};
use crate::common::net::Net;
use crate::common::user::User;

/// The policy that comes with it, and last a rule for the clients below.
pub(crate) const POLICY: &str = concat!(
    include_str!("../../policies/multi-user.toml"),
    r#"
[[rule]]
name   = "the bench's clients act as the role"
action = "allow"
who    = ["uid:20000-39999"]
paths  = ["@role"]
"#
);

/// One of many users.
pub(crate) fn client(number: u32) -> User {
    User {
        uid: 20_000 + number,
        gid: 50_000 + number,
    }
}

/// A host without the firewall.
pub(crate) fn unguarded<'n>(net: &'n Net, sim: &[&'static str]) -> Host<'n> {
    let setup = Setup {
        sim: sim.into(),
        ..Setup::default()
    };
    Host::prepare(net, &setup)
}

/// One with it, not started yet.
pub(crate) fn prepared<'n>(net: &'n Net, sim: &[&'static str], config: &str) -> Host<'n> {
    let setup = Setup {
        policy: POLICY.into(),
        config: config.into(),
        sim: sim.into(),
        ..Setup::default()
    };
    Host::prepare(net, &setup)
}

pub(crate) fn start(host: &mut Host<'_>) {
    host.run("rules apply");
    host.start_daemon();
}

/// Gives the first clients accounts and groups, each a line.
pub(crate) fn add_accounts(host: &Host<'_>, count: u32) {
    let (mut passwd, mut group) = (String::new(), String::new());
    for number in 0..count {
        let User { uid, gid } = client(number);
        writeln!(passwd, "c{number}:x:{uid}:{gid}::/nonexistent:/bin/sh").unwrap();
        writeln!(group, "g-c{number}:x:{gid}:").unwrap();
    }
    // In place: these very files are what the host has in /etc.
    for (name, more) in [("passwd", passwd), ("group", group)] {
        let file = host.path(name);
        let text = fs::read_to_string(&file).unwrap();
        fs::write(&file, text + &more).unwrap();
    }
}

/// Processes that do nothing but be there.
pub(crate) struct Crowd(Vec<Child>);

impl Crowd {
    pub(crate) fn new(count: usize) -> Self {
        let one = |_| Command::new("sleep").arg("infinity").spawn().unwrap();
        Self((0..count).map(one).collect())
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        for process in &mut self.0 {
            let _ = process.kill();
        }
        for process in &mut self.0 {
            let _ = process.wait();
        }
    }
}

/// Lets this process, and what is started from here, have as many descriptors
/// as may be.
pub(crate) fn many_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}
