//! Names come from a process of their own, because what answers for them may
//! hang, fail in silence, or die.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

use crate::common::host::{BINARY, Host, Setup, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, DAEMON, ROOT, User};

const USER_DATA: &str = "/latest/user-data";

/// Alice is in ops (see the harness), and so is kept away; root is not, and
/// the rest is let in.
fn by_name() -> Setup {
    let policy = "schema = 1\n\n\
        [[rule]]\nname = \"root\"\naction = \"allow\"\nwho = [\"uid:0\"]\npaths = [\"/**\"]\n\n\
        [[rule]]\nname = \"not ops\"\naction = \"deny\"\nwho = [\"group:ops\"]\npaths = [\"/**\"]\n\n\
        [[rule]]\nname = \"rest\"\naction = \"allow\"\nwho = [\"any\"]\npaths = [\"/user-data\"]\n";
    Setup {
        policy: policy.into(),
        ..Setup::default()
    }
}

fn read(user: User) -> u16 {
    get(user, V4, USER_DATA, Some(&token(user, V4, 60))).status
}

/// Why this user's GET is refused.
fn refusal(host: &Host, user: User) -> String {
    let answer = get(user, V4, USER_DATA, Some(&token(user, V4, 60)));
    assert_eq!(answer.status, 403, "{answer:?}");
    let (_, id) = answer.body.rsplit_once("id ").unwrap();
    let id = id.split('"').next().unwrap();
    wait_for("its record", || {
        let record = host.audit().into_iter().find(|it| it["id"] == id)?;
        Some(record["reason"].as_str().unwrap().to_owned())
    })
}

/// The process that the daemon asks.
fn helper(host: &Host) -> Option<Pid> {
    let daemon = host.daemon_pid();
    let tasks = fs::read_dir(format!("/proc/{daemon}/task")).unwrap();
    let children = tasks.flat_map(|task| {
        let children = fs::read_to_string(task.unwrap().path().join("children")).unwrap();
        let pids = children.split_whitespace().map(|pid| pid.parse().unwrap());
        pids.collect::<Vec<i32>>()
    });
    // Dead, it has no arguments any more.
    let mut named = children.filter(|pid| {
        let arguments = fs::read_to_string(format!("/proc/{pid}/cmdline"));
        arguments.is_ok_and(|it| it.starts_with("imdsfw-names\0"))
    });
    named.next().map(Pid::from_raw)
}

/// Something else in the place of a file, while it lives.
struct InPlaceOf(&'static str);

impl InPlaceOf {
    fn new(file: &'static str, other: &Path) -> Self {
        let none: Option<&str> = None;
        mount(Some(other), file, none, MsFlags::MS_BIND, none).unwrap();
        Self(file)
    }
}

impl Drop for InPlaceOf {
    fn drop(&mut self) {
        umount2(self.0, MntFlags::MNT_DETACH).unwrap();
    }
}

#[test]
fn the_process_that_looks_up_names_has_no_privilege_and_ends_with_the_daemon() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let pid = helper(&host).unwrap();
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            // The thread of a lookup may have ended.
            let Ok(status) = fs::read_to_string(task.unwrap().path().join("status")) else {
                continue;
            };
            threads += 1;
            let field = |name: &str| {
                let mut lines = status.lines();
                let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
                value.split_whitespace().collect::<Vec<_>>().join(" ")
            };
            assert_eq!(field("Uid:"), "64000 64000 64000 64000");
            assert_eq!(field("Gid:"), "64100 64100 64100 64100");
            assert_eq!(field("Groups:"), "");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(field(set), "0000000000000000", "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), "1");
        }
        assert!(threads > 0);
        let environ = fs::metadata(format!("/proc/{pid}/environ")).unwrap();
        assert_eq!(environ.uid(), 0, "not dumpable");
        host.kill_daemon();
        let gone = || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(());
        wait_for("the end of it", gone);
    });
}

#[test]
fn a_hanging_nss_holds_up_nobody_and_is_got_rid_of() {
    in_network(|net| {
        let host = Host::start(net, &by_name());
        assert_eq!(read(BOB), 200);
        let pipe = host.path("pipe");
        // Whoever opens it to read waits for somebody who writes.
        mkfifo(&pipe, Mode::from_bits_truncate(0o644)).unwrap();
        let hanging = InPlaceOf::new("/etc/passwd", &pipe);
        let before = helper(&host).unwrap();
        assert_eq!(refusal(&host, ALICE), "account_unknown");
        assert_eq!(read(ROOT), 200, "its uid decides");
        assert_eq!(read(BOB), 200, "known from before");
        // More than can hang at once.
        std::thread::scope(|scope| {
            let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
            for uid in 5000..5020 {
                let namespace = namespace.try_clone().unwrap();
                scope.spawn(move || {
                    let net = nix::sched::CloneFlags::CLONE_NEWNET;
                    nix::sched::setns(namespace, net).unwrap();
                    assert_eq!(read(User { uid, gid: 4900 }), 403);
                });
            }
        });
        drop(hanging);
        wait_for("alice's name", || {
            (refusal(&host, ALICE) == "policy").then_some(())
        });
        assert_eq!(helper(&host), Some(before), "the same process, begun anew");
        let status = fs::read_to_string(format!("/proc/{before}/status")).unwrap();
        assert!(status.contains("NoNewPrivs:\t1"), "{status}");
    });
}

