//! The credentials' life, as events: seen from answers that users fetch, and
//! from nothing else.

use serde_json::Value;

use super::{AMI, CREDENTIALS, ROLE, page, setup, value};
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT};

const INFO: &str = "/latest/meta-data/iam/info";
const EVENTS: [&str; 4] = [
    "credentials.rotated",
    "credentials.stale",
    "credentials.expiring",
    "role.changed",
];

fn simulated(sim: &[&'static str]) -> Setup {
    Setup {
        sim: sim.to_vec(),
        ..setup("")
    }
}

/// Reads as root, until a minute is over or `done`.
fn key_id(own: &str) -> String {
    let answer = get(ROOT, V4, CREDENTIALS, Some(own));
    assert_eq!(answer.status, 200);
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    document["AccessKeyId"].as_str().unwrap().to_owned()
}

/// How many of each kind are recorded, once a later record is there.
fn told(host: &Host) -> [usize; 4] {
    let own = token(ALICE, V4, 60);
    let last = get(ALICE, V4, AMI, Some(&own));
    assert_eq!(last.status, 200);
    let count = |host: &Host| {
        let mut requests = host.events("request");
        requests.retain(|it| it["request"]["path"] == AMI);
        requests.len()
    };
    wait_for("the records", || (count(host) > 0).then_some(()));
    EVENTS.map(|event| host.events(event).len())
}

#[test]
fn each_rotation_is_told_once_with_both_key_ids() {
    in_network(|net| {
        let sim = ["--rotate-every", "1s", "--credential-life", "6h"];
        let host = Host::start(net, &simulated(&sim));
        let own = token(ROOT, V4, 60);
        let mut keys = vec![key_id(&own)];
        let mut reads = 1;
        wait_for("three rotations", || {
            let key = key_id(&own);
            reads += 1;
            if keys.last() != Some(&key) {
                keys.push(key);
            }
            (keys.len() == 4).then_some(())
        });
        assert_eq!(told(&host), [3, 0, 0, 0]);
        assert!(reads > 20, "told once, and not per request");
        let events = host.events("credentials.rotated");
        for (event, pair) in events.iter().zip(keys.windows(2)) {
            let detail = &event["detail"];
            assert_eq!([&detail["old"], &detail["new"]], [&pair[0], &pair[1]]);
            assert_eq!(detail["role"], "web");
        }
        // Nothing was asked of the service for it.
        let seen = host.seen_by_service("request");
        let credentials = seen.iter().filter(|it| it["path"] == CREDENTIALS);
        assert_eq!(credentials.count(), reads);
        for record in host.audit() {
            assert!(!record.to_string().contains("EXAMPLE/"), "a secret key");
        }
        let rotated = r#"imdsfw_credentials_events_total{event="credentials.rotated"}"#;
        assert_eq!(value(&page(ALICE), rotated), 3.0);
    });
}

#[test]
fn a_set_near_its_end_is_told_once_and_one_past_its_rotation_as_stale() {
    for (life, expected) in [
        ("26m", [0, 0, 0, 0]),
        ("24m", [0, 0, 1, 0]),
        ("4m", [0, 1, 1, 0]),
    ] {
        in_network(move |net| {
            let host = Host::start(net, &simulated(&["--credential-life", life]));
            let own = token(ROOT, V4, 60);
            let keys: Vec<_> = (0..20).map(|_| key_id(&own)).collect();
            assert_eq!(told(&host), expected, "{life}");
            for event in host.events("credentials.expiring") {
                let detail = &event["detail"];
                assert_eq!(detail["access_key_id"], keys[0]);
                assert!(detail["left_s"].as_u64().unwrap() < 25 * 60);
            }
            let stale = value(
                &page(ALICE),
                r#"imdsfw_credentials_stale{why="rotation_missed"}"#,
            );
            assert_eq!(stale, if life == "4m" { 1.0 } else { 0.0 });
        });
    }
}

#[test]
fn a_profile_whose_role_is_still_the_former_is_stale_until_the_role_has_changed() {
    in_network(|net| {
        let mut host = Host::start(net, &simulated(&[]));
        let own = token(ROOT, V4, 600);
        let read = || {
            for _ in 0..5 {
                assert_eq!(get(ROOT, V4, ROLE, Some(&own)).status, 200);
                assert_eq!(get(ROOT, V4, INFO, Some(&own)).status, 200);
            }
        };
        read();
        assert_eq!(told(&host), [0, 0, 0, 0]);
        // The profile is changed, and the service goes on with the old role.
        host.stop_service();
        host.start_service(&[
            "--item",
            "meta-data/iam/info={\"Code\":\"Success\",\
             \"InstanceProfileArn\":\"arn:aws:iam::123456789012:instance-profile/db\"}",
        ]);
        read();
        assert_eq!(told(&host), [0, 1, 0, 0]);
        let detail = host.events("credentials.stale")[0]["detail"].clone();
        assert_eq!(detail["why"], "profile_changed");
        assert_eq!(detail["role"], "web");
        assert_eq!(
            detail["profile"],
            "arn:aws:iam::123456789012:instance-profile/db"
        );
        let stale = r#"imdsfw_credentials_stale{why="profile_changed"}"#;
        assert_eq!(value(&page(ALICE), stale), 1.0);
        // Then the role follows.
        host.stop_service();
        host.start_service(&["--role", "db"]);
        read();
        assert_eq!(told(&host), [0, 1, 0, 1]);
        let detail = host.events("role.changed")[0]["detail"].clone();
        assert_eq!([&detail["old"], &detail["new"]], ["web", "db"]);
        assert_eq!(value(&page(ALICE), stale), 0.0);
        // And is taken away.
        host.stop_service();
        host.start_service(&["--no-role"]);
        assert_eq!(get(ROOT, V4, ROLE, Some(&own)).status, 404);
        assert_eq!(told(&host), [0, 1, 0, 2]);
        assert_eq!(host.events("role.changed")[1]["detail"]["new"], Value::Null);
    });
}
