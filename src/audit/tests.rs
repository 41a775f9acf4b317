use std::path::Path;
use std::sync::Arc;
use std::task::Poll;

use serde_json::Value;

use super::*;
use crate::config::Mode;
use crate::ids::{ClientAddr, Gid, Uid};
use crate::policy::{Account, AccountFacts, Group, Subject};

pub(super) fn records(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

pub(super) fn pending(log: &Log) -> Pending {
    Pending::new(
        log,
        ClientAddr::new("10.0.0.5:40112".parse().unwrap()),
        Mode::Enforce,
    )
}

pub(super) fn allowed(bytes: u64) -> Ending {
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

pub(super) fn options(dir: &Path) -> Options {
    Options {
        file: dir.join("audit.jsonl"),
        state: Some(dir.to_owned()),
        ..Options::default()
    }
}

pub(super) fn verify(dir: &Path) -> reading::Verified {
    let head = read_head(dir).unwrap();
    let logs = reading::Logs::with_rotated(&dir.join("audit.jsonl")).unwrap();
    logs.verify(head, &mut |_| {}).unwrap()
}

/// So many records of a run.
pub(super) fn run(dir: &Path, records: usize) {
    let (log, writer) = Log::open(options(dir), Host::read(), 1).unwrap();
    (0..records).for_each(|_| pending(&log).finish(allowed(0)));
    writer.close();
}

#[test]
fn each_record_hangs_on_the_one_before_across_runs_and_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    run(dir.path(), 3);
    std::fs::rename(&path, path.with_extension("jsonl.1")).unwrap();
    run(dir.path(), 2);
    run(dir.path(), 2);
    let first = &records(&path.with_extension("jsonl.1"))[0];
    assert_eq!(first["prev"], Value::Null);
    let found = verify(dir.path());
    assert!(found.is_whole(), "{found:?}");
    assert_eq!((found.files, found.records), (2, 7));
    assert_eq!(found.last, found.head.map(|head| head.link));
    assert_eq!(found.last.unwrap().seq, 7);
}

#[test]
fn a_log_that_was_cut_while_nobody_wrote_tells_so_for_good() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    run(dir.path(), 5);
    let text = std::fs::read_to_string(&path).unwrap();
    let kept: String = text.lines().take(3).map(|it| format!("{it}\n")).collect();
    std::fs::write(&path, &kept).unwrap();
    let cut = verify(dir.path()).problems;
    assert_eq!(cut.len(), 1, "{cut:?}");
    assert_eq!(cut[0].kind, reading::Kind::Cut);
    assert_eq!((cut[0].line, cut[0].seq, cut[0].to), (3, Some(4), Some(5)));
    run(dir.path(), 1);
    let found = verify(dir.path()).problems;
    assert_eq!(found.len(), 1, "{found:?}");
    assert_eq!(found[0].kind, reading::Kind::Missing);
    assert_eq!((found[0].seq, found[0].to), (Some(4), Some(5)));
    let written = records(&path);
    assert_eq!(written[3]["event"], "audit.altered");
    assert_eq!(written[3]["detail"]["left"]["seq"], 5);
    assert_eq!(written[3]["detail"]["found"]["seq"], 3);
}

/// Between the copy and the cut of copytruncate.
#[tokio::test]
async fn what_is_written_while_a_file_is_copied_and_cut_is_not_lost() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let copy = dir.path().join("audit.jsonl.1");
    let (log, writer) = Log::open(options(dir.path()), Host::read(), 1).unwrap();
    let write = || async { assert!(pending(&log).finish_durably(allowed(0)).await.is_ok()) };
    write().await;
    write().await;
    // As of a moment at which a third was half written.
    write().await;
    let text = std::fs::read(&path).unwrap();
    std::fs::write(&copy, &text[..text.len() - 100]).unwrap();
    write().await;
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    write().await;
    writer.close();
    let found = verify(dir.path());
    assert!(found.is_whole(), "{found:?}");
    let seqs: Vec<_> = records(&path).iter().map(|it| it["seq"].clone()).collect();
    assert_eq!(seqs, [3, 4, 5, 6]);
    let said = &records(&path)[3];
    assert_eq!(said["event"], "audit.reopened");
    assert_eq!(said["detail"]["truncated"], true);
    assert_eq!(said["detail"]["restored"], 2);
}

#[test]
fn what_was_cut_off_is_written_again_also_when_nothing_comes_any_more() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (log, writer) = Log::open(options(dir.path()), Host::read(), 1).unwrap();
    pending(&log).finish(allowed(0));
    let start = std::time::Instant::now();
    while records(&path).is_empty() {
        assert!(start.elapsed().as_secs() < 10);
        std::thread::yield_now();
    }
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(0).unwrap();
    while records(&path).len() < 2 {
        assert!(start.elapsed().as_secs() < 10);
        std::thread::yield_now();
    }
    writer.close();
    assert!(verify(dir.path()).is_whole());
}

#[test]
fn what_has_no_room_in_a_log_that_fails_reaches_sinks_all_the_same() {
    use crate::config::sinks::{Format, SinkConfig, SinkTarget};
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let socket = std::os::unix::net::UnixDatagram::bind(dir.path().join("log")).unwrap();
    let patience = std::time::Duration::from_secs(10);
    socket.set_read_timeout(Some(patience)).unwrap();
    let config = SinkConfig {
        name: "siem".into(),
        to: SinkTarget::SyslogUnix(dir.path().join("log")),
        format: Format::Native,
        events: vec!["request".into()],
        classes: Vec::new(),
        decisions: Vec::new(),
        summarise: None,
        queue: 64 << 20,
    };
    let sink = Sink {
        config,
        listener: None,
    };
    let options = Options {
        sinks: vec![sink],
        ..options(dir.path())
    };
    let (log, writer) = Log::open(options, Host::read(), 1).unwrap();
    move_away(&path);
    log.reopen();
    // More than waits for a log, twice.
    let mut bytes = vec![0; 1 << 16];
    for _ in 0..2 {
        (0..6000).for_each(|_| pending(&log).finish(allowed(0)));
        (0..6000).for_each(|_| {
            socket.recv(&mut bytes).unwrap();
        });
    }
    assert!(log.backlog().failing);
    let lost = log.backlog().lost;
    assert!(lost > 1000, "{lost}");
    std::fs::remove_dir(&path).unwrap();
    log.reopen();
    writer.close();
    let written = records(&path);
    let said = written
        .iter()
        .find(|it| it["event"] == "audit.lost")
        .unwrap();
    // What says so may have found no room itself.
    assert!(said["detail"]["records"].as_u64().unwrap() >= lost);
}
