//! What one user's load does to another user's resolve, `[limits]` on at their
//! defaults. What is meant to be shared out is the firewall and the service;
//! the processors of the host are not, so a busy loop shows what the load's
//! own use of them does.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::Args;
use crate::client::resolve;
use crate::common::http::{V4, token};
use crate::common::user::ALICE;
use crate::contenders::PATH;
use crate::hosts::{add_accounts, client, prepared, start};
use crate::table::{Table, Times, cell, median};
use crate::teams;

/// A listing, which is never answered from memory.
const LISTING: &str = "/latest/meta-data/";
/// Who resolve, in turn: one user may have 120 tokens a minute.
const USERS: u32 = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    Quiet,
    Memory,
    Service,
    Connections,
    All,
    BusyLoops,
}

const LOADS: [Load; 6] = [
    Load::Quiet,
    Load::Memory,
    Load::Service,
    Load::Connections,
    Load::All,
    Load::BusyLoops,
];

impl Load {
    fn name(self) -> &'static str {
        match self {
            Self::Quiet => "quiet",
            Self::Memory => "requests answered from memory",
            Self::Service => "requests to the service",
            Self::Connections => "new connections",
            Self::All => "all three",
            Self::BusyLoops => "three busy loops, no request",
        }
    }

    fn start(self, token: &str) -> Hammer {
        let memory = || wrk(PATH, token, &[]);
        let service = || wrk(LISTING, token, &[]);
        let connections = || wrk(PATH, token, &["-H", "Connection: close"]);
        Hammer(match self {
            Self::Quiet => Vec::new(),
            Self::Memory => vec![memory()],
            Self::Service => vec![service()],
            Self::Connections => vec![connections()],
            Self::All => vec![memory(), service(), connections()],
            Self::BusyLoops => (0..3).map(|_| busy_loop()).collect(),
        })
    }
}

/// Processes of one user; ends with this.
struct Hammer(Vec<Child>);

impl Drop for Hammer {
    fn drop(&mut self) {
        for process in &mut self.0 {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }
}

/// As many connections as one user may have, and as fast as it goes.
fn wrk(path: &str, token: &str, more: &[&str]) -> Child {
    let mut command = Command::new("/usr/bin/wrk");
    command
        .args(["-t1", "-c64", "-d1h", "-H"])
        .arg(format!("X-aws-ec2-metadata-token: {token}"))
        .args(more)
        .arg(format!("http://{V4}{path}"));
    spawn(command)
}

fn busy_loop() -> Child {
    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    spawn(command)
}

fn spawn(mut command: Command) -> Child {
    command
        .uid(ALICE.uid)
        .gid(ALICE.gid)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().expect("wrk; run `.ci/bench`")
}

type Team = teams::Team<(Load, usize), Times>;

fn team() -> Team {
    Team::new(|net, turns| {
        let config = "limits.enabled = true\nmemory.enabled = true";
        let mut host = prepared(net, &["--latency", "1ms"], config);
        add_accounts(&host, USERS);
        start(&mut host);
        let token = token(ALICE, V4, 21600);
        let mut users = (0..USERS).cycle();
        turns.serve(|(load, count)| {
            let hammer = load.start(&token);
            let mut one = || {
                let start = Instant::now();
                let outcome = resolve(client(users.next().unwrap()));
                outcome.unwrap_or_else(|why| panic!("{}: {why:?}", load.name()));
                start.elapsed()
            };
            for _ in 0..count / 5 {
                one();
            }
            let times = (0..count).map(|_| one()).collect();
            drop(hammer);
            times
        });
    })
}

pub(crate) fn run(args: &Args) -> Value {
    let team = team();
    let rounds = args.rounds(|| LOADS.map(|load| team.take((load, args.count(100)))));
    let mut table = Table::new(
        "a resolve while another user hammers, the service taking 1 ms",
        &["p50 ms", "to quiet", "p99 ms", "to quiet"],
    );
    let mut figures = Vec::new();
    for (at, load) in LOADS.into_iter().enumerate() {
        let [p50, p99] = [0.5, 0.99].map(|part| median(rounds.iter().map(|it| it[at].ms(part))));
        let [to_p50, to_p99] = [0.5, 0.99]
            .map(|part| median(rounds.iter().map(|it| it[at].ms(part) / it[0].ms(part))));
        table.row(
            load.name(),
            [p50, to_p50, p99, to_p99].map(|it| cell(it, 2)),
        );
        figures.push(json!({
            "load": load.name(),
            "p50_ms": p50,
            "p50_to_quiet": to_p50,
            "p99_ms": p99,
            "p99_to_quiet": to_p99,
        }));
    }
    table.print();
    Value::Array(figures)
}
