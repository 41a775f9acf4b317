//! What must hold before the daemon serves, and what the admin is told where
//! it does not: what is wrong, where, what to do; and nothing was touched.

use std::fs::{self, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::common::host::{BINARY, Host, Setup, copy_program, refused};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, ROOT};

const POLICY: &str = "policy.d/50-test.toml";

/// A host with the rules loaded, on which no daemon has run yet.
fn with_rules<'a>(net: &'a crate::common::net::Net) -> Host<'a> {
    let setup = Setup {
        service: false,
        ..Setup::default()
    };
    let host = Host::prepare(net, &setup);
    host.run("rules apply");
    host
}

/// Starts the daemon, which must refuse in these words and change nothing.
#[track_caller]
fn assert_refused(host: &Host, words: &[&str]) -> String {
    let before = nft::output(&["-s", "list", "ruleset"]);
    let said = host.refused();
    for word in words {
        assert!(said.contains(word), "no {word:?} in:\n{said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    assert_eq!(nft::output(&["-s", "list", "ruleset"]), before);
    for port in ["127.0.0.1:253", "[::1]:253"] {
        drop(TcpListener::bind(port).expect("nobody listens there"));
    }
    let log: Vec<_> = fs::read_dir(host.path("log")).unwrap().collect();
    assert!(log.is_empty(), "{log:?}");
    said
}

/// That a complaint shows the place, the line itself and a caret below it.
#[track_caller]
fn assert_shown(said: &str, line: &str) {
    let mut lines = said.lines().skip_while(|it| !it.contains(line));
    assert!(lines.next().is_some(), "no {line:?} in:\n{said}");
    assert!(lines.next().is_some_and(|it| it.contains('^')), "{said}");
}

#[test]
fn a_config_with_anything_wrong_is_refused_whole() {
    in_network(|net| {
        let host = with_rules(net);
        let config = host.config();
        let shown = config.display().to_string();

        host.write_config("lisen.port = 253");
        let line = fs::read_to_string(&config).unwrap().lines().count();
        let said = assert_refused(&host, &[&format!("{shown}:{line}:1"), "listen"]);
        assert_shown(&said, "lisen.port = 253");

        host.write_config("policy.mode = \"obsreve\"");
        let said = assert_refused(&host, &[&format!("{shown}:{line}:15"), "observe"]);
        assert_shown(&said, "policy.mode = \"obsreve\"");

        host.write_config("");
        chown(&config, Some(ALICE.uid), None).unwrap();
        assert_refused(&host, &[&shown, "owned by uid 4001", "chown root"]);
        chown(&config, Some(0), None).unwrap();

        fs::set_permissions(&config, Permissions::from_mode(0o646)).unwrap();
        assert_refused(&host, &[&shown, "0646", "chmod go-w"]);

        fs::remove_file(&config).unwrap();
        assert_refused(&host, &[&shown, "no such config file"]);

        fs::create_dir(&config).unwrap();
        assert_refused(&host, &[&shown, "not a regular file"]);
    });
}

#[test]
fn a_policy_with_anything_wrong_is_refused_whole() {
    in_network(|net| {
        let host = with_rules(net);
        let file = host.path(POLICY);
        let shown = file.display().to_string();
        let rule = |who: &str, paths: &str| {
            format!(
                "schema = 1\n\n[[rule]]\nname = \"r\"\naction = \"allow\"\n\
                 who = {who}\npaths = {paths}\n"
            )
        };
        for (policy, place, line, words) in [
            (
                rule("[\"any\"]", "[\"@credential\"]"),
                "7:10",
                "paths = [\"@credential\"]",
                "@credentials",
            ),
            (rule("[]", "[\"/**\"]"), "6:7", "who = []", "at least one"),
            (
                rule("[\"alice\"]", "[\"/**\"]"),
                "6:8",
                "who = [\"alice\"]",
                "user:alice",
            ),
            (
                rule("[\"any\"]", "[\"@routine\"]")
                    + "[[test]]\nas = { uid = 4001 }\npath = \"/latest/user-data\"\n\
                       expect = \"allow\"\n",
                "11:10",
                "expect = \"allow\"",
                "deny",
            ),
        ] {
            host.write_policy(&policy);
            let said = assert_refused(&host, &[&format!("{shown}:{place}"), words]);
            assert_shown(&said, line);
        }

        host.write_policy(&Setup::default().policy);
        chown(&file, Some(DAEMON.uid), None).unwrap();
        assert_refused(&host, &[&shown, "owned by uid 64000", "chown root"]);
        chown(&file, Some(0), None).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o664)).unwrap();
        assert_refused(&host, &[&shown, "0664", "chmod go-w"]);
        fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
        fs::set_permissions(host.path("policy.d"), Permissions::from_mode(0o777)).unwrap();
        assert_refused(&host, &["policy.d", "0777", "chmod go-w"]);
    });
}

