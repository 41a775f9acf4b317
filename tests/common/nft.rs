//! nft in the current namespace: an admin's, or a tamperer's, hands.

use std::io::Write as _;
use std::process::{Child, Command, Stdio};

use super::host::wait_for;

/// Loads a script.
pub(crate) fn load(script: &str) {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("`nft` is in the package nftables");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(script.as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{script}");
}

/// Loads our rules as rendered, but for those whose comment begins with `why`.
pub(crate) fn load_without(rendered: &str, why: &str) {
    let comment = format!("comment \"{why}");
    let kept: Vec<_> = rendered
        .lines()
        .filter(|line| !line.contains(&comment))
        .collect();
    assert!(
        kept.len() < rendered.lines().count(),
        "no rule says {why:?}"
    );
    load(&(kept.join("\n") + "\n"));
}

/// What a command prints; it must succeed.
pub(crate) fn output(args: &[&str]) -> String {
    let output = Command::new("nft").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "nft {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A rule of our table.
#[derive(Clone, Debug)]
pub(crate) struct LoadedRule {
    pub(crate) chain: String,
    /// As nft prints it in numbers.
    pub(crate) text: String,
    handle: String,
}

/// All rules of our table.
pub(crate) fn rules() -> Vec<LoadedRule> {
    let listing = output(&["-s", "-n", "-a", "list", "table", "inet", "imdsfw"]);
    let mut chain = String::new();
    let mut rules = Vec::new();
    for line in listing.lines() {
        let Some((text, handle)) = line.trim().rsplit_once(" # handle ") else {
            continue;
        };
        if let Some(head) = text.strip_prefix("chain ") {
            chain = head.trim_end_matches(" {").to_owned();
        } else if !text.starts_with("table ") {
            rules.push(LoadedRule {
                chain: chain.clone(),
                text: text.to_owned(),
                handle: handle.to_owned(),
            });
        }
    }
    assert!(!rules.is_empty(), "{listing}");
    rules
}

/// Takes one rule out of our table.
pub(crate) fn delete(rule: &LoadedRule) {
    let LoadedRule { chain, handle, .. } = rule;
    load(&format!(
        "delete rule inet imdsfw {chain} handle {handle}\n"
    ));
}

/// Takes every rule out whose comment begins with `why` (one a family).
pub(crate) fn delete_commented(why: &str) {
    let comment = format!("comment \"{why}");
    let found: Vec<_> = rules()
        .into_iter()
        .filter(|rule| rule.text.contains(&comment))
        .collect();
    assert!(!found.is_empty(), "no rule says {why:?}");
    found.iter().for_each(delete);
}

/// A process that holds tables nobody else may touch, until it is dropped.
pub(crate) struct Owner(Child);

impl Owner {
    pub(crate) fn of(script: &str) -> Self {
        let mut nft = Command::new("nft")
            .arg("-i")
            .env("HOME", "/dev/null")
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let stdin = nft.stdin.as_mut().unwrap();
        stdin.write_all(script.as_bytes()).unwrap();
        Self(nft)
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// All that is loaded, as `nft` with these flags lists it, and without the table
/// that a daemon compares ours with: that may leave only after the daemon says
/// it is ready.
pub(crate) fn ruleset(flags: &[&str]) -> String {
    let words = [flags, &["list", "ruleset"]].concat();
    wait_for("what ours are compared with to leave", || {
        let all = output(&words);
        (!all.contains("imdsfw_expected_")).then_some(all)
    })
}
