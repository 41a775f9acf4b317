//! The page: true, readable, and nobody's secret.

use std::fs::{self, Permissions};
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{SockType, setsockopt, sockopt};

use super::{AMI, AT, CREDENTIALS, ask, fetch, page, promtool, setup, value};
use crate::common::again::again;
use crate::common::host::{Host, Setup, listening_at, wait_for};
use crate::common::http::{V4, get, raw, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, DAEMON, ROOT};

/// `promtool check metrics`; what it has to say.
fn checked(page: &str) -> String {
    let mut tool = Command::new(promtool())
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run `.ci/setup tests`");
    tool.stdin
        .take()
        .unwrap()
        .write_all(page.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{said:?}");
    String::from_utf8(said).unwrap()
}

#[test]
fn it_counts_what_was_done_and_prometheus_finds_no_fault_in_it() {
    in_network(|net| {
        let host = Host::start(net, &setup("memory.enabled = true"));
        let before = page(ALICE);
        let (own, alices) = (token(ROOT, V4, 60), token(ALICE, V4, 60));
        for _ in 0..3 {
            assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&own)).status, 200);
        }
        assert_eq!(get(ALICE, V4, CREDENTIALS, Some(&alices)).status, 403);
        assert_eq!(get(BOB, V4, AMI, Some(&alices)).status, 401);
        assert_eq!(get(BOB, V4, AMI, None).status, 401);
        assert_eq!(raw(BOB, V4, b"GET /\0 HTTP/1.1\r\n\r\n").status, 400);
        let records = host.records(9);

        let page = page(ALICE);
        assert_eq!(checked(&page), "");
        assert_eq!(checked(&before), "", "also with nothing counted");
        for (series, expected) in [
            (
                r#"imdsfw_decisions_total{decision="allow",reason="allowed",class="credentials"}"#,
                3.0,
            ),
            (
                r#"imdsfw_decisions_total{decision="allow",reason="allowed",class="none"}"#,
                2.0,
            ),
            (
                r#"imdsfw_decisions_total{decision="deny",reason="default",class="credentials"}"#,
                1.0,
            ),
            (
                r#"imdsfw_decisions_total{decision="deny",reason="token_missing",class="routine"}"#,
                1.0,
            ),
            (
                r#"imdsfw_decisions_total{decision="deny",reason="malformed",class="none"}"#,
                1.0,
            ),
            (r#"imdsfw_tokens_refused_total{detail="other_uid"}"#, 1.0),
            (r#"imdsfw_limits_hit_total{limit="tokens"}"#, 0.0),
            ("imdsfw_memory_hits_total", 2.0),
            // Its token, and the credentials once.
            ("imdsfw_upstream_requests_total", 2.0),
            ("imdsfw_upstream_requests_under_way", 0.0),
            ("imdsfw_upstream_connections_total", 1.0),
            ("imdsfw_upstream_duration_seconds_count", 1.0),
            ("imdsfw_request_duration_seconds_count", 9.0),
            ("imdsfw_identity_duration_seconds_count", 9.0),
            ("imdsfw_audit_failing", 0.0),
            ("imdsfw_audit_lost_records_total", 0.0),
            (r#"imdsfw_policy_on_disk{state="same"}"#, 1.0),
            ("imdsfw_guards_gone", 0.0),
            ("imdsfw_witness_present", 1.0),
            ("imdsfw_lockdown", 0.0),
            (r#"imdsfw_bypass{kind="soft"}"#, 0.0),
            ("imdsfw_grants", 0.0),
        ] {
            assert_eq!(value(&page, series), expected, "{series}");
        }
        // All there is, and the times of all that was recorded.
        let decisions = page
            .lines()
            .filter(|it| it.starts_with("imdsfw_decisions_total{"));
        let decisions =
            decisions.map(|it| it.rsplit(' ').next().unwrap().parse::<usize>().unwrap());
        assert_eq!(decisions.sum::<usize>(), records.len());
        let recorded = records.iter().map(|it| it["latency_us"].as_f64().unwrap());
        let sum = value(&page, "imdsfw_request_duration_seconds_sum");
        assert!(sum * 1e6 >= recorded.sum::<f64>());
        let hash = records.last().unwrap()["policy"].as_str().unwrap();
        let policy = format!(r#"imdsfw_policy_info{{hash="{hash}",mode="enforce"}}"#);
        assert_eq!(value(&page, &policy), 1.0);
        let ends = value(&page, "imdsfw_credentials_expiration_timestamp_seconds");
        let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
        assert!((ends - now - (6.0 * 3600.0 + 20.0 * 60.0)).abs() < 60.0);
        let pid = host.daemon_pid();
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let said = value(&page, "process_open_fds");
        assert!((said - open as f64).abs() < 4.0, "{said} of {open}");
        assert!(value(&page, "process_resident_memory_bytes") > 1e6);
        assert!(value(&page, "process_cpu_seconds_total") > 0.0);
    });
}

#[test]
fn it_names_nobody_and_nothing_that_was_asked_for() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        let own = token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&own)).status, 200);
        let path = "/latest/meta-data/public-keys/0/openssh-key-of-carol";
        assert_eq!(
            get(ALICE, V4, path, Some(&token(ALICE, V4, 60))).status,
            403
        );
        let records = host.records(4);
        let page = page(BOB);
        let key = records[1]["credential"]["access_key_id"].as_str().unwrap();
        let rule = records[1]["rule"].as_str().unwrap();
        let uid = ALICE.uid.to_string();
        for told in [
            key,
            rule,
            &own,
            &uid,
            "alice",
            "root",
            "carol",
            "public-keys",
            "/latest",
            "\"web\"",
        ] {
            assert!(!page.contains(told), "{told} is on the page");
        }
    });
}

