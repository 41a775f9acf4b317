//! The steps in and out, on a host of their own: what they change, what they
//! leave behind, and that each is undone unless somebody who logged in anew
//! says yes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap
)]

#[path = "../common/mod.rs"]
mod common;

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};

use common::host::{BINARY, Host, Running, Setup, copy_program, wait_for};
use common::http::{V4, get, token};
use common::login::Runtime;
use common::net::in_network;
use common::nft;
use common::user::{ALICE, BOB, DAEMON, ROOT, User, listen};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

/// A host without the firewall.
struct Untouched<'h, 'n> {
    host: &'h Host<'n>,
    runtime: Runtime<'h, 'n>,
}

fn with_host(test: impl FnOnce(&Untouched) + Send + 'static) {
    in_network(|net| {
        let host = Host::prepare(net, &Setup::default());
        // What the daemon keeps stays, as its log does.
        fs::create_dir(host.path("state")).unwrap();
        chown(host.path("state"), Some(DAEMON.uid), Some(DAEMON.gid)).unwrap();
        // A rule set of other people's, which must stay as it is.
        nft::load(
            "table inet others {
                chain output { type filter hook output priority 10; policy accept;
                    tcp dport 25 counter drop
                }
            }",
        );
        test(&Untouched {
            host: &host,
            runtime: Runtime::new(&host),
        });
    });
}

impl Untouched<'_, '_> {
    fn login(&self, words: &str) -> Output {
        self.runtime.login(words)
    }

    #[track_caller]
    fn succeeds(&self, words: &str) -> String {
        let output = self.login(words);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words}: {out}{err}");
        assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
        out
    }

    #[track_caller]
    fn fails(&self, words: &str, says: &str) {
        let output = self.login(words);
        let said = text(&output.stderr)
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        assert_eq!(output.status.code(), Some(1), "{words}: {said}");
        assert!(said.contains(says), "{words}: {said}");
    }

    /// Everything that must be as before: rules, files, processes.
    fn seen(&self) -> (String, Vec<PathBuf>, bool) {
        let mut files: Vec<_> = fs::read_dir(self.host.config().parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            // What the daemon and the steps write, and what the test does.
            .filter(|path| !path.ends_with("run") && !path.ends_with("sim.log"))
            .collect();
        files.sort();
        let runs = processes().iter().any(|(_, uid)| *uid == DAEMON.uid);
        (nft::ruleset(&[]), files, runs)
    }

    fn status(user: User) -> u16 {
        get(user, V4, CREDENTIALS, Some(&token(user, V4, 60))).status
    }

    fn state(&self) -> serde_json::Value {
        serde_json::from_slice(&fs::read(self.host.path("run/adoption.json")).unwrap()).unwrap()
    }

    /// The processes that the steps have started.
    fn started(&self) -> Vec<i32> {
        let state = self.state();
        let started = state["started"].as_array().unwrap().iter();
        started
            .map(|it| it["pid"].as_i64().unwrap() as i32)
            .collect()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Those of this network, with their uids.
fn processes() -> Vec<(i32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let pids = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let entry = entry.ok()?;
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let net = fs::read_link(entry.path().join("ns/net")).ok()?;
        let status = fs::read_to_string(entry.path().join("status")).ok()?;
        let _ = entry.metadata().ok()?.uid();
        let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
        let uid = uid.split_whitespace().next()?.parse().ok()?;
        (net == own).then_some((pid, uid))
    });
    pids.collect()
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
}

#[test]
fn unconfirmed_the_host_is_as_before_byte_for_byte() {
    with_host(|host| {
        let before = host.seen();
        let out = host.succeeds("enable --observe --confirm 3s");
        let begun = Instant::now();
        assert!(out.contains("enabled: mode observe"), "{out}");
        assert!(out.contains("imdsfw confirm"), "{out}");
        assert_ne!(host.seen(), before);
        // Everyone is answered as before, and recorded.
        assert_eq!(Untouched::status(ALICE), 200);
        let records = host.host.records(2);
        let last = records.last().unwrap();
        assert_eq!(
            (&last["reason"], &last["detail"]),
            (&"observed".into(), &"default".into())
        );
        wait_for("the undoing", || (host.seen() == before).then_some(()));
        assert!(
            begun.elapsed() < Duration::from_secs(10),
            "{:?}",
            begun.elapsed()
        );
        assert!(get_directly(), "the service is reached as before");
        host.fails("confirm", "`imdsfw enable` was undone at");
    });
}

/// Without the firewall, the service answers this itself.
fn get_directly() -> bool {
    get(BOB, V4, "/", None).status == 401
}

#[test]
fn the_undoing_needs_neither_daemon_nor_watcher_nor_config() {
    with_host(|host| {
        let before = host.seen();
        host.succeeds("enable --confirm 4s");
        fs::write(host.host.config(), "what = [is this?\n").unwrap();
        for pid in host.started() {
            kill(pid);
        }
        wait_for("the undoing", || (host.seen() == before).then_some(()));
        host.host.write_config("");
    });
}

