//! Fair shares: one user does what it can, and another notices nothing.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

use crate::common::again::again;
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{BEGUN, V4, connect, get, hold, put, raw, read_answer, request, token};
use crate::common::net::{Net, in_network};
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, ROOT, User};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const ON: &str = "limits.enabled = true";
/// Most clients of the service wait no longer.
const CLIENTS_PATIENCE: Duration = Duration::from_secs(1);

/// How long the daemon waits for a client that takes nothing.
const STALLED: Duration = Duration::from_secs(5);
const BUSY: usize = 32;
const IDLE: usize = 5000;

fn limited(config: &str) -> Setup {
    Setup {
        config: format!("{ON}\n{config}"),
        ..Setup::default()
    }
}

/// Answers of a flood, by status, and connections opened besides.
#[derive(Debug, Default)]
struct Flood {
    statuses: BTreeMap<u16, u64>,
    opened: usize,
}

impl Flood {
    /// Keeps connections busy, half with tokens and half with what this user
    /// may not have, and meanwhile opens more.
    fn run(user: User, over: &AtomicBool) -> Self {
        let token = token(user, V4, 600);
        let denied = request("GET", V4, CREDENTIALS, Some(&token), "keep-alive");
        let minted = put(V4, 60).replace("Connection: close\r\n", "");
        thread::scope(|scope| {
            let busy: Vec<_> = (0..BUSY)
                .map(|at| {
                    let asked = [&denied, &minted][at % 2];
                    let mut stream = connect(user, V4);
                    scope.spawn(move || {
                        be_nice();
                        let mut statuses = BTreeMap::new();
                        while !over.load(Ordering::Relaxed) {
                            ask(&mut stream, asked, 20, &mut statuses);
                        }
                        statuses
                    })
                })
                .collect();
            be_nice();
            let idle = open(user, IDLE, over);
            let mut flood = Self::default();
            for busy in busy {
                for (status, count) in busy.join().unwrap() {
                    *flood.statuses.entry(status).or_default() += count;
                }
            }
            flood.opened = idle.len();
            flood
        })
    }
}

/// Tries so many times to open a connection, and says nothing on it.
fn open(user: User, tries: usize, over: &AtomicBool) -> Vec<TcpStream> {
    let to = V4.parse().unwrap();
    (0..tries)
        .take_while(|_| !over.load(Ordering::Relaxed))
        .filter_map(|_| user.connect(to).ok())
        .collect()
}

/// Sends a request so many times at once, and counts the answers by status.
fn ask(stream: &mut TcpStream, asked: &str, count: u64, statuses: &mut BTreeMap<u16, u64>) {
    stream
        .write_all(asked.repeat(count as usize).as_bytes())
        .unwrap();
    let mut answers = Answers::default();
    for _ in 0..count {
        *statuses.entry(answers.next(stream)).or_default() += 1;
    }
}

/// Answers one after the other, their bodies by Content-Length.
#[derive(Default)]
struct Answers(Vec<u8>);

impl Answers {
    fn next(&mut self, stream: &mut TcpStream) -> u16 {
        let mut chunk = [0; 16384];
        loop {
            let text = String::from_utf8_lossy(&self.0);
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.split_once("Content-Length: ").unwrap().1;
                let length: usize = length.split_once('\r').unwrap().0.parse().unwrap();
                if body.len() >= length {
                    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                    let whole = head.len() + 4 + length;
                    self.0.drain(..whole);
                    return status;
                }
            }
            let len = again(|| stream.read(&mut chunk)).unwrap();
            assert!(len > 0, "closed in the middle");
            self.0.extend(&chunk[..len]);
        }
    }
}

/// Times of one GET each on a connection of its own, sorted.
fn times(user: User, token: &str, count: usize) -> Vec<Duration> {
    let mut times: Vec<_> = (0..count)
        .map(|_| {
            let start = Instant::now();
            assert_eq!(get(user, V4, AMI, Some(token)).status, 200);
            start.elapsed()
        })
        .collect();
    times.sort();
    times
}

fn p99(times: &[Duration]) -> Duration {
    times[times.len() * 99 / 100]
}

fn log_size(host: &Host) -> u64 {
    fs::metadata(host.path("log/audit.jsonl")).unwrap().len()
}