#[test]
fn it_follows_orders_and_failures() {
    in_network(|net| {
        let mut host = Host::start(net, &setup(""));
        host.run("lockdown on");
        host.run("bypass on --for 1h --reason metrics");
        host.run("grant --user alice --path @role --for 1h --reason metrics");
        host.stop_service();
        let own = token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, AMI, Some(&own)).status, 502);
        let page = page(ROOT);
        for (series, expected) in [
            ("imdsfw_lockdown", 1.0),
            (r#"imdsfw_bypass{kind="soft"}"#, 1.0),
            (r#"imdsfw_bypass{kind="hard"}"#, 0.0),
            ("imdsfw_grants", 1.0),
            (r#"imdsfw_upstream_errors_total{error="unreachable"}"#, 1.0),
        ] {
            assert_eq!(value(&page, series), expected, "{series}");
        }
    });
}

#[test]
fn a_policy_on_disk_that_does_not_run_is_told() {
    for (policy, state) in [("schema = 1\n", "differs"), ("schema = 2\n", "refused")] {
        in_network(move |net| {
            let host = Host::start(net, &setup(""));
            host.write_policy(policy);
            let page = page(ROOT);
            let series = format!(r#"imdsfw_policy_on_disk{{state="{state}"}}"#);
            assert_eq!(value(&page, &series), 1.0);
            assert_eq!(value(&page, r#"imdsfw_policy_on_disk{state="same"}"#), 0.0);
        });
    }
}

#[test]
fn nothing_but_get_metrics_is_answered_and_nobody_may_dawdle() {
    in_network(|net| {
        let _host = Host::start(net, &setup(""));
        assert!(fetch(ROOT, "GET", "/").starts_with("HTTP/1.1 404 "));
        assert!(fetch(ROOT, "GET", "/metrics/..").starts_with("HTTP/1.1 404 "));
        let answer = fetch(ROOT, "POST", "/metrics");
        assert!(answer.starts_with("HTTP/1.1 405 "));
        assert!(answer.to_ascii_lowercase().contains("\r\nallow: get\r\n"));
        let head = fetch(ROOT, "GET", "/metrics").to_ascii_lowercase();
        assert!(head.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"));
        let long = format!("/metrics?{}", "a".repeat(20_000));
        assert!(!fetch(ROOT, "GET", &long).contains(" 200 "));

        // Whoever says nothing is gone after two seconds, and meanwhile others
        // are served; so are users of the firewall, however many dawdle.
        let start = Instant::now();
        let mut slow: Vec<_> = (0..40).map(|_| TcpStream::connect(AT).unwrap()).collect();
        let begun = Instant::now();
        let own = token(ALICE, V4, 60);
        assert_eq!(get(ALICE, V4, AMI, Some(&own)).status, 200);
        assert!(begun.elapsed() < Duration::from_secs(1));
        let mut first = slow.remove(0);
        first
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let ended = again(|| first.read(&mut [0]));
        let is_reset = |error: &std::io::Error| error.kind() == ErrorKind::ConnectionReset;
        assert!(matches!(ended, Ok(0)) || ended.is_err_and(|it| is_reset(&it)));
        assert!(start.elapsed() < Duration::from_secs(4), "cut off");
        drop(slow);
        wait_for("a turn", || {
            let stream = TcpStream::connect(AT).unwrap();
            ask(stream, "GET", "/metrics")
                .contains("imdsfw_build_info")
                .then_some(())
        });
    });
}

#[test]
fn a_socket_is_for_root_and_the_daemons_group() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let path = host.path("metrics.sock");
        host.write_config(&format!("metrics.socket = {path:?}"));
        host.run("rules apply");
        host.start_daemon();
        let file = fs::metadata(&path).unwrap();
        assert_eq!(file.mode() & 0o777, 0o660);
        assert_eq!((file.uid(), file.gid()), (0, DAEMON.gid));
        fs::set_permissions(host.path(""), Permissions::from_mode(0o755)).unwrap();
        let denied = ALICE.run(|| UnixStream::connect(&path));
        assert_eq!(denied.unwrap_err().kind(), ErrorKind::PermissionDenied);
        let mut stream = UnixStream::connect(&path).unwrap();
        stream
            .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("imdsfw_build_info"));
        // No port is open for it.
        assert!(TcpStream::connect(AT).is_err());
    });
}

#[test]
fn there_is_none_unless_asked_for_and_a_taken_port_stops_nobody() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let refused = TcpStream::connect(AT).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        host.stop_daemon();
        let taken = BOB.run(|| TcpListener::bind(AT)).unwrap();
        host.write_config(&setup("").config);
        host.start_daemon();
        let own = token(ALICE, V4, 60);
        assert_eq!(get(ALICE, V4, AMI, Some(&own)).status, 200);
        drop(taken);
    });
}

