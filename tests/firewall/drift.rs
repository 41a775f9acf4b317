//! Rules that are changed under a daemon and its watcher, and a watcher that
//! is not what it should be.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, V6, get, read_answer, request, token};
use crate::common::net::{Net, in_network};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, CWAGENT, DAEMON, ROOT, STRANGER, User};
use crate::common::watcher::Watcher;

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const FLUSHES: usize = 20;
/// How long an attacker tries each time: a flush is mended soon.
const IMPATIENCE: Duration = Duration::from_millis(15);
/// What the daemon gives its watcher is three seconds.
const GONE_WITHIN: Duration = Duration::from_secs(4);

fn await_events(host: &Host, event: &str, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} of {event}"), || {
        let events = host.events(event);
        (events.len() >= count).then_some(events)
    })
}

fn serves() -> bool {
    get(ALICE, V4, "/latest/meta-data/ami-id", None).status == 401
}

/// Asks for what it may not have, again and again, on new connections.
fn ask(user: User, to: &str, until: &AtomicBool, asked: &AtomicUsize) {
    let address = to.parse().unwrap();
    while !until.load(Ordering::Relaxed) {
        // A connection that a flush has cut is given up for a new one.
        let Ok(mut stream) = user.client(address).patient(IMPATIENCE).connect(address) else {
            continue;
        };
        stream.set_read_timeout(Some(IMPATIENCE)).unwrap();
        let head = request("GET", to, CREDENTIALS, None, "close");
        if stream.write_all(head.as_bytes()).is_ok() && read_answer(&mut stream).is_ok() {
            asked.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Flushes all rules under load; how many requests reached the service that
/// nobody had judged.
fn flush_under_load(net: &Net, config: &str) -> usize {
    let setup = Setup {
        config: config.into(),
        ..Setup::default()
    };
    let host = Host::start(net, &setup);
    let _watcher = Watcher::start(&host.config());
    let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
    let mut seen_from_outside = Vec::new();
    thread::scope(|scope| {
        let users = [(ALICE, V4), (BOB, V6), (CWAGENT, V4), (STRANGER, V6)];
        for (user, to) in users {
            let (stop, asked) = (&stop, &asked);
            scope.spawn(move || ask(user, to, stop, asked));
        }
        for flush in 1..=FLUSHES {
            // Each time under load again.
            let before = asked.load(Ordering::Relaxed);
            wait_for("requests to be answered", || {
                (asked.load(Ordering::Relaxed) > before + 10).then_some(())
            });
            let start = Instant::now();
            nft::load("flush ruleset\n");
            // By its text: under load the log is long.
            wait_for("the rules", || {
                let log = std::fs::read_to_string(host.path("log/audit.jsonl")).unwrap();
                let restored = log.matches("\"event\":\"rules.restored\"").count();
                (restored >= flush).then_some(())
            });
            seen_from_outside.push(start.elapsed());
        }
        stop.store(true, Ordering::Relaxed);
    });
    let drifts = host.events("rules.drift");
    assert_eq!(drifts.len(), FLUSHES);
    for drift in &drifts {
        let detail = &drift["detail"];
        let missing = &detail["changed"][0];
        assert_eq!(missing["kind"], "missing");
        assert_eq!(missing["place"], "table inet imdsfw");
        assert_eq!(detail["by"][0]["name"], "nft", "{detail}");
        assert!(detail["by"][0]["pid"].as_u64().unwrap() > 0);
    }
    let restored = host.events("rules.restored");
    let mut open: Vec<_> = restored
        .iter()
        .map(|it| it["detail"]["open_us"].as_u64().unwrap())
        .collect();
    open.sort();
    seen_from_outside.sort();
    assert!(open[FLUSHES / 2] < 1_000_000, "{open:?}");
    assert_eq!(host.events("rules.unguarded"), [Value::Null; 0]);
    let seen = host.seen_by_service("request");
    let unjudged = seen.iter().filter(|it| it["path"] == CREDENTIALS).count();
    println!(
        "{FLUSHES} flushes under load: restored in {:.1} ms (median), {:.1} ms (longest), by the \
         watcher's clock; {:?} (median), {:?} (longest) until that was in the log; {} requests, \
         {unjudged} unjudged at the service",
        open[FLUSHES / 2] as f64 / 1000.0,
        open[FLUSHES - 1] as f64 / 1000.0,
        seen_from_outside[FLUSHES / 2],
        seen_from_outside[FLUSHES - 1],
        asked.load(Ordering::Relaxed),
    );
    unjudged
}

#[test]
fn nothing_reaches_the_service_while_flushed_rules_are_restored() {
    in_network(|net| assert_eq!(flush_under_load(net, ""), 0));
    let unjudged = in_network(|net| flush_under_load(net, "rules.egress_deny = false"));
    assert!(unjudged > 0, "what the table of its own is for");
    shown(
        "The rules are flushed 20 times while four users ask for the credentials.",
        "they are restored, and no request reaches the service unjudged",
        format!("without the watcher's own table: {unjudged} requests reach it meanwhile"),
    );
}

#[test]
fn flushed_iptables_rules_are_restored_too_and_nothing_reaches_the_service() {
    const FLUSH: &str = "for tool in iptables ip6tables; do \
        for table in nat mangle filter; do $tool -w -t $table -F; done; done";
    in_network(|net| {
        let setup = Setup {
            config: "rules.backend = \"iptables\"".into(),
            ..Setup::default()
        };
        let host = Host::start(net, &setup);
        let _watcher = Watcher::start(&host.config());
        let (stop, asked) = (AtomicBool::new(false), AtomicUsize::new(0));
        thread::scope(|scope| {
            for (user, to) in [(ALICE, V4), (BOB, V6)] {
                let (stop, asked) = (&stop, &asked);
                scope.spawn(move || ask(user, to, stop, asked));
            }
            for _ in 0..5 {
                let before = asked.load(Ordering::Relaxed);
                wait_for("requests to be answered", || {
                    (asked.load(Ordering::Relaxed) > before + 10).then_some(())
                });
                let drifts = host.events("rules.restored").len();
                let start = Instant::now();
                assert!(
                    Command::new("sh")
                        .args(["-c", FLUSH])
                        .status()
                        .unwrap()
                        .success()
                );
                // One command may have been mended before the next.
                await_events(&host, "rules.restored", drifts + 1);
                wait_for("the rules", || {
                    let verified = host.command("rules verify").output().unwrap();
                    verified.status.success().then_some(())
                });
                println!("whole {:?} after the first command", start.elapsed());
            }
            stop.store(true, Ordering::Relaxed);
        });
        // Who flushed, and not the tools by which the watcher verifies.
        let first = &host.events("rules.drift")[0]["detail"];
        let by = first["by"].as_array().unwrap();
        assert!(!by.is_empty(), "{first}");
        for process in by {
            let name = process["name"].as_str().unwrap();
            assert!(["iptables", "ip6tables"].contains(&name), "{first}");
        }
        let seen = host.seen_by_service("request");
        let unjudged = seen.iter().filter(|it| it["path"] == CREDENTIALS).count();
        println!(
            "{} requests, {unjudged} unjudged at the service",
            asked.load(Ordering::Relaxed)
        );
        assert_eq!(unjudged, 0);
    });
}

#[test]
fn a_single_rule_that_is_deleted_is_restored_and_the_record_says_which_and_by_whom() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let _watcher = Watcher::start(&host.config());
        // None of this is a drift.
        nft::load("table inet foreign { chain output { tcp dport 1 drop; }; }\n");
        nft::load("delete table inet foreign\n");
        host.run("rules verify");
        let rule = nft::rules().pop().unwrap();
        let shell = Command::new("sh")
            .args(["-c", "echo $$; exec nft -f -"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn();
        let mut shell = shell.unwrap();
        let pid = shell.id();
        shell
            .stdin
            .take()
            .unwrap()
            .write_all(b"flush chain inet imdsfw output\n")
            .unwrap();
        assert!(shell.wait().unwrap().success());
        let detail = &await_events(&host, "rules.drift", 1)[0]["detail"];
        let changed = detail["changed"].as_array().unwrap();
        assert!(!changed.is_empty());
        for change in changed {
            assert_eq!(change["kind"], "missing");
            assert_eq!(change["place"], "chain output");
            assert!(change["line"].as_str().unwrap().contains("daddr"));
        }
        assert_eq!(
            detail["by"],
            serde_json::json!([{"pid": pid, "name": "nft"}])
        );
        let restored = &await_events(&host, "rules.restored", 1)[0]["detail"];
        assert_eq!(restored["by"], detail["by"]);
        assert_eq!(restored["denied_meanwhile"], true);
        assert_eq!(host.events("rules.drift").len(), 1);
        assert!(restored["open_us"].as_u64().unwrap() > 0);
        assert!(nft::rules().iter().any(|it| it.text == rule.text));
        assert!(serves());
    });
}

#[test]
fn a_watcher_that_is_killed_takes_the_daemon_out_of_service_until_it_is_back() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let watcher = Watcher::start(&host.config());
        let kept = token(ROOT, V4, 600);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&kept)).status, 200);
        let served = host.records(2).len();
        let killed = Instant::now();
        watcher.kill();
        let why = await_events(&host, "rules.unguarded", 1);
        assert!(killed.elapsed() < GONE_WITHIN, "{:?}", killed.elapsed());
        println!("out of service {:?} after the kill", killed.elapsed());
        assert!(why[0]["detail"]["why"].as_str().unwrap().contains("silent"));
        for to in [V4, V6] {
            let answer = get(ROOT, to, CREDENTIALS, Some(&kept));
            assert_eq!((answer.status, answer.head.as_str()), (0, ""));
        }
        for record in &host.records(served + 2)[served..] {
            assert_eq!(record["reason"], "guards_gone");
            assert_eq!(record["decision"], "deny");
            assert_eq!(record["status"], Value::Null);
            assert_eq!(record["caller"]["uid"], 0);
        }
        let _watcher = Watcher::start(&host.config());
        await_events(&host, "rules.guarded", 1);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&kept)).status, 200);
    });
}