/// Records of requests of a uid: on their own, and counted.
fn recorded(audit: &[Value], uid: u32) -> (u64, u64) {
    let alone = audit
        .iter()
        .filter(|it| it["event"] == "request" && it["caller"]["uid"] == uid);
    let counted = audit
        .iter()
        .filter(|it| it["event"] == "limit.denials_summarised")
        .filter(|it| it["detail"]["uid"] == uid && it["detail"]["of"] == "request")
        .map(|it| it["detail"]["count"].as_u64().unwrap());
    (alone.count() as u64, counted.sum())
}

fn many_descriptors() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
}

#[test]
fn a_flood_of_connections_tokens_and_denials_harms_no_other_user() {
    many_descriptors();
    // A busy machine makes single times long, whoever floods: on one, that no
    // client gives up has to do. Without limits all do.
    let mut tries = Vec::new();
    while tries.len() < 3 {
        let seen = in_network(under_flood);
        tries.push(seen);
        if seen.flooded <= 3 * seen.quiet {
            break;
        }
    }
    let best = tries.iter().min_by_key(|it| it.flooded).unwrap();
    let calm = best.flooded <= 3 * best.quiet || best.flooded < CLIENTS_PATIENCE / 4;
    assert!(calm, "{tries:?}");
    let grown_without_limits = in_network(starve_and_fill);
    shown(
        "One user opens 5,000 connections and floods tokens and denials.",
        format!(
            "another user's p99 is {:.1?}, {:.1?} before; {} tokens minted, then 429; the log \
             grows by {} kB",
            best.flooded,
            best.quiet,
            best.minted,
            best.grown / 1000
        ),
        format!(
            "without limits: the other user has no answer after a second, all tokens are minted, \
             and 3,000 denials make {} kB",
            grown_without_limits / 1000
        ),
    );
}

#[derive(Clone, Copy, Debug)]
struct UnderFlood {
    /// Another user's p99, without and with the flood.
    quiet: Duration,
    flooded: Duration,
    /// Of the flooding user's tokens.
    minted: u64,
    /// By the log, in bytes.
    grown: u64,
}

fn under_flood(net: &Net) -> UnderFlood {
    const MEASURED: usize = 400;
    let mut host = Host::start(net, &limited("limits.denials_recorded_per_second = 50"));
    let token = token(BOB, V4, 600);
    let quiet = times(BOB, &token, MEASURED);
    let before = log_size(&host);
    let over = AtomicBool::new(false);
    let (flood, flooded, roots) = thread::scope(|scope| {
        let flood = scope.spawn(|| Flood::run(ALICE, &over));
        wait_for("the flood", || {
            let audit = host.audit();
            audit.iter().any(|it| it["reason"] == "limit").then_some(())
        });
        let flooded = times(BOB, &token, MEASURED);
        let minted = || raw(ROOT, V4, put(V4, 60).as_bytes()).status;
        let roots: Vec<_> = (0..150).map(|_| minted()).collect();
        over.store(true, Ordering::Relaxed);
        (flood.join().unwrap(), flooded, roots)
    });
    host.stop_daemon();
    let grown = log_size(&host) - before;
    assert!(roots.iter().all(|status| *status == 200), "{roots:?}");
    let minted = flood.statuses.get(&200).copied().unwrap_or_default();
    assert!((119..160).contains(&minted), "{flood:?}");
    assert!(grown < 2_000_000, "{grown}");
    let audit = host.audit();
    let answered = 1 + flood.statuses.values().sum::<u64>();
    let (alone, counted) = recorded(&audit, ALICE.uid);
    assert_eq!(alone + counted, answered);
    assert!(counted > 0);
    let all = 2 * u64::try_from(MEASURED).unwrap() + 1;
    assert_eq!(recorded(&audit, BOB.uid), (all, 0));
    UnderFlood {
        quiet: p99(&quiet),
        flooded: p99(&flooded),
        minted,
        grown,
    }
}

