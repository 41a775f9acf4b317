//! What the command line promises.

use std::fs;
use std::io::Read;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::harness::{Sim, imdsfw_sim, until};

#[test]
fn the_request_log_knows_each_connection_and_request_by_the_time_it_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("requests.jsonl");
    let sim = Sim::start(&["--request-log", file.to_str().unwrap()]);
    let log = || -> Vec<Value> {
        let text = fs::read_to_string(&file).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    };
    assert!(log().is_empty(), "something before anybody asked");

    let token = sim.token();
    let seen = log();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0]["event"], "connection");
    assert_eq!(seen[1]["event"], "request");
    assert_eq!(seen[1]["peer"], seen[0]["peer"]);
    assert_eq!(seen[1]["method"], "PUT");
    assert_eq!(seen[1]["path"], "/latest/api/token");
    assert_eq!(seen[1]["token"], false);
    assert_eq!(seen[1]["user_agent"], Value::Null);
    assert_eq!(seen[1]["status"], 200);

    sim.ask(&format!(
        "GET //latest/nothing HTTP/1.1\r\nUser-Agent: a\"b\r\nX-aws-ec2-metadata-token: {token}"
    ));
    let seen = log();
    assert_eq!(seen.len(), 4);
    assert_eq!(seen[3]["path"], "//latest/nothing");
    assert_eq!(seen[3]["token"], true);
    assert_eq!(seen[3]["user_agent"], "a\"b");
    assert_eq!(seen[3]["status"], 404);
    assert!(!fs::read_to_string(&file).unwrap().contains(&token));
}

#[test]
fn a_connection_that_asks_nothing_is_logged_too() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("requests.jsonl");
    let sim = Sim::start(&["--request-log", file.to_str().unwrap()]);
    let idle = sim.connect();
    let line = until(
        || fs::read_to_string(&file).unwrap(),
        |text| text.ends_with('\n'),
    );
    let line: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(line["event"], "connection");
    assert_eq!(line["peer"], idle.local_addr().unwrap().to_string());
}

#[test]
fn what_the_request_log_cannot_take_is_not_answered() {
    let mut sim = imdsfw_sim(&["127.0.0.1:0"], &["--request-log", "/dev/full"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map(|child| Sim::ready(child, 1))
        .unwrap();
    let mut answer = Vec::new();
    sim.connect().read_to_end(&mut answer).unwrap();
    assert!(answer.is_empty());
    sim.child.kill().unwrap();
    let mut stderr = String::new();
    let mut pipe = sim.child.stderr.take().unwrap();
    pipe.read_to_string(&mut stderr).unwrap();
    assert!(stderr.contains("cannot write the request log"), "{stderr}");
}

#[test]
fn past_the_throttle_requests_get_503() {
    let sim = Sim::start(&["--throttle", "3"]);
    let start = Instant::now();
    let statuses: Vec<_> = (0..20).map(|_| sim.put(60).status).collect();
    assert_eq!(statuses[..3], [200, 200, 200]);
    let admitted = statuses.iter().filter(|status| **status == 200).count();
    let allowed = 3.0 + 3.0 * start.elapsed().as_secs_f64();
    assert!(admitted as f64 <= allowed, "{statuses:?}");
    assert!(statuses.contains(&503), "{statuses:?}");
}

#[test]
fn latency_is_waited_before_every_answer() {
    let sim = Sim::start(&["--latency", "30ms"]);
    let start = Instant::now();
    assert_eq!(sim.put(60).status, 200);
    assert!(start.elapsed() >= Duration::from_millis(30));
}

#[test]
fn several_addresses_serve_one_service() {
    let mut sim = Sim::listening(&["127.0.0.1:0", "[::1]:0"], &[]);
    let token = sim.token();
    sim.addresses.reverse();
    assert!(sim.addresses[0].is_ipv6());
    assert_eq!(sim.get_with(&token, "/latest/").status, 200);
}

#[test]
fn a_stop_signal_ends_it_with_success_also_while_a_connection_is_open() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut sim = Sim::start(&[]);
        let _open = sim.connect();
        kill(Pid::from_raw(sim.child.id().try_into().unwrap()), signal).unwrap();
        assert_eq!(sim.child.wait().unwrap().code(), Some(0), "{signal}");
    }
}

#[test]
fn what_cannot_work_is_refused_with_the_reason() {
    let taken = Sim::start(&[]);
    let taken = taken.addresses[0].to_string();
    for (addresses, args, code, reason) in [
        (
            &["192.0.2.1:80"][..],
            &[][..],
            1,
            "ip address add 192.0.2.1",
        ),
        (&[&taken], &[], 1, "another process holds it"),
        (
            &["127.0.0.1:0"],
            &["--credential-life", "1h", "--rotate-every", "1h"],
            1,
            "rotate every 55m",
        ),
        (
            &["127.0.0.1:0"],
            &["--request-log", "/nonexistent/log"],
            1,
            "/nonexistent/log",
        ),
        (
            &["127.0.0.1:0"],
            &["--user-data", "/nonexistent/data"],
            1,
            "/nonexistent/data",
        ),
        (&["127.0.0.1:0"], &["--role", "a/b"], 2, "role"),
        (&["127.0.0.1:0"], &["--throttle", "0"], 2, "throttle"),
        (
            &["127.0.0.1:0"],
            &["--item", "meta-data/x"],
            2,
            "PATH=VALUE",
        ),
        (
            &["127.0.0.1:0"],
            &["--item", "/meta-data//x=1"],
            2,
            "a path is meta-data/NAME",
        ),
        (
            &["127.0.0.1:0"],
            &["--item", "meta-data/mac/below=1"],
            1,
            "meta-data/mac is an item, so meta-data/mac/below",
        ),
    ] {
        let output = imdsfw_sim(addresses, args).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        // What is long is folded.
        let flowing = stderr.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(flowing.contains(reason), "{stderr}");
        assert!(output.stdout.is_empty(), "it said it was ready");
    }
}
