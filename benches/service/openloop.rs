//! What the firewall adds where requests come at a given pace, whether the
//! answers keep up or not: a time counts from when its request was due.

use std::thread;
use std::time::{Duration, Instant};

use nix::sys::prctl::set_timerslack;
use serde_json::{Value, json};

use crate::Args;
use crate::client::{Client, get};
use crate::common::user::ALICE;
use crate::contenders::{Contender, PATH, Running};
use crate::table::{Table, Times, cell, median};
use crate::teams::Team;

const PER_SECOND: u32 = 1000;
/// Keep-alive, each with its part of the requests.
const CONNECTIONS: u32 = 8;
const WAYS: [Contender; 4] = [
    Contender::Direct,
    Contender::NginxRedirected,
    Contender::Forwarding,
    Contender::Memory,
];

/// Asks so many times in all.
fn ask(requests: u32, token: &str) -> Times {
    let pace = Duration::from_secs(1) / PER_SECOND;
    let start = Instant::now() + Duration::from_millis(20);
    thread::scope(|scope| {
        let one = |connection: u32| {
            scope.spawn(move || {
                // Else the kernel wakes sleepers up to 50 µs late.
                set_timerslack(1).unwrap();
                let request = get(PATH, token);
                let mut client = Client::connect(ALICE).unwrap();
                let times = (connection..requests)
                    .step_by(CONNECTIONS as usize)
                    .map(|at| {
                        let due = start + pace * at;
                        thread::sleep(due.saturating_duration_since(Instant::now()));
                        client.ask(&request).unwrap();
                        due.elapsed()
                    });
                times.collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..CONNECTIONS).map(one).collect();
        let times = threads.into_iter().flat_map(|it| it.join().unwrap());
        times.collect()
    })
}

pub(crate) fn run(args: &Args) -> Value {
    let requests = PER_SECOND * if args.smoke { 1 } else { 5 };
    let teams = WAYS.map(|contender| {
        Team::new(move |net, turns| {
            let running = Running::start(net, contender);
            let token = running.token.as_deref().unwrap_or("none");
            turns.serve(|requests| ask(requests, token));
        })
    });
    let rounds: Vec<Vec<Times>> =
        args.rounds(|| teams.iter().map(|team| team.take(requests)).collect());
    let mut table = Table::new(
        "1,000 requests a second, open loop, keep-alive, µs; then what is added",
        &["p50", "p99", "p99.9", "p50", "p99", "p99.9"],
    );
    let mut figures = Vec::new();
    for (at, contender) in WAYS.into_iter().enumerate() {
        const PARTS: [f64; 3] = [0.5, 0.99, 0.999];
        let times = PARTS.map(|part| median(rounds.iter().map(|it| it[at].us(part))));
        let added =
            PARTS.map(|part| median(rounds.iter().map(|it| it[at].us(part) - it[0].us(part))));
        let cells = [times, added].concat();
        let cells: [f64; 6] = cells.try_into().unwrap();
        table.row(contender.name(), cells.map(|it| cell(it, 0)));
        let named = |figures: [f64; 3]| {
            let [p50, p99, p999] = figures;
            json!({ "p50_us": p50, "p99_us": p99, "p999_us": p999 })
        };
        figures.push(json!({
            "contender": contender.name(),
            "requests_per_second": PER_SECOND,
            "from_due": named(times),
            "added": named(added),
        }));
    }
    table.print();
    Value::Array(figures)
}
