//! `imdsfw check`, `test` and `explain` as an admin meets them: through the
//! real binary, on real files.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::string_slice)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const GOOD: &str = r#"[[rule]]
name = "root"
action = "allow"
who = ["user:root"]
paths = ["@role"]

[[test]]
as = { uid = 1000, user = "alice", groups = [2000] }
path = "/latest/meta-data/iam/security-credentials/web"
expect = "deny"
"#;

/// A host's files: a config and two policy directories.
struct Host {
    root: TempDir,
}

impl Host {
    fn new() -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "these tests make files that belong to root; run them as root: sudo -E cargo test"
        );
        let host = Self {
            root: TempDir::new().unwrap(),
        };
        for directory in ["lib", "etc"] {
            fs::create_dir(host.path(directory)).unwrap();
            set_mode(&host.path(directory), 0o755);
        }
        let directories = format!("{:?}", [host.path("lib"), host.path("etc")]);
        host.write(
            "imdsfw.toml",
            &format!("[policy]\ndirectories = {directories}\n"),
        );
        host
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        set_mode(&path, 0o644);
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_imdsfw"))
            .args(args)
            .arg("--config")
            .arg(self.path("imdsfw.toml"))
            .output()
            .unwrap()
    }

    /// Runs `check`, which must refuse: exit 1, the place as `file:line:col`,
    /// a caret under `word` (of a whole file there is none), and what was expected.
    fn refuses(&self, place: &str, word: &str, expected: &str) {
        let output = self.run(&["check"]);
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{text}");
        let place = self.path(place).display().to_string();
        assert!(
            text.contains(&format!("--> {place}\n")),
            "no {place} in\n{text}"
        );
        let lines: Vec<_> = text.lines().collect();
        let header = lines
            .iter()
            .position(|line| line.ends_with(&place))
            .unwrap();
        let flowing = flowing(&text);
        assert!(flowing.contains(expected), "no {expected:?} in\n{text}");
        if word.is_empty() {
            return;
        }
        let (line, caret) = (lines[header + 2], lines[header + 3]);
        let carets = "^".repeat(word.len().max(1));
        let at = caret
            .find(&carets)
            .unwrap_or_else(|| panic!("no caret in\n{text}"));
        assert!(!caret.contains(&format!("{carets}^")), "{text}");
        assert!(
            line[at.min(line.len())..].starts_with(word),
            "caret not under {word}:\n{text}"
        );
    }
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn a_good_policy_is_in_order() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    let output = host.run(&["check", "--strict"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stdout(&output).starts_with("ok: 1 policy file, 1 rule, 1 test passed\nread    "));
    let result = json(&host.run(&["check", "--json"]));
    assert_eq!(
        (&result["ok"], &result["rules"]),
        (&true.into(), &1.into()),
        "{result}"
    );
}

#[test]
fn a_config_that_is_named_but_missing() {
    let host = Host::new();
    fs::remove_file(host.path("imdsfw.toml")).unwrap();
    host.refuses(
        "imdsfw.toml:1:1",
        "",
        "expected the file that `--config` names",
    );
}