/// What a service manager holds for the daemon.
fn marked(address: &str) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap();
    setsockopt(&listener, sockopt::Mark, &0x61).unwrap();
    listener
}

#[test]
fn without_root_it_binds_its_port_or_takes_the_socket_that_is_held_for_it() {
    for held in [false, true] {
        in_network(move |net| {
            let mut host = Host::prepare(net, &Setup::default());
            host.run("rules apply");
            let path = host.path("metrics.sock");
            let config = match held {
                true => format!("metrics.socket = {path:?}"),
                false => setup("").config,
            };
            host.write_config(&config);
            let socket = listening_at(&path, SockType::Stream);
            let (v4, v6) = (marked("127.0.0.1:253"), marked("[::1]:253"));
            let sockets: &[&dyn AsFd] = match held {
                true => &[&v4, &v6, &socket],
                false => &[&v4, &v6],
            };
            host.start_daemon_by(host.activated_with(DAEMON, sockets));
            let page = match held {
                true => {
                    let mut stream = UnixStream::connect(&path).unwrap();
                    stream
                        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
                        .unwrap();
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).unwrap();
                    answer
                }
                false => page(BOB),
            };
            assert_eq!(value(&page, "imdsfw_guards_gone"), 0.0);
            assert!(value(&page, "process_open_fds") > 5.0);
        });
    }
}
