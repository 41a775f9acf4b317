//! `imdsfw audit` as admins and scripts meet it: logs that they name, with
//! whatever somebody managed to get into them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "common/own_log.rs"]
mod own_log;

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use own_log::{HOSTILE, Log};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");
const KEY: &str = "ASIAIOSFODNN7EXAMPLE";

fn record(seq: u64, user: &str, path: &str, key: Option<&str>) -> Value {
    let mut record = json!({
        "schema": 1, "seq": seq, "time": format!("2026-11-21T21:40:{:02}.123456Z", seq % 60),
        "event": "request", "id": format!("ID{seq}"), "verdict": "allow", "decision": "allow",
        "reason": "allowed", "rule": "r", "policy": "sha256:x", "mode": "enforce",
        "version": "0.1.0",
        "host": { "name": "login-1", "boot_id": "b", "instance_id": "i-1" },
        "caller": { "uid": 4001, "user": user, "gid": 4100, "groups": [user], "pid": 7,
                    "exe": "/usr/bin/curl", "comm": "curl", "loginuid": 1000, "ses": 3,
                    "unit": "session-3.scope", "address": "10.0.0.5:1" },
        "request": { "method": "GET", "path": path, "class": "credentials", "imds": "v2",
                     "user_agent": user },
        "status": 200, "bytes": 1, "latency_us": 1,
    });
    if let Some(key) = key {
        record["credential"] =
            json!({ "access_key_id": key, "role": user, "expiration": "2026-11-22T00:00:00Z" });
    }
    record
}

/// With something hostile in every text, but for the key that is asked for.
fn poisoned(mut value: Value) -> Value {
    fn poison(value: &mut Value) {
        match value {
            Value::String(text) if text != KEY => *text = HOSTILE.into(),
            Value::Array(values) => values.iter_mut().for_each(poison),
            Value::Object(values) => values.values_mut().for_each(poison),
            _ => {}
        }
    }
    poison(&mut value);
    value
}

impl Log {
    fn run(&self, words: &[&str]) -> Output {
        self.ask(&["audit"], words)
    }

