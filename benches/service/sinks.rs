//! What it costs that others get the records too, or fetch the numbers: each
//! sink beside the log, and metrics, against the log alone. Who receives runs
//! on the same machine, and is part of what is measured.

use std::fs::{self, Permissions};
use std::io::{Read, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::Args;
use crate::contenders::Running;
use crate::meter;
use crate::table::{Table, cell, median};
use crate::teams;
use crate::wrk::{Load, Persistence, load};

/// What stands beside the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Metrics,
    Stdout,
    Journald,
    Syslog,
    SyslogTcp,
    Ocsf,
    Denials,
    Stream,
}

const ALL: [Beside; 9] = [
    Beside::Nothing,
    Beside::Metrics,
    Beside::Stdout,
    Beside::Journald,
    Beside::Syslog,
    Beside::SyslogTcp,
    Beside::Ocsf,
    Beside::Denials,
    Beside::Stream,
];

const CONNECTIONS: usize = 16;
const TCP: &str = "127.0.0.1:6514";
const METRICS: &str = "127.0.0.1:9253";

impl Beside {
    fn name(self) -> &'static str {
        match self {
            Self::Nothing => "the log alone",
            Self::Metrics => "metrics, fetched each second",
            Self::Stdout => "stdout, to /dev/null",
            Self::Journald => "journald",
            Self::Syslog => "syslog, local",
            Self::SyslogTcp => "syslog, TCP",
            Self::Ocsf => "syslog, TCP, OCSF",
            Self::Denials => "syslog, TCP, routine summarised",
            Self::Stream => "stream, one follower",
        }
    }

    fn config(self, dir: &Path) -> String {
        let sink = |text: &str| format!("audit.sink = [ {{ {text} }} ]");
        let tcp = format!("kind = \"syslog\", address = \"{TCP}\"");
        match self {
            Self::Nothing => String::new(),
            Self::Metrics => format!("metrics.listen = \"{METRICS}\""),
            Self::Stdout => sink("kind = \"stdout\""),
            Self::Journald => sink(&format!("kind = \"journald\", path = {:?}", at(dir))),
            Self::Syslog => sink(&format!("kind = \"syslog\", path = {:?}", at(dir))),
            Self::SyslogTcp => sink(&tcp),
            Self::Ocsf => sink(&format!("{tcp}, format = \"ocsf\"")),
            Self::Denials => sink(&format!("{tcp}, summarise = \"60s\"")),
            Self::Stream => sink(&format!("kind = \"stream\", path = {:?}", at(dir))),
        }
    }

    /// Whoever waits for the daemon.
    fn receive(self, dir: &Path) {
        match self {
            Self::Journald | Self::Syslog => {
                let socket = UnixDatagram::bind(at(dir)).unwrap();
                fs::set_permissions(at(dir), Permissions::from_mode(0o666)).unwrap();
                thread::spawn(move || {
                    let mut bytes = vec![0; 1 << 16];
                    while socket.recv(&mut bytes).is_ok() {}
                });
            }
            Self::SyslogTcp | Self::Ocsf | Self::Denials => {
                let listener = TcpListener::bind(TCP).unwrap();
                thread::spawn(move || {
                    for stream in listener.incoming().flatten() {
                        thread::spawn(|| drain(stream));
                    }
                });
            }
            Self::Nothing | Self::Metrics | Self::Stdout | Self::Stream => {}
        }
    }

    /// Whoever comes to it.
    fn come(self, dir: &Path) {
        match self {
            Self::Metrics => {
                thread::spawn(|| {
                    while let Ok(mut stream) = TcpStream::connect(METRICS) {
                        let asked = stream.write_all(
                            b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
                        );
                        let mut page = String::new();
                        let read = asked.and_then(|()| stream.read_to_string(&mut page));
                        assert!(read.is_err() || page.starts_with("HTTP/1.1 200"), "{page}");
                        thread::sleep(Duration::from_secs(1));
                    }
                });
            }
            Self::Stream => {
                let stream = UnixStream::connect(at(dir)).unwrap();
                thread::spawn(move || drain(stream));
            }
            _ => {}
        }
    }
}

fn at(dir: &Path) -> std::path::PathBuf {
    dir.join("socket")
}

fn drain(mut stream: impl Read) {
    let mut bytes = vec![0; 1 << 16];
    while stream.read(&mut bytes).is_ok_and(|len| len > 0) {}
}

struct Sample {
    load: Load,
    cpu_us: f64,
}

type Team = teams::Team<Persistence, Sample>;

fn team(beside: Beside, time: Duration) -> Team {
    Team::new(move |net, turns| {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        beside.receive(dir.path());
        let stdout = match beside {
            Beside::Stdout => Stdio::null(),
            _ => Stdio::inherit(),
        };
        let config = format!("memory.enabled = false\n{}", beside.config(dir.path()));
        let running = Running::forwarding(net, &config, stdout);
        beside.come(dir.path());
        let processes = running.processes();
        turns.serve(|persistence| {
            let before = meter::processor_time(&processes);
            let load = load(&running, CONNECTIONS, persistence, time);
            let cpu = meter::processor_time(&processes) - before;
            let cpu_us = cpu.as_secs_f64() * 1e6 / load.requests;
            Sample { load, cpu_us }
        });
    })
}

pub(crate) fn run(args: &Args) -> Value {
    let teams = ALL.map(|beside| team(beside, args.turn));
    let mut figures = Vec::new();
    for persistence in [Persistence::Close, Persistence::KeepAlive] {
        let rounds = args.rounds(|| teams.each_ref().map(|team| team.take(persistence)));
        let title = format!("beside the log, {}", persistence.name());
        let mut table = Table::new(title, &["req/s", "to the log alone", "cpu µs"]);
        for (at, beside) in ALL.into_iter().enumerate() {
            let of = |figure: &dyn Fn(&[Sample]) -> f64| {
                median(rounds.iter().map(|round| figure(round)))
            };
            let per_second = of(&|round| round[at].load.per_second);
            let ratio = of(&|round| round[at].load.per_second / round[0].load.per_second);
            let cpu_us = of(&|round| round[at].cpu_us);
            table.row(
                beside.name(),
                [cell(per_second, 0), cell(ratio, 2), cell(cpu_us, 1)],
            );
            figures.push(json!({
                "beside": beside.name(),
                "persistence": persistence.name(),
                "requests_per_second": per_second,
                "to_the_log_alone": ratio,
                "cpu_us_per_request": cpu_us,
            }));
        }
        table.print();
    }
    Value::Array(figures)
}
