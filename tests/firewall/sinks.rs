//! Sinks beside the log, inside the real daemon's sandbox: each gets what it
//! asks for, and none holds the log or another.

mod hostile;
mod rsyslog;

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::common::again::again;
use crate::common::host::{Host, Running, Setup, wait_for};
use crate::common::http::{V4, connect, get, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT};
use crate::log_file::Ends;

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const USER_DATA: &str = "/latest/user-data";

/// A socket that takes datagrams of everybody.
fn datagrams(path: &Path) -> UnixDatagram {
    let _ = fs::remove_file(path);
    let socket = UnixDatagram::bind(path).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    socket
}

fn receive(socket: &UnixDatagram) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 18];
    let len = again(|| socket.recv(&mut bytes)).unwrap();
    bytes.truncate(len);
    bytes
}

/// The fields of a datagram to the journal, those with a length left out.
fn field(entry: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(entry).into_owned();
    let prefix = format!("{name}=");
    let found = text.lines().find_map(|line| line.strip_prefix(&prefix));
    found.map(str::to_owned)
}

/// Messages with octet counting, as they arrive on all connections.
struct Receiver {
    messages: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    fn listen(listener: TcpListener) -> Self {
        let messages = Arc::new(Mutex::new(Vec::new()));
        let taken = Arc::clone(&messages);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let taken = Arc::clone(&taken);
                std::thread::spawn(move || read_counted(stream, &taken));
            }
        });
        Self { messages }
    }

    fn seqs(&self) -> BTreeSet<u64> {
        let messages = self.messages.lock().unwrap();
        let seq = |message: &String| {
            let (_, json) = message.split_once("] {").unwrap();
            let record: Value = serde_json::from_str(&format!("{{{json}")).unwrap();
            record["seq"].as_u64().unwrap()
        };
        messages.iter().map(seq).collect()
    }
}

fn read_counted(stream: TcpStream, taken: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let mut length = Vec::new();
        reader.read_until(b' ', &mut length).ok()?;
        let length = String::from_utf8(length).ok()?;
        let length: usize = length.trim_end().parse().ok()?;
        let mut message = vec![0; length];
        reader.read_exact(&mut message).ok()?;
        taken
            .lock()
            .unwrap()
            .push(String::from_utf8(message).unwrap());
    }
}

fn seqs(records: &[Value]) -> BTreeSet<u64> {
    records
        .iter()
        .map(|it| it["seq"].as_u64().unwrap())
        .collect()
}

#[test]
fn every_kind_of_sink_gets_the_records_of_the_log() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let journal = datagrams(&host.path("journal"));
        let dev_log = datagrams(&host.path("dev-log"));
        let ocsf = datagrams(&host.path("ocsf"));
        let listener = TcpListener::bind("127.0.0.1:6514").unwrap();
        let stream = host.path("audit.sock");
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"journald\", path = {:?} }},\n\
             {{ kind = \"syslog\", path = {:?} }},\n\
             {{ kind = \"syslog\", name = \"ocsf\", path = {:?}, format = \"ocsf\",\n\
                events = [\"request\"], decisions = [\"deny\"] }},\n\
             {{ kind = \"syslog\", name = \"siem\", address = \"127.0.0.1:6514\" }},\n\
             {{ kind = \"stream\", path = {stream:?} }} ]",
            host.path("journal"),
            host.path("dev-log"),
            host.path("ocsf"),
        ));
        let receiver = Receiver::listen(listener);
        host.run("rules apply");
        host.start_daemon();
        // Nobody but root follows.
        let mode = fs::metadata(&stream).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let mut alice = Command::new("python3");
        let script = "import socket,sys; s=socket.socket(socket.AF_UNIX); s.connect(sys.argv[1])";
        alice
            .args(["-Ic", script])
            .arg(&stream)
            .uid(ALICE.uid)
            .gid(ALICE.gid);
        let refused = alice.output().unwrap();
        assert!(
            String::from_utf8_lossy(&refused.stderr).contains("Permission"),
            "{refused:?}"
        );
        let follower = UnixStream::connect(&stream).unwrap();
        follower
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut followed = BufReader::new(follower).lines();
        // Accepted by the time that it gets a record; until then, more come.
        let own = token(ALICE, V4, 60);
        assert_eq!(get(ALICE, V4, CREDENTIALS, Some(&own)).status, 403);
        get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60)));
        let records = host.records(4);
        let denied = records.iter().find(|it| it["status"] == 403).unwrap();

        let entry = loop {
            let entry = receive(&journal);
            if field(&entry, "IMDSFW_ID").as_deref() == denied["id"].as_str() {
                break entry;
            }
        };
        for (name, value) in [
            ("IMDSFW_UID", "4001"),
            ("IMDSFW_USER", "alice"),
            ("IMDSFW_DECISION", "deny"),
            ("IMDSFW_REASON", denied["reason"].as_str().unwrap()),
            ("IMDSFW_PATH", CREDENTIALS),
            ("IMDSFW_CLASS", "credentials"),
            ("IMDSFW_STATUS", "403"),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "imdsfw"),
        ] {
            assert_eq!(field(&entry, name).as_deref(), Some(value), "{name}");
        }
        let message = field(&entry, "MESSAGE").unwrap();
        assert!(
            message.contains("deny") && message.contains("alice"),
            "{message}"
        );
        let whole: Value = serde_json::from_str(&field(&entry, "IMDSFW_RECORD").unwrap()).unwrap();
        assert_eq!(&whole, denied);

        let id = denied["id"].as_str().unwrap();
        let message = loop {
            let message = String::from_utf8(receive(&dev_log)).unwrap();
            if message.contains(id) {
                break message;
            }
        };
        assert!(message.starts_with("<84>1 2"), "{message}");
        assert!(message.contains(" imdsfw ") && message.contains(" request [imdsfw@32473 seq="));
        // Its filter lets nothing else through.
        let event = String::from_utf8(receive(&ocsf)).unwrap();
        let (_, event) = event.split_once("] ").unwrap();
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(event["class_uid"], 6003);
        assert_eq!(event["metadata"]["uid"], denied["id"]);
        assert_eq!(event["actor"]["user"]["uid"], "4001");
        wait_for("all by TCP", || {
            seqs(&host.audit())
                .is_subset(&receiver.seqs())
                .then_some(())
        });
        let line = loop {
            let line = followed.next().unwrap().unwrap();
            if line.contains(id) {
                break line;
            }
        };
        assert_eq!(&serde_json::from_str::<Value>(&line).unwrap(), denied);
        host.stop_daemon();
    });
}

