//! Whether a request costs more where there is more of something: each on two
//! hosts that differ in that alone, in turn. Answers come from memory, so that
//! nothing but the daemon is measured.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::Args;
use crate::client::{CREDENTIALS, Client, get};
use crate::common::host::{Host, Setup};
use crate::common::net::sysctl;
use crate::contenders::PATH;
use crate::hosts::{Crowd, POLICY, add_accounts, client, start};
use crate::meter::{children, processor_time};
use crate::table::{Table, Times, cell, median};
use crate::teams;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dimension {
    Sockets,
    Rules,
    Accounts,
    /// The first request of each user, with nothing known of it.
    NewAccounts,
    Processes,
    /// The same for credentials, which wait for a look at all processes.
    ProcessesCredentials,
    Connections,
}

const DIMENSIONS: [Dimension; 7] = [
    Dimension::Sockets,
    Dimension::Rules,
    Dimension::Accounts,
    Dimension::NewAccounts,
    Dimension::Processes,
    Dimension::ProcessesCredentials,
    Dimension::Connections,
];

impl Dimension {
    fn name(self) -> &'static str {
        match self {
            Self::Sockets => "sockets on the host",
            Self::Rules => "rules",
            Self::Accounts => "users, groups",
            Self::NewAccounts => "first request",
            Self::Processes => "processes",
            Self::ProcessesCredentials => "credentials",
            Self::Connections => "connections",
        }
    }

    fn sizes(self) -> [usize; 2] {
        match self {
            Self::Sockets => [10, 20_000],
            Self::Rules | Self::Accounts | Self::NewAccounts => [10, 10_000],
            Self::Processes | Self::ProcessesCredentials => [200, 2000],
            Self::Connections => [1, 4000],
        }
    }

    fn crowd(self, size: usize) -> Crowd {
        match self {
            Self::Processes | Self::ProcessesCredentials => Crowd::new(size),
            _ => Crowd::new(0),
        }
    }

    fn requests(self) -> usize {
        match self {
            Self::NewAccounts => 10,
            Self::ProcessesCredentials => 50,
            Self::Processes | Self::Connections => 2000,
            Self::Sockets | Self::Rules | Self::Accounts => 500,
        }
    }

    /// How often in one round the two hosts take turns: where a turn costs
    /// little, many short ones beside each other say more than a long one.
    fn turns(self) -> usize {
        match self {
            Self::Sockets | Self::Rules | Self::Accounts => 6,
            _ => 1,
        }
    }
}

struct Sample {
    p50_us: f64,
    daemon_us: f64,
    /// Of the witness and the lookup of names, together.
    helpers_us: f64,
}

type Team = teams::Team<usize, Sample>;

fn team(dimension: Dimension, size: usize) -> Team {
    Team::new(move |net, turns| {
        let setup = Setup {
            policy: match dimension {
                Dimension::Rules => rules(size),
                _ => POLICY.into(),
            },
            config: "memory.enabled = true".into(),
            ..Setup::default()
        };
        let mut host = Host::prepare(net, &setup);
        let accounts = match dimension {
            Dimension::Accounts | Dimension::NewAccounts => size,
            _ => 10,
        };
        add_accounts(&host, accounts as u32);
        start(&mut host);
        let _sockets = (dimension == Dimension::Sockets).then(|| pairs(size / 2));
        let mut connections = match dimension {
            Dimension::Connections => (1..size).map(|_| connected()).collect(),
            _ => Vec::new(),
        };
        turns.serve(|requests| {
            if dimension == Dimension::NewAccounts {
                host.stop_daemon();
                host.start_daemon();
            }
            // A minute without a request ends a connection.
            for connection in &mut connections {
                connection.token().unwrap();
            }
            sample(&host, || match dimension {
                Dimension::NewAccounts => first_requests(requests, size),
                Dimension::ProcessesCredentials => ask(CREDENTIALS, requests),
                _ => ask(PATH, requests),
            })
        });
    })
}

/// So many rules ahead of the one that decides.
fn rules(count: usize) -> String {
    let mut policy = String::from("schema = 1\n");
    for number in 0..count {
        writeln!(
            policy,
            "[[rule]]\nname = \"team {number} reads its tag\"\naction = \"allow\"\n\
             who = [\"uid:{}\"]\npaths = [\"/meta-data/tags/instance/Team{number}\"]",
            100_000 + number
        )
        .unwrap();
    }
    let (_, rest) = POLICY.split_once("schema = 1\n").unwrap();
    policy + rest
}