#[test]
fn only_a_new_login_confirms_and_then_it_stays() {
    with_host(|host| {
        let before = host.seen();
        // Both from one login; the second must not count.
        let script = "echo 4001 > /proc/self/loginuid
            \"$1\" enable --observe --confirm 6s --config \"$2\" && \"$1\" confirm --config \"$2\"";
        let output = Command::new("sh")
            .args(["-c", script, "sh", BINARY])
            .arg(host.host.config())
            .output()
            .unwrap();
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("the same audit session"), "{said}");
        host.fails("enable", "an earlier step waits to be confirmed until");
        let out = host.succeeds("confirm");
        assert!(out.contains("it stays, in mode observe"), "{out}");
        assert!(out.contains("by its audit session"), "{out}");
        assert!(out.contains("No service manager was found"), "{out}");
        host.fails("confirm", "nothing waits to be confirmed");
        let undoers = || fs::read_to_string(host.host.path("run/adoption-undo.log")).unwrap();
        assert_eq!(undoers(), "");

        // Denials bind for a while, and then not any more.
        let out = host.succeeds("enforce --confirm 3s");
        assert!(out.contains("changed: mode enforce"), "{out}");
        assert_eq!(Untouched::status(ALICE), 403);
        assert_eq!(Untouched::status(ROOT), 200);
        wait_for("the fall back to observe", || {
            (host.state()["window"].is_null() && Untouched::status(ALICE) == 200).then_some(())
        });
        host.fails("confirm", "`imdsfw enforce` was undone at");

        host.succeeds("enforce --confirm 10s");
        let out = host.succeeds("confirm");
        assert!(out.contains("it stays, in mode enforce"), "{out}");
        assert_eq!(Untouched::status(ALICE), 403);
        let said = text(&host.login("enforce").stdout);
        assert!(said.contains("enforce already"), "{said}");
        host.succeeds("disable");
        let mut after = host.seen();
        after.1.retain(|path| !path.ends_with("imdsfw.toml.d"));
        assert_eq!(after, before);
        assert!(get_directly());
    });
}

#[test]
fn a_boot_takes_back_what_nobody_confirmed() {
    with_host(|host| {
        host.succeeds("enable --observe");
        host.succeeds("enforce --confirm 1h");
        assert_eq!(Untouched::status(ALICE), 403);
        // The boot: processes, rules and /run are gone.
        let undoer = host.state()["window"]["undoer"]["pid"].as_i64().unwrap();
        for pid in host.started().into_iter().chain([undoer as i32]) {
            kill(pid);
        }
        wait_for("the end of all", || {
            processes()
                .iter()
                .all(|it| it.1 != DAEMON.uid)
                .then_some(())
        });
        let removed = Command::new(BINARY)
            .args(["rules", "remove"])
            .output()
            .unwrap();
        assert!(removed.status.success(), "{removed:?}");
        umount2(&host.host.path("run"), MntFlags::MNT_DETACH).unwrap();
        assert!(!host.host.path("run/adoption.json").exists());
        let check = host.succeeds("check");
        assert!(check.contains("mode    observe"), "{check}");
    });
}

#[test]
fn a_step_that_fails_changes_nothing_or_is_undone() {
    with_host(|host| {
        let before = host.seen();
        host.host.write_policy("schema = 1\n[[rul]]\n");
        host.fails("enable --observe --confirm 1m", "nothing was changed");
        assert_eq!(host.seen(), before);
        host.host.write_policy(&Setup::default().policy);
        // Somebody has the port: the rules are in force when that is found.
        let taken = listen("127.0.0.1:253".parse().unwrap());
        host.fails("enable --observe --confirm 1m", "it was undone, because");
        assert_eq!(host.seen(), before);
        assert!(get_directly());
        drop(taken);
        host.fails("enforce", "no daemon runs");
        host.fails("confirm", "nothing waits to be confirmed");
        host.succeeds("enable");
        assert_eq!(Untouched::status(ALICE), 403);
        // Where a boot would not take it back, it is not begun.
        host.succeeds("disable");
        umount2(&host.host.path("run"), MntFlags::MNT_DETACH).unwrap();
        host.fails("enable --confirm 1m", "a boot would not undo it");
        assert_eq!(host.seen(), before);
    });
}

/// Tells everybody who waits for a process that it is ready, without end.
const FORGER: &str = "
import socket
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
print('forging', flush=True)
while True:
    with open('/proc/net/unix') as sockets:
        names = [line.split()[-1] for line in sockets if '@imdsfw-adoption-' in line]
    for name in names:
        for _ in range(50):
            try:
                s.sendto(b'READY=1', socket.MSG_DONTWAIT, chr(0) + name[1:])
            except OSError:
                break
";

#[test]
fn nobody_else_says_that_the_daemon_is_ready() {
    with_host(|host| {
        let before = host.seen();
        let mut forger = Command::new("/usr/bin/python3");
        forger.args(["-Ic", FORGER]).uid(ALICE.uid).gid(ALICE.gid);
        let forger = forger.stdout(Stdio::piped()).spawn().unwrap();
        let mut forger = Running(forger);
        let said = forger.0.stdout.take().unwrap();
        assert_eq!(
            BufReader::new(said).lines().next().unwrap().unwrap(),
            "forging"
        );
        // Somebody has the port: it ends, and never is.
        let taken = listen("127.0.0.1:253".parse().unwrap());
        host.fails("enable --observe --confirm 1m", "ended:");
        assert_eq!(host.seen(), before);
        drop(taken);
        // And what it says itself is heard beside all that.
        host.succeeds("enable");
        host.succeeds("disable");
    });
}

#[test]
fn only_root_takes_steps() {
    for words in ["enable", "confirm", "enforce", "disable"] {
        let copy = tempfile::tempdir_in("/tmp").unwrap();
        let binary = copy.path().join("imdsfw");
        copy_program(BINARY, &binary);
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(copy.path(), open).unwrap();
        let output = Command::new(&binary)
            .arg(words)
            .uid(ALICE.uid)
            .gid(ALICE.gid)
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(text(&output.stderr).contains("only root"), "{output:?}");
    }
}
