//! Events as OCSF has them, held against the schema that OCSF publishes.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::desk::installed;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Every kind of event and every reason.
fn exported() -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_imdsfw"))
        .args(["audit", "export", "--format", "ocsf"])
        .arg(repository("deploy/schema/examples.jsonl"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn python(arguments: &[PathBuf], input: &[Value]) -> Output {
    let mut child = Command::new(installed().join("venv/bin/python3"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    for value in input {
        writeln!(stdin, "{value}").unwrap();
    }
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn validated(events: &[Value]) -> (Option<i32>, String) {
    let output = python(&[repository("tests/clients/ocsf.py")], events);
    let (out, err) = (output.stdout, String::from_utf8(output.stderr).unwrap());
    assert_eq!(err, "");
    (output.status.code(), String::from_utf8(out).unwrap())
}

#[test]
fn every_event_is_valid_by_the_published_schema() {
    let events = exported();
    assert!(events.len() > 50);
    let expected = format!("{} events, 0 errors\n", events.len());
    assert_eq!(validated(&events), (Some(0), expected));
}

#[test]
fn and_what_is_not_is_found_out() {
    let of = |code: &str| {
        let mut events = exported().into_iter();
        events
            .find(|it| it["metadata"]["event_code"] == code)
            .unwrap()
    };
    let mut unknown = of("request");
    unknown["actor"]["user"]["shoe_size"] = json!(43);
    let mut missing = of("rules.drift");
    missing.as_object_mut().unwrap().remove("device");
    let mut caption = of("request");
    caption["severity"] = json!("Dreadful");
    let mut profile = of("request");
    profile["metadata"]["profiles"] = json!(["cloud"]);
    let mut number = of("daemon.started");
    number["activity_id"] = json!(42);
    for event in [unknown, missing, caption, profile, number] {
        let (status, said) = validated(std::slice::from_ref(&event));
        assert_eq!(status, Some(1), "{said} {event}");
    }
}

/// By a validator of others, as a reader of the log would use it.
#[test]
fn records_are_valid_by_their_own_schema() {
    let script = "import json, sys, jsonschema
schema = json.load(open(sys.argv[1]))
jsonschema.Draft202012Validator.check_schema(schema)
held = jsonschema.Draft202012Validator(schema)
lines = [json.loads(line) for line in open(sys.argv[2])]
print(len(lines), [error.message for line in lines for error in held.iter_errors(line)])
lines[0]['event'] = 'daemon.sang'
print(held.is_valid(lines[0]))";
    let files = ["record.json", "examples.jsonl"];
    let files = files.map(|it| repository("deploy/schema").join(it));
    let [schema, examples] = files;
    let output = python(&["-c".into(), script.into(), schema, examples], &[]);
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(said.ends_with(" []\nFalse\n"), "{said} {:?}", output.stderr);
}
