//! Prometheus's tools on what is shipped.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::{AMI, CREDENTIALS, page, promtool, setup};
use crate::common::host::Host;
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::ROOT;

const ALERTS: &str = include_str!("../../deploy/monitoring/imdsfw-alerts.yml");
const DASHBOARD: &str = include_str!("../../deploy/monitoring/imdsfw-dashboard.json");

fn shipped(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn must(arguments: &[&str], file: &str) -> String {
    let tool = promtool();
    let output = Command::new(&tool)
        .args(arguments)
        .arg(shipped(file))
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}; run `.ci/setup tests`", tool.display()));
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn prometheus_accepts_the_alerts_and_they_fire_when_they_should() {
    let file = "deploy/monitoring/imdsfw-alerts.yml";
    let said = must(&["check", "rules"], file);
    let alerts = ALERTS.matches("- alert: ").count();
    assert!(alerts > 10 && said.contains(&format!("{alerts} rules found")));
    // Of each: when it fires, and a time when it does not.
    must(&["test", "rules"], "tests/metrics/alerts.yml");
    let tests = include_str!("alerts.yml");
    for alert in ALERTS.split("- alert: ").skip(1) {
        let name = alert.lines().next().unwrap();
        assert!(
            tests.contains(&format!("alertname: {name}, exp_alerts: []")),
            "{name}"
        );
        assert!(
            tests.contains(&format!("alertname: {name}\n        exp_alerts:\n")),
            "{name}"
        );
        for annotation in ["summary: ", "runbook: "] {
            assert!(alert.contains(annotation), "{name} has no {annotation}");
        }
    }
}

/// The names that begin as ours do.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|it: char| !it.is_ascii_alphanumeric() && it != '_');
    words
        .filter(|word| word.starts_with("imdsfw_") || word.starts_with("process_"))
        .collect()
}

#[test]
fn what_alerts_and_dashboard_ask_for_is_on_the_page() {
    in_network(|net| {
        let _host = Host::start(net, &setup(""));
        let own = token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&own)).status, 200);
        assert_eq!(get(ROOT, V4, AMI, None).status, 401);
        // Something that is counted by its detail.
        let elsewhere = "PUT /latest/user-data HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
        assert_eq!(
            crate::common::http::raw(ROOT, V4, elsewhere.as_bytes()).status,
            403
        );
        let page = page(ROOT);
        let samples = page.lines().filter(|line| !line.starts_with('#'));
        let served: BTreeSet<&str> = samples
            .map(|line| line.split(['{', ' ']).next().unwrap())
            .collect();
        let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
        let panels = dashboard["panels"].as_array().unwrap();
        let queries: Vec<&str> = panels
            .iter()
            .flat_map(|panel| panel["targets"].as_array().unwrap())
            .map(|target| target["expr"].as_str().unwrap())
            .collect();
        let queries = queries.join("\n");
        for asked in names(ALERTS).union(&names(&queries)) {
            assert!(served.contains(asked), "{asked} is not on the page");
        }
        // And nothing is served in vain: each family has a panel.
        for family in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let name = family.split(' ').next().unwrap();
            assert!(queries.contains(name), "{name} is in no panel");
        }
    });
}
