//! iptables in the current namespace: an admin's, or a tamperer's, hands.

use std::io::Write as _;
use std::process::{Command, Stdio};

use imdsfw::intercept::Backend;

/// `iptables` and `ip6tables` of a back end.
pub(crate) fn tools(backend: Backend) -> [&'static str; 2] {
    match backend {
        Backend::IptablesLegacy => ["iptables-legacy", "ip6tables-legacy"],
        _ => ["iptables", "ip6tables"],
    }
}

/// Runs commands, one a line, each beginning with a tool's name.
pub(crate) fn run(commands: &str) {
    for line in commands.lines().map(str::trim).filter(|it| !it.is_empty()) {
        let output = Command::new("sh").args(["-c", line]).output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {stderr}");
    }
}

/// What both families hold, without the packets that chains have counted.
pub(crate) fn saved(backend: Backend) -> String {
    let mut text = String::new();
    for tool in tools(backend) {
        let output = Command::new(format!("{tool}-save")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            // When it was saved.
            if !line.starts_with('#') {
                text += line.split(" [").next().unwrap();
                text.push('\n');
            }
        }
    }
    text
}

/// Loads a script for `iptables-restore --noflush`.
pub(crate) fn restore(tool: &str, script: &str) {
    let mut child = Command::new(format!("{tool}-restore"))
        .args(["--noflush", "--wait", "20"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(script.as_bytes())
        .unwrap();
    assert!(child.wait().unwrap().success(), "{tool}: {script}");
}

/// Loads our rules as rendered: both families, the second after its heading.
pub(crate) fn load_rendered(backend: Backend, text: &str) {
    let [v4, v6] = tools(backend);
    let (first, second) = text.split_once("# ip6tables-restore").unwrap();
    restore(v4, first);
    restore(v6, second.split_once('\n').unwrap().1);
}

/// Takes every rule of ours out whose comment begins with `why`.
pub(crate) fn delete_commented(backend: Backend, why: &str) {
    let comment = format!("--comment \"{why}");
    let mut found = 0;
    for tool in tools(backend) {
        let output = Command::new(format!("{tool}-save")).output().unwrap();
        let mut script = String::new();
        for line in String::from_utf8(output.stdout).unwrap().lines() {
            if line.starts_with('*') || line == "COMMIT" {
                script += line;
                script.push('\n');
            } else if line.starts_with("-A IMDSFW-") && line.contains(&comment) {
                found += 1;
                script += &line.replacen("-A ", "-D ", 1);
                script.push('\n');
            }
        }
        restore(tool, &script);
    }
    assert!(found > 0, "no rule says {why:?}");
}
