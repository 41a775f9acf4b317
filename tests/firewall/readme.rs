//! What the README says of an instance, done on one: the five steps as they
//! are typed, and the record as it is shown.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use serde_json::Value;

use crate::common::host::{BINARY, Host, Setup, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT};

const README: &str = include_str!("../../README.md");
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

fn block(marker: &str) -> &'static str {
    let (_, rest) = README
        .split_once(&format!("<!-- {marker} -->\n```"))
        .expect(marker);
    let (_, rest) = rest.split_once('\n').unwrap();
    rest.split_once("```").unwrap().0
}

/// Changes below these folders stay in the test.
fn cover(folders: &[&str], upper: &Path) {
    let none: Option<&str> = None;
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    for folder in folders {
        let own = |kind: &str| {
            let path = upper.join(format!("{kind}{}", folder.replace('/', "-")));
            fs::create_dir(&path).unwrap();
            path.display().to_string()
        };
        let options = format!(
            "lowerdir={folder},upperdir={},workdir={}",
            own("upper"),
            own("work")
        );
        mount(
            Some("overlay"),
            *folder,
            Some("overlay"),
            MsFlags::empty(),
            Some(options.as_str()),
        )
        .unwrap();
    }
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_five_steps_as_they_are_typed() {
    in_network(|net| {
        let dir = tempfile::tempdir().unwrap();
        // The service alone; accounts, files, rules and daemon are the steps'.
        let service = Host::service_alone(net);
        cover(&["/etc", "/usr/local", "/var/log"], dir.path());
        let steps: Vec<&str> = block("install").lines().collect();
        assert_eq!(steps.len(), 5);
        let (build, install) = steps[0].split_once(" && ").unwrap();
        assert_eq!(build, "cargo build --release");
        let install = install.replace("target/release/imdsfw", BINARY);
        for step in [install.as_str(), steps[1], steps[2], steps[3]] {
            let output = Command::new("sh")
                .args(["-ec", step])
                .current_dir(env!("CARGO_MANIFEST_DIR"))
                .output()
                .unwrap();
            assert!(output.status.success(), "{step}: {output:?}");
        }
        assert_eq!(steps[4], "imdsfw run");
        let mut run = Command::new("/usr/local/sbin/imdsfw");
        let _daemon = Running(run.arg("run").stderr(Stdio::null()).spawn().unwrap());
        wait_for("the daemon", || ROOT.connect(V4.parse().unwrap()).ok());
        assert_eq!(
            get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60))).status,
            200
        );
        assert_eq!(
            get(ALICE, V4, CREDENTIALS, Some(&token(ALICE, V4, 60))).status,
            403
        );
        // A refusal does not wait for its record.
        wait_for("the records", || {
            let log = fs::read_to_string("/var/log/imdsfw/audit.jsonl").unwrap();
            let both = log.contains("\"reason\":\"allowed\"") && log.contains("\"uid\":4001");
            both.then_some(())
        });
        drop(service);
    });
}

#[test]
fn the_record_as_it_is_shown() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        get(ALICE, V4, CREDENTIALS, Some(&token(ALICE, V4, 60)));
        let real = host.records(2).pop().unwrap();
        let shown: Value = serde_json::from_str(block("record")).unwrap();
        assert_eq!(names(&shown, ""), names(&real, ""));
    });
}

fn names(value: &Value, within: &str) -> BTreeSet<String> {
    let Value::Object(fields) = value else {
        return BTreeSet::new();
    };
    fields
        .iter()
        .flat_map(|(name, value)| {
            let name = format!("{within}/{name}");
            let inner = names(value, &name);
            inner.into_iter().chain([name])
        })
        .collect()
}
