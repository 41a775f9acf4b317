//! Drafts and replays, of logs as they could be found.

use std::sync::Arc;

use serde_json::{Value, json};

use super::learn::{Kind, Learnt};
use super::recorded::NotJudged;
use super::replay::{Found, Replay};
use crate::audit::reading::Record;
use crate::diagnose::{Diagnostics, Source, Style};
use crate::ids::Gid;
use crate::policy::{Action, Draft, Policy};
use crate::provider::Provider;

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const LISTING: &str = "/latest/meta-data/iam/security-credentials/";

/// As recorded in observe: everybody is answered.
fn read(uid: u32, user: &str, path: &str) -> Value {
    json!({
        "schema": 1, "time": "2026-11-21T21:40:00.000000Z", "event": "request", "id": "X",
        "verdict": "deny", "decision": "allow", "reason": "observed", "detail": "default",
        "caller": { "uid": uid, "user": user, "gid": uid + 100, "groups": ["staff"] },
        "request": { "method": "GET", "path": path, "imds": "v2" },
        "host": { "name": "login-1", "boot_id": "3f1c0000-0000" },
    })
}

fn with(mut record: Value, pointer: &str, value: Value) -> Value {
    match record.pointer_mut(pointer) {
        Some(field) => *field = value,
        None => match pointer.rsplit_once('/') {
            Some((within, name)) => record.pointer_mut(within).unwrap()[name] = value,
            None => panic!("{pointer}"),
        },
    }
    record
}

fn learn(records: &[Value]) -> String {
    let mut learnt = Learnt::new(Provider::Aws);
    for record in records {
        let line = record.to_string();
        let (record, _) = Record::parse(line.as_bytes()).unwrap();
        learnt.add(&record, &|uid, _| match uid < 1000 {
            true => Kind::Service,
            false => Kind::Person,
        });
    }
    learnt.to_string()
}

fn policy(text: &str) -> (Policy, Vec<Gid>) {
    let mut found = Diagnostics::new();
    let sources: [Arc<Source>; 1] = [Source::new("draft.toml", text)];
    let policy = Draft::parse(&sources, Provider::Aws, Action::Deny, &mut found).map(|draft| {
        let gids = draft.mentions().filter_map(|(name, _)| match name {
            crate::policy::Name::Gid(gid) => Some(*gid),
            _ => None,
        });
        let gids = gids.collect();
        (draft.prove(&mut found), gids)
    });
    match policy {
        Some((Some(policy), gids)) => (policy, gids),
        _ => panic!("{}\n{text}", found.render(Style::Plain)),
    }
}

fn replay(text: &str, records: &[Value]) -> Found {
    let (policy, gids) = policy(text);
    let mut replay = Replay::new(&policy, gids, Provider::Aws);
    // Twice: the second time from what is remembered.
    for record in records.iter().chain(records) {
        let line = record.to_string();
        replay.add(&Record::parse(line.as_bytes()).unwrap().0);
    }
    replay.found
}

#[test]
fn a_draft_grants_services_what_they_read_and_people_only_what_is_no_secret() {
    let records = [
        read(0, "root", CREDENTIALS),
        read(0, "root", LISTING),
        read(0, "root", "/latest/user-data"),
        read(0, "root", "/latest/meta-data/mac"),
        read(0, "root", "/latest/meta-data/hibernation/configured"),
        read(33, "agent", LISTING),
        read(33, "agent", "/2021-03-23/meta-data/tags/instance/Name"),
        read(
            34,
            "connect",
            "/latest/meta-data/managed-ssh-keys/signer-cert/",
        ),
        with(
            read(35, "old", "/latest/meta-data/mac"),
            "/request/imds",
            json!("v1"),
        ),
        read(4001, "alice", LISTING),
        read(4001, "alice", CREDENTIALS),
        read(4001, "alice", "/latest/meta-data/spot/instance-action"),
        read(4002, "bob", "/latest/user-data"),
    ];
    let draft = learn(&records);
    let changed: Vec<_> = replay(&draft, &records)
        .changed
        .into_iter()
        .map(|(change, count)| (change.user.unwrap(), change.path, count))
        .collect();
    let role = "/meta-data/iam/security-credentials";
    assert_eq!(
        changed,
        [
            ("alice".to_owned(), role.to_owned(), 2),
            ("alice".to_owned(), format!("{role}/web"), 2),
            ("bob".to_owned(), "/user-data".to_owned(), 2),
        ],
        "{draft}"
    );
    // A grant of credentials says so on its line, and a comment grants nothing.
    let granting: Vec<_> = draft
        .lines()
        .filter(|it| it.contains("\"@role\""))
        .collect();
    assert_eq!(granting.len(), 2);
    assert!(
        granting
            .iter()
            .all(|line| line.contains("# GRANTS CREDENTIALS: 1 read"))
    );
    assert!(granting[1].starts_with('#'));
    // The agent read the role's name alone, and is granted no more than that.
    let agent = draft
        .split("[[rule]]")
        .find(|it| it.contains("user:agent"))
        .unwrap();
    assert!(
        agent.contains("\"/meta-data/iam/security-credentials\","),
        "{agent}"
    );
    assert!(draft.contains("boot      3f1c0000, 2026-11-21 21:40 to 2026-11-21 21:40"));
    assert!(draft.contains("No more than one boot"));
    assert!(
        draft.lines().all(|line| line.chars().count() <= 80),
        "{draft}"
    );
}