#[test]
fn rules_that_cannot_be_restored_take_the_daemon_out_of_service() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let _watcher = Watcher::start(&host.config());
        assert!(serves());
        // In one transaction, so that the watcher has no chance in between.
        let squatter =
            nft::Owner::of("delete table inet imdsfw; add table inet imdsfw { flags owner; }\n");
        let gone = await_events(&host, "rules.unguarded", 1);
        let why = gone[0]["detail"]["why"].as_str().unwrap();
        println!("{why}");
        assert!(why.contains("not permitted"), "{why}");
        assert_eq!(host.events("rules.drift").len(), 1);
        assert!(get_or_nothing(ROOT).is_none());
        drop(squatter);
        await_events(&host, "rules.guarded", 1);
        assert_eq!(host.events("rules.restored").len(), 1);
        assert_eq!(host.events("rules.drift").len(), 1, "told once");
        assert!(serves());
    });
}

/// The redirect is gone too: the connection may not even come about.
fn get_or_nothing(user: User) -> Option<u16> {
    let mut stream = user.connect(V4.parse().unwrap()).ok()?;
    let head = request("GET", V4, CREDENTIALS, None, "close");
    stream.write_all(head.as_bytes()).ok()?;
    let status = read_answer(&mut stream).ok()?.status;
    (status != 0).then_some(status)
}

