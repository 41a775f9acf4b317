//! The JSON Schemas that are shipped are what the readers go by: made from
//! their tables, they take whatever a reader takes, and refuse with it what is
//! of another type or under another name.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use imdsfw::config::{self, Action, Config};
use imdsfw::diagnose::schema::{Key, Shape};
use imdsfw::diagnose::{Diagnostics, Source};
use imdsfw::policy::{self, Draft};
use imdsfw::provider::Provider;

/// Reads pairs of schema and TOML text, a JSON line each; says of each whether
/// the schema takes the text.
const VALIDATE: &str = r#"
import json, sys, tomllib
import fastjsonschema
schemas = {}
for line in sys.stdin:
    name, text = json.loads(line)
    if name not in schemas:
        schemas[name] = fastjsonschema.compile(json.load(open(name)))
    try:
        schemas[name](tomllib.loads(text))
        print("ok")
    except fastjsonschema.JsonSchemaException as error:
        print(error.message)
"#;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn shipped(name: &str) -> PathBuf {
    root().join("deploy/schema").join(name)
}

/// What the schema says of each text: nothing, or why not.
fn validated(schema: &str, texts: &[String]) -> Vec<Option<String>> {
    let python = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("clients");
    let python = python.join("venv/bin/python3");
    let mut child = Command::new(&python)
        .args(["-c", VALIDATE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run .ci/setup tests", python.display()));
    let mut input = child.stdin.take().unwrap();
    let lines: String = texts
        .iter()
        .map(|text| format!("{}\n", serde_json::json!([shipped(schema), text])))
        .collect();
    let writer = std::thread::spawn(move || input.write_all(lines.as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "run .ci/setup tests");
    writer.join().unwrap().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let said: Vec<_> = said
        .lines()
        .map(|line| (line != "ok").then(|| line.to_owned()))
        .collect();
    assert_eq!(said.len(), texts.len());
    said
}

#[test]
fn what_is_shipped_is_what_the_program_would_write() {
    let dir = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_imdsfw"))
        .args(["generate", "schema"])
        .arg(dir.path())
        .status();
    assert!(status.unwrap().success());
    for name in ["config.json", "policy.json"] {
        let made = fs::read_to_string(dir.path().join(name)).unwrap();
        let shipped = fs::read_to_string(shipped(name)).unwrap_or_default();
        assert!(
            made == shipped,
            "deploy/schema/{name} is not up to date: imdsfw generate schema deploy/schema"
        );
    }
}

#[test]
fn every_shipped_file_and_those_of_the_readme_are_valid() {
    let config = fs::read_to_string(root().join("deploy/imdsfw.toml")).unwrap();
    // Also with every key that is there to be changed.
    let whole: String = config
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(key) if !key.starts_with(' ') => format!("{key}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(whole.contains("\nhide_denied = false\n"));
    let readme = fs::read_to_string(root().join("README.md")).unwrap();
    let block = |marker: &str| {
        let (_, rest) = readme
            .split_once(&format!("<!-- {marker} -->\n```toml\n"))
            .unwrap();
        rest.split_once("```").unwrap().0.to_owned()
    };
    let configs = [config, whole, block("config")];
    assert_eq!(validated("config.json", &configs), [None, None, None]);
    let mut policies = vec![block("policy")];
    for entry in fs::read_dir(root().join("policies")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "toml") {
            policies.push(fs::read_to_string(path).unwrap());
        }
    }
    assert!(policies.len() > 2);
    for (said, text) in validated("policy.json", &policies).iter().zip(&policies) {
        assert_eq!(*said, None, "{text}");
    }
}

/// Values of every type, among them one at least that each key takes.
const VALUES: [&str; 41] = [
    "true",
    "0",
    "1",
    "80",
    "65535",
    "65536",
    "4294967295",
    "-1",
    "1.5",
    r#""""#,
    r#"" ""#,
    r#""x""#,
    r#""aws""#,
    r#""nft""#,
    r#""deny""#,
    r#""allow""#,
    r#""observe""#,
    r#""relay""#,
    r#""GET""#,
    r#""HEAD""#,
    r#""/x/y""#,
    r#""5s""#,
    r#""0s""#,
    r#""imdsfw""#,
    r#""none""#,
    r#""a.service""#,
    r#""127.0.0.1:80""#,
    "[]",
    "[1]",
    r#"["x"]"#,
    r#"["/x"]"#,
    r#"["@role"]"#,
    r#"["any"]"#,
    r#"["user:a", "uid:1-2", "group:b", "gid:7"]"#,
    r#"["GET"]"#,
    r#"["PUT"]"#,
    r#"["a.service"]"#,
    r#"["127.0.0.1:80"]"#,
    r#"["none", "uid:7-"]"#,
    "{ }",
    r#"{ uid = 7, user = "a", groups = ["b", 7] }"#,
];

/// A file in which only the value of one key is in question.
struct Probe {
    text: String,
    /// Whether the value is of strings alone, of which a shape says little.
    is_text: bool,
}

fn probes(keys: &[Key], text: &dyn Fn(&str, &str) -> String) -> Vec<(&'static str, Vec<Probe>)> {
    let probe = |key: &'static str, value: &str| Probe {
        text: text(key, value),
        is_text: value.contains('"'),
    };
    keys.iter()
        .filter(|key| !matches!(key.shape, Shape::Tables(_) | Shape::Names(..)))
        .filter(|key| !matches!(key.shape, Shape::Table(_)) || key.name == "as")
        .map(|key| {
            (
                key.name,
                VALUES.iter().map(|value| probe(key.name, value)).collect(),
            )
        })
        .chain([("no_such_key", vec![probe("no_such_key", "1")])])
        .collect()
}

fn agree(schema: &str, of: &str, probes: Vec<(&str, Vec<Probe>)>, reads: impl Fn(&str) -> bool) {
    for (key, probes) in probes {
        let texts: Vec<_> = probes.iter().map(|probe| probe.text.clone()).collect();
        let mut taken = 0;
        for (said, probe) in validated(schema, &texts).iter().zip(&probes) {
            let is_read = reads(&probe.text);
            taken += usize::from(is_read);
            let text = &probe.text;
            // An editor must not mark what is right.
            assert!(!is_read || said.is_none(), "{of} {key}: {said:?}\n{text}");
            assert!(
                is_read || said.is_some() || probe.is_text,
                "{of} {key}: only the schema takes\n{text}"
            );
        }
        assert_eq!(taken > 0, key != "no_such_key", "{of} {key}: {taken}");
    }
}

fn config_is_read(text: &str) -> bool {
    let mut found = Diagnostics::new();
    Config::parse(&[Source::new("imdsfw.toml", text)], &mut found);
    !found.has_errors()
}

#[test]
fn the_schema_of_the_config_takes_what_the_reader_takes() {
    let top = |key: &str, value: &str| format!("{key} = {value}\n");
    agree(
        "config.json",
        "the top",
        probes(config::KEYS, &top),
        config_is_read,
    );
    let mut tables = 0;
    for key in config::KEYS {
        if let Shape::Table(keys) = key.shape {
            let within = |name: &str, value: &str| format!("[{}]\n{name} = {value}\n", key.name);
            agree(
                "config.json",
                key.name,
                probes(keys, &within),
                config_is_read,
            );
            tables += 1;
        }
    }
    assert!(tables > 8);
}

fn policy_is_read(text: &str) -> bool {
    let mut found = Diagnostics::new();
    let source = [Source::new("20-site.toml", text)];
    Draft::parse(&source, Provider::Aws, Action::Deny, &mut found).is_some()
}

/// A table with what must be there, but for the key in question.
fn table(head: &str, needed: &[(&str, &str)], key: &str, value: &str) -> String {
    let others = needed.iter().filter(|(name, _)| *name != key);
    let lines = others.map(|(name, value)| format!("{name} = {value}\n"));
    format!("[[{head}]]\n{}{key} = {value}\n", lines.collect::<String>())
}

#[test]
fn the_schema_of_policies_takes_what_the_reader_takes() {
    let shape = |name: &str| {
        let key = policy::KEYS.iter().find(|key| key.name == name).unwrap();
        match key.shape {
            Shape::Tables(keys) => keys,
            other => panic!("{other:?}"),
        }
    };
    let rule = [
        ("name", "\"r\""),
        ("action", "\"allow\""),
        ("who", "[\"any\"]"),
        ("paths", "[\"/x\"]"),
    ];
    let test = [
        ("as", "{ uid = 7 }"),
        ("path", "\"/latest/x\""),
        ("expect", "\"deny\""),
    ];
    let top = |key: &str, value: &str| format!("{key} = {value}\n");
    agree(
        "policy.json",
        "the top",
        probes(policy::KEYS, &top),
        policy_is_read,
    );
    let of_rule = |key: &str, value: &str| table("rule", &rule, key, value);
    agree(
        "policy.json",
        "rule",
        probes(shape("rule"), &of_rule),
        policy_is_read,
    );
    let of_test = |key: &str, value: &str| table("test", &test, key, value);
    agree(
        "policy.json",
        "test",
        probes(shape("test"), &of_test),
        policy_is_read,
    );
    let of_caller = |key: &str, value: &str| {
        let uid = if key == "uid" { "" } else { "uid = 7, " };
        let user = if key == "groups" {
            "user = \"a\", "
        } else {
            ""
        };
        table(
            "test",
            &test,
            "as",
            &format!("{{ {uid}{user}{key} = {value} }}"),
        )
    };
    let caller = shape("test").iter().find(|key| key.name == "as").unwrap();
    let Shape::Table(caller) = caller.shape else {
        panic!("{caller:?}");
    };
    agree(
        "policy.json",
        "as",
        probes(caller, &of_caller),
        policy_is_read,
    );
    // Without one that is needed, neither takes a table.
    for (head, needed) in [("rule", &rule[..]), ("test", &test)] {
        for (missing, _) in needed {
            let rest: Vec<_> = needed
                .iter()
                .filter(|(name, _)| name != missing)
                .copied()
                .collect();
            let ((key, value), rest) = rest.split_first().unwrap();
            let text = table(head, rest, key, value);
            assert!(!policy_is_read(&text), "{text}");
            let said = validated("policy.json", std::slice::from_ref(&text));
            assert!(said.iter().all(Option::is_some), "{text}");
        }
    }
    // And sets, whose names are the author's.
    let sets = [
        "a = [\"/x\"]",
        "a-b_C1 = [\"@role\"]",
        "\"a b\" = [\"/x\"]",
        "a = []",
        "a = \"/x\"",
    ];
    let sets = sets.map(|line| format!("[paths]\n{line}\n"));
    for (said, text) in validated("policy.json", &sets).iter().zip(&sets) {
        assert_eq!(said.is_none(), policy_is_read(text), "{text}");
    }
}
