//! Policies that a tired admin would write, and all that `imdsfw check` says
//! of each: `broken/NN-name.toml`, and beside it what is printed. To see what
//! a change of words changes, run with `BLESS=1` and look at the difference.

#![allow(clippy::unwrap_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");

fn check(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .arg("check")
        .args(arguments)
        .args(["--config", "imdsfw.toml"])
        .current_dir(dir)
        .output()
        .unwrap()
}

#[test]
fn each_is_answered_in_words_that_lead_on() {
    let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/broken");
    let dir = tempfile::tempdir().unwrap();
    let copy = |name: &str, text: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    };
    copy("imdsfw.toml", b"schema = 1\n");
    let entries = fs::read_dir(&given).unwrap();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    names.sort();
    assert!(names.len() >= 12, "{names:?}");
    let mut differ = Vec::new();
    for name in names {
        copy(&name, &fs::read(given.join(&name)).unwrap());
        let output = check(dir.path(), &[&name]);
        // The hash is another whenever a class changes.
        let printed = String::from_utf8(output.stdout).unwrap();
        let printed: String = printed
            .lines()
            .filter(|line| !line.starts_with("policy "))
            .map(|line| format!("{line}\n"))
            .collect();
        let said = String::from_utf8(output.stderr).unwrap() + &printed;
        let wide = said.lines().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{name}");
        assert!(
            said.contains(&format!("{name}:")),
            "{name}: no place in {said}"
        );
        // Nobody who asks for it strictly may take one of these.
        let strict = check(dir.path(), &["--strict", &name]);
        assert_eq!(strict.status.code(), Some(1), "{name}");
        let expected = given.join(&name).with_extension("txt");
        if std::env::var_os("BLESS").is_some() {
            fs::write(&expected, &said).unwrap();
        }
        if fs::read_to_string(&expected).ok().as_ref() != Some(&said) {
            differ.push(format!("{name}:\n{said}"));
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}
