//! The doctor on a host where all is well, and then with one thing after the
//! other broken: the line that names it, and what mends it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation
)]

mod common;

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::Value;

use common::host::{Host, Setup};
use common::http::{V4, get};
use common::net::{in_network, ip};
use common::nft;
use common::user::{ALICE, DAEMON};
use common::watcher::Watcher;

const WORDS: &str = "doctor --user root --user alice";

fn doctor(host: &Host) -> (bool, Vec<Value>) {
    let output = host.command(&format!("{WORDS} --json")).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(report["ok"], output.status.success(), "{output:?}");
    (
        output.status.success(),
        report["findings"].as_array().unwrap().clone(),
    )
}

#[track_caller]
fn well(host: &Host) {
    let (ok, findings) = doctor(host);
    assert!(ok, "{findings:#?}");
}

/// Some finding of `check` has this state, speaks of `what`, and is mended by
/// `mend`; a failure is the exit code's too.
#[track_caller]
fn finds(host: &Host, check: &str, state: &str, what: &str, mend: &str) {
    let (ok, findings) = doctor(host);
    assert_eq!(ok, state != "failure", "{findings:#?}");
    let says = |finding: &Value, field: &str, text: &str| {
        finding[field].as_str().unwrap_or_default().contains(text)
    };
    let found = findings.iter().any(|it| {
        it["check"] == check
            && it["state"] == state
            && says(it, "what", what)
            && says(it, "mend", mend)
    });
    assert!(found, "{check}: {findings:#?}");
}

fn cover(folder: &str) {
    let (none, tmpfs) = (None::<&str>, Some("tmpfs"));
    mount(tmpfs, folder, tmpfs, MsFlags::empty(), none).unwrap();
}

/// In the mount namespace of [`Host::prepare`].
fn enable_nftables() {
    cover("/etc/systemd/system");
    fs::create_dir("/etc/systemd/system/sysinit.target.wants").unwrap();
    let link = "/etc/systemd/system/sysinit.target.wants/nftables.service";
    symlink("/usr/lib/systemd/system/nftables.service", link).unwrap();
}

fn uncover(folder: &str) {
    umount2(folder, MntFlags::MNT_DETACH).unwrap();
}

#[test]
fn where_all_is_well_it_says_so_and_shows_no_secret() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let (ok, findings) = doctor(&host);
        assert!(ok, "{findings:#?}");
        for check in [
            "rules",
            "managers",
            "kernel",
            "route",
            "account",
            "processes",
            "listener",
            "policy",
            "read",
            "tokenless",
            "clock",
            "audit",
        ] {
            let mut of = findings.iter().filter(|it| it["check"] == check).peekable();
            assert!(of.peek().is_some(), "{check}");
            assert!(of.all(|it| it["state"] != "failure"), "{findings:#?}");
        }
        let reads: Vec<_> = findings
            .iter()
            .filter(|it| it["check"] == "read")
            .map(|it| it["what"].as_str().unwrap())
            .collect();
        // Root is refused nothing, alice one of two; by either family.
        assert_eq!(reads.len(), 6, "{reads:#?}");
        let alices = reads.iter().filter(|it| it.starts_with("alice at "));
        assert_eq!(alices.filter(|it| it.ends_with("(403)")).count(), 2);
        let records = host.records(14);
        assert!(
            records
                .iter()
                .all(|it| it["request"]["user_agent"] == "imdsfw-doctor")
        );
        assert!(records.iter().any(|it| it["caller"]["user"] == "alice"));

        let Output { stdout, .. } = host.command(WORDS).output().unwrap();
        let text = String::from_utf8(stdout).unwrap();
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        assert!(!text.contains('\u{1b}'), "no colour but on a terminal");
        assert!(text.contains("warning watcher"), "{text}");
        assert!(text.contains("imdsfw rules watch"), "{text}");
        let _watcher = Watcher::start(&host.config());
        let Output { stdout, .. } = host.command(WORDS).output().unwrap();
        let watched = String::from_utf8(stdout).unwrap();
        assert!(watched.contains("ok      watcher"), "{watched}");
        for secret in ["AQAEA", "SecretAccessKey", "ASIA"] {
            assert!(!text.contains(secret), "{text}");
        }
    });
}

