//! Adoption as the README tells it, on one host with real clients: observe,
//! learn, replay, enforce, confirm. With `--nocapture` it prints each screen.

use std::fs;
use std::process::Output;

use serde_json::Value;

use crate::agents::{CRAWL, LOGIN, connect};
use crate::common::host::BINARY;
use crate::common::login::Runtime;
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, CWAGENT, INSTANCE_CONNECT, ROOT, User};
use crate::curl::token;
use crate::desk::Desk;
use crate::sdk::{PRESIGN, RESOLVE};

const README: &str = include_str!("../../README.md");
const SERVICE: &str = "http://169.254.169.254";

#[test]
fn from_a_host_without_the_firewall_to_one_that_enforces() {
    in_network(|net| {
        let desk = Desk::without_firewall(net);
        let runtime = Runtime::new(desk.host());
        let root_before = desk.python(ROOT, CRAWL);

        show(&runtime, "enable --observe --confirm 10m", 0);
        show(&runtime, "confirm", 0);
        assert_eq!(desk.python(ROOT, CRAWL), root_before);
        everybody_works(&desk);

        let draft = desk.host().path("draft.toml");
        let learnt = show(&runtime, "audit learn", 0);
        fs::write(&draft, &learnt).unwrap();
        let check = format!("check {}", draft.display());
        show(&runtime, &check, 0);
        let replay = format!("audit replay --policy {}", draft.display());
        let screen = show(&runtime, &replay, 1);
        assert_eq!(shape(&screen), shape(block("replay")), "{screen}");
        for line in screen.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
        let json = runtime.login(&format!("{replay} --json"));
        let json: Value = serde_json::from_slice(&json.stdout).unwrap();
        let mut changed: Vec<_> = (json["changed"].as_array().unwrap().iter())
            .map(|it| (it["user"].as_str().unwrap(), it["path"].as_str().unwrap()))
            .collect();
        changed.sort_unstable();
        // Nothing of root's, Instance Connect's or the agent's.
        assert_eq!(
            changed,
            [
                ("alice", "/meta-data/iam/security-credentials"),
                ("alice", "/meta-data/iam/security-credentials/web"),
                ("bob", "/user-data"),
            ]
        );

        fs::copy(&draft, desk.host().path("policy.d/50-test.toml")).unwrap();
        show(&runtime, "enforce --confirm 10m", 0);
        show(&runtime, "confirm", 0);
        assert_eq!(desk.python(ROOT, CRAWL), root_before);
        let statuses = connect(&desk, INSTANCE_CONNECT, &LOGIN);
        assert_eq!(statuses, ["200", "404", "200", "200", "200"]);
        assert_eq!(desk.python(CWAGENT, PRESIGN).status, Some(0));
        assert_eq!(desk.python(ALICE, PRESIGN).status, Some(255));
        // Judged again, what was enforced is as it was; what was observed is
        // what the draft changed.
        let again = runtime.login(&format!("{replay} --json"));
        let again: Value = serde_json::from_slice(&again.stdout).unwrap();
        assert_eq!(again["otherwise"], json["otherwise"]);

        let key = key_of(&desk);
        let who = show(&runtime, &format!("audit who --access-key {key}"), 0);
        for user in ["alice (uid 4001)", "cwagent (uid 4004)", "root (uid 0)"] {
            assert!(who.contains(user), "{who}");
        }
        assert!(
            !who.contains("bob") && !who.contains("ec2-instance-connect"),
            "{who}"
        );
        show(&runtime, "audit query --decision deny", 0);
        show(&runtime, "audit query --user bob --class secrets", 0);
        show(&runtime, "disable", 0);
        drop(runtime);
    });
}

/// As on a day on which nothing is refused.
fn everybody_works(desk: &Desk) {
    let ok = |printed: crate::desk::Printed| assert_eq!(printed.status, Some(0), "{printed:?}");
    ok(desk.python(ROOT, PRESIGN));
    ok(desk.debian(ROOT, "ec2-metadata", &["--all"]));
    let statuses = connect(desk, INSTANCE_CONNECT, &LOGIN);
    assert_eq!(statuses, ["200", "404", "200", "200", "200"]);
    ok(desk.python(CWAGENT, RESOLVE));
    ok(desk.python(ALICE, PRESIGN));
    let curl = |user: User, arguments: &[&str]| {
        ok(desk.run(user, "/usr/bin/curl", &[&["-sf"], arguments].concat()));
    };
    let token = |user| token(desk, user, SERVICE);
    let url = |path: &str| format!("{SERVICE}/latest/{path}");
    curl(ALICE, &["-H", &token(ALICE), &url("meta-data/instance-id")]);
    curl(
        BOB,
        &["-H", &token(BOB), &url("meta-data/placement/region")],
    );
    curl(BOB, &["-H", &token(BOB), &url("user-data")]);
    // Without a token, which the service refuses here with or without us.
    let old = desk.run(
        BOB,
        "/usr/bin/curl",
        &["-s", &url("meta-data/placement/region")],
    );
    assert_eq!(old.status, Some(0));
}

/// Runs it as somebody who has just logged in; what it prints.
fn show(runtime: &Runtime, words: &str, code: i32) -> String {
    let Output {
        status,
        stdout,
        stderr,
    } = runtime.login(words);
    let (out, err) = (text(&stdout), text(&stderr));
    println!("# imdsfw {words}\n{out}{err}");
    assert_eq!(status.code(), Some(code), "{words} ({BINARY}): {out}{err}");
    out
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The key that was handed out.
fn key_of(desk: &Desk) -> String {
    let records = desk.host().records(1);
    let key = |it: &Value| {
        it["credential"]["access_key_id"]
            .as_str()
            .map(str::to_owned)
    };
    records.iter().find_map(key).unwrap()
}

fn block(marker: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("<!-- {marker} -->\n```"))
        .expect(marker);
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0
}

/// The words, without the figures of one run.
fn shape(screen: &str) -> Vec<String> {
    let lines = screen.lines().filter(|line| !line.starts_with('$'));
    lines
        .map(|line| {
            let words = line
                .split_whitespace()
                .filter(|word| !word.starts_with("sha256:"));
            let plain = words.map(|word| {
                let is_figure = |it: char| it.is_ascii_digit() || matches!(it, ',' | ':');
                word.replace(is_figure, "")
            });
            plain
                .filter(|word| !word.is_empty() && word != "--")
                .collect::<Vec<_>>()
                .join(" ")
        })
        .collect()
}
