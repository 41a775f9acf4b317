//! What it takes from the host: memory, the size of its one file, and how
//! long it is not there yet.

use std::fs;
use std::time::Instant;

use serde_json::{Value, json};

use crate::Args;
use crate::client::{Client, get};
use crate::common::host::{BINARY, Host};
use crate::common::net::{Net, in_network};
use crate::common::user::{ROOT, User};
use crate::contenders::PATH;
use crate::hosts::{client, prepared, start};
use crate::meter::{children, resident};
use crate::table::{Table, cell, median};

const CONNECTIONS: usize = 4000;
/// `[limits]` are on, at their defaults: no user has more, and root has the
/// rest.
const OF_ONE_USER: usize = 64;
const OF_USERS: usize = 3840;

#[derive(Clone, Copy, Debug)]
struct Memory {
    daemon_kib: f64,
    all_kib: f64,
}

impl Memory {
    fn of(host: &Host<'_>) -> Self {
        let daemon = host.daemon_pid().as_raw();
        let kib = |pid: i32| resident(pid) as f64;
        let helpers = children(daemon).into_iter().map(kib).sum::<f64>();
        Self {
            daemon_kib: kib(daemon),
            all_kib: kib(daemon) + helpers,
        }
    }

    fn json(self) -> Value {
        json!({ "daemon_kib": self.daemon_kib, "with_helpers_kib": self.all_kib })
    }
}

struct Seen {
    idle: Memory,
    connected: Memory,
    starts_ms: Vec<f64>,
}

fn look(net: &Net, connections: usize, starts: usize) -> Seen {
    let config = "limits.enabled = true\nmemory.enabled = true";
    let mut host = prepared(net, &[], config);
    start(&mut host);
    let idle = Memory::of(&host);
    // Kept alive, each after one answer.
    let held: Vec<Client> = (0..connections).map(|at| connected(owner(at))).collect();
    let connected = Memory::of(&host);
    drop(held);
    let start = |_| {
        host.stop_daemon();
        let start = Instant::now();
        host.start_daemon();
        start.elapsed().as_secs_f64() * 1e3
    };
    Seen {
        idle,
        connected,
        starts_ms: (0..starts).map(start).collect(),
    }
}

fn owner(at: usize) -> User {
    match at {
        0..OF_USERS => client((at / OF_ONE_USER) as u32),
        _ => ROOT,
    }
}

fn connected(user: User) -> Client {
    let mut client = Client::connect(user).unwrap();
    let token = client.token().unwrap();
    client.ask(&get(PATH, &token)).unwrap();
    client
}

pub(crate) fn run(args: &Args) -> Value {
    let (connections, starts) = (args.count(CONNECTIONS), args.count(10));
    let seen = in_network(move |net| look(net, connections, starts));
    let file_kib = fs::metadata(BINARY).unwrap().len() as f64 / 1024.0;
    let start_ms = median(seen.starts_ms.iter().copied());
    let mut table = Table::new("what it takes", &["daemon", "with helpers"]);
    for (name, memory) in [
        ("RSS idle, KiB".into(), seen.idle),
        (
            format!("RSS, {connections} connections, KiB"),
            seen.connected,
        ),
    ] {
        let cells = [memory.daemon_kib, memory.all_kib];
        table.row(name, cells.map(|it| cell(it, 0)));
    }
    table.row("the binary, KiB", [cell(file_kib, 0), cell(None, 0)]);
    table.row("start to ready, ms", [cell(None, 0), cell(start_ms, 1)]);
    table.print();
    json!({
        "idle": seen.idle.json(),
        "connected": seen.connected.json(),
        "connections": connections,
        "binary_kib": file_kib,
        "start_ms": start_ms,
    })
}