#[test]
fn a_config_that_cannot_be_read() {
    let host = Host::new();
    fs::remove_file(host.path("imdsfw.toml")).unwrap();
    fs::create_dir(host.path("imdsfw.toml")).unwrap();
    host.refuses("imdsfw.toml:1:1", "", "expected a regular file");
    fs::remove_dir(host.path("imdsfw.toml")).unwrap();
    fs::write(host.path("imdsfw.toml"), b"user = \"\xff\"").unwrap();
    host.refuses("imdsfw.toml:1:1", "", "expected UTF-8 text");
    fs::write(host.path("imdsfw.toml"), vec![b'#'; (8 << 20) + 1]).unwrap();
    host.refuses("imdsfw.toml:1:1", "", "of at most 8388608 bytes");
    fs::remove_file(host.path("imdsfw.toml")).unwrap();
    // A pipe without a writer must not hang the reader.
    nix::unistd::mkfifo(&host.path("imdsfw.toml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    host.refuses("imdsfw.toml:1:1", "", "expected a regular file");
    fs::remove_file(host.path("imdsfw.toml")).unwrap();
    symlink("imdsfw.toml", host.path("imdsfw.toml")).unwrap();
    host.refuses("imdsfw.toml:1:1", "", "expected to be able to read this");
}

#[test]
fn a_user_who_may_not_read_the_files_is_told_so() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    set_mode(host.root.path(), 0o755);
    // Where the build directory is closed to others, so is the binary.
    let binary = host.path("imdsfw");
    // Copied by a process of its own: a descriptor open for writing, inherited
    // by what another thread starts meanwhile, would keep it from being run.
    let copied = Command::new("cp")
        .arg(env!("CARGO_BIN_EXE_imdsfw"))
        .arg(&binary)
        .status()
        .unwrap();
    assert!(copied.success());
    let run = |args: &[&str]| {
        Command::new(&binary)
            .args(args)
            .arg("--config")
            .arg(host.path("imdsfw.toml"))
            .uid(65_533)
            .gid(65_532)
            .output()
            .unwrap()
    };
    assert_eq!(run(&["check"]).status.code(), Some(0));
    set_mode(&host.path("etc/20-site.toml"), 0o600);
    let output = run(&["check"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    let place = format!("--> {}:1:1\n", host.path("etc/20-site.toml").display());
    assert!(text.contains(&place), "{text}");
    assert!(
        text.contains("= note: expected to be able to read this"),
        "{text}"
    );
    assert!(text.contains("run this as root"), "{text}");
    assert_eq!(
        run(&["explain", "/latest/user-data"]).status.code(),
        Some(3)
    );
}

#[test]
fn a_file_that_somebody_else_could_have_written() {
    let host = Host::new();
    let policy = host.write("etc/20-site.toml", GOOD);
    let owner = "expected: owned by root, not writable by group or others";
    chown(&policy, Some(1234), Some(0)).unwrap();
    host.refuses("etc/20-site.toml:1:1", "", owner);
    host.refuses(
        "etc/20-site.toml:1:1",
        "",
        &format!("chown root '{}'", policy.display()),
    );
    chown(&policy, Some(0), Some(1234)).unwrap();
    set_mode(&policy, 0o664);
    host.refuses("etc/20-site.toml:1:1", "", owner);
    host.refuses(
        "etc/20-site.toml:1:1",
        "",
        &format!("chmod go-w '{}'", policy.display()),
    );
    set_mode(&policy, 0o646);
    host.refuses("etc/20-site.toml:1:1", "", owner);
    set_mode(&policy, 0o640);
    assert_eq!(host.run(&["check"]).status.code(), Some(0));
    // Named on the command line, a file is held to the same terms.
    set_mode(&policy, 0o664);
    let output = host.run(&["check", policy.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));

    let host = Host::new();
    chown(host.path("imdsfw.toml"), Some(1234), None).unwrap();
    host.refuses("imdsfw.toml:1:1", "", owner);
}

#[test]
fn a_directory_into_which_somebody_else_could_put_files() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    set_mode(&host.path("etc"), 0o1777);
    host.refuses(
        "etc:1:1",
        "",
        "owned by root, not writable by group or others",
    );
    set_mode(&host.path("etc"), 0o755);
    chown(host.path("etc"), Some(1234), None).unwrap();
    host.refuses(
        "etc:1:1",
        "",
        "owned by root, not writable by group or others",
    );
}

#[test]
fn a_symlink_is_judged_by_what_it_leads_to() {
    let host = Host::new();
    let target = host.write("data", GOOD);
    symlink("../data", host.path("etc/20-site.toml")).unwrap();
    assert_eq!(host.run(&["check"]).status.code(), Some(0));
    chown(&target, Some(1234), None).unwrap();
    host.refuses("etc/20-site.toml:1:1", "", "owned by root");
}

#[test]
fn words_that_are_not_understood() {
    let host = Host::new();
    for (from, to, place, word, expected) in [
        ("paths =", "path =", "5:1", "path", "did you mean `paths`?"),
        (
            "@role",
            "@rolle",
            "5:10",
            "\"@rolle\"",
            "did you mean `@role`?",
        ),
        (
            "@role",
            "@everything",
            "5:10",
            "\"@everything\"",
            "expected one of @credentials",
        ),
        (
            "[\"user:root\"]",
            "[]",
            "4:7",
            "[]",
            "expected at least one of user:NAME",
        ),
        (
            "[\"@role\"]",
            "[]",
            "5:9",
            "[]",
            "expected at least one pattern or @set",
        ),
        (
            "user:root",
            "root",
            "4:8",
            "\"root\"",
            "expected user:NAME, uid:N",
        ),
        (
            "user:root",
            "uid:9-5",
            "4:8",
            "\"uid:9-5\"",
            "(N at most M)",
        ),
        (
            "\"deny\"",
            "\"allow\"",
            "10:10",
            "\"allow\"",
            "expected allow, got deny by default",
        ),
    ] {
        host.write("etc/20-site.toml", &GOOD.replace(from, to));
        host.refuses(&format!("etc/20-site.toml:{place}"), word, expected);
    }
    host.write("etc/20-site.toml", GOOD);
    host.write("imdsfw.toml", "usr = \"imdsfw\"\n");
    host.refuses("imdsfw.toml:1:1", "usr", "did you mean `user`?");
}

#[test]
fn two_errors_come_at_once_each_at_its_place() {
    let host = Host::new();
    host.write(
        "etc/20-site.toml",
        &GOOD.replace("user:root", "root").replace("@role", "@rolle"),
    );
    host.write("lib/50-more.toml", "[[rules]]\n");
    host.refuses("etc/20-site.toml:4:8", "\"root\"", "expected user:NAME");
    host.refuses(
        "etc/20-site.toml:5:10",
        "\"@rolle\"",
        "did you mean `@role`?",
    );
    host.refuses("lib/50-more.toml:1:3", "rules", "did you mean `rule`?");
    let result = json(&host.run(&["check", "--json"]));
    let found = result["diagnostics"].as_array().unwrap();
    assert_eq!((found.len(), &result["ok"]), (3, &false.into()), "{result}");
    assert_eq!(
        (&found[0]["line"], &found[0]["col"]),
        (&4.into(), &8.into())
    );
    for key in ["file", "severity", "message", "expected"] {
        assert!(found[0][key].is_string(), "{result}");
    }
}

#[test]
fn errors_of_the_config_hide_none_of_the_policy() {
    let host = Host::new();
    let config = fs::read_to_string(host.path("imdsfw.toml")).unwrap();
    host.write("imdsfw.toml", &format!("{config}watch = 1\n"));
    host.write("etc/20-site.toml", &GOOD.replace("user:root", "root"));
    host.refuses("imdsfw.toml:3:9", "1", "expected true or false");
    host.refuses("etc/20-site.toml:4:8", "\"root\"", "expected user:NAME");
}

#[test]
fn a_later_directory_replaces_a_file_and_an_empty_one_removes_it() {
    let host = Host::new();
    host.write("lib/50-default.toml", GOOD);
    host.write("lib/60-more.toml", &GOOD.replace("\"root\"", "\"more\""));
    host.write("lib/ignored.txt", "not a policy");
    host.write("lib/.hidden.toml", "not a policy");
    let rules = |host: &Host| json(&host.run(&["check", "--json"]))["rules"].clone();
    assert_eq!(rules(&host), 2);
    host.write("etc/60-more.toml", "");
    assert_eq!(rules(&host), 1);
    host.write("etc/50-default.toml", "broken [");
    assert_eq!(host.run(&["check"]).status.code(), Some(1));
}

#[test]
fn a_candidate_is_checked_in_place_of_an_installed_file() {
    let host = Host::new();
    host.write("lib/50-default.toml", GOOD);
    host.write("etc/50-default.toml", GOOD);
    let candidate = host.write("candidate", &GOOD.replace("\"root\"", "\"new\""));
    let replace = |installed: &str, candidate: &Path| {
        let pair = format!("{}={}", host.path(installed).display(), candidate.display());
        host.run(&["check", "--json", "--replace", &pair])
    };
    assert_eq!(
        json(&replace("etc/50-default.toml", &candidate))["rules"],
        1
    );
    assert_eq!(json(&replace("etc/20-new.toml", &candidate))["rules"], 2);
    let bad = host.write("bad", &GOOD.replace("user:root", "root"));
    assert_eq!(replace("etc/50-default.toml", &bad).status.code(), Some(1));
    assert_eq!(
        replace("elsewhere/x.toml", &candidate).status.code(),
        Some(1)
    );
    assert_eq!(
        replace("etc/50-default.toml", Path::new("/absent"))
            .status
            .code(),
        Some(1)
    );
    let config = host.write("config", "[policy]\nmode = \"none\"\n");
    assert_eq!(replace("imdsfw.toml", &config).status.code(), Some(1));
}

#[test]
fn a_name_that_no_account_has_is_a_warning_and_an_error_when_strict() {
    let host = Host::new();
    host.write(
        "etc/20-site.toml",
        &GOOD.replace("user:root", "user:no-such-account-here"),
    );
    let output = host.run(&["check"]);
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(text.starts_with("warning: "), "{text}");
    assert!(
        flowing(&text).contains("20-site.toml:4:8: no account has the name in"),
        "{text}"
    );
    assert!(stdout(&output).starts_with("ok, 1 warning: 1 policy file"));
    assert_eq!(host.run(&["check", "--strict"]).status.code(), Some(1));
}

#[test]
fn drop_ins_are_read_after_the_config() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    fs::create_dir(host.path("imdsfw.toml.d")).unwrap();
    host.write("imdsfw.toml.d/10.toml", "[policy]\ndefault = \"allow\"\n");
    // The policy's own test notices.
    host.refuses(
        "etc/20-site.toml:10:10",
        "\"deny\"",
        "expected deny, got allow by default",
    );
    host.write("imdsfw.toml.d/20.toml", "[policy]\ndefault = \"deny\"\n");
    assert_eq!(host.run(&["check"]).status.code(), Some(0));
}

#[test]
fn output_stays_within_80_columns() {
    let host = Host::new();
    host.write(
        "etc/20-site.toml",
        &GOOD.replace("@role", "@everything").replace("root", "x y"),
    );
    let output = host.run(&["check"]);
    let text = String::from_utf8(output.stderr).unwrap();
    for line in text.lines().filter(|line| !line.contains("--> ")) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[test]
fn tests_are_run_and_counted() {
    let host = Host::new();
    let fails = GOOD
        .replace("\"root\"", "\"r2\"")
        .replace("\"deny\"", "\"allow\"");
    host.write("etc/20-site.toml", GOOD);
    let output = host.run(&["test"]);
    assert_eq!(output.status.code(), Some(0));
    assert!(
        stdout(&output).ends_with("\n1 passed, 0 failed\n"),
        "{output:?}"
    );
    let named = host.write("some-name", &fails);
    let output = host.run(&["test", named.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(1));
    let text = stdout(&output);
    assert!(text.ends_with("\n0 passed, 1 failed\n"), "{text}");
    assert!(
        text.contains("some-name:10:10: got deny by default"),
        "{text}"
    );
    host.write("etc/30-more.toml", &fails);
    let result = json(&host.run(&["test", "--json"]));
    assert_eq!(
        (&result["passed"], &result["failed"]),
        (&1.into(), &1.into()),
        "{result}"
    );
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = Command::new(env!("CARGO_BIN_EXE_imdsfw"))
        .arg("test")
        .arg("--config")
        .arg(host.path("imdsfw.toml"))
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(output.stderr.is_empty(), "{output:?}");
}

#[test]
fn explain_says_what_holds_and_why() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    let role = "/latest/meta-data/iam/security-credentials/web";
    let explain = |args: &[&str]| {
        let output = host.run(&[&["explain", "--json"], args].concat());
        (output.status.code(), json(&output))
    };
    // Without `--user`, whoever asks: root, here.
    let (code, answer) = explain(&[role]);
    assert_eq!(
        (code, &answer["rule"], &answer["caller"]["uid"]),
        (Some(0), &"root".into(), &0.into())
    );
    assert_eq!(answer["steps"][0]["outcome"], "decides");
    for (args, code, reason) in [
        (&["--user", "nobody", role][..], 1, "default"),
        (&["--user", "4294967294", role], 1, "default"),
        (&["--user", "root", "--v1", role], 1, "token_missing"),
        (
            &["--user", "root", "--method", "POST", role],
            1,
            "malformed",
        ),
        (&["--user", "root", "--method", "PUT", role], 1, "malformed"),
        (
            &["--user", "nobody", "--method", "PUT", "/latest/api/token"],
            0,
            "allowed",
        ),
        (&["--user", "root", "/latest/../user-data"], 1, "malformed"),
        (
            &["--user", "root", "/meta-data/iam/security-credentials/web"],
            0,
            "allowed",
        ),
    ] {
        let (got, answer) = explain(args);
        assert_eq!(
            (got, &answer["reason"]),
            (Some(code), &reason.into()),
            "{args:?} {answer}"
        );
    }
    let text = stdout(&host.run(&["explain", "--user", "nobody", role]));
    assert!(text.starts_with("DENY  nobody (uid "), "{text}");
    assert!(text.contains("is about other callers: user:root"), "{text}");
    assert_eq!(
        host.run(&["explain", "--user", "no-such-account", role])
            .status
            .code(),
        Some(2)
    );
    host.write("etc/20-site.toml", "broken [");
    assert_eq!(host.run(&["explain", role]).status.code(), Some(3));
}

#[test]
fn explain_says_when_names_are_unknown() {
    let host = Host::new();
    host.write("etc/20-site.toml", &GOOD.replace("user:root", "group:root"));
    let role = "/latest/meta-data/iam/security-credentials/web";
    let output = host.run(&["explain", "--user", "4294967294", "--json", role]);
    let answer = json(&output);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(answer["reason"], "account_unknown", "{answer}");
    assert_eq!(answer["steps"][0]["outcome"], "undecidable", "{answer}");
    let text = stdout(&host.run(&["explain", "--user", "4294967294", role]));
    assert!(text.contains("hangs on group:root"), "{text}");
}

#[test]
fn every_help_ends_with_an_example_and_wrong_usage_is_2() {
    for command in ["check", "explain", "test"] {
        let run = |arg| {
            Command::new(env!("CARGO_BIN_EXE_imdsfw"))
                .args([command, arg])
                .output()
                .unwrap()
        };
        let help = stdout(&run("--help"));
        let (_, examples) = help.split_once("Examples:\n").unwrap();
        assert!(
            examples.lines().all(|line| line.starts_with("  imdsfw ")),
            "{help}"
        );
        assert!(
            help.lines().all(|line| line.chars().count() <= 80),
            "{help}"
        );
        assert_eq!(run("--no-such-option").status.code(), Some(2));
    }
}

#[test]
fn warnings_stand_beside_errors_and_are_counted() {
    let host = Host::new();
    let text = GOOD.replace("user:root", "group:no-such-group") + "# end\n";
    host.write("etc/20-site.toml", &text.replace("\"deny\"", "\"allow\""));
    let output = host.run(&["check"]);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(
        flowing(&text).contains("no group has the name in \"group:no-such-group\""),
        "{text}"
    );
    assert!(text.contains("1 error, 1 warning: refused"), "{text}");
}

#[test]
fn broken_syntax_is_one_error_where_it_was_broken() {
    let host = Host::new();
    host.write(
        "etc/20-site.toml",
        &GOOD.replace("@role\"]", "@role\"").repeat(4),
    );
    host.refuses("etc/20-site.toml:5:9", "[", "expected `]` before line 7");
    let single = format!("{}{GOOD}", GOOD.replace("[[rule]]", "[rule]"));
    host.write("etc/20-site.toml", &single);
    host.refuses(
        "etc/20-site.toml:1:1",
        "[rule]",
        "expected [[rule]], in double brackets",
    );
    for text in [
        GOOD.replace("\"root\"", "\"root"),
        "a = = 1\nb = = 2\n".into(),
    ] {
        host.write("etc/20-site.toml", &text);
        let found = json(&host.run(&["check", "--json"]));
        assert_eq!(found["diagnostics"].as_array().unwrap().len(), 1, "{found}");
    }
}

#[test]
fn what_was_meant_is_named() {
    let host = Host::new();
    for (from, to, place, word, meant) in [
        (
            "user:root",
            "%ops",
            "4:8",
            "\"%ops\"",
            "did you mean \"group:ops\"?",
        ),
        (
            "user:root",
            "@ops",
            "4:8",
            "\"@ops\"",
            "did you mean \"group:ops\"?",
        ),
        (
            "user:root",
            "ops",
            "4:8",
            "\"ops\"",
            "did you mean \"user:ops\" or \"group:ops\"?",
        ),
        (
            "user:root",
            "groups:ops",
            "4:8",
            "\"groups:ops\"",
            "did you mean \"group:ops\"?",
        ),
        (
            "[\"user:root\"]",
            "\"group:ops\"",
            "4:7",
            "\"group:ops\"",
            "expected a list: [\"group:ops\"]",
        ),
        (
            "@role",
            "http://169.254.169.254/latest/user-data",
            "5:10",
            "\"http://169.254.169.254/latest/user-data\"",
            "expected \"/user-data\"",
        ),
        (
            "@role",
            "/latest/user-data",
            "5:10",
            "\"/latest/user-data\"",
            "a pattern has no version: it holds for all",
        ),
    ] {
        host.write("etc/20-site.toml", &GOOD.replace(from, to));
        host.refuses(&format!("etc/20-site.toml:{place}"), word, meant);
    }
    host.write("etc/20-site.toml", GOOD);
    host.write("etc/30-more.toml", GOOD);
    let first = format!("{}:2", host.path("etc/20-site.toml").display());
    host.refuses(
        "etc/30-more.toml:2:8",
        "\"root\"",
        "two rules are called \"root\"",
    );
    host.refuses(
        "etc/30-more.toml:2:8",
        "\"root\"",
        &format!("the first is at {first}"),
    );
    host.write("imdsfw.toml", "mode = \"observe\"\n[audit]\nuser = \"x\"\n");
    host.refuses("imdsfw.toml:1:1", "mode", "`mode` belongs under [policy]");
    host.refuses("imdsfw.toml:3:1", "user", "`user` belongs at the top");
}

#[test]
fn what_says_nothing_is_pointed_out() {
    let host = Host::new();
    let rule = |name: &str, who: &str, path: &str| {
        format!(
            "[[rule]]\nname = \"{name}\"\naction = \"allow\"\nwho = [{who}]\npaths = [\"{path}\"]\n"
        )
    };
    for (text, warning) in [
        (
            rule("r", "\"user:root\"", "/metadata/instance-id"),
            "matches no path of this service",
        ),
        (
            rule("r", "\"user:root\"", "/meta-data/.*"),
            "`.*` in \"/meta-data/.*\" asks for a dot",
        ),
        (
            rule("all", "\"any\"", "@routine") + &rule("r", "\"user:root\"", "/meta-data/mac"),
            "the rule \"r\" is never reached",
        ),
        (
            rule("r", "\"user:4003\"", "@routine"),
            "did you mean \"uid:4003\"?",
        ),
    ] {
        host.write("etc/20-site.toml", &text);
        let output = host.run(&["check"]);
        let said = flowing(&String::from_utf8(output.stderr.clone()).unwrap());
        assert!(said.contains(warning), "no {warning:?} in {said}");
        assert!(stdout(&output).starts_with("ok, 1 warning: "), "{output:?}");
    }
    for quiet in [
        rule("r", "\"user:root\"", "/**/security-credentials/*"),
        rule("r", "\"user:root\"", "/meta*/tags/instance/v1.*"),
        rule("all", "\"any\"", "@routine") + &rule("r", "\"user:root\"", "/meta-data/**"),
        rule("r", "\"user:root\"", "/meta-data/**") + &rule("all", "\"any\"", "/meta-data/mac"),
        rule("a", "\"any\"", "@routine").replace("paths", "except = [\"uid:7\"]\npaths")
            + &rule("r", "\"user:root\"", "@routine"),
    ] {
        host.write("etc/20-site.toml", &quiet);
        let output = host.run(&["check"]);
        assert!(stdout(&output).starts_with("ok: "), "{quiet}{output:?}");
    }
}

#[test]
fn check_says_what_it_read_and_what_it_did_not() {
    let host = Host::new();
    let output = host.run(&["check"]);
    let said = flowing(&String::from_utf8(output.stderr).unwrap());
    assert!(
        said.contains("etc: everyone is denied, root included"),
        "{said}"
    );
    let first = host.write("lib/30-ci.toml", GOOD).display().to_string();
    let second = GOOD
        .replace("\"root\"", "\"more\"")
        .replace("@role", "@ssh");
    let second = host
        .write("etc/50-more.toml", &second)
        .display()
        .to_string();
    host.write("etc/30-ci.tml", "");
    host.write("etc/.30-ci.toml.swp", "");
    host.write("lib/30-ci.toml.bak", "");
    let config = fs::read_to_string(host.path("imdsfw.toml")).unwrap();
    host.write("imdsfw.toml", &format!("{config}mode = \"observe\"\n"));
    let output = host.run(&["check"]);
    let said = flowing(&String::from_utf8(output.stderr.clone()).unwrap());
    for name in ["etc/30-ci.tml", "lib/30-ci.toml.bak"] {
        let line = format!(
            "{}:1:1: is not read: its name does not end in .toml",
            host.path(name).display()
        );
        assert!(said.contains(&line), "{said}");
    }
    let text = stdout(&output);
    let expected = format!(
        "ok, 2 warnings: 2 policy files, 2 rules, 2 tests passed\n\
         read    {first}\nread    {second}\nmode    observe: denials are only recorded"
    );
    assert!(text.starts_with(&expected), "{text}");
    assert!(text.contains("\npolicy  sha256:"), "{text}");
    assert!(
        text.ends_with("\nrestart the daemon to put this in force\n"),
        "{text}"
    );
}

#[test]
fn explain_takes_a_url_and_shows_the_paths_of_rules() {
    let host = Host::new();
    host.write("etc/20-site.toml", GOOD);
    let text = stdout(&host.run(&[
        "explain",
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/web",
    ]));
    assert!(
        text.starts_with("ALLOW  root (uid 0) GET /latest/meta-data/"),
        "{text}"
    );
    assert!(
        flowing(&text).contains("its paths: /meta-data/iam/security-credentials"),
        "{text}"
    );
    let text = stdout(&host.run(&["explain", "/latest/user-data"]));
    assert!(
        flowing(&text).contains("is about other paths: /meta-data/iam/"),
        "{text}"
    );
    for bad in ["ftp://169.254.169.254/x", "user-data", ""] {
        assert_eq!(host.run(&["explain", bad]).status.code(), Some(2), "{bad}");
    }
}
