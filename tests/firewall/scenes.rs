//! What the README promises, as users see it.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, ROOT};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

#[test]
fn root_reads_the_roles_credentials_and_a_user_does_not() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        for to in [V4, V6] {
            let answer = get(ROOT, to, CREDENTIALS, Some(&token(ROOT, to, 60)));
            assert_eq!(answer.status, 200);
            assert!(answer.body.contains("SecretAccessKey"));
            let answer = get(ALICE, to, CREDENTIALS, Some(&token(ALICE, to, 60)));
            assert_eq!(answer.status, 403);
            assert!(
                answer.body.contains("alice (uid 4001) may not read"),
                "{}",
                answer.body
            );
        }
        let records = host.records(8);
        let denied: Vec<_> = records
            .iter()
            .filter(|it| it["decision"] == "deny")
            .collect();
        assert_eq!(denied.len(), 2);
        for record in denied {
            assert_eq!(record["caller"]["uid"], ALICE.uid);
            assert_eq!(record["caller"]["gid"], ALICE.gid);
            assert_eq!(record["caller"]["user"], "alice");
            assert_eq!(record["request"]["path"], CREDENTIALS);
            assert_eq!(record["status"], 403);
        }
        let seen = host.seen_by_service("request");
        assert_eq!(
            seen.iter().filter(|it| it["path"] == CREDENTIALS).count(),
            2,
            "root's alone"
        );
    });
}

#[test]
fn a_client_without_a_token_and_one_with_a_stolen_token_get_401() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let stolen = token(ROOT, V4, 60);
        let mut expected = 1;
        for (user, token, reason) in [
            (ROOT, None, "token_missing"),
            (ALICE, None, "token_missing"),
            (ALICE, Some(stolen.as_str()), "token_invalid"),
            (BOB, Some("AQAEAexample=="), "token_invalid"),
        ] {
            let answer = get(user, V4, "/latest/meta-data/ami-id", token);
            assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{reason}");
            expected += 1;
            let record = host.records(expected).pop().unwrap();
            assert_eq!(record["reason"], reason);
            assert_eq!(record["caller"]["uid"], user.uid);
        }
        assert!(
            host.seen_by_service("connection").is_empty(),
            "nothing was permitted"
        );
    });
}

#[test]
fn the_record_names_the_unit_in_which_the_socket_was_made() {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts
        .lines()
        .find(|line| line.contains(" - cgroup2 "))
        .expect("cgroup v2");
    let unit = format!("imdsfw-test-{}.service", std::process::id());
    let cgroup = Path::new(mount.split(' ').nth(4).unwrap()).join(&unit);
    in_network(move |net| {
        let host = Host::start(net, &Setup::default());
        fs::create_dir(&cgroup).unwrap();
        let command = format!(
            "echo $$ > {}/cgroup.procs; curl -s http://169.254.169.254/",
            cgroup.display()
        );
        let status = Command::new("sh").args(["-c", &command]).status();
        get(ALICE, V4, "/", None);
        let records = host.records(2);
        fs::remove_dir(&cgroup).unwrap();
        assert!(status.unwrap().success());
        assert_eq!(records[0]["caller"]["unit"], unit);
        assert_ne!(records[1]["caller"]["unit"], unit);
    });
}
