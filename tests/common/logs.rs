//! A log as a busy host writes it in a day: users and agents, refusals, keys
//! that rotate, a client that knows no tokens, and what befalls a daemon. The
//! same on each run.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

/// 2026-11-21T00:00:00Z, and how long the log is.
const BEGIN: u64 = 1_795_219_200;
const DAY: u64 = 86_400;

struct User {
    name: &'static str,
    uid: u32,
    exe: &'static str,
    unit: &'static str,
    /// Of a thousand requests.
    share: u64,
    asks: &'static [Ask],
}

/// Path, class, and what becomes of it.
type Ask = (&'static str, &'static str, &'static str);

const ROLE: &str = "/latest/meta-data/iam/security-credentials/web-tier";
const USERS: [User; 8] = [
    User {
        name: "root",
        uid: 0,
        exe: "/usr/bin/amazon-ssm-agent",
        unit: "amazon-ssm-agent.service",
        share: 180,
        asks: &[
            (ROLE, "credentials", "allowed"),
            (
                "/latest/dynamic/instance-identity/document",
                "identity",
                "allowed",
            ),
            (
                "/latest/meta-data/iam/security-credentials/",
                "identity",
                "allowed",
            ),
        ],
    },
    User {
        name: "gitlab-runner",
        uid: 998,
        exe: "/usr/bin/gitlab-runner",
        unit: "gitlab-runner.service",
        share: 220,
        asks: &[
            (ROLE, "credentials", "allowed"),
            ("/latest/meta-data/placement/region", "routine", "allowed"),
        ],
    },
    User {
        name: "cwagent",
        uid: 997,
        exe: "/opt/aws/amazon-cloudwatch-agent/bin/amazon-cloudwatch-agent",
        unit: "amazon-cloudwatch-agent.service",
        share: 300,
        asks: &[
            ("/latest/meta-data/instance-id", "routine", "allowed"),
            ("/latest/meta-data/instance-type", "routine", "allowed"),
            ("/latest/meta-data/spot/instance-action", "live", "allowed"),
        ],
    },
    User {
        name: "alice",
        uid: 4001,
        exe: "/usr/bin/python3.11",
        unit: "session-3.scope",
        share: 120,
        asks: &[
            (
                "/latest/meta-data/placement/availability-zone",
                "routine",
                "allowed",
            ),
            (ROLE, "credentials", "policy"),
            ("/latest/user-data", "secrets", "default"),
        ],
    },
    User {
        name: "bob",
        uid: 4002,
        exe: "/usr/local/bin/aws",
        unit: "session-11.scope",
        share: 90,
        asks: &[
            ("/latest/meta-data/placement/region", "routine", "allowed"),
            (
                "/latest/meta-data/tags/instance/Name",
                "unclassified",
                "default",
            ),
        ],
    },
    User {
        name: "legacy-batch",
        uid: 2100,
        exe: "/opt/batch/bin/nightly",
        unit: "nightly.service",
        share: 50,
        asks: &[("/latest/meta-data/local-ipv4", "routine", "v1")],
    },
    User {
        name: "mallory",
        uid: 4666,
        exe: "/usr/bin/curl",
        unit: "session-29.scope",
        share: 30,
        asks: &[
            (ROLE, "credentials", "default"),
            (ROLE, "credentials", "token_invalid"),
            ("/latest/user-data", "secrets", "default"),
            ("/latest/meta-data/iam/info", "identity", "limit"),
        ],
    },
    User {
        name: "jupyter-dana",
        uid: 4107,
        exe: "/opt/tljh/user/bin/python3.12",
        unit: "jupyter-dana.service",
        share: 10,
        asks: &[
            (ROLE, "credentials", "observed"),
            (
                "/latest/meta-data/public-keys/0/openssh-key",
                "ssh",
                "allowed",
            ),
        ],
    },
];

/// Numbers that look like chance.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

/// A day of so many records, and where its report goes.
pub(crate) struct Day {
    pub(crate) dir: tempfile::TempDir,
}

impl Day {
    pub(crate) fn new(records: u64) -> Self {
        let day = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        let mut file = BufWriter::new(File::create(day.log()).unwrap());
        write_day(records, &mut file).unwrap();
        file.flush().unwrap();
        day
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.path().join("audit.jsonl")
    }

    pub(crate) fn page(&self) -> PathBuf {
        self.dir.path().join("report.html")
    }

    pub(crate) fn report(&self) -> String {
        let output = report(&self.log(), &["-o", self.page().to_str().unwrap()]);
        assert!(output.status.success(), "{output:?}");
        std::fs::read_to_string(self.page()).unwrap()
    }
}

pub(crate) fn report(log: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_imdsfw"))
        .args(["audit", "report"])
        .args(words)
        .arg(log)
        .output()
        .unwrap()
}

/// Each has the next number, and none is missing.
fn write_day(records: u64, to: &mut impl Write) -> io::Result<()> {
    let mut chance = Chance(7);
    for seq in 1..=records {
        let second = seq * (DAY - 1) / records;
        let record = match event(seq, records) {
            Some((name, detail)) => {
                with_frame(seq, second, json!({ "event": name, "detail": detail }))
            }
            None => request(seq, second, &mut chance),
        };
        writeln!(to, "{record}")?;
    }
    Ok(())
}

/// A few in a day, each at its share of it.
fn event(seq: u64, records: u64) -> Option<(&'static str, Value)> {
    const HASH: &str = "sha256:6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d";
    let events = [
        (
            5,
            "policy.loaded",
            json!({ "from": "reload", "policy": HASH, "rules": 12 }),
        ),
        (
            220,
            "rules.drift",
            json!({ "changed": ["chain output: a rule is missing"],
            "by": [{ "pid": 811, "name": "firewalld" }] }),
        ),
        (221, "rules.restored", json!({ "after_ms": 3 })),
        (
            400,
            "policy.rejected",
            json!({ "errors": ["20-site.toml:4:9: unknown path class"] }),
        ),
        (
            612,
            "bypass.started",
            json!({ "hard": false, "by": 0, "why": "an incident", "until": "2026-11-21T15:00:00Z" }),
        ),
        (
            620,
            "bypass.ended",
            json!({ "hard": false, "why": "revoked" }),
        ),
        (
            640,
            "grant.started",
            json!({ "user": "alice", "paths": ["@role"], "for": "1h" }),
        ),
        (
            700,
            "limit.denials_summarised",
            json!({ "of": "request", "uid": 4666, "reason": "limit",
            "class": "identity", "count": 1200, "first": "2026-11-21T16:00:00Z", "last": "2026-11-21T16:00:01Z" }),
        ),
        (800, "audit.reopened", json!({ "why": "signal" })),
    ];
    let found = events
        .into_iter()
        .find(|(share, _, _)| seq == records * share / 1000 + 1);
    found.map(|(_, name, detail)| (name, detail))
}

fn request(seq: u64, second: u64, chance: &mut Chance) -> String {
    let mut share = chance.below(1000);
    // People work by day, and one of them in a burst.
    let hour = second / 3600;
    let user = loop {
        let user = USERS
            .iter()
            .find(|user| match share.checked_sub(user.share) {
                Some(rest) => {
                    share = rest;
                    false
                }
                None => true,
            });
        let user = user.unwrap_or(&USERS[0]);
        let works = match user.name {
            "alice" | "bob" | "jupyter-dana" => (8..19).contains(&hour),
            "mallory" => hour == 16,
            "legacy-batch" => (2..4).contains(&hour),
            _ => true,
        };
        if works {
            break user;
        }
        share = chance.below(1000);
    };
    let most = u64::try_from(user.asks.len()).unwrap_or(1);
    let at = usize::try_from(chance.below(most)).unwrap_or(0);
    let (path, class, becomes) = user.asks[at];
    let (decision, reason, status) = match becomes {
        "allowed" | "v1" => ("allow", "allowed", 200),
        "observed" => ("allow", "observed", 200),
        "token_invalid" => ("deny", "token_invalid", 401),
        "limit" => ("deny", "limit", 429),
        reason => ("deny", reason, 403),
    };
    let mut record = json!({
        "event": "request", "id": format!("01KAKZ{seq:020}"),
        "verdict": if becomes == "observed" { "deny" } else { decision },
        "decision": decision, "reason": reason,
        "rule": (becomes == "allowed").then(|| format!("{} and its like", user.name)),
        "policy": "sha256:6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "mode": "enforce",
        "caller": { "uid": user.uid, "user": user.name, "gid": user.uid + 100,
            "groups": [user.name], "pid": 1000 + chance.below(30_000), "exe": user.exe,
            "comm": user.exe.rsplit('/').next(), "loginuid": -1, "ses": -1, "unit": user.unit,
            "address": format!("10.0.0.5:{}", 32_768 + chance.below(20_000)) },
        "request": { "method": "GET", "path": path, "class": class,
            "imds": if becomes == "v1" { "v1" } else { "v2" }, "user_agent": "client/1.0" },
        "status": status, "bytes": 179, "latency_us": 60 + chance.below(400),
    });
    match becomes {
        "token_invalid" => record["detail"] = "other_uid".into(),
        "limit" => record["detail"] = "connections".into(),
        "observed" => record["detail"] = "default".into(),
        _ => {}
    }
    if class == "credentials" && decision == "allow" {
        // A new key each six hours.
        let turn = hour / 6;
        record["credential"] = json!({ "access_key_id": format!("ASIAQ3EGW7EXAMPLE{turn:03}"),
            "role": "web-tier", "expiration": time(turn * 21_600 + 43_200) });
    }
    with_frame(seq, second, record)
}

fn time(second: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_secs(BEGIN + second);
    humantime::format_rfc3339_micros(at).to_string()
}

/// In the order of a log.
fn with_frame(seq: u64, second: u64, mut record: Value) -> String {
    let boot = if second < 30_000 {
        "8d1f0c1e"
    } else {
        "41c9aa02"
    };
    record["version"] = "0.1.0".into();
    record["host"] = json!({ "name": "login-1", "machine_id": "1f6b", "boot_id": boot,
        "instance_id": "i-0abc12de34f567890", "account": "123456789012", "region": "eu-central-1" });
    let rest = record.to_string();
    let rest = rest.trim_start_matches('{');
    format!(
        "{{\"schema\":1,\"seq\":{seq},\"time\":\"{}\",{rest}",
        time(second)
    )
}
