//! What is read from logs as they are found: rotated, compressed, cut off,
//! written by others.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use super::*;
use crate::policy::PathFilter;
use crate::provider::Provider;

fn record(seq: u64, user: &str, path: &str) -> String {
    format!(
        "{{\"schema\":1,\"seq\":{seq},\"time\":\"2026-11-21T21:40:{:02}.000000Z\",\
         \"event\":\"request\",\"id\":\"ID{seq}\",\"verdict\":\"deny\",\"decision\":\"deny\",\
         \"reason\":\"default\",\"caller\":{{\"uid\":4001,\"user\":\"{user}\",\
         \"exe\":\"/usr/bin/curl\",\"unit\":\"session-3.scope\"}},\
         \"request\":{{\"method\":\"GET\",\"path\":\"{path}\",\"class\":\"routine\"}}}}\n",
        seq % 60
    )
}

fn numbers(logs: Logs, filter: &Filter) -> (Vec<u64>, Tally) {
    let mut seen = Vec::new();
    let tally = logs.read(filter, &mut |_| {}, &mut |record, _| {
        seen.extend(record.seq);
        Ok(())
    });
    (seen, tally.unwrap())
}

fn gzip(text: &str) -> Vec<u8> {
    let mut to = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    to.write_all(text.as_bytes()).unwrap();
    to.finish().unwrap()
}

fn zstd(text: &str) -> Vec<u8> {
    let level = ruzstd::encoding::CompressionLevel::Fastest;
    ruzstd::encoding::compress_to_vec(text.as_bytes(), level)
}

#[test]
fn a_log_is_read_in_order_with_all_that_was_rotated_away() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let put = |name: &str, bytes: &[u8]| fs::write(dir.path().join(name), bytes).unwrap();
    let one = |seq| record(seq, "alice", "/latest/meta-data/mac");
    put("audit.jsonl", one(9).as_bytes());
    put("audit.jsonl.1", one(8).as_bytes());
    // While it is compressed, it is there twice.
    put("audit.jsonl.1.gz", &gzip(&one(8)));
    put(
        "audit.jsonl.10.zst",
        &[zstd(&one(1)), zstd(&one(2))].concat(),
    );
    put("audit.jsonl.9.gz", &[gzip(&one(3)), gzip(&one(4))].concat());
    put("audit.jsonl-20261121", one(6).as_bytes());
    put("audit.jsonl.bak", one(50).as_bytes());
    let (seen, tally) = numbers(Logs::with_rotated(&file).unwrap(), &Filter::default());
    assert_eq!(seen, [1, 2, 3, 4, 6, 8, 9]);
    assert_eq!((tally.lines, tally.matched), (7, 7));
    assert_eq!(tally.passed_over(), None);
    let found = Logs::with_rotated(&file).unwrap().find("ID3").unwrap();
    assert_eq!(found.as_deref(), Some(one(3).trim_end()));
    assert_eq!(
        Logs::with_rotated(&file).unwrap().find("ID7").unwrap(),
        None
    );
    let named: Vec<PathBuf> = ["audit.jsonl", "audit.jsonl.1"]
        .map(|it| dir.path().join(it))
        .into();
    assert_eq!(
        numbers(Logs::named(&named).unwrap(), &Filter::default()).0,
        [8, 9]
    );
}

#[test]
fn what_is_no_record_is_counted_and_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let mut text = record(1, "alice", "/a").into_bytes();
    text.extend_from_slice(b"\nNov 21 kernel: hello\n{}\n{\"time\":1,\"event\":\"request\"}\n");
    text.extend_from_slice(b"{\"time\":\"t\",\"event\":\"\xff\"}\n");
    text.extend_from_slice(b"{\"time\":\"t\",\"event\":\"new.kind\",\"prev\":\"abc\",\"x\":{}}\n");
    text.extend_from_slice(record(2, "bob", "/b").as_bytes());
    text.extend_from_slice(b"{\"schema\":1,\"seq\":3,\"ti");
    fs::write(&file, &text).unwrap();
    let (seen, tally) = numbers(Logs::with_rotated(&file).unwrap(), &Filter::default());
    assert_eq!(seen, [1, 2]);
    let (foreign, unended, unknown) = (tally.foreign, tally.unended, tally.unknown_fields);
    assert_eq!((foreign, unended, unknown, tally.matched), (4, 1, 1, 3));
    assert!(
        tally
            .passed_over()
            .unwrap()
            .contains("4 lines are no records")
    );
}

#[test]
fn a_compressed_file_that_breaks_off_gives_what_is_left_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (1..2000)
        .map(|seq| record(seq, &format!("user{}", seq * 7919), "/a"))
        .collect();
    for (name, whole) in [("a.gz", gzip(&text)), ("a.zst", zstd(&text))] {
        let path = dir.path().join(name);
        fs::write(&path, &whole[..whole.len() / 2]).unwrap();
        let logs = Logs::named(std::slice::from_ref(&path)).unwrap();
        let (_, tally) = numbers(logs, &Filter::default());
        assert_eq!(tally.damaged, [path], "{name}");
        assert!(tally.passed_over().unwrap().contains("breaks off"));
    }
    fs::write(dir.path().join("b.gz"), &gzip(&text)[..5000]).unwrap();
    let logs = Logs::named(&[dir.path().join("b.gz")]).unwrap();
    assert!(!numbers(logs, &Filter::default()).0.is_empty());
}

