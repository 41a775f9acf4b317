//! What a program waits for its credentials, three requests on a new
//! connection, where the service takes a millisecond for each.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Args;
use crate::client::resolve;
use crate::hosts::{Crowd, client, prepared, start, unguarded};
use crate::table::{Table, Times, cell, median};
use crate::teams;

const SIM: [&str; 2] = ["--latency", "1ms"];
/// Who holds the connection is looked up for credentials, among all processes:
/// so many more are there in the second half.
const MORE_PROCESSES: usize = 200;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    /// The first one of a daemon: no token, no connection, no memory.
    Started,
    /// As when memory has run out: nothing but connections and a token.
    Forgetful,
    Memory,
}

const WAYS: [Way; 4] = [Way::Direct, Way::Started, Way::Forgetful, Way::Memory];

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Started => "imdsfw, just started",
            Self::Forgetful => "imdsfw, nothing in memory",
            Self::Memory => "imdsfw, from memory",
        }
    }

    fn team(self) -> Team {
        Team::new(move |net, turns| {
            let guarded = |memory: &str| {
                let mut host = prepared(net, &SIM, memory);
                start(&mut host);
                host
            };
            match self {
                Self::Direct => {
                    let _host = unguarded(net, &SIM);
                    turns.serve(|count| (0..count).map(|_| once()).collect());
                }
                Self::Started => {
                    let mut host = guarded("memory.enabled = true");
                    let mut once_started = || {
                        host.stop_daemon();
                        host.start_daemon();
                        once()
                    };
                    turns.serve(|count| (0..count / 20 + 1).map(|_| once_started()).collect());
                }
                Self::Forgetful => {
                    let _host = guarded("memory.enabled = false");
                    turns.serve(|count| (0..count).map(|_| once()).collect());
                }
                Self::Memory => {
                    let _host = guarded("memory.enabled = true");
                    turns.serve(|count| {
                        // What memory holds of credentials ends after seconds.
                        once();
                        (0..count).map(|_| once()).collect()
                    });
                }
            }
        })
    }
}

type Team = teams::Team<usize, Times>;

fn once() -> Duration {
    let start = Instant::now();
    resolve(client(0)).unwrap_or_else(|why| panic!("no credentials: {why:?}"));
    start.elapsed()
}

pub(crate) fn run(args: &Args) -> Value {
    let teams = WAYS.map(Way::team);
    let round = || teams.each_ref().map(|team| team.take(args.count(100)));
    let measure = || args.rounds(round);
    let few = measure();
    let crowd = Crowd::new(MORE_PROCESSES);
    let many = measure();
    drop(crowd);

    let mut table = Table::new(
        "a credential resolve, the service taking 1 ms; then with 200 processes more",
        &["ms", "p99", "direct", "ms", "p99", "direct"],
    );
    let mut figures = Vec::new();
    for (at, way) in WAYS.into_iter().enumerate() {
        let half = |rounds: &[[Times; 4]]| {
            let of = |figure: &dyn Fn(&[Times; 4]) -> f64| median(rounds.iter().map(figure));
            [
                of(&|round| round[at].ms(0.5)),
                of(&|round| round[at].ms(0.99)),
                of(&|round| round[at].ms(0.5) / round[0].ms(0.5)),
            ]
        };
        let (few, many) = (half(&few), half(&many));
        table.row(
            way.name(),
            [few[0], few[1], few[2], many[0], many[1], many[2]].map(|it| cell(it, 2)),
        );
        for (processes, [p50, p99, ratio]) in [(0, few), (MORE_PROCESSES, many)] {
            figures.push(json!({
                "way": way.name(),
                "more_processes": processes,
                "p50_ms": p50,
                "p99_ms": p99,
                "to_direct": ratio,
            }));
        }
    }
    table.print();
    Value::Array(figures)
}