#[test]
fn without_the_whole_rule_set_nobody_is_served() {
    in_network(|net| {
        let setup = Setup {
            service: false,
            ..Setup::default()
        };
        let host = Host::prepare(net, &setup);
        assert_refused(&host, &["imdsfw rules apply"]);

        host.run("rules apply");
        let one = nft::rules().pop().unwrap();
        nft::delete(&one);
        let (_, why) = one.text.split_once("comment \"").unwrap();
        let why = why.split('"').next().unwrap();
        assert_refused(&host, &[why, "imdsfw rules apply"]);

        host.run("rules apply");
        let nowhere = host.path("nowhere");
        fs::create_dir(&nowhere).unwrap();
        let none: Option<&str> = None;
        for directory in ["/usr/sbin", "/sbin"] {
            mount(Some(&nowhere), directory, none, MsFlags::MS_BIND, none).unwrap();
        }
        let mut command = host.command("run");
        command.env("PATH", &nowhere);
        let said = refused(command);
        for directory in ["/usr/sbin", "/sbin"] {
            umount2(directory, MntFlags::MNT_DETACH).unwrap();
        }
        let words: Vec<_> = said.split_whitespace().collect();
        assert!(
            words.ends_with(&["install", "the", "package", "nftables"]),
            "{said}"
        );
    });
}

#[test]
fn a_port_in_somebody_elses_hands_is_not_shared() {
    in_network(|net| {
        let host = with_rules(net);
        for port in ["127.0.0.1:253", "[::1]:253"] {
            let taken = TcpListener::bind(port).unwrap();
            let said = host.refused();
            for word in [port, "in use", "ss -tlnp sport = :253"] {
                assert!(said.contains(word), "no {word:?} in:\n{said}");
            }
            drop(taken);
        }
        assert!(fs::read_dir(host.path("log")).unwrap().next().is_none());
    });
}

#[test]
fn an_account_that_is_not_there_or_not_root_is_said_so() {
    in_network(|net| {
        let mut host = with_rules(net);
        let config = fs::read_to_string(host.config()).unwrap();
        for (user, words) in [
            ("nobody-here", "useradd --system"),
            ("root", "must not run as root"),
        ] {
            let other = config.replace("user = \"imdsfw\"", &format!("user = \"{user}\""));
            fs::write(host.config(), other).unwrap();
            assert_refused(&host, &[user, words]);
        }
        fs::write(host.config(), config).unwrap();

        // Where a user can execute it.
        let copy = host.path("imdsfw");
        copy_program(BINARY, &copy);
        let mut command = Command::new(copy);
        command.args(["run", "--config"]).arg(host.config());
        command.uid(ALICE.uid).gid(ALICE.gid);
        let said = refused(command);
        assert!(said.contains("started as root"), "{said}");

        host.start_daemon();
    });
}

#[test]
fn a_log_that_cannot_be_kept_is_said_so() {
    in_network(|net| {
        let host = with_rules(net);
        let (log, file) = (host.path("log"), host.path("log/audit.jsonl"));
        chown(&log, Some(0), Some(0)).unwrap();
        assert_refused(&host, &[&file.display().to_string(), "daemon's user"]);

        chown(&log, Some(DAEMON.uid), Some(DAEMON.gid)).unwrap();
        let target = host.path("target");
        fs::write(&target, "").unwrap();
        chown(&target, Some(DAEMON.uid), None).unwrap();
        symlink(&target, &file).unwrap();
        let said = host.refused();
        assert!(said.contains("symbolic link"), "{said}");
        assert_eq!(fs::read_to_string(&target).unwrap(), "");
    });
}

#[test]
fn the_daemon_keeps_no_privilege_in_any_thread() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        // So that the threads which come with requests are there too.
        get(ROOT, V4, "/latest/user-data", Some(&token(ROOT, V4, 60)));
        let pid = host.daemon_pid();
        let mut threads = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let status = fs::read_to_string(task.unwrap().path().join("status")).unwrap();
            let field = |name: &str| -> Vec<String> {
                let mut lines = status.lines();
                let value = lines.find_map(|line| line.strip_prefix(name)).unwrap();
                value.split_whitespace().map(str::to_owned).collect()
            };
            assert_eq!(field("Uid:"), vec![DAEMON.uid.to_string(); 4]);
            assert_eq!(field("Gid:"), vec![DAEMON.gid.to_string(); 4]);
            assert!(field("Groups:").is_empty(), "{status}");
            for set in ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"] {
                assert_eq!(field(set), ["0000000000000000"], "{set}");
            }
            assert_eq!(field("NoNewPrivs:"), ["1"]);
            threads += 1;
        }
        assert!(threads >= 3, "serving, the log, NSS: {threads}");

        let environ = format!("/proc/{pid}/environ");
        assert_eq!(fs::metadata(&environ).unwrap().uid(), 0, "not dumpable");
        let mut cat = Command::new("cat");
        let output = cat
            .arg(environ)
            .uid(DAEMON.uid)
            .gid(DAEMON.gid)
            .output()
            .unwrap();
        assert!(!output.status.success() && output.stdout.is_empty());
    });
}
