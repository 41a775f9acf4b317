//! The README is true: its commands exist, its examples load, its tables of
//! classes, of the record and of reasons are those of the source, its map is
//! the house.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use imdsfw::config::{Action, Config};
use imdsfw::diagnose::{Diagnostics, Source};
use imdsfw::ids::{Gid, Uid};
use imdsfw::policy::{Account, AccountFacts, Policy, Query, Subject};
use imdsfw::provider::{Class, Provider};
use imdsfw::request::{CanonicalPath, ReadMethod};
use serde_json::Value;

const README: &str = include_str!("../README.md");
const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");

/// The fenced block, or the table, below a marker.
fn below(marker: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("<!-- {marker} -->\n"))
        .expect(marker);
    match rest.strip_prefix("```") {
        Some(fenced) => {
            let (_, block) = fenced.split_once('\n').unwrap();
            block.split_once("```").unwrap().0
        }
        None => rest.split_once("\n\n").unwrap().0,
    }
}

fn imdsfw(arguments: &[&str]) -> Output {
    Command::new(BINARY).args(arguments).output().unwrap()
}

#[test]
fn every_command_it_names_has_help_with_an_example() {
    let mut words: BTreeSet<&str> = README
        .split("imdsfw ")
        .skip(1)
        .filter_map(|rest| rest.split(|it: char| !it.is_ascii_lowercase()).next())
        .filter(|word| !word.is_empty())
        .collect();
    let help = String::from_utf8(imdsfw(&["--help"]).stdout).unwrap();
    let (_, commands) = help.split_once("Commands:\n").unwrap();
    let known: BTreeSet<&str> = commands
        .lines()
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_whitespace().next())
        .filter(|command| *command != "help")
        .collect();
    words.retain(|word| known.contains(word));
    for needed in ["run", "rules", "check", "test", "explain", "sim"] {
        assert!(
            words.contains(needed),
            "the README does not mention {needed}"
        );
    }
    for command in known {
        let output = imdsfw(&[command, "--help"]);
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success());
        assert!(text.contains("Example"), "{command} --help has no example");
        let wide: Vec<_> = text
            .lines()
            .filter(|line| line.chars().count() > 80)
            .collect();
        assert!(
            wide.is_empty(),
            "{command} --help is wider than 80 columns: {wide:?}"
        );
    }
}

#[test]
fn its_policy_and_config_load() {
    let dir = tempfile::tempdir().unwrap();
    let policy = dir.path().join("20-site.toml");
    fs::write(&policy, below("policy")).unwrap();
    let output = imdsfw(&["test", policy.to_str().unwrap()]);
    assert!(
        output.status.success(),
        "run as root, with `.ci/test`: {output:?}"
    );
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed, 0 failed"));

    let config = dir.path().join("imdsfw.conf");
    let text = below("config");
    assert!(text.contains("[policy]\n"));
    let own = format!("[policy]\ndirectories = [{:?}]\n", dir.path());
    let text = text.replace("[policy]\n", &own);
    fs::write(&config, text).unwrap();
    let output = imdsfw(&["check", "--config", config.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn its_record_has_the_fields_that_the_table_explains() {
    let record: Value = serde_json::from_str(below("record")).unwrap();
    let (_, table) = README.split_once("| field | says |").unwrap();
    let table = table.split_once("\n\n").unwrap().0;
    let explained: BTreeSet<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| ")?.split(" | ").next())
        .flat_map(|cell| cell.split('`').skip(1).step_by(2))
        .collect();
    let mut fields: BTreeSet<&str> = record
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    fields.extend(["credential", "hidden", "served"]);
    assert_eq!(explained, fields);
}

#[test]
fn each_example_is_of_the_class_that_the_table_says() {
    let policy = Policy::parse(
        &[Source::new(
            "multi-user.toml",
            include_str!("../policies/multi-user.toml"),
        )],
        Provider::Aws,
        Action::Deny,
        &mut Diagnostics::new(),
    )
    .unwrap();
    let user = Subject {
        uid: Uid(4001),
        account: Account::Known(AccountFacts {
            user: "alice".into(),
            gid: Gid(4100),
            groups: Vec::new(),
        }),
    };
    let mut sets = BTreeSet::new();
    for row in below("classes").lines().skip(2) {
        let cells: Vec<_> = row.split(" | ").collect();
        let [set, _, examples, users] = cells[..] else {
            panic!("{row}");
        };
        let set = set.trim_start_matches("| `@").trim_end_matches('`');
        let expected = match users.trim_end_matches(" |") {
            "yes" => Action::Allow,
            "no" => Action::Deny,
            other => panic!("{other}"),
        };
        for example in words(examples) {
            let path = format!("/latest{example}");
            let path = CanonicalPath::parse(Provider::Aws, path.as_bytes()).unwrap();
            if set != "role" {
                assert_eq!(path.class().as_str(), set, "{example}");
            }
            assert_eq!(
                policy
                    .decide(&Query::new(&user, ReadMethod::Get, &path))
                    .action(),
                expected,
                "{example}"
            );
        }
        sets.insert(set);
    }
    let known: BTreeSet<_> = Class::ALL.map(Class::as_str).into_iter().collect();
    assert_eq!(sets, &known | &BTreeSet::from(["role"]));
}

#[test]
fn its_reasons_and_events_are_those_of_the_source() {
    let source = include_str!("../src/audit/record.rs");
    let (_, reasons) = source.split_once("impl Reason {").unwrap();
    let (reasons, _) = reasons.split_once("\n}").unwrap();
    let quoted = |text: &'static str, before: &str| -> BTreeSet<&str> {
        text.split(before)
            .skip(1)
            .filter_map(|rest| rest.split('"').next())
            .collect()
    };
    let reasons = quoted(reasons, "=> \"");
    let named: BTreeSet<_> = below("reasons")
        .lines()
        .skip(2)
        .flat_map(|row| words(row.split(" | ").next().unwrap()))
        .collect();
    assert!(reasons.len() > 10);
    assert_eq!(named, reasons);
    let (_, events) = README.split_once("\nThe events: ").unwrap();
    let (events, _) = events.split_once("\n\n").unwrap();
    let named: BTreeSet<_> = words(events).collect();
    let (_, kinds) = source.split_once("pub enum Event {").unwrap();
    let (kinds, _) = kinds.split_once("\n}").unwrap();
    assert_eq!(named, quoted(kinds, "rename = \""));
}

/// What stands between backticks.
fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

#[test]
fn its_map_is_the_house() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mapped: BTreeSet<&str> = below("map")
        .lines()
        .filter_map(|line| line.strip_prefix("| [`")?.split('`').next())
        .collect();
    assert!(!mapped.is_empty() && mapped.iter().all(|place| root.join(place).exists()));
    for entry in fs::read_dir(root.join("src")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            let name = format!("src/{}", path.file_name().unwrap().to_str().unwrap());
            assert!(mapped.contains(name.as_str()), "{name} is not on the map");
        }
    }
}

