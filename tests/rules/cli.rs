//! `imdsfw rules` as an admin types it.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

use crate::apply;
use crate::common::net::in_network;
use crate::common::nft;
use crate::common::user::ALICE;

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

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn remove_says_whether_there_was_something_to_remove() {
    in_network(|_| {
        apply();
        let removed = rules(&["remove"]);
        assert!(removed.status.success(), "{}", stderr(&removed));
        assert_eq!(stdout(&removed), "removed table inet imdsfw\n");
        assert_eq!(nft::output(&["list", "tables"]), "");
        let again = rules(&["remove"]);
        assert!(again.status.success(), "{}", stderr(&again));
        assert!(stdout(&again).contains("nothing to remove"));
    });
}

#[test]
fn another_user_is_told_what_right_is_missing() {
    in_network(|_| {
        // Where the binary stands, the user may not be able to go.
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let binary = directory.path().join("imdsfw");
        fs::copy(Path::new(IMDSFW), &binary).unwrap();
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
fn a_backend_that_is_not_there_is_no_other_backend() {
    let output = rules(&["show", "--backend", "iptables"]);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(stdout(&output), "");
    let text = stderr(&output);
    assert!(text.contains("not available in this version"), "{text}");
}
