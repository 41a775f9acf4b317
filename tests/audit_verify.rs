//! `imdsfw audit verify` on logs that somebody has changed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use imdsfw::audit::Digest;
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");

/// Lines from the first record to the last, each with the hash of the one before.
fn chain(count: u64) -> Vec<String> {
    let mut prev: Option<Digest> = None;
    (1..=count)
        .map(|seq| {
            let line = json!({ "schema": 1, "seq": seq,
                "time": format!("2026-11-21T21:{:02}:{:02}.000000Z", seq / 60, seq % 60),
                "event": "request", "caller": { "user": "alice" }, "prev": prev });
            let line = line.to_string();
            prev = Some(Digest::of(line.as_bytes()));
            line
        })
        .collect()
}

struct Log {
    dir: tempfile::TempDir,
}

impl Log {
    /// The configured log, of which these lines were all when it was left.
    fn new(lines: &[String]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let log = Self { dir };
        let at = |name: &str| log.dir.path().join(name);
        let config = format!(
            "audit.file = \"{}\"\nstate.directory = \"{}\"\n",
            at("audit.jsonl").display(),
            at("state").display()
        );
        fs::write(at("imdsfw.toml"), config).unwrap();
        fs::create_dir(at("state")).unwrap();
        let last = lines.last().unwrap();
        let seq: Value = serde_json::from_str(last).unwrap();
        let head = json!({ "seq": seq["seq"], "hash": Digest::of(last.as_bytes()) });
        fs::write(at("state/chain-head"), format!("{head}\n")).unwrap();
        log.write("audit.jsonl", &whole(lines));
        log
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    /// Writes a file, as nobody has touched it for long.
    fn write(&self, name: &str, text: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        let file = fs::File::options().write(true).open(path).unwrap();
        let before = SystemTime::now() - Duration::from_secs(3600);
        file.set_modified(before).unwrap();
    }

    fn verify(&self, more: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(["audit", "verify"]).args(more);
        if !more.iter().any(|it| it.starts_with('/')) {
            command
                .arg("--config")
                .arg(self.dir.path().join("imdsfw.toml"));
        }
        command.output().unwrap()
    }

    /// What is said of a log that is not whole, without the directory.
    #[track_caller]
    fn problems(&self) -> Vec<String> {
        let output = self.verify(&[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let directory = format!("{}/", self.dir.path().display());
        let mut lines: Vec<_> = text.lines().map(|it| it.replace(&directory, "")).collect();
        let summary = lines.pop().unwrap();
        let count = format!(": {} problem", lines.len());
        assert!(summary.contains(&count), "{text}");
        lines
    }
}

fn whole(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

#[test]
fn a_log_as_it_was_written_is_whole() {
    let lines = chain(100);
    let log = Log::new(&lines);
    let output = log.verify(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "100 records, #1 to #100, in 1 file: as they were written, up to the head of the chain\n"
    );
    // Rotated, compressed, and the oldest removed.
    log.write("audit.jsonl.1", &whole(&lines[40..70]));
    log.write("audit.jsonl", &whole(&lines[70..]));
    let gzip = Command::new("gzip")
        .arg(log.dir.path().join("audit.jsonl.1"))
        .status();
    assert!(gzip.unwrap().success());
    let output = log.verify(&["--json"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["whole"], true);
    assert_eq!(
        (&found["files"], &found["records"]),
        (&2.into(), &60.into())
    );
    assert_eq!(
        (&found["first"], &found["last"]["seq"]),
        (&41.into(), &100.into())
    );
    assert_eq!(found["problems"], json!([]));
    // A file by itself, in the middle of its chain.
    log.write("alone", &whole(&lines[20..30]));
    let alone = log.dir.path().join("alone");
    let output = log.verify(&[alone.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

/// What somebody does to the lines of a log, and what is said of it.
#[test]
fn whatever_was_done_to_it_is_named() {
    type Done = fn(&mut Vec<String>);
    let cases: [(&str, Done, &[&str]); 11] = [
        (
            "a word changed",
            |it| it[40] = it[40].replace("alice", "bob"),
            &["audit.jsonl:41: record #41 is altered"],
        ),
        (
            "a word changed in the last record",
            |it| it[99] = it[99].replace("alice", "bob"),
            &["audit.jsonl:100: record #100 is altered"],
        ),
        (
            "a space added",
            |it| it[40].insert(1, ' '),
            &["audit.jsonl:41: record #41 is altered"],
        ),
        (
            "a record taken out",
            |it| drop(it.remove(40)),
            &["audit.jsonl:41: record #41 is missing before this line"],
        ),
        (
            "several taken out",
            |it| drop(it.drain(40..45)),
            &["audit.jsonl:41: records #41 to #45 are missing before this line"],
        ),
        (
            "two swapped",
            |it| it.swap(40, 41),
            &["audit.jsonl:42: record #41 stands behind later ones"],
        ),
        (
            "one put in again",
            |it| it.insert(60, it[40].clone()),
            &["audit.jsonl:61: record #41 was there before"],
        ),
        (
            "half of one",
            |it| it[40].truncate(30),
            &["audit.jsonl:41: record #41 is half written"],
        ),
        (
            "a line of somebody's own",
            |it| it.insert(40, "hello".into()),
            &["audit.jsonl:41: this line is no record"],
        ),
        (
            "its number changed",
            |it| it[40] = it[40].replace("\"seq\":41", "\"seq\":77"),
            &["audit.jsonl:41: record #41 is altered"],
        ),
        (
            "the end taken off",
            |it| it.truncate(97),
            &["audit.jsonl:97: the log ends here; records #98 to #100 are missing behind it"],
        ),
    ];
    for (done, change, expected) in cases {
        let mut lines = chain(100);
        let log = Log::new(&lines);
        change(&mut lines);
        log.write("audit.jsonl", &whole(&lines));
        assert_eq!(log.problems(), expected, "{done}");
    }
}

#[test]
fn one_who_changes_a_record_and_all_hashes_behind_it_is_found_at_the_head() {
    let log = Log::new(&chain(100));
    let mut prev: Option<String> = None;
    let mut forged = Vec::new();
    for (at, line) in chain(100).into_iter().enumerate() {
        let mut record: Value = serde_json::from_str(&line).unwrap();
        if at == 40 {
            record["caller"]["user"] = "bob".into();
        }
        record["prev"] = prev.into();
        let line = record.to_string();
        prev = Some(Digest::of(line.as_bytes()).to_string());
        forged.push(line);
    }
    log.write("audit.jsonl", &whole(&forged));
    assert_eq!(log.problems(), ["audit.jsonl:100: record #100 is altered"]);
}

#[test]
fn a_file_cut_inside_a_record_is_named_and_one_being_written_is_not() {
    let lines = chain(100);
    let log = Log::new(&lines);
    let text = whole(&lines);
    let cut = &text[..text.len() - 40];
    log.write("audit.jsonl", cut);
    assert_eq!(
        log.problems(),
        [
            "audit.jsonl:100: a record is half written",
            "audit.jsonl:100: the log ends here; record #100 is missing behind it",
        ]
    );
    // In the middle of a log.
    log.write("audit.jsonl.1", &whole(&lines[..50])[..5000]);
    log.write("audit.jsonl", &whole(&lines[50..]));
    let problems = log.problems();
    assert!(
        problems[0].ends_with("a record is half written"),
        "{problems:?}"
    );
    assert!(
        problems[1].ends_with("are missing before this line"),
        "{problems:?}"
    );
    assert_eq!(problems.len(), 2);
    fs::remove_file(log.dir.path().join("audit.jsonl.1")).unwrap();
    // What the writer is about to end.
    log.write("audit.jsonl", cut);
    let rest = text[text.len() - 40..].to_owned();
    let path = log.path();
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        append(&path, &rest);
    });
    // The head is of before: so it is while records come.
    let head = json!({ "seq": 99, "hash": Digest::of(lines[98].as_bytes()) });
    fs::write(log.dir.path().join("state/chain-head"), head.to_string()).unwrap();
    let output = log.verify(&[]);
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn append(path: &Path, text: &str) {
    let mut file = fs::File::options().append(true).open(path).unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn what_copytruncate_copied_in_half_and_the_next_file_has_whole_is_whole() {
    let lines = chain(100);
    let log = Log::new(&lines);
    let text = whole(&lines);
    let half = whole(&lines[..50]).len() + 60;
    log.write("audit.jsonl.1", &text[..half]);
    log.write("audit.jsonl", &whole(&lines[50..]));
    let output = log.verify(&[]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn state_and_log_lost_together_is_a_chain_anew() {
    let lines = chain(10);
    let log = Log::new(&lines);
    let later: Vec<_> = chain(5)
        .iter()
        .map(|it| it.replace("T21:", "T22:"))
        .collect();
    let mut prev: Option<String> = None;
    let mut anew = Vec::new();
    for line in later {
        let mut record: Value = serde_json::from_str(&line).unwrap();
        record["prev"] = prev.into();
        let line = record.to_string();
        prev = Some(Digest::of(line.as_bytes()).to_string());
        anew.push(line);
    }
    log.write("audit.jsonl.1", &whole(&lines));
    log.write("audit.jsonl", &whole(&anew));
    fs::remove_file(log.dir.path().join("state/chain-head")).unwrap();
    assert_eq!(log.problems(), ["audit.jsonl:1: another chain begins here"]);
}

#[test]
fn no_log_and_a_broken_head_are_no_whole_log() {
    let log = Log::new(&chain(10));
    fs::remove_file(log.path()).unwrap();
    let output = log.verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("of which #10 is known"), "{said}");
    log.write("audit.jsonl", &whole(&chain(10)));
    log.write("state/chain-head", "{");
    let output = log.verify(&[]);
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(
        said.contains("the head of the chain cannot be read"),
        "{said}"
    );
}

#[test]
fn a_log_that_does_not_hold_its_head_is_not_whole() {
    let lines = chain(100);
    let log = Log::new(&lines[..50]);
    log.write("audit.jsonl", &whole(&lines[70..]));
    assert_eq!(
        log.problems(),
        ["audit.jsonl:1: records #50 to #70 are missing before this line"]
    );
    // All up to the head was rotated and removed: the chain hangs on it.
    log.write("audit.jsonl", &whole(&lines[50..]));
    let output = log.verify(&[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.ends_with(", up to the head of the chain and 50 behind it\n"),
        "{said}"
    );
    // The daemon has ended there.
    let head = json!({ "seq": 50, "hash": Digest::of(lines[49].as_bytes()), "ended": true });
    fs::write(log.dir.path().join("state/chain-head"), head.to_string()).unwrap();
    let said = "audit.jsonl:50: records #51 to #100 are behind the last of a daemon that had ended";
    assert_eq!(log.problems(), [said]);
}

#[test]
fn neither_clocks_nor_copies_nor_names_tell_the_order() {
    let mut lines = chain(100);
    let log = Log::new(&lines);
    // The clock was set back between two rotations.
    for line in &mut lines[..50] {
        *line = line.replace("2026-11-21", "2026-11-22");
    }
    let lines = relinked(&lines);
    let head = json!({ "seq": 100, "hash": Digest::of(lines[99].as_bytes()) });
    fs::write(log.dir.path().join("state/chain-head"), head.to_string()).unwrap();
    log.write("audit.jsonl.1", &whole(&lines[..50]));
    log.write("audit.jsonl", &whole(&lines[50..]));
    assert_eq!(
        log.verify(&[]).status.code(),
        Some(0),
        "{:?}",
        log.verify(&[])
    );
    // Copied, and not cut yet; from the beginning of the chain and in its middle.
    log.write("audit.jsonl", &whole(&lines[50..]));
    log.write("audit.jsonl.2", &whole(&lines[50..80]));
    log.write("audit.jsonl.3", &whole(&lines[..50]));
    assert_eq!(
        log.verify(&[]).status.code(),
        Some(0),
        "{:?}",
        log.verify(&[])
    );
    // What is only like it is told.
    let mut other = lines[50..80].to_vec();
    other[3] = other[3].replace("alice", "bob");
    log.write("audit.jsonl.2", &whole(&other));
    assert!(!log.problems().is_empty());
}

/// The same, each with the hash of the one before.
fn relinked(lines: &[String]) -> Vec<String> {
    let mut prev: Option<String> = None;
    let relink = |line: &String| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record["prev"] = prev.take().into();
        let line = record.to_string();
        prev = Some(Digest::of(line.as_bytes()).to_string());
        line
    };
    lines.iter().map(relink).collect()
}

#[test]
fn a_log_that_is_cut_while_one_looks_is_looked_at_again() {
    let lines = chain(100);
    let log = Log::new(&lines);
    fs::write(log.path(), whole(&lines[..90])).unwrap();
    let path = log.path();
    let rest = whole(&lines[90..]);
    let writer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(700));
        append(&path, &rest);
    });
    let output = log.verify(&[]);
    writer.join().unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn records_of_before_there_was_a_chain_are_no_altered_ones() {
    let bare = |line: &String| {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record.as_object_mut().unwrap().remove("prev");
        record.to_string()
    };
    let mut lines: Vec<_> = chain(100).iter().take(40).map(bare).collect();
    for line in chain(100).iter().skip(40) {
        let mut record: Value = serde_json::from_str(line).unwrap();
        record["prev"] = Digest::of(lines.last().unwrap().as_bytes())
            .to_string()
            .into();
        lines.push(record.to_string());
    }
    let log = Log::new(&lines);
    let output = log.verify(&[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(
        said.contains("the first 40 records are of before there was a chain"),
        "{said}"
    );
    // A record that has lost its place is another matter,
    let whole_lines = lines.clone();
    lines[60] = bare(&lines[60]);
    log.write("audit.jsonl", &whole(&lines));
    assert!(!log.problems().is_empty());
    // and so is one missing before there was a chain.
    let mut lines = whole_lines;
    lines.remove(20);
    log.write("audit.jsonl", &whole(&lines));
    assert_eq!(
        log.problems(),
        ["audit.jsonl:21: record #21 is missing before this line"]
    );
}

#[test]
fn an_endless_line_and_a_pipe_are_no_part_of_a_log() {
    let lines = chain(100);
    let log = Log::new(&lines);
    log.write(
        "audit.jsonl.1",
        &(whole(&lines[..50]) + &"x".repeat(3 << 20)),
    );
    log.write("audit.jsonl", &whole(&lines[50..]));
    assert_eq!(log.problems(), ["audit.jsonl.1:51: this line is no record"]);
    fs::remove_file(log.path()).unwrap();
    let made = Command::new("mkfifo").arg(log.path()).status().unwrap();
    assert!(made.success());
    let output = log.verify(&[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