/// The figures are of one run; what they are called is what the bench prints.
#[test]
fn its_tables_of_figures_are_those_that_the_bench_prints() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    assert!(README.contains("`.ci/bench`"));
    let script = fs::read_to_string(root.join(".ci/bench")).unwrap();
    assert!(script.contains(" --bench service "));
    let mut source = String::new();
    for entry in fs::read_dir(root.join("benches/service")).unwrap() {
        let text = fs::read_to_string(entry.unwrap().path()).unwrap();
        source.extend(text.split_whitespace().flat_map(|word| [word, " "]));
    }
    let tables: Vec<_> = below("bench").trim_end().split("\n\n").collect();
    assert!(tables.len() > 7, "a part is missing");
    for table in tables {
        let head = table.lines().nth(1).unwrap();
        let columns: Vec<_> = head.split("  ").map(str::trim).collect();
        let columns = columns.into_iter().filter(|column| !column.is_empty());
        let quoted: Vec<_> = columns.map(|column| format!("{column:?}")).collect();
        assert!(source.contains(&quoted.join(", ")), "{head}");
    }
}

/// What `.ci/attacks` runs is just what tests say they have tried both ways.
#[test]
fn the_attacks_that_it_names_are_those_that_the_tests_try() {
    assert!(README.contains("`.ci/attacks`"));
    let (_, listed) = include_str!("../.ci/attacks")
        .split_once("<<'END'\n")
        .unwrap();
    let (listed, _) = listed.split_once("\nEND\n").unwrap();
    let listed: BTreeSet<_> = listed
        .lines()
        .filter(|line| !line.starts_with('='))
        .map(|name| name.rsplit("::").next().unwrap().to_owned())
        .collect();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let mut shown = BTreeSet::new();
    for folder in ["rules", "firewall", "firewall/identity", "firewall/witness"] {
        for entry in fs::read_dir(tests.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                let text = fs::read_to_string(path).unwrap();
                let cases = text.split("#[test]\nfn ").skip(1);
                let cases = cases.filter(|case| case.contains("    shown(\n"));
                shown.extend(cases.map(|case| case.split('(').next().unwrap().to_owned()));
            }
        }
    }
    assert!(listed.len() > 30);
    assert_eq!(listed, shown);
}

/// The config that is shipped names the defaults, and nothing else.
#[test]
fn the_shipped_config_is_the_default() {
    let shipped = include_str!("../deploy/imdsfw.toml");
    let keys = |line: &str| line.starts_with('#') && !line.starts_with("# ");
    assert!(shipped.lines().filter(|line| keys(line)).count() > 15);
    let whole: String = shipped
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|_| keys(line))
                .unwrap_or(line)
        })
        .map(|line| format!("{line}\n"))
        .collect();
    for text in [shipped, &whole] {
        let source = Source::new("imdsfw.toml", text);
        let mut found = Diagnostics::new();
        assert_eq!(Config::parse(&[source], &mut found), Config::default());
        assert!(found.is_empty(), "{found}");
    }
}