#[test]
fn accounts_with_the_same_needs_share_a_rule() {
    let records: Vec<_> = (1..40)
        .map(|uid| read(uid, &format!("agent{uid}"), "/latest/user-data"))
        .collect();
    let draft = learn(&records);
    assert_eq!(draft.matches("\n[[rule]]").count(), 1, "{draft}");
    assert!(draft.contains("# secrets: 39 reads"), "{draft}");
    assert!(replay(&draft, &records).changed.is_empty());
}

#[test]
fn whatever_a_log_holds_the_draft_is_a_policy_and_a_star_stands_for_itself() {
    let hostile = [
        "x\"]\n[[rule]]",
        "a b",
        "",
        "ev\u{1b}[31mil",
        "corp\\bob",
        "ä",
        "x#y",
        "a'b",
        "any",
        "root",
        "🦀",
        "user:root",
    ];
    let mut records: Vec<_> = (10..)
        .zip(hostile)
        .flat_map(|(uid, user)| {
            [
                CREDENTIALS,
                "/latest/*",
                "/latest/**",
                "/latest/meta-data/x'$(id)",
                "/",
            ]
            .map(|path| read(uid, user, path))
        })
        .collect();
    records.push(with(
        read(50, "x", "/latest/no/../path"),
        "/request/path",
        json!("no path"),
    ));
    for number in 0..100 {
        records.push(read(60, "crawler", &format!("/latest/new/{number}")));
    }
    let draft = learn(&records);
    assert!(
        !draft.contains("\"/*") && !draft.contains("\"/**"),
        "{draft}"
    );
    let (rules, _) = policy(&draft);
    assert!(rules.len() < 20);
    // A name is no licence to be somebody else's: these are uids then.
    for change in replay(&draft, &records).changed.keys() {
        assert!(
            change.path.contains('*') || change.path.starts_with("/new/"),
            "{change:?}"
        );
    }
}

#[test]
fn what_a_policy_did_not_decide_is_counted_apart() {
    let denied = |reason: &str| {
        let record = with(read(4001, "alice", CREDENTIALS), "/decision", json!("deny"));
        with(record, "/reason", json!(reason))
    };
    let records = [
        denied("limit"),
        denied("upstream_timeout"),
        denied("holders"),
        with(
            read(65534, "nobody", CREDENTIALS),
            "/request/user_agent",
            json!("imdsfw-doctor"),
        ),
        with(denied("malformed"), "/request/path", Value::Null),
        with(
            read(4001, "alice", CREDENTIALS),
            "/caller/user",
            Value::Null,
        ),
        read(4001, "alice", "/latest/api/token"),
        denied("default"),
        denied("policy"),
    ];
    let found = replay(
        "schema = 1\n[[rule]]\nname = \"a\"\naction = \"allow\"\nwho = [\"user:bob\"]\npaths = [\"@role\"]\n",
        &records,
    );
    assert_eq!((found.judged, found.tokens, found.otherwise()), (4, 2, 0));
    assert_eq!(found.not_judged[&NotJudged::OtherReason], 6);
    assert_eq!(found.not_judged[&NotJudged::Malformed], 2);
    assert_eq!(found.not_judged[&NotJudged::Doctor], 2);
    assert_eq!(found.not_judged[&NotJudged::AccountUnknown], 2);
}

#[test]
fn token_gate_and_both_directions_are_part_of_it() {
    let everyone = "schema = 1\n[[rule]]\nname = \"a\"\naction = \"allow\"\nwho = [\"any\"]\npaths = [\"/**\"]\n";
    let denied = with(read(4001, "alice", CREDENTIALS), "/decision", json!("deny"));
    let denied = with(denied, "/reason", json!("default"));
    let v1 = with(read(4002, "bob", CREDENTIALS), "/request/imds", json!("v1"));
    let stolen = with(
        read(4003, "eve", CREDENTIALS),
        "/detail",
        json!("token_invalid"),
    );
    let found = replay(everyone, &[denied, v1, stolen]);
    let changed: Vec<_> = (found.changed.iter())
        .map(|(it, count)| (it.user.as_deref().unwrap(), it.to_allow, it.reason, *count))
        .collect();
    assert_eq!(
        changed,
        [
            ("bob", false, "token_missing", 2),
            ("eve", false, "token_invalid", 2),
            ("alice", true, "allowed", 2),
        ]
    );
}

#[test]
fn a_group_known_by_name_may_be_the_one_that_a_rule_numbers() {
    let rule = |gid: u32| {
        format!(
            "schema = 1\n[[rule]]\nname = \"a\"\naction = \"allow\"\nwho = [\"gid:{gid}\"]\n\
             paths = [\"@role\"]\n[[rule]]\nname = \"b\"\naction = \"allow\"\nwho = [\"any\"]\n\
             paths = [\"@routine\"]\n"
        )
    };
    let records = [
        read(4001, "alice", CREDENTIALS),
        read(4001, "alice", "/latest/meta-data/mac"),
    ];
    let found = replay(&rule(7000), &records);
    assert_eq!((found.judged, found.otherwise()), (2, 0));
    assert_eq!(found.not_judged[&NotJudged::AccountUnknown], 2);
    // The primary group is recorded by its number.
    let found = replay(&rule(4101), &records);
    assert_eq!((found.judged, found.otherwise()), (4, 0));
}