#[test]
fn each_filter_finds_what_it_is_for_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let hostile = "x\\\"\\u001b[31m";
    let text = record(1, "alice", "/latest/meta-data/mac")
        + &record(2, "bob", "/2021-03-23/user-data")
        + &record(3, hostile, "/latest/meta-data/iam/security-credentials/web")
            .replace("curl", "aws")
            .replace("session-3", "cron");
    fs::write(&file, text).unwrap();
    let found = |filter: Filter| numbers(Logs::with_rotated(&file).unwrap(), &filter).0;
    let words = |word: &str| vec![word.to_owned()];
    let path = |text| vec![PathFilter::parse(Provider::Aws, text).unwrap()];
    let time = |second| Some(format!("2026-11-21T21:40:{second:02}.000000Z"));
    let all = Filter::default;
    for (filter, expected) in [
        (
            Filter {
                users: words("bob"),
                ..all()
            },
            vec![2],
        ),
        (
            Filter {
                users: [words("bob"), words("alice")].concat(),
                ..all()
            },
            vec![1, 2],
        ),
        (
            Filter {
                users: words("x\"\u{1b}[31m"),
                ..all()
            },
            vec![3],
        ),
        (
            Filter {
                uids: vec![4001],
                ..all()
            },
            vec![1, 2, 3],
        ),
        (
            Filter {
                uids: vec![4],
                ..all()
            },
            vec![],
        ),
        (
            Filter {
                paths: path("/user-data"),
                ..all()
            },
            vec![2],
        ),
        (
            Filter {
                paths: path("@role"),
                ..all()
            },
            vec![3],
        ),
        (
            Filter {
                paths: path("@secrets"),
                ..all()
            },
            vec![2],
        ),
        (
            Filter {
                paths: path("/meta-data/**"),
                ..all()
            },
            vec![1, 3],
        ),
        (
            Filter {
                exes: words("aws"),
                ..all()
            },
            vec![3],
        ),
        (
            Filter {
                exes: words("/usr/bin/curl"),
                ..all()
            },
            vec![1, 2],
        ),
        (
            Filter {
                units: words("cron"),
                ..all()
            },
            vec![3],
        ),
        (
            Filter {
                units: words("session-3.scope"),
                ..all()
            },
            vec![1, 2],
        ),
        (
            Filter {
                classes: words("routine"),
                ..all()
            },
            vec![1, 2, 3],
        ),
        (
            Filter {
                decision: Some("allow".into()),
                ..all()
            },
            vec![],
        ),
        (
            Filter {
                reasons: words("default"),
                ..all()
            },
            vec![1, 2, 3],
        ),
        (
            Filter {
                since: time(2),
                ..all()
            },
            vec![2, 3],
        ),
        (
            Filter {
                until: time(2),
                ..all()
            },
            vec![1],
        ),
        (
            Filter {
                since: time(2),
                users: words("bob"),
                ..all()
            },
            vec![2],
        ),
    ] {
        assert_eq!(found(filter.clone()), expected, "{filter:?}");
    }
    assert!(PathFilter::parse(Provider::Aws, "/latest/user-data").is_err());
    assert!(PathFilter::parse(Provider::Aws, "@rolle").is_err());
}

fn append(path: &Path, text: &str) {
    let mut file = fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    file.write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_log_is_followed_across_both_ways_of_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    append(&file, "1\n2\n3\n");
    let mut follow = Follow::open(&file, 2).unwrap();
    let mut poll = || {
        let mut seen = Vec::new();
        let followed =
            follow.poll(&mut |line| seen.push(String::from_utf8(line.to_vec()).unwrap()));
        (seen, followed.unwrap())
    };
    assert_eq!(poll().0, ["2", "3"]);
    append(&file, "4\nha");
    assert_eq!(poll().0, ["4"]);
    append(&file, "lf\n");
    assert_eq!(poll().0, ["half"]);
    // By rename; what still comes to the old file is not lost.
    let old = dir.path().join("audit.jsonl.1");
    fs::rename(&file, &old).unwrap();
    append(&old, "5\n");
    assert_eq!(poll(), (vec!["5".into()], Followed::On));
    append(&old, "6\n");
    append(&file, "7\n");
    assert_eq!(poll(), (vec!["6".into(), "7".into()], Followed::Renamed));
    // By copying and cutting.
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(0)
        .unwrap();
    assert_eq!(poll(), (vec![], Followed::Truncated));
    append(&file, "8\n");
    assert_eq!(poll(), (vec!["8".into()], Followed::On));
}

#[test]
fn following_begins_with_as_many_lines_as_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("audit.jsonl");
    let text: String = (0..30_000).map(|it| format!("line {it}\n")).collect();
    append(&file, &text);
    for lines in [0, 1, 10, 20_000, 30_000, 40_000] {
        let mut count = 0;
        let mut follow = Follow::open(&file, lines).unwrap();
        follow.poll(&mut |_| count += 1).unwrap();
        assert_eq!(count, lines.min(30_000));
    }
    let absent = dir.path().join("later.jsonl");
    let mut follow = Follow::open(&absent, 10).unwrap();
    let mut count = 0;
    follow.poll(&mut |_| count += 1).unwrap();
    append(&absent, "1\n");
    follow.poll(&mut |_| count += 1).unwrap();
    assert_eq!(count, 1);
}
