//! `explain --id`: why a request was refused, from what the user was shown.

use std::fs;
use std::process::Output;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, get, raw, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, CWAGENT, User};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

/// What the user is shown of a refusal.
fn refused(user: User, path: &str) -> String {
    let answer = get(user, V4, path, Some(&token(user, V4, 60)));
    assert_eq!(answer.status, 403, "{answer:?}");
    let (_, id) = answer.body.rsplit_once("id ").unwrap();
    id.split('"').next().unwrap().to_owned()
}

fn explain(host: &Host, id: &str, more: &[&str]) -> (Option<i32>, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = host
        .command(&format!("explain --id {id}"))
        .args(more)
        .output()
        .unwrap();
    let said = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    assert!(
        said.lines()
            .all(|line| line.chars().count() <= 80 || more == ["--json"]),
        "{said}"
    );
    (status.code(), said)
}

fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn a_refusal_is_explained_by_the_id_that_the_user_was_shown() {
    in_network(|net| {
        let setup = Setup {
            policy:
                "[[rule]]\nname = \"the agent\"\naction = \"allow\"\nwho = [\"user:cwagent\"]\n\
                     paths = [\"@role\"]\n\
                     [[rule]]\nname = \"not staff\"\naction = \"deny\"\nwho = [\"group:staff\"]\n\
                     paths = [\"/**\"]\n"
                    .into(),
            ..Setup::default()
        };
        let host = Host::start(net, &setup);
        let by_rule = refused(ALICE, CREDENTIALS);
        let by_default = refused(CWAGENT, "/latest/user-data");
        raw(
            BOB,
            V4,
            b"GET /latest/../x HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        );
        let records = host.records(5);
        let (code, said) = explain(&host, &by_rule, &[]);
        assert_eq!(code, Some(1), "{said}");
        let text = flowing(&said);
        for part in [
            "DENY alice (uid 4001) GET /latest/meta-data/iam/security-credentials/web at 20",
            "answered 403 because policy, by the rule \"not staff\"",
            "- \"the agent\" is about other callers: user:cwagent",
            "= \"not staff\" decides",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{said}");
        }
        assert!(!said.contains("something else"), "{said}");
        let (code, said) = explain(&host, &by_default, &[]);
        assert_eq!(code, Some(1));
        assert!(flowing(&said).contains("because default"), "{said}");
        let (code, said) = explain(&host, &by_rule, &["--json"]);
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!(
            (code, &said["rule"]),
            (Some(1), &"not staff".into()),
            "{said}"
        );
        assert_eq!(said["explained"]["rule"], "not staff");
        assert_eq!(said["policy_is_known"], true);
        let allowed = records
            .iter()
            .find(|it| it["request"]["method"] == "PUT")
            .unwrap();
        let (code, said) = explain(&host, allowed["id"].as_str().unwrap(), &[]);
        assert_eq!(code, Some(0), "{said}");
        // One that no rule was asked about says why by itself.
        let malformed = records
            .iter()
            .find(|it| it["reason"] == "malformed")
            .unwrap();
        let (code, said) = explain(&host, malformed["id"].as_str().unwrap(), &[]);
        assert_eq!(code, Some(1));
        assert!(
            said.contains("/latest/../x") && said.contains("because malformed (dot_segment)"),
            "{said}"
        );

        // Rotated away, it is found all the same.
        let log = host.path("log/audit.jsonl");
        fs::rename(&log, host.path("log/audit.jsonl.1")).unwrap();
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        wait_for("a new log", || log.exists().then_some(()));
        let (code, said) = explain(&host, &by_rule, &[]);
        assert!(
            code == Some(1) && said.contains("\"not staff\" decides"),
            "{said}"
        );

        // Under other rules, those of that time are known as long as the
        // daemon keeps them.
        host.write_policy(
            "[[rule]]\nname = \"all\"\naction = \"allow\"\nwho = [\"any\"]\npaths = [\"/**\"]\n",
        );
        let (code, said) = explain(&host, &by_rule, &[]);
        assert!(
            code == Some(1) && said.contains("\"not staff\" decides"),
            "{said}"
        );
        fs::remove_dir_all(host.path("state")).unwrap();
        let (code, said) = explain(&host, &by_rule, &[]);
        assert_eq!(code, Some(3), "{said}");
        let text = flowing(&said);
        assert!(text.contains("by the rule \"not staff\""), "{said}");
        assert!(text.contains("is not known any more"), "{said}");
        for unknown in ["01M8083Y356JM42EG000000004", "x\"y"] {
            let (code, said) = explain(&host, unknown, &[]);
            assert!(code == Some(3) && said.contains("has the id"), "{said}");
        }
    });
}
