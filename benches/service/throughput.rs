//! How many requests a second, how long each takes, what it costs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::Args;
use crate::contenders::{ALL, Contender, Running};
use crate::table::{Table, cell, median};
use crate::wrk::{Load, Persistence, load};
use crate::{meter, teams};

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

type Team = teams::Team<Turn, Sample>;

fn team(contender: Contender) -> Team {
    Team::new(move |net, turns| {
        let running = Running::start(net, contender);
        turns.serve(|turn| take(&running, turn));
    })
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

const COLUMNS: [&str; 8] = [
    "req/s", "direct", "nginx", "p50 µs", "p99 µs", "cpu µs", "calls", "RSS KiB",
];

fn cells(row: &Value) -> [String; 8] {
    [
        ("requests_per_second", 0),
        ("to_direct", 2),
        ("to_nginx_redirected", 2),
        ("p50_us", 0),
        ("p99_us", 0),
        ("cpu_us_per_request", 1),
        ("system_calls_per_request", 1),
        ("rss_kib", 0),
    ]
    .map(|(key, digits)| cell(row[key].as_f64(), digits))
}

pub(crate) fn run(args: &Args) -> Value {
    let wanted = |it: &Contender| args.only.is_empty() || args.only.iter().any(|o| o == it.name());
    let contenders: Vec<_> = ALL.into_iter().filter(wanted).collect();
    let teams: Vec<_> = contenders.iter().map(|it| team(*it)).collect();
    let mut figures = Vec::new();
    for persistence in [Persistence::Close, Persistence::KeepAlive] {
        let calls: Vec<_> = teams
            .iter()
            .map(|team| team.take(Turn::Calls(persistence)).calls)
            .collect();
        for connections in &args.connections {
            let turn = || Turn::Load(persistence, *connections, args.turn);
            let rounds: Vec<Vec<Sample>> =
                args.rounds(|| teams.iter().map(|team| team.take(turn())).collect());
            let title = format!("{}, {connections} connections", persistence.name());
            let mut table = Table::new(title, &COLUMNS);
            for (at, contender) in contenders.iter().enumerate() {
                let of = |figure: &dyn Fn(&Sample) -> f64| {
                    median(rounds.iter().map(|round| figure(&round[at])))
                };
                let ratio = |to: Contender| {
                    let other = contenders.iter().position(|it| *it == to)?;
                    Some(median(rounds.iter().map(|round| {
                        round[at].load.per_second / round[other].load.per_second
                    })))
                };
                let row = json!({
                    "contender": contender.name(),
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
                table.row(contender.name(), cells(&row));
                figures.push(row);
            }
            table.print();
        }
    }
    Value::Array(figures)
}