#[test]
fn without_the_process_names_are_undecidable_and_the_daemon_goes_on() {
    in_network(|net| {
        let mut host = Host::prepare(net, &by_name());
        host.run("rules apply");
        let said = said_to(&mut host);
        let names = helper(&host).unwrap();
        kill(names, Signal::SIGKILL).unwrap();
        wait_for("the end of it", || helper(&host).is_none().then_some(()));
        for user in [ALICE, BOB] {
            assert_eq!(refusal(&host, user), "account_unknown");
        }
        // Whom no name concerns.
        assert_eq!(read(ROOT), 200);
        host.stop_daemon();
        let said = fs::read_to_string(said).unwrap();
        assert_eq!(said.matches("imdsfw-names is gone").count(), 1, "{said}");
    });
}

/// Starts the daemon; where it writes what it has to say.
fn said_to(host: &mut Host) -> PathBuf {
    let said = host.path("stderr");
    let mut command = host.command("run");
    command.stderr(Stdio::from(fs::File::create(&said).unwrap()));
    host.start_daemon_by(command);
    said
}

#[test]
fn an_nss_that_fails_in_silence_is_not_believed() {
    in_network(|net| {
        let mut host = Host::prepare(net, &by_name());
        host.run("rules apply");
        let kept = host.path("kept-group");
        fs::copy("/etc/group", &kept).unwrap();
        fs::set_permissions(&kept, Permissions::from_mode(0o600)).unwrap();
        let unreadable = InPlaceOf::new("/etc/group", &kept);
        // What NSS says then to the daemon's user: that alice is in no group.
        let mut id = Command::new("id");
        id.args(["-G", "alice"]).uid(DAEMON.uid).gid(DAEMON.gid);
        let output = id.output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "4100\n");

        let said = said_to(&mut host);
        assert_eq!(refusal(&host, ALICE), "account_unknown");
        assert_eq!(read(ROOT), 200);
        let text = fs::read_to_string(said).unwrap();
        for words in ["the group of uid 64000", "not even root's name"] {
            assert_eq!(text.matches(words).count(), 1, "{words} in:\n{text}");
        }
        drop(unreadable);
        wait_for("alice's groups", || {
            (refusal(&host, ALICE) == "policy").then_some(())
        });
        assert_eq!(read(BOB), 200);
    });
}

/// What keeps alice out keeps out whoever runs under a uid that was lent to her,
/// and what lets her in does not; uids that nobody was lent are as they are.
#[test]
fn a_lent_uid_is_kept_out_with_its_owner_and_not_let_in_with_it() {
    const LENT: User = User {
        uid: 300_005,
        gid: 300_900,
    };
    const OTHER: User = User {
        uid: 400_005,
        ..LENT
    };
    let rule = |name: &str, action: &str, who: &str, path: &str, rest: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\naction = \"{action}\"\nwho = [\"{who}\"]\n\
             paths = [\"/meta-data/{path}\"]\n{rest}\n"
        )
    };
    let policy = [
        "schema = 1\n".to_owned(),
        rule("out", "deny", "uid:4001", "ami-id", ""),
        rule("people out", "deny", "uid:4000-4001", "hostname", ""),
        rule("in", "allow", "uid:4001", "instance-id", ""),
        rule("most", "allow", "any", "mac", "except = [\"uid:4001\"]"),
        rule("any", "allow", "any", "ami-id", ""),
        rule("any host", "allow", "any", "hostname", ""),
    ]
    .concat();
    in_network(move |net| {
        let setup = Setup {
            policy: policy.clone(),
            ..Setup::default()
        };
        let mut host = Host::prepare(net, &setup);
        host.provide_subuid("alice:200000:10\n");
        host.run("rules apply");
        host.start_daemon();
        let statuses = |user| {
            ["ami-id", "hostname", "instance-id", "mac"].map(|path| {
                let path = format!("/latest/meta-data/{path}");
                get(user, V4, &path, Some(&token(user, V4, 60))).status
            })
        };
        assert_eq!(statuses(ALICE), [403, 403, 200, 403]);
        assert_eq!(statuses(OTHER), [200, 200, 403, 200]);
        // Lent after the daemon was started.
        fs::write(host.path("subuid"), "alice:200000:10\nalice:300000:10\n").unwrap();
        assert_eq!(statuses(LENT), [403, 403, 403, 403]);
        let words = ["explain", "--user", "300005", "/latest/meta-data/ami-id"];
        let explained = Command::new(BINARY)
            .args(words)
            .arg("--config")
            .arg(host.config())
            .output()
            .unwrap();
        let explained = String::from_utf8(explained.stdout).unwrap();
        assert!(explained.contains("subordinate of uid 4001"), "{explained}");
        assert!(explained.starts_with("DENY"), "{explained}");
        // And known where nobody answers for names.
        kill(helper(&host).unwrap(), Signal::SIGKILL).unwrap();
        let early = User {
            uid: 200_005,
            ..LENT
        };
        assert_eq!(statuses(early), [403, 403, 403, 403]);
    });
}
