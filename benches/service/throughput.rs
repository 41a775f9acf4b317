//! How many requests a second, how long each takes, what it costs.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::Args;
use crate::common::net::in_network;
use crate::contenders::{ALL, Contender, Running};
use crate::meter;
use crate::table::{Table, median};
use crate::wrk::{Load, Persistence, load};

/// What one contender is asked to do.
enum Turn {
    Load(Persistence, usize, Duration),
    Calls(Persistence),
}

struct Sample {
    load: Load,
    cpu_us: f64,
    rss_kib: u64,
    /// System calls a request, where they were counted.
    calls: f64,
}

/// A contender on a thread of its own, in namespaces of its own.
struct Team {
    contender: Contender,
    turns: SyncSender<Turn>,
    samples: Receiver<Sample>,
}

impl Team {
    fn new(contender: Contender) -> Self {
        let (turns, to_do) = sync_channel::<Turn>(1);
        let (done, samples) = sync_channel(1);
        thread::spawn(move || {
            in_network(move |net| {
                let running = Running::start(net, contender);
                while let Ok(turn) = to_do.recv() {
                    done.send(take(&running, turn)).unwrap();
                }
            });
        });
        Self {
            contender,
            turns,
            samples,
        }
    }

    fn take(&self, turn: Turn) -> Sample {
        self.turns.send(turn).unwrap();
        self.samples.recv().unwrap()
    }
}

fn take(running: &Running, turn: Turn) -> Sample {
    let processes = running.processes();
    let before = meter::processor_time(&processes);
    let (calls, load) = match turn {
        Turn::Load(persistence, connections, time) => {
            (0, load(running, connections, persistence, time))
        }
        Turn::Calls(persistence) => {
            let time = Duration::from_secs(1);
            match processes.as_slice() {
                [] => (0, load(running, 16, persistence, time)),
                all => meter::system_calls(all, || load(running, 16, persistence, time)),
            }
        }
    };
    let cpu = meter::processor_time(&processes) - before;
    Sample {
        cpu_us: cpu.as_secs_f64() * 1e6 / load.requests,
        calls: calls as f64 / load.requests,
        rss_kib: processes.iter().map(|pid| meter::resident(*pid)).sum(),
        load,
    }
}

pub(crate) fn run(args: &Args) -> Value {
    let wanted = |it: &Contender| args.only.is_empty() || args.only.iter().any(|o| o == it.name());
    let teams: Vec<_> = ALL.into_iter().filter(wanted).map(Team::new).collect();
    let mut figures = Vec::new();
    for persistence in [Persistence::Close, Persistence::KeepAlive] {
        let calls: Vec<_> = teams
            .iter()
            .map(|team| team.take(Turn::Calls(persistence)).calls)
            .collect();
        for connections in &args.connections {
            let turn = || Turn::Load(persistence, *connections, args.turn);
            let mut rounds: Vec<Vec<Sample>> = Vec::new();
            for round in 0..=args.rounds {
                eprint!("\r{} {connections}: round {round} ", persistence.name());
                let samples = teams.iter().map(|team| team.take(turn())).collect();
                // The first warms up.
                if round > 0 {
                    rounds.push(samples);
                }
            }
            eprint!("\r{:40}\r", "");
            let title = format!("{}, {connections} connections", persistence.name());
            let mut table = Table::new(&title);
            for (at, team) in teams.iter().enumerate() {
                let of = |figure: &dyn Fn(&Sample) -> f64| {
                    median(rounds.iter().map(|round| figure(&round[at])))
                };
                let ratio = |to: Contender| {
                    let other = teams.iter().position(|team| team.contender == to)?;
                    Some(median(rounds.iter().map(|round| {
                        round[at].load.per_second / round[other].load.per_second
                    })))
                };
                let row = json!({
                    "contender": team.contender.name(),
                    "persistence": persistence.name(),
                    "connections": connections,
                    "requests_per_second": of(&|it| it.load.per_second).round(),
                    "to_direct": ratio(Contender::Direct),
                    "to_nginx": ratio(Contender::Nginx),
                    "to_nginx_redirected": ratio(Contender::NginxRedirected),
                    "to_nginx_cache": ratio(Contender::NginxCache),
                    "to_haproxy": ratio(Contender::Haproxy),
                    "p50_us": of(&|it| it.load.p50.as_secs_f64() * 1e6),
                    "p99_us": of(&|it| it.load.p99.as_secs_f64() * 1e6),
                    "cpu_us_per_request": of(&|it| it.cpu_us),
                    "system_calls_per_request": calls[at],
                    "rss_kib": of(&|it| it.rss_kib as f64),
                });
                table.row(&row);
                figures.push(row);
            }
            table.print();
        }
    }
    Value::Array(figures)
}
