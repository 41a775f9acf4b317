//! A host whose users have the clients at hand, first without the firewall
//! and then with it, in front of the same simulated service.

use std::fs::{self, File};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use crate::common::host::{Host, Setup};
use crate::common::net::Net;
use crate::common::user::User;

/// What a client left behind.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Printed {
    pub(crate) status: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

pub(crate) struct Desk<'a> {
    host: Host<'a>,
}

/// A kind of host: the policies that it would have, and what else is there.
#[derive(Default)]
pub(crate) struct Kind {
    /// One of those in policies.
    pub(crate) base: &'static str,
    /// Of those in policies/agents.
    pub(crate) agents: &'static [&'static str],
    pub(crate) accounts: &'static [(&'static str, User)],
    /// `PATH=VALUE`, at the service.
    pub(crate) items: &'static [&'static str],
}

impl<'a> Desk<'a> {
    /// No rules and no daemon yet: whoever asks, asks the service.
    pub(crate) fn without_firewall(net: &'a Net) -> Self {
        Self::prepare(net, &Setup::default())
    }

    /// The same, with other policies to come.
    pub(crate) fn of_kind(net: &'a Net, kind: &Kind) -> Self {
        let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
        let setup = Setup {
            policy: fs::read_to_string(policies.join(kind.base)).unwrap(),
            accounts: kind.accounts.to_vec(),
            sim: kind.items.iter().flat_map(|it| ["--item", it]).collect(),
            ..Setup::default()
        };
        let desk = Self::prepare(net, &setup);
        let installed = desk.host.path("policy.d");
        let base = installed.join("90-base.toml");
        fs::rename(installed.join("50-test.toml"), base).unwrap();
        for agent in kind.agents {
            fs::copy(policies.join("agents").join(agent), installed.join(agent)).unwrap();
        }
        desk
    }

    /// The same for another configuration.
    pub(crate) fn prepare(net: &'a Net, setup: &Setup) -> Self {
        let desk = Self {
            host: Host::prepare(net, setup),
        };
        // The tree may stand where only its owner can go.
        fs::create_dir(desk.clients()).unwrap();
        mount_read_only(&installed(), &desk.clients());
        // Nobody is asked for names: the test's network has no name server.
        let resolver = desk.host.path("resolv.conf");
        fs::write(&resolver, "nameserver 127.0.0.1\n").unwrap();
        mount_read_only(&resolver, Path::new("/etc/resolv.conf"));
        desk
    }

    pub(crate) fn with_firewall(net: &'a Net) -> Self {
        let mut desk = Self::without_firewall(net);
        desk.put_up_firewall();
        desk
    }

    pub(crate) fn host(&self) -> &Host<'a> {
        &self.host
    }

    pub(crate) fn put_up_firewall(&mut self) {
        self.host.run("rules apply");
        self.host.start_daemon();
    }

    /// Runs a program as `user`, from an empty home and with no environment
    /// that could send it elsewhere.
    pub(crate) fn run(&self, user: User, program: &str, arguments: &[&str]) -> Printed {
        let home = self.host.path(&format!("home-{}", user.uid));
        if !home.exists() {
            fs::create_dir(&home).unwrap();
            chown(&home, Some(user.uid), Some(user.gid)).unwrap();
        }
        let output = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &home)
            .env("PYTHONPATH", self.clients().join(DEBIAN_PYTHON))
            .current_dir(&home)
            .uid(user.uid)
            .gid(user.gid)
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e}; run .ci/setup tests"));
        Printed {
            status: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Python with botocore, the AWS CLI and cloud-init.
    pub(crate) fn python(&self, user: User, arguments: &[&str]) -> Printed {
        self.run(user, &self.client("venv/bin/python3"), arguments)
    }

    /// A program that Debian packages.
    pub(crate) fn debian(&self, user: User, name: &str, arguments: &[&str]) -> Printed {
        self.run(
            user,
            &self.client(&format!("debian/usr/bin/{name}")),
            arguments,
        )
    }

    /// The status of a GET by `user`, with a token of its own.
    pub(crate) fn status(&self, user: User, path: &str) -> String {
        let curl = |arguments: &[&str]| {
            let printed = self.run(user, "/usr/bin/curl", &[&["-s"], arguments].concat());
            assert_eq!(printed.status, Some(0), "{printed:?}");
            printed.out
        };
        let service = "http://169.254.169.254";
        let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60";
        let token = curl(&["-XPUT", "-H", ttl, &format!("{service}/latest/api/token")]);
        let token = format!("X-aws-ec2-metadata-token: {token}");
        let url = format!("{service}{path}");
        curl(&["-o", "/dev/null", "-w", "%{http_code}", "-H", &token, &url])
    }

    pub(crate) fn client(&self, name: &str) -> String {
        self.clients().join(name).to_str().unwrap().to_owned()
    }

    fn clients(&self) -> PathBuf {
        self.host.path("clients")
    }

    /// The paths that the service itself was asked for.
    pub(crate) fn paths_at_service(&self) -> Vec<String> {
        let path = |line: &Value| line["path"].as_str().unwrap().to_owned();
        let seen = self.host.seen_by_service("request");
        seen.iter().map(path).collect()
    }

    /// Ends the daemon and gives the records of all requests it had, each of
    /// them checked to say whose it was, and by which of these clients.
    pub(crate) fn records(mut self, user: User, user_agents: &[&str]) -> Vec<Value> {
        self.host.stop_daemon();
        let records = self.host.records(1);
        for record in &records {
            assert_eq!(record["event"], "request", "{record}");
            assert_eq!(record["caller"]["uid"], user.uid, "{record}");
            assert_eq!(record["caller"]["gid"], user.gid, "{record}");
            let said = record["request"]["user_agent"].as_str().unwrap();
            assert!(
                user_agents.iter().any(|it| said.starts_with(it)),
                "{record}"
            );
        }
        records
    }
}

impl Drop for Desk<'_> {
    /// Before the host's directory is removed with all that is in it.
    fn drop(&mut self) {
        let _ = umount2(&self.clients(), MntFlags::MNT_DETACH);
    }
}

/// `METHOD PATH STATUS` of each record.
pub(crate) fn lines(records: &[Value]) -> Vec<String> {
    let line = |record: &Value| {
        let request = &record["request"];
        let word = |name: &str| request[name].as_str().unwrap_or("-").to_owned();
        format!("{} {} {}", word("method"), word("path"), record["status"])
    };
    records.iter().map(line).collect()
}

const DEBIAN_PYTHON: &str = "debian/usr/lib/python3/dist-packages";

/// Where `.ci/setup tests` puts the clients: beside the builds.
pub(crate) fn installed() -> PathBuf {
    let clients = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients");
    for part in [
        "venv/requirements.txt",
        "fleet-venv/requirements.txt",
        "debian/packages",
    ] {
        assert!(
            File::open(clients.join(part)).is_ok(),
            "{part} is not in {}: run .ci/setup tests",
            clients.display()
        );
    }
    clients
}

fn mount_read_only(what: &Path, at: &Path) {
    let none: Option<&str> = None;
    for flags in [MsFlags::empty(), MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY] {
        mount(Some(what), at, none, MsFlags::MS_BIND | flags, none).unwrap();
    }
}