#[test]
fn a_dead_sink_holds_nobody_and_gets_what_it_missed() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let path = host.path("journal");
        let journal = datagrams(&path);
        let listener = TcpListener::bind("127.0.0.1:6514").unwrap();
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"journald\", path = {path:?} }},\n\
             {{ kind = \"syslog\", name = \"siem\", address = \"127.0.0.1:6514\" }} ]",
        ));
        let receiver = Receiver::listen(listener);
        host.run("rules apply");
        host.start_daemon();
        drop(journal);
        let token = token(ROOT, V4, 60);
        for _ in 0..20 {
            assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
        }
        wait_for("the event", || {
            let failing = host.events("audit.failing");
            (failing.first()?["detail"]["sink"] == "journald").then_some(())
        });
        wait_for("the other sink", || {
            seqs(&host.audit())
                .is_subset(&receiver.seqs())
                .then_some(())
        });
        let journal = datagrams(&path);
        wait_for("recovery", || {
            let recovered = host.events("audit.recovered");
            let detail = &recovered.first()?["detail"];
            (detail["sink"] == "journald" && detail["lost"] == 0).then_some(())
        });
        let handed: BTreeSet<_> = host
            .audit()
            .iter()
            .filter(|it| it.get("credential").is_some())
            .map(|it| it["seq"].as_u64().unwrap())
            .collect();
        assert_eq!(handed.len(), 20);
        let mut got = BTreeSet::new();
        while !handed.is_subset(&got) {
            let entry = receive(&journal);
            got.insert(field(&entry, "IMDSFW_SEQ").unwrap().parse().unwrap());
        }
        host.stop_daemon();
    });
}

/// What is recorded of a sink goes to it as well, and must not be all there is.
#[test]
fn a_sink_that_comes_and_goes_is_not_recorded_each_time() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let path = host.path("journal");
        let mut journal = datagrams(&path);
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"journald\", path = {path:?} }} ]"
        ));
        host.run("rules apply");
        host.start_daemon();
        for round in 0..4 {
            drop(journal);
            // The daemon's socket leads to the one that is gone.
            assert_eq!(get(ROOT, V4, AMI, None).status, 401);
            let last = host.records(round + 1).pop().unwrap();
            if round == 0 {
                wait_for("the event", || host.events("audit.failing").pop());
            }
            journal = datagrams(&path);
            while field(&receive(&journal), "IMDSFW_ID").as_deref() != last["id"].as_str() {}
            if round == 0 {
                wait_for("recovery", || host.events("audit.recovered").pop());
            }
        }
        host.stop_daemon();
        assert_eq!(host.events("audit.failing").len(), 1);
        assert_eq!(host.events("audit.recovered").len(), 1);
    });
}