/// Without limits the same user does all that; how far the log has grown.
fn starve_and_fill(net: &Net) -> u64 {
    let host = Host::start(net, &Setup::default());
    let token = token(ALICE, V4, 600);
    let mut stream = connect(ALICE, V4);
    let mut statuses = BTreeMap::new();
    let minted = put(V4, 60).replace("Connection: close\r\n", "");
    ask(&mut stream, &minted, 200, &mut statuses);
    assert_eq!(statuses, BTreeMap::from([(200, 200)]));
    let denied = request("GET", V4, CREDENTIALS, Some(&token), "keep-alive");
    for _ in 0..15 {
        ask(&mut stream, &denied, 200, &mut statuses);
    }
    wait_for("a long log", || (log_size(&host) > 2_000_000).then_some(()));

    let mut idle = open(ALICE, IDLE, &AtomicBool::new(false));
    for stream in &mut idle {
        stream.write_all(BEGUN).unwrap();
    }
    let mut other = connect(BOB, V4);
    other.set_read_timeout(Some(CLIENTS_PATIENCE)).unwrap();
    other
        .write_all(request("GET", V4, AMI, None, "close").as_bytes())
        .unwrap();
    let error = read_answer(&mut other).expect_err("all places are taken");
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    drop(idle);
    log_size(&host)
}

#[test]
fn past_its_tokens_a_user_gets_429_and_one_record_for_each() {
    in_network(|net| {
        let mut host = Host::start(net, &limited("limits.tokens_per_minute = 3"));
        let statuses: Vec<_> = (0..5)
            .map(|_| raw(ALICE, V4, put(V4, 60).as_bytes()).status)
            .collect();
        assert_eq!(statuses, [200, 200, 200, 429, 429]);
        token(BOB, V4, 60);
        let root: Vec<_> = (0..9).map(|_| token(ROOT, V4, 60)).collect();
        assert_eq!(root.len(), 9);
        host.stop_daemon();
        let audit = host.audit();
        let limited: Vec<_> = audit.iter().filter(|it| it["reason"] == "limit").collect();
        assert_eq!(limited.len(), 2);
        for record in limited {
            assert_eq!(record["event"], "request");
            assert_eq!(record["verdict"], "allow");
            assert_eq!(record["decision"], "deny");
            assert_eq!(record["detail"], "tokens");
            assert_eq!(record["status"], 429);
            assert_eq!(record["caller"]["uid"], ALICE.uid);
        }
    });
}

#[test]
fn subordinate_uids_share_with_their_owner() {
    let subordinate = |at: u32| User {
        uid: 300_000 + at,
        gid: 300_900,
    };
    in_network(move |net| {
        let mut host = Host::prepare(net, &limited("limits.connections = 4"));
        host.provide_subuid("alice:300000:65536\n");
        host.run("rules apply");
        host.start_daemon();
        let held: Vec<_> = (0..3).map(|at| hold(subordinate(at))).collect();
        let own = hold(ALICE);
        for user in [subordinate(9), ALICE] {
            let mut refused = hold(user);
            let error = refused.read(&mut [0]).expect_err("no answer");
            // Else the kernel rules would count it until its client closes it.
            assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        }
        let records = host.records(2);
        for (record, user) in records.iter().zip([subordinate(9), ALICE]) {
            assert_eq!(record["event"], "connection.refused");
            assert_eq!(record["reason"], "limit");
            assert_eq!(record["detail"], "connections");
            assert_eq!(record["caller"]["uid"], user.uid);
        }
        assert_eq!(get(BOB, V4, AMI, None).status, 401);
        let root: Vec<_> = (0..9).map(|_| hold(ROOT)).collect();
        assert_eq!(get(ROOT, V4, AMI, None).status, 401);
        drop((held, own, root));
        wait_for("the places to be free", || {
            (get(ALICE, V4, AMI, None).status == 401).then_some(())
        });
    });
}

#[test]
fn a_client_that_does_not_read_loses_its_connection() {
    in_network(|net| {
        let _host = Host::start(net, &Setup::default());
        let to = V4.parse().unwrap();
        let client = ALICE.client(to).small_receive_buffer();
        let mut stream = client.connect(to).unwrap();
        let start = Instant::now();
        stream.set_write_timeout(Some(3 * STALLED)).unwrap();
        let asked = request("GET", V4, AMI, None, "keep-alive").repeat(100);
        // Until both ways are full, and then until the other end gives up.
        let error = loop {
            if let Err(error) = stream.write_all(asked.as_bytes()) {
                break error;
            }
        };
        assert!(
            matches!(
                error.kind(),
                ErrorKind::ConnectionReset | ErrorKind::BrokenPipe
            ),
            "{error}"
        );
        assert!(start.elapsed() >= STALLED, "{:?}", start.elapsed());
    });
}

/// This is about the daemon's time: a busy machine's belongs to the others.
fn be_nice() {
    let thread = nix::unistd::gettid().to_string();
    let status = Command::new("renice")
        .args(["-n", "19", "-p", &thread])
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
}