#[test]
fn each_thing_broken_has_its_line_and_its_mend() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        well(&host);

        nft::load("flush chain inet imdsfw input");
        finds(&host, "rules", "failure", "missing", "imdsfw rules apply");
        nft::load("delete table inet imdsfw");
        finds(&host, "rules", "failure", "missing", "imdsfw rules apply");
        host.run("rules apply");
        well(&host);

        ip("route del default via 10.77.0.1");
        finds(&host, "route", "failure", "169.254.169.254", "ip route add");
        ip("route add default via 10.77.0.1");
        ip("route del default via fd77::1");
        finds(
            &host,
            "route",
            "warning",
            "fd00:ec2::254",
            "ip -6 route add",
        );
        ip("route add default via fd77::1");

        // Of this network's own.
        let cookies = "/proc/sys/net/ipv4/tcp_syncookies";
        fs::write(cookies, "0").unwrap();
        let mend = "sysctl -w net.ipv4.tcp_syncookies=1";
        finds(&host, "kernel", "warning", "no SYN cookies", mend);
        fs::write(cookies, "1").unwrap();

        cover("/usr/local/sbin");
        let program = Path::new("/usr/local/sbin/helper");
        fs::write(program, "").unwrap();
        chown(program, Some(DAEMON.uid), None).unwrap();
        fs::set_permissions(program, Permissions::from_mode(0o4755)).unwrap();
        let mend = "chmod u-s /usr/local/sbin/helper";
        finds(&host, "account", "failure", "setuid", mend);
        uncover("/usr/local/sbin");

        let mut sleep = Command::new("sleep");
        let mut other = sleep.arg("60").uid(DAEMON.uid).spawn().unwrap();
        let mend = format!("kill {}", other.id());
        finds(
            &host,
            "processes",
            "failure",
            "(sleep) runs as uid 64000",
            &mend,
        );
        other.kill().unwrap();
        other.wait().unwrap();

        enable_nftables();
        finds(
            &host,
            "managers",
            "warning",
            "nftables.service",
            "rules apply",
        );
        uncover("/etc/systemd/system");

        let policy = Setup::default().policy;
        host.write_policy("schema = 2\n");
        finds(&host, "policy", "failure", "refused", "imdsfw check");
        // The daemon has read none of this yet.
        host.write_policy("schema = 1\n");
        finds(
            &host,
            "read",
            "failure",
            "200 instead of 403",
            "restart imdsfw",
        );
        host.write_policy(&policy);
        well(&host);

        host.stop_service();
        finds(
            &host,
            "read",
            "failure",
            "502 instead",
            "metadata service enabled",
        );
        host.start_service(&[]);
        well(&host);

        host.kill_daemon();
        let start = "systemctl start imdsfw";
        finds(
            &host,
            "listener",
            "failure",
            "nobody listens on 127.0.0.1:253",
            start,
        );
        finds(&host, "token", "failure", "got no token", "restart imdsfw");
        let kept = TcpListener::bind("127.0.0.1:253").unwrap();
        finds(&host, "listener", "failure", "no daemon accepts", start);
        drop(kept);
        host.start_daemon();
        well(&host);

        host.write_config("nonsense = 1");
        finds(&host, "config", "failure", "refused", "imdsfw check");
        host.write_config("");
    });
}

#[test]
fn what_flushes_the_rules_is_no_concern_where_they_are_watched() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        enable_nftables();
        let _watcher = Watcher::start(&host.config());
        finds(&host, "managers", "ok", "nftables may take out", "");
    });
}

#[test]
fn a_log_that_takes_no_records_is_named() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.mount_small_log(64);
        host.run("rules apply");
        host.start_daemon();
        well(&host);
        // A full disk.
        let _ = fs::write(host.path("log/other"), vec![0; 128 * 1024]);
        // What is left of the last page takes a few more.
        for _ in 0..10 {
            get(ALICE, V4, "/", None);
        }
        let mend = "systemctl restart imdsfw";
        finds(&host, "audit", "failure", "takes no records", mend);
    });
}

#[test]
fn an_account_that_is_missing_is_named_with_the_way_to_make_it() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let config = host.config();
        let text = fs::read_to_string(&config).unwrap();
        fs::write(&config, text.replace("\"imdsfw\"", "\"no-such-account\"")).unwrap();
        finds(
            &host,
            "account",
            "failure",
            "useradd --system",
            "imdsfw check",
        );
    });
}
