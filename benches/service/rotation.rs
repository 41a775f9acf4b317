//! Credentials that change while many ask for them: nobody may get a set when
//! a newer one has been seen, nor from memory one that ends within half an
//! hour.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::Args;
use crate::common::net::{Net, in_network};
use crate::hosts::{add_accounts, client, prepared, start};
use crate::table::{Table, cell};
use crate::workers::{Work, Workers};

const CLIENTS: u32 = 64;
const LEFT_MIN: Duration = Duration::from_secs(30 * 60);

/// How the service rotates them: often; and so that each set has little more
/// than half an hour at first, and less soon after.
const ROTATIONS: [(&str, &[&str]); 2] = [
    ("a new set each second", &["--rotate-every", "1s"]),
    (
        "sets of 30 min and 8 s, each 6 s",
        &["--credential-life", "30m8s", "--rotate-every", "6s"],
    ),
];

/// One answer as its client saw it, by one clock.
struct Seen {
    asked: u64,
    got: u64,
    /// Which tells sets apart, and newer from older.
    ends: SystemTime,
}

/// What became of it all.
struct Outcome {
    answers: usize,
    sets: usize,
    from_memory: usize,
    /// Asked for when a newer set had already been received.
    older: usize,
    /// From memory, and with less than half an hour left.
    ending: usize,
    least_left: Option<Duration>,
    failures: usize,
}

fn watch(net: &Net, sim: &[&'static str], seconds: u64) -> Outcome {
    let mut host = prepared(net, sim, "memory.enabled = true");
    add_accounts(&host, CLIENTS);
    start(&mut host);
    let users = (0..CLIENTS).map(client);
    let said = Workers::new(users, Work::Credentials(seconds)).go();
    host.stop_daemon();
    let records = host.audit();
    let from_memory: Vec<_> = records
        .iter()
        .filter(|it| it["served"] == "memory" && !it["credential"].is_null())
        .map(|it| moment(&it["credential"]["expiration"]).duration_since(moment(&it["time"])))
        .map(Result::unwrap_or_default)
        .collect();
    let ending = from_memory.iter().filter(|left| **left < LEFT_MIN);
    let (seen, failures): (Vec<_>, Vec<_>) = said.iter().partition(|it| it["failure"].is_null());
    let mut seen: Vec<_> = seen.into_iter().map(Seen::new).collect();
    let mut sets: Vec<_> = seen.iter().map(|it| it.ends).collect();
    sets.sort();
    sets.dedup();
    Outcome {
        answers: seen.len(),
        sets: sets.len(),
        older: older(&mut seen),
        ending: ending.count(),
        least_left: from_memory.iter().min().copied(),
        from_memory: from_memory.len(),
        failures: failures.len(),
    }
}

impl Seen {
    fn new(said: &Value) -> Self {
        Self {
            asked: said["asked"].as_u64().unwrap(),
            got: said["got"].as_u64().unwrap(),
            ends: moment(&said["ends"]),
        }
    }
}

fn moment(text: &Value) -> SystemTime {
    humantime::parse_rfc3339(text.as_str().unwrap()).unwrap()
}

/// How many answers hold an older set than one that anybody had received
/// before they were asked for.
fn older(seen: &mut [Seen]) -> usize {
    seen.sort_by_key(|it| it.got);
    // The newest set received up to each of them.
    let newest: Vec<SystemTime> = seen
        .iter()
        .scan(SystemTime::UNIX_EPOCH, |newest, it| {
            *newest = it.ends.max(*newest);
            Some(*newest)
        })
        .collect();
    let before = |asked: u64| {
        let received = seen.partition_point(|it| it.got < asked);
        received.checked_sub(1).map(|last| newest[last])
    };
    let older = seen.iter().filter(|it| before(it.asked) > Some(it.ends));
    older.count()
}

pub(crate) fn run(args: &Args) -> Value {
    let seconds = if args.smoke { 3 } else { 18 };
    let mut table = Table::new(
        format!("{CLIENTS} clients ask for credentials while they are replaced"),
        &["answers", "sets", "memory", "older", "< 30 min", "failed"],
    );
    let mut figures = Vec::new();
    for (name, sim) in ROTATIONS {
        let outcome = in_network(move |net| watch(net, sim, seconds));
        let cells = [
            outcome.answers,
            outcome.sets,
            outcome.from_memory,
            outcome.older,
            outcome.ending,
            outcome.failures,
        ];
        table.row(name, cells.map(|it| cell(it as f64, 0)));
        figures.push(json!({
            "rotation": name,
            "answers": outcome.answers,
            "sets": outcome.sets,
            "from_memory": outcome.from_memory,
            "older_than_one_served": outcome.older,
            "from_memory_with_less_than_30_min": outcome.ending,
            "least_left_s": outcome.least_left.map(|it| it.as_secs_f64()),
            "failures": outcome.failures,
        }));
    }
    table.print();
    Value::Array(figures)
}