    fn out(&self, words: &[&str]) -> String {
        let output = self.run(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

/// What a terminal gets: nothing but text, and a line for each that we end.
#[track_caller]
fn harmless(text: &str) {
    let steers =
        |it: char| it != '\n' && (it.is_control() || matches!(it, '\u{202e}' | '\u{200b}'));
    assert!(!text.contains(steers), "{text:?}");
}

#[test]
fn nothing_that_a_record_says_steers_a_terminal() {
    let path = "/latest/meta-data/iam/security-credentials/web";
    let mut malformed = record(3, HOSTILE, path, None);
    malformed["request"]["path"] = Value::Null;
    malformed["request"]["raw"] = HOSTILE.into();
    malformed["event"] = HOSTILE.into();
    malformed["reason"] = HOSTILE.into();
    malformed["detail"] = HOSTILE.into();
    malformed["caller"]["exe"] = HOSTILE.into();
    malformed["caller"]["unit"] = HOSTILE.into();
    let mut event = json!({ "time": HOSTILE, "event": "rules.drift", "detail": { "by": HOSTILE } });
    event["seq"] = 4.into();
    let log = Log::new(&[record(1, HOSTILE, path, Some(KEY)), malformed, event]);
    // And a line that is no text at all, which only the count tells of.
    let mut file = File::options().append(true).open(log.path()).unwrap();
    file.write_all(b"{\"time\":\"\xff\x1b[2J\",\"event\":\"x\"}\n")
        .unwrap();
    for words in [
        &["query"][..],
        &["query", "--json"],
        &["query", "--csv"],
        &["export", "--format", "native"],
        &["export", "--format", "ocsf"],
        &["who", "--access-key", KEY],
        &["who", "--access-key", KEY, "--json"],
        &["learn"],
    ] {
        let output = log.run(words);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        harmless(&String::from_utf8(output.stdout).unwrap());
        harmless(&String::from_utf8(output.stderr).unwrap());
    }
    // Every text of a record, whatever it is called.
    let everywhere = Log::new(&[poisoned(record(1, "alice", path, Some(KEY)))]);
    for words in [
        &["query"][..],
        &["query", "--json"],
        &["query", "--csv"],
        &["who", "--access-key", KEY],
        &["report"],
    ] {
        let output = everywhere.run(words);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        harmless(&text);
        // What is text elsewhere would be HTML there.
        let is_page = words == ["report"];
        assert_eq!(text.contains("&lt;script&gt;"), is_page, "{words:?}");
        assert!(!(is_page && text.contains("<script>\"x")), "{text}");
    }
    harmless(Tail::new(&everywhere.path(), &[]).next().trim_end());
    // To a machine it is the same as before.
    let lines = log.out(&["query", "--json"]);
    assert_eq!(lines.lines().count(), 3);
    let first: Value = serde_json::from_str(lines.lines().next().unwrap()).unwrap();
    assert_eq!(first["caller"]["user"], HOSTILE);
    let csv = log.out(&["query", "--csv"]);
    assert_eq!(csv.lines().count(), 4, "{csv}");
    let mut tail = Tail::new(&log.path(), &[]);
    for _ in 0..3 {
        harmless(tail.next().trim_end());
    }
    log.append(&[record(5, "behind", path, None)]);
    let next = tail.next();
    assert!(next.contains("behind"), "{next}");
}

#[test]
fn the_table_fits_80_columns_and_counts_what_is_no_record() {
    let long = "u".repeat(100);
    let path = format!("/latest/meta-data/{}/end", "x".repeat(200));
    let log = Log::new(&[
        record(1, &long, &path, None),
        record(2, "bob", "/latest/user-data", None),
    ]);
    fs::write(log.dir.path().join("audit.jsonl.1"), "").unwrap();
    let mut file = File::options().append(true).open(log.path()).unwrap();
    file.write_all(b"hello\n{\"half").unwrap();
    let output = log.run(&["query"]);
    let (out, err) = (
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    );
    assert!(out.lines().all(|line| line.chars().count() <= 80), "{out}");
    assert!(
        out.contains("/end\n") && out.contains("21:40:02 bob        allow allowed"),
        "{out}"
    );
    assert!(err.contains("2 of 2 records"), "{err}");
    assert!(
        err.contains("1 line is no record; 1 last line is not whole"),
        "{err}"
    );
    for (words, expected) in [
        (&["query", "--json", "--user", "bob"][..], 1),
        (&["query", "--json", "--path", "/user-data"], 1),
        (&["query", "--json", "--uid", "4001"], 2),
        (&["query", "--json", "--since", "2026-11-21T21:40:02Z"], 1),
        (&["query", "--json", "--until", "2026-11-21T21:40:02Z"], 1),
        (&["query", "--json", "--decision", "deny"], 0),
        (
            &[
                "query",
                "--json",
                "--exe",
                "curl",
                "--unit",
                "session-3",
                "--event",
                "request",
            ],
            2,
        ),
    ] {
        assert_eq!(log.out(words).lines().count(), expected, "{words:?}");
    }
    let wrong = log.run(&["query", "--path", "/latest/user-data"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        String::from_utf8(wrong.stderr)
            .unwrap()
            .contains("expected \"/user-data\"")
    );
}

#[test]
fn who_names_each_user_that_was_handed_the_key_and_calls_nobody_a_culprit() {
    let role = "/latest/meta-data/iam/security-credentials/web";
    let log = Log::new(&[
        record(1, "alice", role, Some(KEY)),
        record(2, "bob", role, Some("ASIAOTHEROTHEROTHER0")),
        record(3, "alice", role, Some(KEY)),
        record(4, "carol", role, Some(KEY)),
        // The key's id in another place is no hand-out.
        record(5, KEY, role, None),
    ]);
    let answer: Value =
        serde_json::from_str(&log.out(&["who", "--access-key", KEY, "--json"])).unwrap();
    let users: Vec<_> = (answer["recipients"].as_array().unwrap().iter())
        .map(|it| (it["user"].as_str().unwrap(), it["count"].as_u64().unwrap()))
        .collect();
    assert_eq!(users, [("alice", 2), ("carol", 1)]);
    assert_eq!(
        answer["recipients"][0]["first"],
        "2026-11-21T21:40:01.123456Z"
    );
    assert_eq!(
        answer["recipients"][0]["last"],
        "2026-11-21T21:40:03.123456Z"
    );
    let text = log.out(&["who", "--access-key", KEY]);
    assert!(
        text.contains("These received the key. Who used it, the log cannot say"),
        "{text}"
    );
    assert!(
        text.lines().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    let nobody = log.out(&["who", "--access-key", "ASIANOBODYNOBODYNOBO"]);
    assert!(
        nobody.contains("handed to nobody in these logs"),
        "{nobody}"
    );
    assert_eq!(
        log.run(&["who", "--access-key", "not a key"]).status.code(),
        Some(2)
    );
}

/// `imdsfw audit tail`, line by line.
struct Tail {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Tail {
    fn new(log: &Path, words: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(["audit", "tail"])
            .args(words)
            .arg(log)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Self { child, lines }
    }

    fn next(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        line
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn tail_goes_on_across_both_ways_of_rotation_and_filters() {
    let path = "/latest/user-data";
    let log = Log::new(&[record(1, "alice", path, None)]);
    let mut tail = Tail::new(&log.path(), &["--user", "alice", "--json"]);
    let mut sees = |seq: u64| {
        let line: Value = serde_json::from_str(&tail.next()).unwrap();
        assert_eq!(line["seq"], seq);
    };
    sees(1);
    log.append(&[record(2, "bob", path, None), record(3, "alice", path, None)]);
    sees(3);
    fs::rename(log.path(), log.dir.path().join("audit.jsonl.1")).unwrap();
    log.append(&[record(4, "alice", path, None)]);
    sees(4);
    File::options()
        .write(true)
        .open(log.path())
        .unwrap()
        .set_len(0)
        .unwrap();
    // Looked for ten times a second; a log that is cut and grows past its old
    // length in between cannot be told from one that grew.
    log.append(&[record(5, "alice", "/", None)]);
    sees(5);
    log.append(&[record(6, "alice", path, None)]);
    sees(6);
}
