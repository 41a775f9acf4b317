//! `imdsfw audit report`: what is in the file, and what must not be.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "common/logs.rs"]
mod logs;

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};

use serde_json::json;

use logs::{Day, report};

#[test]
fn a_day_is_told_in_one_file_that_needs_no_network() {
    let day = Day::new(4000);
    let page = day.report();
    assert!(page.len() < 300 << 10, "{} KiB", page.len() >> 10);
    for needed in [
        "login-1 (i-0abc12de34f567890)",
        "2026-11-21 00:00:21 to 2026-11-21 23:59:59 UTC",
        "2 boots",
        "4,000 records read",
        "ASIAQ3EGW7EXAMPLE000",
        "/opt/batch/bin/nightly",
        "rules.drift",
        "IMDSv1 cannot be turned off yet",
        "1,200 refusals came so fast",
        "default-src 'none'",
    ] {
        assert!(page.contains(needed), "{needed}");
    }
    // Nothing is fetched, and nothing leads out.
    for outside in ["http:", "https:", "src=", "url(", "@import", "//cdn"] {
        assert!(!page.contains(outside), "{outside}");
    }
    let mode = fs::metadata(day.page()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Every table has a head for each column, and every row as many cells.
    for table in page.split("<table").skip(1) {
        let table = table.split_once("</table>").unwrap().0;
        let mut rows = table.split("<tr").skip(1);
        let columns = rows.next().unwrap().matches("scope=\"col\"").count();
        assert!(columns > 2);
        for row in rows {
            let cells = row.matches("<td").count() + row.matches("<th").count();
            assert_eq!(cells, columns, "{row}");
        }
    }
}

/// The sums on the page are those of the log.
#[test]
fn every_record_is_counted_and_a_gap_is_named() {
    let day = Day::new(3000);
    let text = fs::read_to_string(day.log()).unwrap();
    let kept: Vec<_> = text
        .lines()
        .filter(|line| !(line.contains("\"seq\":1500,") || line.contains("\"seq\":1501,")))
        .collect();
    let refused = (kept.iter())
        .filter(|line| line.contains("\"decision\":\"deny\""))
        .count()
        + 1200;
    fs::write(day.log(), kept.join("\n") + "\nnot a record\n").unwrap();
    let output = report(&day.log(), &[]);
    let page = String::from_utf8(output.stdout).unwrap();
    let shown = format!("{},{:03}", refused / 1000, refused % 1000);
    assert!(
        page.contains(&format!("<b>{shown}</b><span>refused")),
        "{shown}"
    );
    assert!(page.contains("2 numbers are missing"));
    assert!(page.contains("#1499 <span"), "the gap's place");
    assert!(page.contains("1 line not understood"));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("1 line is no record"), "{said}");
}

#[test]
fn what_a_record_says_is_text_and_nothing_else() {
    let hostile = "</td></script><script>alert(1)</script><img src=x onerror=alert(1)>\
                   \"'&<!-- \u{1b}[31m\u{9b}2J\u{202e}\r\n";
    let path = "/latest/meta-data/iam/security-credentials/web";
    let record = |seq: u64, event: &str| {
        json!({
            "schema": 1, "seq": seq * 2, "time": "2026-11-21T21:40:00.000000Z",
            "event": event, "id": hostile, "decision": "allow", "reason": hostile,
            "rule": hostile, "mode": hostile, "detail": hostile,
            "host": { "name": hostile, "boot_id": hostile, "instance_id": hostile },
            "caller": { "uid": 4001, "user": hostile, "groups": [hostile], "exe": hostile,
                "comm": hostile, "unit": hostile, "address": hostile },
            "request": { "method": hostile, "path": path, "raw": hostile, "class": hostile,
                "imds": "v1", "user_agent": hostile },
            "credential": { "access_key_id": hostile, "role": hostile, "expiration": hostile },
        })
    };
    let mut raw = record(2, "request");
    raw["request"]["path"] = serde_json::Value::Null;
    let mut limit = record(3, "request");
    (limit["reason"], limit["decision"]) = ("limit".into(), hostile.into());
    let mut timeless = record(4, hostile);
    timeless["time"] = hostile.into();
    let mut told = record(5, hostile);
    told["detail"] = json!({ hostile: hostile, "list": [hostile] });
    let mut lines = String::new();
    for record in [record(1, "request"), raw, limit, timeless, told] {
        lines += &format!("{record}\n");
    }
    let dir = tempfile::tempdir().unwrap();
    let log = dir.path().join("audit.jsonl");
    let mut bytes = lines.into_bytes();
    bytes.extend_from_slice(b"{\"time\":\"t\",\"event\":\"\xff\xfe\"}\n");
    fs::write(&log, bytes).unwrap();
    let output = report(&log, &[]);
    assert!(output.status.success(), "{output:?}");
    let page = String::from_utf8(output.stdout).unwrap();
    assert!(page.contains("&lt;script&gt;alert(1)"), "shown as text");
    assert_eq!(page.matches("<script").count(), 1, "its own");
    assert_eq!(page.matches("</script").count(), 1, "its own");
    assert!(!page.contains("<img") && !page.contains("<!--"));
    let steers = |it: char| it != '\n' && (it.is_control() || it == '\u{202e}');
    assert!(!page.contains(steers));
    // No quote of a record ends an attribute.
    for tag in page.split('<').skip(1) {
        let tag = tag.split('>').next().unwrap();
        assert!(!tag.contains("onerror=alert(1)&gt;\""), "{tag}");
        assert_eq!(tag.matches('"').count() % 2, 0, "{tag}");
    }
}

#[test]
fn a_report_is_written_whole_and_never_through_a_link() {
    let day = Day::new(100);
    let other = day.dir.path().join("other");
    fs::write(&other, "precious").unwrap();
    symlink(&other, day.page()).unwrap();
    day.report();
    assert_eq!(fs::read_to_string(&other).unwrap(), "precious");
    assert!(fs::symlink_metadata(day.page()).unwrap().is_file());
    let nowhere = report(&day.log(), &["-o", "/nowhere/report.html"]);
    assert_eq!(nowhere.status.code(), Some(1));
    let said = String::from_utf8(nowhere.stderr).unwrap();
    assert!(
        said.contains("/nowhere/report.html cannot be written"),
        "{said}"
    );
    let empty = report(&day.log(), &["--since", "2027-01-01"]);
    assert_eq!(empty.status.code(), Some(1));
    let said = String::from_utf8(empty.stderr).unwrap();
    assert!(said.contains("no record in this time"), "{said}");
}

/// Of every kind of record.
#[test]
fn what_changed_is_told_and_a_sinks_losses_are_not_the_logs() {
    let examples = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/schema/examples.jsonl");
    let output = report(examples.as_ref(), &[]);
    let page = String::from_utf8(output.stdout).unwrap();
    for needed in [
        "12 records are missing from the log.",
        "1 time the log was not as the daemon had left it.",
        "2 times the service gave out credentials that it should have replaced.",
        "why: rotation_missed",
        "new: batch · old: web",
    ] {
        assert!(page.contains(needed), "{needed}");
    }
}
