//! What the next run makes of what the one before has left, and of what somebody
//! did to it meanwhile.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::super::reading::{Kind, Verified};
use super::super::tests::{allowed, options, pending, records, run, verify};
use super::super::{Digest, Host, Log};

/// Keeps this record as the head, as a daemon does that is killed within a
/// second.
fn kill_at(dir: &Path, seq: u64) {
    let text = fs::read_to_string(dir.join("audit.jsonl")).unwrap();
    let numbered = |line: &&str| serde_json::from_str::<Value>(line).unwrap()["seq"] == seq;
    let line = text.lines().find(numbered).unwrap();
    let head = json!({ "seq": seq, "hash": Digest::of(line.as_bytes()) });
    fs::write(dir.join("chain-head"), head.to_string()).unwrap();
}

/// A record of somebody's own behind these.
fn forge(seq: u64, prev: &str) -> String {
    let record = json!({ "schema": 1, "seq": seq, "time": "2026-11-21T21:40:00.123456Z",
        "event": "request", "prev": prev });
    format!("{record}\n")
}

fn kinds(found: &Verified) -> Vec<Kind> {
    found.problems.iter().map(|it| it.kind).collect()
}

fn altered(dir: &Path) -> Vec<Value> {
    let all = records(&dir.join("audit.jsonl")).into_iter();
    all.filter(|it| it["event"] == "audit.altered")
        .map(|it| it["detail"].clone())
        .collect()
}

#[test]
fn what_a_killed_daemon_left_behind_its_head_is_gone_on_from() {
    for rename in [false, true] {
        for more in [0, 2] {
            let dir = tempfile::tempdir().unwrap();
            let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
            run(dir, 5);
            kill_at(dir, 3);
            if rename {
                fs::rename(&log, dir.join("audit.jsonl.1")).unwrap();
            }
            run(dir, 2);
            if more > 0 {
                kill_at(dir, 6);
                run(dir, more);
            }
            let found = verify(dir);
            assert!(found.is_whole(), "{found:?}");
            assert_eq!(found.last.unwrap().seq, 7 + u64::try_from(more).unwrap());
            assert_eq!(altered(dir), Vec::<Value>::new());
        }
    }
}

#[test]
fn a_copy_of_a_killed_daemons_log_is_the_same_log() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    run(dir, 5);
    kill_at(dir, 3);
    fs::copy(&log, dir.join("audit.jsonl.1")).unwrap();
    run(dir, 2);
    let found = verify(dir);
    assert!(found.is_whole(), "{found:?}");
    assert_eq!(found.last.unwrap().seq, 7);
}

#[test]
fn a_log_that_does_not_hold_the_head_is_not_gone_on_from() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    run(dir, 5);
    fs::write(&log, forge(9, "sha256:00")).unwrap();
    assert_eq!(kinds(&verify(dir)), [Kind::Missing, Kind::Added]);
    run(dir, 2);
    let detail = &altered(dir)[0];
    assert_eq!(
        (&detail["left"]["seq"], &detail["found"]["seq"]),
        (&json!(5), &json!(9))
    );
    assert!(!verify(dir).is_whole());
    // Also where the daemon has no time to say that it ends.
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    run(dir, 5);
    kill_at(dir, 5);
    fs::write(&log, forge(u64::MAX, "sha256:00")).unwrap();
    assert_eq!(kinds(&verify(dir)), [Kind::Missing]);
    run(dir, 2);
    assert_eq!(altered(dir).len(), 1);
    assert!(!verify(dir).is_whole());
}

#[test]
fn nothing_comes_behind_a_daemon_that_has_ended() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    run(dir, 5);
    let mut text = fs::read_to_string(&log).unwrap();
    let last = Digest::of(text.lines().last().unwrap().as_bytes());
    text += &forge(6, &last.to_string());
    fs::write(&log, &text).unwrap();
    assert_eq!(kinds(&verify(dir)), [Kind::Added]);
    run(dir, 1);
    assert_eq!(altered(dir).len(), 1);
    assert!(!verify(dir).is_whole());
    // And a log that is gone is missed.
    fs::remove_file(&log).unwrap();
    run(dir, 1);
    assert_eq!(altered(dir)[0]["found"], Value::Null);
}

#[test]
fn a_head_that_cannot_be_read_is_told_once_and_kept_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    run(dir, 3);
    fs::write(dir.join("chain-head"), [0; 128]).unwrap();
    run(dir, 1);
    run(dir, 1);
    let found = verify(dir);
    assert!(found.is_whole(), "{found:?}");
    assert_eq!(found.head.unwrap().link.seq, 6);
    assert_eq!(altered(dir).len(), 1);
    assert_eq!(altered(dir)[0]["left"], Value::Null);
}

#[test]
fn no_number_in_a_file_ends_the_writer() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    fs::write(&log, forge(u64::MAX, "sha256:00")).unwrap();
    run(dir, 2);
    assert_eq!(records(&log).len(), 3);
}

/// The clock was ahead when the older one was written.
#[test]
fn what_was_copied_last_is_known_by_its_records() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    run(dir, 3);
    fs::rename(&log, dir.join("audit.jsonl.2")).unwrap();
    let older = File::options()
        .write(true)
        .open(dir.join("audit.jsonl.2"))
        .unwrap();
    let ahead = SystemTime::now() + Duration::from_secs(3600);
    older.set_modified(ahead).unwrap();
    let (open, writer) = Log::open(options(dir), Host::read(), 1).unwrap();
    (0..5).for_each(|_| pending(&open).finish(allowed(0)));
    await_records(&log, 5);
    fs::copy(&log, dir.join("audit.jsonl.1")).unwrap();
    File::options()
        .write(true)
        .open(&log)
        .unwrap()
        .set_len(0)
        .unwrap();
    pending(&open).finish(allowed(0));
    writer.close();
    let found = verify(dir);
    assert!(found.is_whole(), "{found:?}");
}

#[test]
fn what_was_cut_while_nothing_could_be_written_is_written_again() {
    let dir = tempfile::tempdir().unwrap();
    let (dir, log) = (dir.path(), dir.path().join("audit.jsonl"));
    let (open, writer) = Log::open(options(dir), Host::read(), 1).unwrap();
    let write = |count| (0..count).for_each(|_| pending(&open).finish(allowed(0)));
    write(3);
    await_records(&log, 3);
    fs::copy(&log, dir.join("audit.jsonl.1")).unwrap();
    write(3);
    await_records(&log, 6);
    // It fails just now,
    fs::rename(&log, dir.join("kept")).unwrap();
    fs::create_dir(&log).unwrap();
    open.reopen();
    write(1);
    let start = std::time::Instant::now();
    while !open.backlog().failing {
        assert!(start.elapsed().as_secs() < 10);
        std::thread::yield_now();
    }
    // and is cut, and works again.
    File::options()
        .write(true)
        .open(dir.join("kept"))
        .unwrap()
        .set_len(0)
        .unwrap();
    fs::remove_dir(&log).unwrap();
    fs::rename(dir.join("kept"), &log).unwrap();
    open.reopen();
    write(1);
    writer.close();
    let found = verify(dir);
    assert!(found.is_whole(), "{found:?}");
    assert_eq!(records(&log)[0]["seq"], 4);
}

fn await_records(log: &Path, count: usize) {
    let start = std::time::Instant::now();
    while !log.exists() || records(log).len() < count {
        assert!(start.elapsed().as_secs() < 10);
        std::thread::yield_now();
    }
}
