use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use serde_json::Value;

use super::*;
use crate::config::Mode;
use crate::ids::{ClientAddr, Gid, Uid};
use crate::policy::{Account, AccountFacts, Group, Subject};

fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn pending(log: &Log) -> Pending {
    Pending::new(
        log,
        ClientAddr::new("10.0.0.5:40112".parse().unwrap()),
        Mode::Enforce,
    )
}

fn allowed(bytes: u64) -> Ending {
    Ending {
        decision: Decision::Allow,
        reason: Reason::Allowed,
        detail: None,
        status: Some(200),
        bytes,
    }
}

#[tokio::test]
async fn a_record_says_who_asked_for_what_and_what_came_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (log, writer) = Log::open(path.clone(), Host::read(), 1).unwrap();
    let mut record = pending(&log);
    let groups = (0..20)
        .map(|at| Group {
            gid: Gid(at),
            name: Some(format!("g{at}")),
        })
        .collect();
    let facts = AccountFacts {
        user: "al\"ice\n".into(),
        gid: Gid(4100),
        groups,
    };
    record.facts.subject = Some(Arc::new(Subject {
        uid: Uid(4001),
        account: Account::Known(facts),
    }));
    record.facts.rule = Some("ops".into());
    assert!(record.finish_durably(allowed(7)).await.is_ok());
    let whole = &records(&path)[0];
    assert_eq!(whole["schema"], 1);
    assert_eq!(whole["seq"], 1);
    assert_eq!(whole["event"], "request");
    assert_eq!(whole["caller"]["uid"], 4001);
    assert_eq!(whole["caller"]["gid"], 4100);
    assert_eq!(whole["caller"]["user"], "al\"ice\n");
    assert_eq!(whole["caller"]["groups"].as_array().unwrap().len(), 16);
    assert_eq!(whole["caller"]["groups_omitted"], 4);
    assert_eq!(
        whole["caller"]["exe"],
        Value::Null,
        "unknown is null, never guessed"
    );
    assert_eq!(whole["caller"]["address"], "10.0.0.5:40112");
    assert_eq!(whole["decision"], "allow");
    assert_eq!(whole["status"], 200);
    assert_eq!(whole["bytes"], 7);
    writer.close();
}

#[tokio::test]
async fn a_request_that_nobody_finished_is_recorded_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (log, writer) = Log::open(path.clone(), Host::read(), 1).unwrap();
    drop(pending(&log));
    let other = pending(&log);
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
        let _other = other;
        panic!("a fault");
    }));
    writer.close();
    let reasons: Vec<_> = records(&path)
        .iter()
        .map(|it| it["reason"].clone())
        .collect();
    assert_eq!(reasons, ["client_gone", "internal"]);
}

#[tokio::test]
async fn numbers_have_no_gap_under_many_writers_and_across_runs() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    for run in 0..2 {
        let (log, writer) = Log::open(path.clone(), Host::read(), run).unwrap();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..500).for_each(|_| pending(&log).finish(allowed(0))));
            }
        });
        writer.close();
    }
    let seqs: Vec<_> = records(&path)
        .iter()
        .map(|it| it["seq"].as_u64().unwrap())
        .collect();
    assert_eq!(seqs, (1..=4000).collect::<Vec<_>>());
}

/// A client may leave while its record is on its way to the disk, and the
/// disk may fail just then.
#[tokio::test]
async fn a_request_dropped_while_its_record_is_awaited_has_one_record() {
    let dir = tempfile::tempdir().unwrap();
    let (path, kept) = (dir.path().join("audit.jsonl"), dir.path().join("kept"));
    const RUNS: u32 = 100;
    for run in 0..RUNS {
        let (log, writer) = Log::open(path.clone(), Host::read(), run).unwrap();
        std::fs::rename(&path, &kept).unwrap();
        std::os::unix::fs::symlink("nowhere", &path).unwrap();
        // From here on nothing can be written until the file is back.
        log.reopen();
        let mut durably = Box::pin(pending(&log).finish_durably(allowed(0)));
        std::future::poll_fn(|cx| Poll::Ready(durably.as_mut().poll(cx).is_ready())).await;
        for _ in 0..run {
            std::thread::yield_now();
        }
        drop(durably);
        std::fs::rename(&kept, &path).unwrap();
        writer.close();
    }
    let mut requests = records(&path);
    requests.retain(|it| it["event"] == "request");
    assert_eq!(requests.len(), usize::try_from(RUNS).unwrap());
}

/// What stands at the path then is a directory, which no log can be.
fn move_away(path: &Path) {
    std::fs::rename(path, path.with_extension("1")).unwrap();
    std::fs::create_dir(path).unwrap();
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_again_is_one_that_cannot_be_written() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (log, writer) = Log::open(path.clone(), Host::read(), 1).unwrap();
    move_away(&path);
    log.reopen();
    let unwritable = pending(&log).finish_durably(allowed(1)).await;
    let Err(record) = unwritable else {
        panic!("written into a file that was moved away");
    };
    std::fs::remove_dir(&path).unwrap();
    record.finish(allowed(2));
    log.reopen();
    writer.close();
    let events: Vec<_> = records(&path)
        .iter()
        .map(|it| it["event"].as_str().unwrap().to_owned())
        .collect();
    for event in ["request", "audit.failing", "audit.reopened"] {
        let count = events.iter().filter(|it| *it == event).count();
        assert_eq!(count, 1, "{event}: {events:?}");
    }
    assert_eq!(records(&path.with_extension("1")), Vec::<Value>::new());
}

/// Whether the client leaves before the writer gives up or after it.
#[tokio::test]
async fn a_client_that_leaves_while_the_disk_fails_is_recorded() {
    for stays in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("audit.jsonl");
        let (log, writer) = Log::open(path.clone(), Host::read(), 1).unwrap();
        move_away(&path);
        let mut record = pending(&log);
        record.facts.path = Some("/latest/user-data".into());
        let mut finishing = Box::pin(record.finish_durably(allowed(1)));
        let _ = std::future::poll_fn(|cx| Poll::Ready(finishing.as_mut().poll(cx))).await;
        log.reopen();
        let finishing = stays.then_some(finishing);
        assert!(pending(&log).finish_durably(allowed(2)).await.is_err());
        drop(finishing);
        std::fs::remove_dir(&path).unwrap();
        log.reopen();
        writer.close();
        // Before the writer knew, it may have gone into the file moved away.
        let mut written = records(&path.with_extension("1"));
        written.extend(records(&path));
        written.retain(|it| it["request"]["path"] == "/latest/user-data");
        assert_eq!(written.len(), 1, "{stays}: {written:?}");
    }
}
