//! deploy/schema says of the record what the source says, and shows each kind
//! of it. That the daemon's own records are of it, the tests of the firewall
//! see with every record that they read.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;

use imdsfw::provider::Class;
use serde_json::{Value, json};

#[path = "common/schema.rs"]
#[allow(dead_code)]
mod schema;

use schema::{faults, must_hold, schema};

const SOURCE: &str = include_str!("../src/audit/record.rs");
const EXAMPLES: &str = include_str!("../deploy/schema/examples.jsonl");

fn examples() -> Vec<Value> {
    EXAMPLES
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// What the source quotes between two places, behind a mark.
fn quoted(from: &str, mark: &str) -> BTreeSet<&'static str> {
    let (_, text) = SOURCE.split_once(from).unwrap();
    let (text, _) = text.split_once("\n}").unwrap();
    let parts = text.split(mark).skip(1);
    parts.map(|rest| rest.split('"').next().unwrap()).collect()
}

fn words(list: &Value) -> BTreeSet<&str> {
    let words = list.as_array().unwrap().iter();
    words.filter_map(Value::as_str).collect()
}

#[test]
fn its_lists_are_those_of_the_source() {
    let events = quoted("pub enum Event {", "rename = \"");
    assert!(events.len() > 20);
    assert_eq!(words(&schema()["properties"]["event"]["enum"]), events);
    let reasons = quoted("impl Reason {", "=> \"");
    assert!(reasons.len() > 20);
    assert_eq!(words(&schema()["$defs"]["reason"]["enum"]), reasons);
    let classes: BTreeSet<_> = Class::ALL.map(Class::as_str).into();
    let class = &schema()["$defs"]["request"]["properties"]["class"]["enum"];
    assert_eq!(words(class), classes);
    for event in events {
        if !["request", "connection.refused"].contains(&event) {
            assert!(schema()["$defs"][event].is_object(), "{event}");
            let applies = json!({
                "if": { "properties": { "event": { "const": event } } },
                "then": { "properties": { "detail": { "$ref": format!("#/$defs/{event}") } } },
            });
            let applied = schema()["allOf"].as_array().unwrap();
            assert!(applied.contains(&applies), "{event}");
        }
    }
}

#[test]
fn every_field_is_explained() {
    fn look(at: &str, schema: &Value) {
        if let Some(fields) = schema.get("properties").and_then(Value::as_object) {
            for (name, field) in fields {
                let is_said = ["description", "$ref"].map(|it| field.get(it).is_some());
                assert!(is_said.contains(&true), "{at}/{name}");
                look(&format!("{at}/{name}"), field);
            }
        }
        if let Some(items) = schema.get("items") {
            look(at, items);
        }
    }
    look("", schema());
    for (name, meant) in schema()["$defs"].as_object().unwrap() {
        assert!(meant["description"].is_string(), "{name}");
        look(name, meant);
    }
}

#[test]
fn each_kind_of_record_is_shown_and_holds() {
    let examples = examples();
    examples.iter().for_each(must_hold);
    let all = |key| {
        examples
            .iter()
            .filter_map(move |it| it[key].as_str())
            .collect()
    };
    let events: BTreeSet<&str> = all("event");
    assert_eq!(events, words(&schema()["properties"]["event"]["enum"]));
    let reasons: BTreeSet<&str> = all("reason");
    assert_eq!(reasons, words(&schema()["$defs"]["reason"]["enum"]));
    for (at, place) in [
        ("", schema()),
        ("caller", &schema()["$defs"]["caller"]),
        ("request", &schema()["$defs"]["request"]),
        ("credential", &schema()["$defs"]["credential"]),
        ("host", &schema()["$defs"]["host"]),
    ] {
        for name in place["properties"].as_object().unwrap().keys() {
            let pointer = match at {
                "" => format!("/{name}"),
                at => format!("/{at}/{name}"),
            };
            let shown = examples.iter().filter_map(|it| it.pointer(&pointer));
            assert!(shown.into_iter().any(|it| !it.is_null()), "{pointer}");
        }
    }
}

#[test]
fn what_is_no_such_record_is_found_out() {
    let examples = examples();
    let of = |event: &str| examples.iter().find(|it| it["event"] == event).unwrap();
    for (event, pointer, value) in [
        ("request", "/caller/uid", json!("0")),
        ("request", "/caller/uid", json!(-1)),
        ("request", "/reason", json!("whim")),
        ("request", "/detail", json!({})),
        ("request", "/host/name", json!(7)),
        ("request", "/time", json!("today")),
        ("rules.drift", "/detail/changed/0/kind", json!("odd")),
        ("rules.drift", "/detail/by/0/pid", Value::Null),
        ("control.refused", "/detail", json!("word")),
        ("daemon.started", "/event", json!("daemon.sang")),
        ("grant.started", "/event", json!("grant.ended")),
    ] {
        let mut record = of(event).clone();
        let (folder, key) = pointer.rsplit_once('/').unwrap();
        let folder = match folder {
            "" => &mut record,
            folder => record.pointer_mut(folder).unwrap(),
        };
        folder[key] = value;
        assert!(!faults(&record).is_empty(), "{record}");
    }
    for (event, folder, key) in [
        ("request", "", "token"),
        ("request", "/caller", "password"),
        ("lockdown.started", "/detail", "more"),
    ] {
        let mut record = of(event).clone();
        let folder = match folder {
            "" => &mut record,
            folder => record.pointer_mut(folder).unwrap(),
        };
        folder[key] = json!("x");
        assert!(!faults(&record).is_empty(), "{record}");
    }
    let mut record = of("request").clone();
    record.as_object_mut().unwrap().remove("host");
    assert_eq!(faults(&record), [": host is missing"]);
}
