//! deploy/fleet: what is shipped there is taken by the programs that it is
//! for, and brings the records to where they are asked about.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::common::host::wait_for;
use crate::common::net::in_network;
use crate::desk::installed;

fn deploy(path: &str) -> PathBuf {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    deploy.join(path)
}

fn run(command: &mut Command) -> Output {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}; run `.ci/setup tests`"));
    assert!(output.status.success(), "{command:?}: {output:?}");
    output
}

fn records(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A program that ends when it is told to.
struct Service(Child);

impl Service {
    fn start(command: &mut Command) -> Self {
        Self(command.spawn().unwrap())
    }

    fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let pid = Pid::from_raw(i32::try_from(self.0.id()).unwrap());
        let _ = kill(pid, Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.end();
    }
}

/// rsyslogd with a shipped file whose paths and addresses are the test's.
struct Rsyslog {
    dir: PathBuf,
    config: PathBuf,
}

impl Rsyslog {
    fn new(dir: &Path, name: &str) -> Self {
        let own = dir.join(name);
        fs::create_dir(&own).unwrap();
        let shipped = fs::read_to_string(deploy(&format!("fleet/rsyslog/{name}.conf"))).unwrap();
        let mut text = format!("global(workDirectory=\"{}\")\n", own.display());
        text += &shipped
            .replace("/var/log/", &format!("{}/", dir.display()))
            .replace("collector.example.net", "127.0.0.1");
        let config = own.join("rsyslog.conf");
        fs::write(&config, text).unwrap();
        run(Command::new("rsyslogd").arg("-N1").arg("-f").arg(&config));
        Self { dir: own, config }
    }

    fn start(&self) -> Service {
        let mut command = Command::new("rsyslogd");
        command.arg("-n").arg("-f").arg(&self.config).arg("-i");
        command.arg(self.dir.join("pid")).stderr(Stdio::null());
        Service::start(&mut command)
    }
}

#[test]
fn rsyslog_brings_every_line_also_while_the_collector_is_away() {
    in_network(|_| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::create_dir(dir.join("imdsfw")).unwrap();
        let log = dir.join("imdsfw/audit.jsonl");
        let example = fs::read_to_string(deploy("schema/examples.jsonl")).unwrap();
        let write = |from: usize, to: usize| {
            let mut file = fs::File::options()
                .create(true)
                .append(true)
                .open(&log)
                .unwrap();
            let mut lines = example.lines().cycle();
            for number in from..to {
                let line = lines.next().unwrap().split_once(",\"time\"").unwrap().1;
                writeln!(file, "{{\"schema\":1,\"seq\":{number},\"time\"{line}").unwrap();
            }
        };
        let arrived = |count: usize| {
            wait_for("the lines at the collector", || {
                let mut hosts = fs::read_dir(dir.join("imdsfw-fleet")).ok()?;
                let lines = records(&hosts.next()?.unwrap().path().join("audit.jsonl"));
                (lines.len() >= count).then_some(lines)
            })
        };
        write(0, 100);
        let collector = Rsyslog::new(dir, "collector");
        let host = Rsyslog::new(dir, "host");
        let (collecting, sending) = (collector.start(), host.start());
        arrived(100);
        collecting.stop();
        write(100, 4000);
        wait_for("a queue on disk", || {
            let mut files = fs::read_dir(&host.dir).unwrap();
            let is_queue = files.any(|it| {
                let name = it.unwrap().file_name();
                name.to_str().unwrap().starts_with("imdsfw.0")
            });
            is_queue.then_some(())
        });
        // Rotated meanwhile.
        fs::rename(&log, dir.join("imdsfw/audit.jsonl.1")).unwrap();
        write(4000, 4100);
        let collecting = collector.start();
        let lines = arrived(4100);
        sending.stop();
        collecting.stop();
        // RELP may bring a line twice, and never not at all.
        let mut written = records(&dir.join("imdsfw/audit.jsonl.1"));
        written.extend(records(&log));
        for line in &written {
            assert!(lines.contains(line), "{line}");
        }
    });
}

/// From one journal to the other, by systemd's own programs.
#[test]
fn journals_are_uploaded_whole() {
    in_network(|_| {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        let (sent, received) = (dir.join("sent"), dir.join("received"));
        fs::create_dir(&sent).unwrap();
        fs::create_dir(&received).unwrap();
        let lines = records(&deploy("schema/examples.jsonl"));
        let mut export = String::new();
        for (number, line) in lines.iter().enumerate() {
            let time = 1_795_297_200_000_000 + number;
            export += &format!(
                "__REALTIME_TIMESTAMP={time}\n__MONOTONIC_TIMESTAMP={number}\n\
                 _BOOT_ID=0c7a5d3e94a04f0e8d3c2f6b1a9e7d54\nSYSLOG_IDENTIFIER=imdsfw\n\
                 MESSAGE={line}\n\n"
            );
        }
        fs::write(dir.join("export"), export).unwrap();
        let remote = "/lib/systemd/systemd-journal-remote";
        run(Command::new(remote)
            .arg("--split-mode=none")
            .arg(format!("--output={}/host.journal", sent.display()))
            .arg(dir.join("export")));
        let mut command = Command::new(remote);
        command.args(["--listen-http=127.0.0.1:19532", "--split-mode=host"]);
        command.arg(format!("--output={}", received.display()));
        let _remote = Service::start(&mut command);
        let mut command = Command::new("/lib/systemd/systemd-journal-upload");
        command.arg("--url=http://127.0.0.1:19532");
        command.arg(format!("--directory={}", sent.display()));
        command.arg(format!("--save-state={}/state", dir.display()));
        command.stderr(Stdio::null());
        wait_for("the port", || {
            std::net::TcpStream::connect("127.0.0.1:19532").ok()
        });
        let _upload = Service::start(&mut command);
        wait_for("the journal at the collector", || {
            let output = Command::new("journalctl")
                .arg(format!("--directory={}", received.display()))
                .args(["--output=cat", "--quiet", "--all"])
                .output()
                .unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            (text.lines().collect::<Vec<_>>() == lines).then_some(())
        });
    });
}

