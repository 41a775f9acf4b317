//! Of every kind of event and every reason, as deploy/schema shows them. That
//! the schema of OCSF takes them is tried with it, in tests/clients.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{VERSION, from_native};

const EXAMPLES: &str = include_str!("../../../deploy/schema/examples.jsonl");

fn event(line: &str) -> Value {
    serde_json::from_str(&from_native(line).expect(line)).unwrap()
}

fn examples() -> impl Iterator<Item = (Value, Value)> {
    EXAMPLES
        .lines()
        .map(|line| (serde_json::from_str(line).unwrap(), event(line)))
}

/// Texts and numbers, wherever they stand.
fn leaves(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Null => {}
        Value::Bool(it) => into.push(it.to_string()),
        Value::Number(it) => into.push(it.to_string()),
        Value::String(it) => into.push(it.clone()),
        Value::Array(items) => items.iter().for_each(|it| leaves(it, into)),
        Value::Object(fields) => fields.values().for_each(|it| leaves(it, into)),
    }
}

#[test]
fn nothing_that_a_record_says_is_lost() {
    for (native, event) in examples() {
        let (mut said, mut kept) = (Vec::new(), Vec::new());
        leaves(&native, &mut said);
        leaves(&event, &mut kept);
        let kept: BTreeSet<_> = kept.into_iter().collect();
        // Told in milliseconds, by a class, or as an address and a port.
        let is_elsewhere = |it: &String| {
            let words = ["allow", "deny"];
            let address = it.rsplit_once(':').map(|(host, _)| host);
            let address = address.map(|it| it.trim_matches(['[', ']']).to_owned());
            words.contains(&it.as_str())
                || native["detail"]["first"] == it.as_str()
                || native["detail"]["last"] == it.as_str()
                || address.is_some_and(|it| kept.contains(&it))
        };
        let lost: Vec<_> = said
            .iter()
            .filter(|it| !kept.contains(*it) && !is_elsewhere(it))
            .collect();
        assert!(lost.is_empty(), "{lost:?} of {native} is not in {event}");
    }
}

#[test]
fn what_is_unknown_is_not_made_up() {
    let line = r#"{"schema":1,"seq":9,"time":"2026-11-21T21:40:00.123456Z","event":"connection.refused",
        "decision":"deny","reason":"caller_unknown","caller":{"uid":null,"user":null,"address":"10.0.0.5:1"},
        "request":{"method":null,"path":null},"status":null,"version":"0.1.0","host":{"name":null}}"#;
    let event = event(line);
    assert_eq!(event["actor"], json!({ "app_name": "Unknown" }));
    assert_eq!(event["activity_id"], 99);
    assert_eq!(event["cloud"], json!({ "provider": "AWS" }));
    for absent in ["http_response", "http_request", "resources", "unmapped"] {
        assert_eq!(event.get(absent), None, "{absent}");
    }
}

#[test]
fn a_request_says_who_what_and_what_became_of_it() {
    let handed_out = examples()
        .map(|(_, event)| event)
        .find(|it| it["status_code"] == "allowed" && it["resources"][1]["type"] == "AccessKey")
        .unwrap();
    assert_eq!(handed_out["class_uid"], 6003);
    assert_eq!(handed_out["type_uid"], 600_302);
    assert_eq!(handed_out["metadata"]["version"], VERSION);
    assert_eq!(handed_out["time"], 1_795_297_203_003_u64);
    assert_eq!(handed_out["disposition"], "Allowed");
    assert_eq!(handed_out["src_endpoint"]["ip"], "fd00:ec2::17");
    assert_eq!(handed_out["resources"][1]["uid"], "ASIAIOSFODNN7EXAMPLE");
    assert_eq!(handed_out["actor"]["user"]["uid"], "0");
    // Not set, which is no login uid of 4294967295.
    assert_eq!(handed_out["unmapped"]["caller"]["loginuid"], -1);
    assert_eq!(handed_out["actor"]["process"].get("auid"), None);
    let stolen = examples()
        .map(|(_, event)| event)
        .find(|it| it["status_detail"] == "other_uid")
        .unwrap();
    assert_eq!(stolen["severity"], "High");
    assert_eq!(stolen["disposition"], "Unauthorized");
    assert_eq!(stolen["actor"]["process"]["auid"], 4001);
}

#[test]
fn an_event_of_a_later_version_is_passed_on_whole() {
    let line = r#"{"schema":1,"seq":9,"time":"2026-11-21T21:40:00Z","event":"daemon.sang",
        "detail":{"song":"la"},"version":"9.0.0","host":{"name":"h"}}"#;
    let event = event(line);
    assert_eq!(event["class_uid"], 0);
    assert_eq!(event["metadata"]["event_code"], "daemon.sang");
    assert_eq!(event["unmapped"]["detail"]["song"], "la");
}

#[test]
fn what_is_no_record_is_no_event() {
    for line in [
        "",
        "[]",
        "{}",
        r#"{"time":"yesterday","event":"request"}"#,
        r#"{"time":"2026-11-21T21:40:00Z"}"#,
        r#"{"time":"1960-11-21T21:40:00Z","event":"request"}"#,
    ] {
        assert_eq!(from_native(line), None, "{line}");
    }
    // Fields of another shape than ours are nobody's, and stay.
    let line = r#"{"time":"2026-11-21T21:40:00Z","event":"request","caller":7,"request":[1],
        "credential":"x","detail":{"by":3},"host":"h","bytes":"many"}"#;
    assert_eq!(event(line)["unmapped"]["caller"], 7);
}