#[test]
fn a_policy_with_thousands_of_faults_is_one_record_that_sinks_take() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let path = host.path("dev-log");
        let dev_log = datagrams(&path);
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"syslog\", path = {path:?} }} ]"
        ));
        host.run("rules apply");
        host.start_daemon();
        let faults = (0..3000).map(|at| format!("wrong-{at} = 1\n"));
        host.write_policy(&format!("schema = 1\n{}", faults.collect::<String>()));
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        let rejected = wait_for("the event", || host.events("policy.rejected").pop());
        let detail = &rejected["detail"];
        assert_eq!(detail["errors"].as_array().unwrap().len(), 64);
        assert_eq!(detail["errors_omitted"], 3000 - 64);
        let message = loop {
            let message = String::from_utf8(receive(&dev_log)).unwrap();
            if message.contains(" policy.rejected [") {
                break message;
            }
        };
        assert!(message.len() < 64 * 1024 && message.contains("wrong-63"));
        host.stop_daemon();
    });
}

/// A receiver that takes something and closes, again and again.
#[test]
fn a_receiver_that_ends_each_connection_is_failing_and_not_flooded() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.write_config(
            "audit.sink = [ { kind = \"syslog\", name = \"siem\", address = \"127.0.0.1:6514\" } ]",
        );
        let listener = TcpListener::bind("127.0.0.1:6514").unwrap();
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut bytes = vec![0; 1 << 16];
                let mut stream = stream.unwrap();
                let len = again(|| stream.read(&mut bytes)).unwrap();
                bytes.truncate(len);
                if tell.send(String::from_utf8(bytes).unwrap()).is_err() {
                    return;
                }
            }
        });
        host.run("rules apply");
        host.start_daemon();
        let failing = wait_for("the event", || host.events("audit.failing").pop());
        assert_eq!(failing["detail"]["sink"], "siem");
        let error = failing["detail"]["error"].as_str().unwrap();
        assert!(error.contains("ends each connection soon"), "{error}");
        // It gets what was recorded all the same: also of its own failing.
        let mut all = String::new();
        while !all.contains(" audit.failing [") {
            all.push_str(&told.recv_timeout(Duration::from_secs(20)).unwrap());
        }
        assert!(all.contains(" daemon.started ["));
        host.stop_daemon();
        assert_eq!(host.events("audit.failing").len(), 1);
    });
}

/// Records of a user who asks as fast as can be.
fn flood(count: usize) {
    let own = token(ALICE, V4, 600);
    let mut stream = connect(ALICE, V4);
    let get = request("GET", V4, AMI, Some(&own), "keep-alive");
    for _ in 0..count {
        stream.write_all(get.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 200);
    }
}

#[test]
fn a_follower_who_does_not_read_misses_records_and_is_told_how_many() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let path = host.path("audit.sock");
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"stream\", path = {path:?}, queue = \"64KiB\" }} ]"
        ));
        host.run("rules apply");
        host.start_daemon();
        let follower = UnixStream::connect(&path).unwrap();
        let mut followed = BufReader::new(follower);
        let mut first = String::new();
        token(ALICE, V4, 60);
        followed.read_line(&mut first).unwrap();
        flood(1500);
        host.records(1500);
        // Now it reads.
        let (mut seen, mut lost) = (1, 0);
        let total = host.audit().len();
        let until = wait_for("the count", || {
            let mut line = String::new();
            followed.read_line(&mut line).unwrap();
            let record: Value = serde_json::from_str(&line).unwrap();
            if record["event"] == "audit.lost" && record["seq"].is_null() {
                lost += record["detail"]["records"].as_u64().unwrap();
                return Some(seen);
            }
            seen += 1;
            None
        });
        assert!(lost > 0 && until + usize::try_from(lost).unwrap() <= total);
        host.stop_daemon();
        // Nor did the log: at most the sink itself, ahead of its followers.
        let lost = host.events("audit.lost");
        assert!(
            lost.iter().all(|it| it["detail"]["sink"] != "file"),
            "{lost:?}"
        );
    });
}

#[test]
fn routine_reads_come_as_counts_where_that_is_asked_for() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let path = host.path("journal");
        let journal = datagrams(&path);
        host.write_config(&format!(
            "audit.sink = [ {{ kind = \"journald\", path = {path:?}, summarise = \"1s\" }} ]"
        ));
        host.run("rules apply");
        host.start_daemon();
        flood(10);
        let own = token(ALICE, V4, 60);
        assert_eq!(get(ALICE, V4, USER_DATA, Some(&own)).status, 403);
        let (mut counted, mut denied) = (0, false);
        while counted < 12 || !denied {
            let entry = receive(&journal);
            let record = field(&entry, "IMDSFW_RECORD").unwrap();
            let record: Value = serde_json::from_str(&record).unwrap();
            match record["event"].as_str().unwrap() {
                "audit.summary" => {
                    let detail = &record["detail"];
                    counted += detail["records"].as_u64().unwrap();
                    assert_eq!(detail["by"][0]["uid"], 4001);
                    assert_eq!(record["seq"], Value::Null);
                }
                "request" => {
                    assert_eq!(record["status"], 403);
                    denied = true;
                }
                _ => {}
            }
        }
        assert_eq!(counted, 12, "two tokens and ten reads");
        host.stop_daemon();
        assert_eq!(host.events("audit.summary").len(), 0, "in no log");
        host.run("audit verify");
    });
}