/// Says this to the daemon as `user`, and waits until it has hung up or a
/// moment has passed; whether the kernel lets them connect.
fn tell_daemon(host: &Host, user: User, lines: &str) -> bool {
    let program = "
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(1)
try:
    s.connect(sys.argv[1])
except PermissionError:
    sys.exit(3)
try:
    s.sendall(sys.argv[2].encode())
    s.recv(1)
except (BrokenPipeError, ConnectionResetError, TimeoutError):
    pass
";
    let status = Command::new("/usr/bin/python3")
        .args(["-c", program])
        .arg(host.path("watch.sock"))
        .arg(lines)
        .uid(user.uid)
        .gid(user.gid)
        .current_dir("/")
        .status();
    match status.unwrap().code() {
        Some(0) => true,
        Some(3) => false,
        code => panic!("{code:?}"),
    }
}

#[test]
fn without_a_watcher_the_daemon_serves_and_users_words_do_not_count() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let broken = "{\"report\":\"broken\",\"why\":\"so says a user\"}\n";
        assert!(!tell_daemon(&host, ALICE, broken), "they cannot connect");
        assert!(serves());
        assert!(host.events("rules.unguarded").is_empty());
        // The same by root counts, and a user cannot mend it.
        assert!(tell_daemon(&host, ROOT, broken));
        await_events(&host, "rules.unguarded", 1);
        assert!(!tell_daemon(&host, ALICE, "{\"report\":\"ok\"}\n"));
        assert!(!serves());
        assert!(tell_daemon(&host, ROOT, "{\"report\":\"ok\"}\n"));
        await_events(&host, "rules.guarded", 1);
        assert!(serves());
    });
}