/// Connections within the host, which nobody uses: one end of each is held
/// here, the other waits to be accepted and takes no descriptor.
fn pairs(count: usize) -> (Socket, Vec<TcpStream>) {
    sysctl("net/core/somaxconn", "65535");
    let listener = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    let any: SocketAddr = ([127, 0, 0, 1], 0).into();
    listener.bind(&any.into()).unwrap();
    listener.listen(count as i32 + 1).unwrap();
    let to = listener.local_addr().unwrap().as_socket().unwrap();
    let connect = |_| TcpStream::connect(to).unwrap();
    let connections = (0..count).map(connect).collect();
    (listener, connections)
}

fn connected() -> Client {
    Client::connect(client(1)).unwrap()
}

fn sample(host: &Host<'_>, ask: impl FnOnce() -> Times) -> Sample {
    let daemon = host.daemon_pid().as_raw();
    let helpers = children(daemon);
    let before = [processor_time(&[daemon]), processor_time(&helpers)];
    let times = ask();
    let after = [processor_time(&[daemon]), processor_time(&helpers)];
    let each = |at: usize| (after[at] - before[at]).as_secs_f64() * 1e6 / times.len() as f64;
    Sample {
        p50_us: times.us(0.5),
        daemon_us: each(0),
        helpers_us: each(1),
    }
}

/// One user on one connection.
fn ask(path: &str, requests: usize) -> Times {
    let mut connection = Client::connect(client(0)).unwrap();
    let token = connection.token().unwrap();
    let request = get(path, &token);
    let one = |_| {
        let start = Instant::now();
        connection.ask(&request).unwrap();
        start.elapsed()
    };
    (0..requests).map(one).collect()
}

/// Users from all over /etc/passwd, each on its first connection.
fn first_requests(users: usize, accounts: usize) -> Times {
    let one = |number: usize| {
        let user = client((number * accounts / users) as u32);
        let mut connection = Client::connect(user).unwrap();
        let start = Instant::now();
        connection.token().unwrap();
        start.elapsed()
    };
    (0..users).map(one).collect()
}

pub(crate) fn run(args: &Args) -> Value {
    let mut table = Table::new(
        "one request where there are few and many of them",
        &[
            "few", "many", "p50 µs", "µs", "ratio", "cpu µs", "µs", "ratio",
        ],
    );
    let mut figures = Vec::new();
    for dimension in DIMENSIONS {
        let sizes = dimension.sizes().map(|size| match args.smoke {
            true => size.min(400),
            false => size,
        });
        let teams = sizes.map(|size| team(dimension, size));
        let turn = |at: usize| {
            let _crowd = dimension.crowd(sizes[at]);
            teams[at].take(dimension.requests())
        };
        let round = || (0..dimension.turns()).map(|_| [0, 1].map(turn)).collect();
        let rounds: Vec<[Sample; 2]> = args.rounds::<Vec<_>>(round).into_iter().flatten().collect();
        let of = |figure: fn(&Sample) -> f64| {
            let [few, many] = [0, 1].map(|at| median(rounds.iter().map(|it| figure(&it[at]))));
            let ratio = median(rounds.iter().map(|it| figure(&it[1]) / figure(&it[0])));
            [few, many, ratio]
        };
        let (p50, cpu) = (of(|it| it.p50_us), of(|it| it.daemon_us));
        table.row(
            dimension.name(),
            [
                sizes[0].to_string(),
                sizes[1].to_string(),
                cell(p50[0], 0),
                cell(p50[1], 0),
                cell(p50[2], 2),
                cell(cpu[0], 1),
                cell(cpu[1], 1),
                cell(cpu[2], 2),
            ],
        );
        let named =
            |[few, many, ratio]: [f64; 3]| json!({"few": few, "many": many, "ratio": ratio});
        let helpers = of(|it| it.helpers_us);
        figures.push(json!({
            "of": dimension.name(),
            "few": sizes[0],
            "many": sizes[1],
            "p50_us": named(p50),
            "daemon_cpu_us": named(cpu),
            "helpers_cpu_us": { "few": helpers[0], "many": helpers[1] },
        }));
    }
    table.print();
    Value::Array(figures)
}
