//! What the firewall costs, end to end: each contender on a host of its own
//! (network namespaces that end with this process), in turn, in one run.
//!
//! `cargo bench --bench service` prints its tables and writes
//! `target/bench/service.json`; with names of parts, those alone. It needs
//! root, nginx, haproxy, wrk and strace: `.ci/bench` installs them. Identity,
//! policy, tokens and the audit file are on wherever imdsfw runs; its
//! `[limits]` are off where nothing else is said. Ratios are medians of rounds,
//! in each of which everybody has a turn.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss
)]

#[path = "../../tests/common/mod.rs"]
mod common;

mod client;
mod contenders;
mod footprint;
mod growth;
mod hammer;
mod hosts;
mod meter;
mod openloop;
mod resolve;
mod rotation;
mod sinks;
mod table;
mod teams;
mod thousand;
mod throughput;
mod workers;
mod wrk;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use clap::Parser;
use nix::unistd::geteuid;
use serde_json::{Map, Value};

/// Set inside the process namespace that the bench runs in.
const INSIDE: &str = "IMDSFW_BENCH_INSIDE";

/// Measures, prints its tables, and returns the figures.
type Part = fn(&Args) -> Value;

/// The parts by their names, in order.
const PARTS: [(&str, Part); 9] = [
    ("throughput", throughput::run),
    ("resolve", resolve::run),
    ("thousand", thousand::run),
    ("hammer", hammer::run),
    ("openloop", openloop::run),
    ("growth", growth::run),
    ("footprint", footprint::run),
    ("rotation", rotation::run),
    ("sinks", sinks::run),
];

/// Measures the firewall beside other proxies.
#[derive(Parser, Clone, Debug)]
struct Args {
    /// Only these parts.
    #[arg(value_parser = PARTS.map(|(name, _)| name))]
    parts: Vec<String>,
    /// Only these contenders.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// How often each contender has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long one turn is.
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    turn: Duration,
    /// Connections, each a row.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256])]
    connections: Vec<usize>,
    /// Everything once, and little of it: whether the bench works.
    #[arg(long)]
    smoke: bool,
    /// Where the figures go as JSON.
    #[arg(long, default_value = "target/bench/service.json")]
    json: PathBuf,
    /// What cargo adds.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Args {
    /// The rounds that are measured, after one that warms up.
    fn rounds<T>(&self, mut round: impl FnMut() -> T) -> Vec<T> {
        if !self.smoke {
            round();
        }
        (0..self.rounds).map(|_| round()).collect()
    }

    /// So many of whatever is measured.
    fn count(&self, usual: usize) -> usize {
        if self.smoke { usual / 50 + 2 } else { usual }
    }
}

fn main() {
    if let Ok(work) = std::env::var(workers::WORK) {
        return workers::work(&work);
    }
    let mut args = Args::parse();
    if args.smoke {
        args.rounds = 1;
        args.connections = vec![16];
    }
    assert!(
        geteuid().is_root(),
        "this bench makes network namespaces: run it as root"
    );
    if std::env::var_os(INSIDE).is_none() {
        // Few processes, and always as many: a look at all of them is part of
        // what is measured. The shell is the first, and waits for those that
        // daemons leave behind.
        let error = Command::new("unshare")
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .args(["sh", "-c", r#""$@"; exit "$?""#, "sh"])
            .arg(std::env::current_exe().unwrap())
            .args(std::env::args_os().skip(1))
            .env(INSIDE, "1")
            .exec();
        panic!("unshare: {error}");
    }
    hosts::many_descriptors();
    let wants = |part: &str| args.parts.is_empty() || args.parts.iter().any(|it| it == part);
    let mut figures = Map::new();
    for (part, run) in PARTS {
        if wants(part) {
            figures.insert(part.into(), run(&args));
        }
    }
    if let Some(directory) = args.json.parent() {
        std::fs::create_dir_all(directory).unwrap();
    }
    let text = serde_json::to_string_pretty(&Value::Object(figures)).unwrap();
    std::fs::write(&args.json, text + "\n").unwrap();
}
