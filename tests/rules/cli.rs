//! `imdsfw rules` as an admin types it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output};

use crate::common::net::in_network;
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON};
use crate::common::watcher::Watcher;
use crate::kernel::{IPTABLES, Kernel, NFT, on_each, rule_set};

const IMDSFW: &str = env!("CARGO_BIN_EXE_imdsfw");

fn rules(args: &[&str]) -> Output {
    Command::new(IMDSFW)
        .arg("rules")
        .args(args)
        .output()
        .unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// As one line: what is long is folded.
fn stderr(output: &Output) -> String {
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn remove_says_whether_there_was_something_to_remove() {
    on_each(|_, kernel| {
        kernel.apply();
        let removed = rules(&["remove"]);
        assert!(removed.status.success(), "{}", stderr(&removed));
        let place = kernel.0.place();
        assert_eq!(stdout(&removed), format!("removed {place}\n"));
        assert_eq!(nft::output(&["list", "tables"]), "");
        let again = rules(&["remove"]);
        assert!(again.status.success(), "{}", stderr(&again));
        assert!(stdout(&again).contains("nothing to remove"));
    });
}

#[test]
fn remove_is_refused_while_a_watcher_would_undo_it() {
    in_network(|_| {
        for more in ["", "rules.egress_deny = false\n"] {
            let directory = tempfile::tempdir().unwrap();
            let config = directory.path().join("imdsfw.toml");
            let text = format!(
                "schema = 1\nuser = \"{}\"\ncontrol.socket = \"{}/control.sock\"\n{more}",
                DAEMON.uid,
                directory.path().display()
            );
            fs::write(&config, text).unwrap();
            let watcher = Watcher::start(&config);
            let refused = rules(&["remove"]);
            assert_eq!(refused.status.code(), Some(1));
            let said = stderr(&refused);
            let pid = watcher.pid();
            for words in [
                format!("process {pid}, `imdsfw rules watch`"),
                "`systemctl stop imdsfw-rules`".into(),
                format!("`kill {pid}`"),
            ] {
                assert!(said.contains(&words), "no {words:?} in: {said}");
            }
            assert!(nft::output(&["list", "tables"]).contains("table inet imdsfw\n"));
            watcher.stop();
            assert!(rules(&["remove"]).status.success());
            assert_eq!(nft::output(&["list", "tables"]), "");
        }
    });
}

#[test]
fn another_user_is_told_what_right_is_missing() {
    in_network(|_| {
        // Where the binary stands, the user may not be able to go.
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let binary = directory.path().join("imdsfw");
        // Not by this process: a child that another test is just starting
        // would hold the file open for writing, and it could not be run.
        let copied = Command::new("cp")
            .arg(IMDSFW)
            .arg(&binary)
            .status()
            .unwrap();
        assert!(copied.success());
        let output = Command::new(binary)
            .args(["rules", "remove"])
            .uid(ALICE.uid)
            .gid(ALICE.gid)
            .current_dir("/")
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        assert!(
            stderr(&output).contains("CAP_NET_ADMIN"),
            "{}",
            stderr(&output)
        );
    });
}

#[test]
fn without_nft_the_package_is_named() {
    in_network(|_| {
        // In a mount namespace of its own, where /usr/sbin is empty.
        let script = format!(
            "mount -t tmpfs none /usr/sbin && {{ [ -L /sbin ] || mount -t tmpfs none /sbin; }} \
             && PATH=/usr/bin:/bin exec {IMDSFW} rules remove"
        );
        let output = Command::new("unshare")
            .args(["--mount", "sh", "-c", &script])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1));
        let text = stderr(&output);
        assert!(text.contains("install the package nftables"), "{text}");
    });
}

#[test]
fn each_back_end_is_chosen_by_name_or_by_the_config() {
    on_each(|_, kernel| {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("imdsfw.toml");
        fs::write(&config, "schema = 1\nuser = \"64000\"\n").unwrap();
        let config = config.to_str().unwrap();
        let name = match kernel {
            NFT => "nft",
            Kernel(imdsfw::intercept::Backend::Iptables) => "iptables",
            Kernel(_) => "iptables-legacy",
        };
        let by_name = |action| rules(&[action, "--config", config, "--backend", name]);
        let shown = by_name("show");
        assert!(shown.status.success(), "{}", stderr(&shown));
        let applied = by_name("apply");
        assert!(applied.status.success(), "{}", stderr(&applied));
        assert!(stdout(&applied).starts_with(&format!("loaded {}", kernel.0.place())));
        // Whichever back end holds them is found without its name.
        let verified = rules(&["verify", "--config", config]);
        assert!(verified.status.success(), "{}", stdout(&verified));
        fs::write(
            config,
            format!("schema = 1\nuser = \"64000\"\n[rules]\nbackend = \"{name}\"\n"),
        )
        .unwrap();
        assert_eq!(
            stdout(&rules(&["show", "--config", config])),
            stdout(&shown)
        );
    });
}

#[test]
fn another_back_end_takes_over_and_leaves_nothing_of_the_first() {
    on_each(|_, kernel| {
        for before in [NFT, IPTABLES[0], IPTABLES[1]] {
            before.apply();
            kernel.apply();
            assert_eq!(kernel.drift_lines(), [""; 0]);
            let found = imdsfw::intercept::verify(&rule_set()).unwrap();
            assert_eq!(found, [], "after {before:?}");
        }
    });
}

#[test]
fn one_that_cannot_be_compared_is_not_passed_over_for_another() {
    in_network(|_| {
        let directory = tempfile::tempdir().unwrap();
        let config = directory.path().join("imdsfw.toml");
        fs::write(&config, format!("schema = 1\nuser = \"{}\"\n", DAEMON.uid)).unwrap();
        let config = config.to_str().unwrap();
        IPTABLES[0].apply();
        let shown = rules(&["show", "--config", config, "--backend", "nft"]);
        nft::load(&stdout(&shown));
        let both = rules(&["verify", "--config", config]);
        assert_eq!(both.status.code(), Some(1));
        let place = IPTABLES[0].0.place();
        assert!(stdout(&both).contains(&format!("unexpected: {place}")));

        // Nothing can be loaded to compare with.
        let failing = directory.path().join("nft");
        let script = "#!/bin/sh\n\
                      PATH=/usr/sbin:/sbin:/usr/bin:/bin\n\
                      if [ \"$1\" = -f ]; then echo no room >&2; exit 1; fi\n\
                      exec nft \"$@\"\n";
        fs::write(&failing, script).unwrap();
        fs::set_permissions(&failing, Permissions::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let output = Command::new(IMDSFW)
            .args(["rules", "verify", "--config", config])
            .env("PATH", format!("{}:{path}", directory.path().display()))
            .output()
            .unwrap();
        assert!(!output.status.success(), "{}", stdout(&output));
        assert!(stderr(&output).contains("no room"), "{}", stderr(&output));
    });
}

#[test]
fn a_backend_that_is_not_there_is_no_other_backend() {
    let output = rules(&["show", "--backend", "ipchains"]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(
        text.contains("nft or iptables or iptables-legacy"),
        "{text}"
    );
}