/// The keys are those that systemd's manual names.
#[test]
fn the_files_for_the_journal_have_keys_that_there_are() {
    let known = [
        "URL",
        "ServerKeyFile",
        "ServerCertificateFile",
        "TrustedCertificateFile",
        "SplitMode",
        "Seal",
        "MaxUse",
        "KeepFree",
        "MaxFileSize",
        "MaxFiles",
        "NetworkTimeoutSec",
    ];
    for (file, section) in [("upload", "[Upload]"), ("remote", "[Remote]")] {
        let text = fs::read_to_string(deploy(&format!("fleet/journal/{file}.conf"))).unwrap();
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        assert_eq!(lines.next(), Some(section));
        for line in lines {
            let key = line.split('=').next().unwrap();
            assert!(known.contains(&key), "{line}");
        }
    }
}

/// Vector itself is in no registry of Debian's: its file is TOML, and each
/// part takes in what there is, and sends to the table that there is.
#[test]
fn the_parts_of_the_file_for_vector_hang_together() {
    let text = fs::read_to_string(deploy("fleet/vector/vector.toml")).unwrap();
    let config: toml::Table = toml::from_str(&text).unwrap();
    let parts = |kind: &str| config[kind].as_table().unwrap().clone();
    let mut names: Vec<String> = parts("sources").keys().cloned().collect();
    names.extend(parts("transforms").keys().cloned());
    for kind in ["transforms", "sinks"] {
        for (name, part) in parts(kind) {
            for input in part["inputs"].as_array().unwrap() {
                let input = input.as_str().unwrap();
                assert!(names.iter().any(|it| it == input), "{name}: {input}");
            }
        }
    }
    let sink = &parts("sinks")["clickhouse"];
    let table = format!(
        "CREATE TABLE IF NOT EXISTS {}.{} (line String)",
        sink["database"].as_str().unwrap(),
        sink["table"].as_str().unwrap()
    );
    let sql = fs::read_to_string(deploy("fleet/clickhouse/table.sql")).unwrap();
    assert!(sql.contains(&table), "{table}");
    assert!(text.contains("{ \\\"line\\\": string!(.message) }"));
}

/// ClickHouse in a process; the incident is the one that fleet/generate.sql
/// plants among what everybody does.
#[test]
fn clickhouse_answers_the_ten_questions() {
    let dir = tempfile::tempdir().unwrap();
    let foreign = dir.path().join("foreign.jsonl");
    fs::write(
        &foreign,
        "no record\n{\"event\":\"request\",\"time\":\"today\"}\n",
    )
    .unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/fleet/ask.py");
    let output = run(Command::new(installed().join("fleet-venv/bin/python3"))
        .arg(script)
        .arg(deploy("fleet/clickhouse"))
        .arg("60000")
        .arg(deploy("schema/examples.jsonl"))
        .arg(&foreign));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let examples = records(&deploy("schema/examples.jsonl"));
    // Five of one host are missing.
    let all = 60_000 - 5 + examples.len();
    assert_eq!(found["records"], all);
    assert_eq!(found["rejected"].as_array().unwrap().len(), 2);
    let kinds = found["of_examples"].as_array().unwrap();
    let schema = fs::read_to_string(deploy("schema/record.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let events = schema["properties"]["event"]["enum"].as_array().unwrap();
    assert_eq!(kinds.len(), events.len());

    let answers = found["answers"].as_array().unwrap();
    assert_eq!(answers.len(), 10);
    let column = |question: usize, name: &str| -> Vec<&Value> {
        let rows = answers[question - 1].as_array().unwrap();
        rows.iter().map(|row| &row[name]).collect()
    };
    let host = |number: u32| format!("i-{number:017x}");
    assert_eq!(column(1, "host"), [&host(15), &host(16)]);
    assert_eq!(column(1, "user"), ["root", "root"]);
    assert_eq!(column(2, "user"), ["mallory", "alice"]);
    assert_eq!(column(3, "exe"), ["/var/tmp/x"]);
    assert_eq!(column(4, "user"), ["mallory"]);
    assert_eq!(column(4, "rule"), ["01M8083Y356JGRANT000000001"]);
    assert_eq!(column(5, "times"), [3]);
    assert_eq!(column(5, "host"), [&host(12)]);
    assert_eq!(column(6, "host"), [&host(13)]);
    assert_eq!(column(6, "by")[0], &serde_json::json!(["nft"]));
    assert_eq!(column(6, "open_seconds_at_most"), [0.03125]);
    let programs = column(7, "exe");
    assert!(programs.len() > 10 && programs.iter().all(|it| *it == "/opt/legacy/agent"));
    assert_eq!(column(8, "kind"), ["grant", "lockdown", "bypass"]);
    assert_eq!(column(8, "passed"), [1, 1, 1]);
    assert_eq!(column(9, "host"), [&host(7), &host(8)]);
    assert_eq!(column(9, "missing"), [5, 0]);
    assert_eq!(column(9, "said_lost"), [0, 12]);
    assert_eq!(column(10, "access_key_id"), ["ASIASHAREDSHARED0000"]);
    assert_eq!(column(10, "how_many"), [2]);
}
