//! Whose request it is: every record, and every answer, goes by the owner of
//! the very socket at the other end, also where somebody works against it.

mod closing;
mod namespaces;
mod ports;
mod replaced;

use serde_json::Value;

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, get, raw, request, token};
use crate::common::net::{families, in_network};
use crate::common::user::{ALICE, BOB, ROOT, STRANGER, User};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const MAPPED: &str = "[::ffff:169.254.169.254]:80";

/// A request that says who sent it, in a header that is recorded and never
/// matched.
fn signed(user: User, method: &str, to: &str, path: &str, token: Option<&str>) -> String {
    let agent = format!("\r\nUser-Agent: uid {}\r\n", user.uid);
    request(method, to, path, token, "keep-alive").replacen("\r\n", &agent, 1)
}

/// The user that a record's request says it is from.
fn signed_by(record: &Value, user: User) -> bool {
    record["request"]["user_agent"] == format!("uid {}", user.uid)
}

/// The records in which the caller is named wrongly.
fn misnamed(records: &[Value]) -> Vec<&Value> {
    let wrong = |record: &&Value| {
        let uid = &record["caller"]["uid"];
        let agent = record["request"]["user_agent"].as_str();
        !uid.is_null() && agent != Some(&format!("uid {uid}"))
    };
    records.iter().filter(wrong).collect()
}

#[test]
fn v4_v6_and_v4_mapped_clients_are_named_rightly() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        for to in [V4, V6, MAPPED] {
            for user in [ALICE, BOB, ROOT, STRANGER] {
                let token = token(user, to, 60);
                assert_eq!(get(user, to, AMI, Some(&token)).status, 200);
                let expected = if user == ROOT { 200 } else { 403 };
                assert_eq!(get(user, to, CREDENTIALS, Some(&token)).status, expected);
            }
        }
        host.stop_daemon();
        let records = host.records(36);
        assert_eq!(records.len(), 36);
        let mut records = records.iter();
        for address in ["10.77.0.2:", "[fd77::2]:", "10.77.0.2:"] {
            for (user, name) in [
                (ALICE, "alice"),
                (BOB, "bob"),
                (ROOT, "root"),
                (STRANGER, ""),
            ] {
                for record in records.by_ref().take(3) {
                    let caller = &record["caller"];
                    assert_eq!(caller["uid"], user.uid);
                    assert_eq!(caller["user"].as_str().unwrap_or_default(), name);
                    let gid = (user != STRANGER).then_some(user.gid);
                    assert_eq!(caller["gid"], Value::from(gid));
                    assert!(caller["address"].as_str().unwrap().starts_with(address));
                }
            }
        }
    });
}

/// alice is uid 4001 with the group 4100; rules that have the two the wrong
/// way round are not about her.
#[test]
fn a_uid_is_no_gid() {
    const RULES: [(&str, &str, bool); 6] = [
        ("uid:4001", "hostname", true),
        ("uid:4100", "local-ipv4", false),
        ("gid:4100", "mac", true),
        ("gid:4001", "profile", false),
        ("group:g-alice", "reservation-id", true),
        ("group:g-bob", "local-hostname", false),
    ];
    in_network(|net| {
        let mut policy = String::from("schema = 1\n");
        for (who, path, _) in RULES {
            policy += &format!(
                "[[rule]]\nname = \"{who}\"\naction = \"allow\"\nwho = [\"{who}\"]\n\
                 paths = [\"/meta-data/{path}\"]\n"
            );
        }
        let host = Host::start(
            net,
            &Setup {
                policy,
                ..Setup::default()
            },
        );
        let alices = token(ALICE, V4, 60);
        let strangers = token(STRANGER, V4, 60);
        let mut expected = 2;
        for (who, path, matches) in RULES {
            let path = format!("/latest/meta-data/{path}");
            let status = get(ALICE, V4, &path, Some(&alices)).status;
            assert_eq!(status, if matches { 200 } else { 403 }, "{who}");
            // A uid needs no account to be told apart; groups do.
            assert_eq!(get(STRANGER, V4, &path, Some(&strangers)).status, 403);
            expected += 2;
            let record = host.records(expected).pop().unwrap();
            let reason = if who.starts_with("uid:") {
                "default"
            } else {
                "account_unknown"
            };
            assert_eq!(record["caller"]["uid"], STRANGER.uid);
            assert_eq!(record["reason"], reason, "{who}");
        }
    });
}
