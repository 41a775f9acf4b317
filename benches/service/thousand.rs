//! A thousand clients at once, as when all services of a host start, where
//! the service lets through what EC2's does: 1,024 packets a second.
//!
//! A resolve on a connection of its own sends nine packets (as counted on the
//! service's side: two to open it, a request three times and what acknowledges
//! the answers, two to close) for its three requests; so 1,024 packets are
//! those of 341 requests. Both are tried: the simulator counting requests and
//! answering 503, and packets dropped on their way to it.

use std::collections::BTreeMap;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Args;
use crate::common::host::Host;
use crate::common::nft;
use crate::hosts::{add_accounts, client, prepared, unguarded};
use crate::table::{Table, Times, cell, median};
use crate::teams::Team;
use crate::workers::{Work, Workers};

const CLIENTS: usize = 1000;
/// `[limits]` are on, at their defaults: nobody gets a thousand connections,
/// so these are twenty programs of each of fifty users.
const USERS: usize = 50;
const REQUESTS: [&str; 2] = ["--throttle", "341"];

/// What the service lets through in a second.
#[derive(Clone, Copy, Debug)]
enum Allowance {
    Requests,
    Packets,
}

impl Allowance {
    fn name(self) -> &'static str {
        match self {
            Self::Requests => "341 requests/s",
            Self::Packets => "1,024 packets/s",
        }
    }
}

/// One round.
struct Rush {
    times: Times,
    failures: BTreeMap<String, usize>,
}

fn rush(clients: usize) -> Rush {
    let users = (0..clients).map(|number| client((number % USERS) as u32));
    let outcomes = Workers::new(users, Work::Resolve).go();
    let times = outcomes.iter().filter_map(|it| it["ns"].as_u64());
    let mut failures = BTreeMap::new();
    for failure in outcomes.iter().filter_map(|it| it["failure"].as_str()) {
        *failures.entry(failure.to_owned()).or_default() += 1;
    }
    Rush {
        times: times.map(Duration::from_nanos).collect(),
        failures,
    }
}

fn team(allowance: Allowance, guarded: bool) -> Team<usize, Rush> {
    Team::new(move |net, turns| {
        let sim: &[&'static str] = match allowance {
            Allowance::Requests => &REQUESTS,
            Allowance::Packets => &[],
        };
        let mut host: Host<'_> = match guarded {
            true => prepared(net, sim, "limits.enabled = true\nmemory.enabled = true"),
            false => unguarded(net, sim),
        };
        add_accounts(&host, USERS as u32);
        if let Allowance::Packets = allowance {
            net.service(|| {
                nft::load(
                    "table inet allowance {
                        chain prerouting {
                            type filter hook prerouting priority -350; policy accept;
                            ip daddr 169.254.169.254 limit rate over 1024/second \
                                burst 1024 packets drop
                        }
                    }",
                );
            });
        }
        if guarded {
            host.run("rules apply");
        }
        turns.serve(|clients| {
            // As at boot: nothing in memory, and no user has used its share.
            if guarded {
                host.start_daemon();
            }
            let rush = rush(clients);
            if guarded {
                host.stop_daemon();
            }
            rush
        });
    })
}

pub(crate) fn run(args: &Args) -> Value {
    let clients = args.count(CLIENTS);
    let mut table = Table::new(
        format!("{clients} clients resolve at once, giving up after 1 s; imdsfw just started"),
        &["resolved", "failed", "p50 ms", "p99 ms", "last ms"],
    );
    let mut figures = Vec::new();
    for allowance in [Allowance::Requests, Allowance::Packets] {
        for (name, guarded) in [("direct", false), ("imdsfw", true)] {
            let team = team(allowance, guarded);
            let rounds: Vec<Rush> = (0..args.rounds)
                .map(|round| {
                    if round > 0 {
                        // The service's second is over.
                        thread::sleep(Duration::from_millis(1200));
                    }
                    team.take(clients)
                })
                .collect();
            let of = |figure: &dyn Fn(&Rush) -> f64| median(rounds.iter().map(figure));
            let time = |part: f64| {
                let some = rounds.iter().all(|it| it.times.len() > 0);
                some.then(|| of(&|rush| rush.times.ms(part)))
            };
            let resolved = of(&|rush| rush.times.len() as f64);
            table.row(
                format!("{name}, {}", allowance.name()),
                [
                    cell(resolved, 0),
                    cell(clients as f64 - resolved, 0),
                    cell(time(0.5), 0),
                    cell(time(0.99), 0),
                    cell(time(1.0), 0),
                ],
            );
            let mut failures: BTreeMap<String, usize> = BTreeMap::new();
            for (failure, count) in rounds.iter().flat_map(|it| &it.failures) {
                *failures.entry(failure.clone()).or_default() += count;
            }
            figures.push(json!({
                "way": name,
                "allowance": allowance.name(),
                "clients": clients,
                "resolved": resolved,
                "p50_ms": time(0.5),
                "p99_ms": time(0.99),
                "longest_ms": time(1.0),
                "failures_in_all_rounds": failures,
            }));
        }
    }
    table.print();
    Value::Array(figures)
}