/// A receiver over TCP that is stopped and started again loses nothing.
#[test]
fn what_is_recorded_while_a_receiver_is_away_reaches_it_later() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.write_config(
            "audit.sink = [ { kind = \"syslog\", name = \"siem\", address = \"127.0.0.1:6514\" } ]",
        );
        // A process, so that its end is one.
        let taken = host.path("taken");
        let script = "
import socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 6514)); s.listen(); print(flush=True)
c, _ = s.accept()
out = open(sys.argv[1], 'ab', 0)
while True:
    out.write(c.recv(65536))
";
        let start = || {
            let mut python = Command::new("python3");
            python.args(["-c", script]).arg(&taken);
            let mut child = python.stdout(Stdio::piped()).spawn().unwrap();
            // It listens.
            child.stdout.take().unwrap().read_exact(&mut [0]).unwrap();
            child
        };
        let mut receiver = start();
        host.run("rules apply");
        host.start_daemon();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    flood(20);
                }
            });
            wait_for("some to arrive", || {
                (fs::metadata(&taken).ok()?.len() > 50_000).then_some(())
            });
            receiver.kill().unwrap();
            receiver.wait().unwrap();
            wait_for("the event", || {
                (!host.events("audit.failing").is_empty()).then_some(())
            });
            receiver = start();
            wait_for("recovery", || {
                (!host.events("audit.recovered").is_empty()).then_some(())
            });
        });
        host.stop_daemon();
        let all = seqs(&host.audit());
        wait_for("all to arrive", || {
            let text = fs::read(&taken).unwrap();
            let text = String::from_utf8_lossy(&text);
            let got: BTreeSet<u64> = text
                .split("[imdsfw@32473 seq=\"")
                .skip(1)
                .filter_map(|rest| rest.split('"').next()?.parse().ok())
                .collect();
            all.is_subset(&got).then_some(())
        });
        receiver.kill().unwrap();
        receiver.wait().unwrap();
    });
}

/// The journal itself, in a mount namespace of the test's own.
#[test]
fn the_real_journal_finds_records_by_their_fields() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let none: Option<&str> = None;
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).unwrap();
        fs::create_dir_all("/run/systemd/journal").unwrap();
        fs::create_dir_all("/run/log/journal").unwrap();
        let mut journald = Command::new("/lib/systemd/systemd-journald");
        journald.stdout(Stdio::null()).stderr(Stdio::null());
        let journald = Running(journald.spawn().expect("systemd"));
        wait_for("the journal", || {
            fs::exists("/run/systemd/journal/socket")
                .unwrap()
                .then_some(())
        });
        host.write_config("audit.sink = [ { kind = \"journald\" } ]");
        host.run("rules apply");
        host.start_daemon();
        let own = token(ALICE, V4, 60);
        assert_eq!(get(ALICE, V4, CREDENTIALS, Some(&own)).status, 403);
        host.stop_daemon();
        let log = host.audit();
        let entries = |field: &str| -> Vec<Value> {
            let mut journalctl = Command::new("journalctl");
            journalctl.args(["-D", "/run/log/journal", "-o", "json", field]);
            // The kernel's own log may speak of imdsfw too.
            journalctl.arg("_TRANSPORT=journal");
            let output = journalctl.output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        let all = wait_for("all of them", || {
            let entries = entries("SYSLOG_IDENTIFIER=imdsfw");
            (entries.len() == log.len()).then_some(entries)
        });
        for (entry, record) in all.iter().zip(&log) {
            let whole = entry["IMDSFW_RECORD"].as_str().unwrap();
            assert_eq!(&serde_json::from_str::<Value>(whole).unwrap(), record);
        }
        let denied = entries("IMDSFW_DECISION=deny");
        assert_eq!(denied.len(), 1);
        assert_eq!(denied[0]["IMDSFW_UID"], "4001");
        assert_eq!(denied[0]["IMDSFW_PATH"], CREDENTIALS);
        assert_eq!(entries("IMDSFW_UID=4001").len(), 2);
        assert_eq!(entries("IMDSFW_UID=0").len(), 0);
        drop(journald);
    });
}