#[test]
fn what_was_flushed_while_no_watcher_ran_is_recorded_by_the_next_one() {
    for held in [false, true] {
        in_network(move |net| {
            let mut host = Host::prepare(net, &Setup::default());
            host.run("rules apply");
            let listeners = ["127.0.0.1:253", "[::1]:253"].map(|address| {
                let listener = held.then(|| TcpListener::bind(address).unwrap());
                listener.inspect(|it| setsockopt(it, sockopt::Mark, &0x61).unwrap())
            });
            match &listeners {
                [Some(v4), Some(v6)] => {
                    host.start_daemon_by(host.activated(DAEMON, v4, v6));
                }
                _ => host.start_daemon(),
            }
            Watcher::start(&host.config()).kill();
            nft::load("flush ruleset\n");
            let _watcher = Watcher::start(&host.config());
            let drift = &await_events(&host, "rules.drift", 1)[0]["detail"];
            assert_eq!(drift["changed"][0]["place"], "table inet imdsfw");
            let restored = &await_events(&host, "rules.restored", 1)[0]["detail"];
            assert_eq!(restored["open_us"], Value::Null, "nobody saw when");
        });
    }
}

#[test]
fn rules_that_are_absent_when_the_host_starts_are_no_drift() {
    in_network(|net| {
        let host = Host::prepare(net, &Setup::default());
        // A service manager holds the socket for a daemon to come.
        let held = UnixListener::bind(host.path("watch.sock")).unwrap();
        let _watcher = Watcher::start(&host.config());
        let (stream, _) = held.accept().unwrap();
        let first = BufReader::new(stream).lines().next().unwrap().unwrap();
        assert_eq!(first, "{\"report\":\"ok\"}");
    });
}

#[test]
fn a_drift_while_no_daemon_runs_is_recorded_by_the_next_one() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let _watcher = Watcher::start(&host.config());
        host.stop_daemon();
        nft::load("flush ruleset\n");
        wait_for("the rules", || {
            let tables = nft::output(&["list", "tables"]);
            tables.contains("table inet imdsfw\n").then_some(())
        });
        host.start_daemon();
        await_events(&host, "rules.drift", 1);
        await_events(&host, "rules.restored", 1);
        assert!(serves());
    });
}
