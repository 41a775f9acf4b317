//! What a log comes to: every record counted, in bounded room.

use serde_json::{Value, json};

use super::*;

fn request(seq: u64, uid: u32, user: Option<&str>, path: &str, decision: &str) -> Value {
    json!({
        "schema": 1, "seq": seq, "time": format!("2026-11-21T21:40:{:02}.000000Z", seq % 60),
        "event": "request", "decision": decision,
        "reason": if decision == "deny" { "default" } else { "allowed" },
        "host": { "name": "login-1", "boot_id": "b" },
        "caller": { "uid": uid, "user": user, "exe": "/usr/bin/curl" },
        "request": { "path": path, "class": "routine", "imds": "v2" },
    })
}

fn digest(records: &[Value]) -> Digest {
    let mut digest = Digest::default();
    for record in records {
        let line = record.to_string();
        digest.add(&Record::parse(line.as_bytes()).unwrap().0);
    }
    digest
}

#[test]
fn denials_that_are_summarised_count_for_who_made_them() {
    let mut summary = request(2, 0, None, "/", "deny");
    summary["event"] = "limit.denials_summarised".into();
    summary["detail"] =
        json!({ "of": "request", "uid": 4001, "reason": "limit", "class": null, "count": 500 });
    let found = digest(&[request(1, 4001, Some("alice"), "/a", "allow"), summary]);
    assert_eq!((found.counts.allowed, found.counts.denied), (1, 500));
    let accounts: Vec<_> = found.accounts().collect();
    assert_eq!(accounts.len(), 1);
    assert_eq!(accounts[0].1.classes[&None].denied, 500);
    assert_eq!(found.limits()[0].1.count, 500);
    assert_eq!(found.name(found.limits()[0].0.account), "alice");
}

#[test]
fn a_uid_alone_is_nobody_of_another_host() {
    let mut other = request(2, 4001, None, "/a", "deny");
    other["host"]["name"] = "login-2".into();
    let found = digest(&[request(1, 4001, Some("alice"), "/a", "allow"), other]);
    let names: Vec<_> = found.accounts().map(|(id, _)| found.name(id)).collect();
    assert_eq!(names, ["alice", "uid 4001"]);
}

#[test]
fn whoever_floods_the_log_with_names_of_his_own_crowds_out_nobody() {
    let mut records: Vec<_> = (1..3000)
        .map(|seq| request(seq, 4002, Some("mallory"), &format!("/x/{seq}"), "deny"))
        .collect();
    records.push(request(3000, 4001, Some("alice"), "/secret", "deny"));
    let found = digest(&records);
    assert_eq!(found.counts.denied, 3000);
    let kinds = found.kinds();
    assert!(kinds.len() <= KINDS_OF_ACCOUNT_MAX + 3, "{}", kinds.len());
    let total: u64 = kinds.iter().map(|(_, seen)| seen.count).sum();
    assert_eq!(total, 3000);
    assert!(
        kinds
            .iter()
            .any(|(kind, _)| found.path(kind.path) == Some("/secret"))
    );
}

#[test]
fn more_accounts_than_there_is_room_for_are_counted_under_one_head() {
    let records: Vec<_> = (0..3000)
        .map(|uid| {
            request(
                u64::from(uid) + 1,
                uid,
                Some(&format!("u{uid}")),
                "/a",
                "allow",
            )
        })
        .collect();
    let found = digest(&records);
    let accounts: Vec<_> = found.accounts().collect();
    assert_eq!(accounts.len(), ACCOUNTS_MAX);
    assert_eq!(found.name(accounts[0].0), "(others)");
    let total: u64 = (accounts.iter())
        .flat_map(|(_, account)| account.classes.values())
        .map(Counts::total)
        .sum();
    assert_eq!(total, 3000);
}

#[test]
fn numbers_that_are_missing_are_named_by_host() {
    let mut records: Vec<_> = [1, 2, 5, 6, 3]
        .map(|seq| request(seq, 1, Some("a"), "/a", "allow"))
        .into();
    let mut other = request(90, 1, Some("a"), "/a", "allow");
    other["host"]["name"] = "login-2".into();
    records.insert(2, other);
    let mut lost = request(7, 0, None, "/", "deny");
    lost["event"] = "audit.lost".into();
    lost["detail"] = json!({ "records": 12 });
    records.push(lost);
    let history = digest(&records).history;
    assert_eq!(
        (history.missing, history.begun_anew, history.lost),
        (5, 1, 12)
    );
    assert_eq!((history.gaps[0].before.0, history.gaps[0].after.0), (2, 5));
    assert_eq!(history.hosts().count(), 2);
    assert_eq!(history.count("audit."), 1);
}
