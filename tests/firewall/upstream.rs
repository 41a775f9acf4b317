//! The service's side: what its failures become for the client.

use std::io::Write as _;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::fake::{Act, Asked, Fake};
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, V6, connect, get, raw, read_answer, request, token};
use crate::common::net::{in_network, ip};
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, ROOT};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
/// Deadlines short enough to be waited for.
const SHORT: &str = "upstream.timeout = \"400ms\"\nupstream.connect_timeout = \"200ms\"";

fn alone() -> Setup {
    Setup {
        service: false,
        ..Setup::default()
    }
}

fn hasty() -> Setup {
    Setup {
        config: SHORT.into(),
        ..alone()
    }
}

/// The status and the record of one read of root's.
fn read(host: &Host) -> (u16, String, String) {
    let before = host.records(0).len();
    let token = token(ROOT, V4, 60);
    let answer = get(ROOT, V4, AMI, Some(&token));
    let record = host.records(before + 2).pop().unwrap();
    assert_eq!(record["status"], answer.status);
    assert_eq!(
        record["decision"] == "allow",
        answer.status < 500,
        "{record}"
    );
    let word = |name: &str| record[name].as_str().unwrap_or_default().to_owned();
    (answer.status, word("reason"), word("detail"))
}

fn outcome(status: u16, reason: &str, detail: &str) -> (u16, String, String) {
    (status, reason.into(), detail.into())
}

#[test]
fn a_service_that_is_down_is_a_502_and_back_without_a_restart() {
    in_network(|net| {
        let mut host = Host::start(net, &alone());
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
        host.start_service(&[]);
        assert_eq!(read(&host), outcome(200, "allowed", ""));
        host.stop_service();
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
        host.start_service(&[]);
        assert_eq!(read(&host), outcome(200, "allowed", ""));
    });
}

#[test]
fn a_service_that_cannot_be_reached_is_a_502_in_time() {
    in_network(|net| {
        let host = Host::start(net, &hasty());
        net.service(|| nft::load("add rule inet watch prerouting tcp flags syn drop\n"));
        let start = Instant::now();
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
        let took = start.elapsed();
        assert!(took > Duration::from_millis(200), "{took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");

        ip(&format!("rule add uidrange {0}-{0} prohibit", DAEMON.uid));
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
    });
}

#[test]
fn a_service_that_says_nothing_is_a_504_in_time() {
    in_network(|net| {
        let host = Host::start(net, &hasty());
        let service = Fake::start(net, |asked| match asked.is_put() {
            true => Act::token("t", 21600),
            false => Act::Silence,
        });
        let start = Instant::now();
        assert_eq!(read(&host), outcome(504, "upstream_timeout", ""));
        let took = start.elapsed();
        assert!(took > Duration::from_millis(400), "{took:?}");
        assert!(took < Duration::from_secs(4), "{took:?}");
        drop(service);

        let _mute = Fake::start(net, |_| Act::Silence);
        assert_eq!(read(&host), outcome(504, "upstream_timeout", ""));
    });
}

#[test]
fn an_answer_that_may_not_be_passed_on_is_a_502_and_never_followed() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        let long = "x".repeat(1024 * 1024 + 1);
        let sized = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{long}",
            long.len()
        );
        let endless = format!("HTTP/1.1 200 OK\r\n\r\n{long}");
        let moved = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254{CREDENTIALS}\r\n\
             Content-Length: 0\r\n\r\n"
        );
        let switching =
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n";
        for (bytes, reason, detail) in [
            (moved.as_str(), "upstream_invalid", "redirect"),
            ("HTTQ/1.1 200 OK\r\n\r\n", "upstream_invalid", "malformed"),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
                "upstream_invalid",
                "malformed",
            ),
            (
                "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort",
                "upstream_invalid",
                "cut_short",
            ),
            (
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nshort\r\n",
                "upstream_invalid",
                "cut_short",
            ),
            (&sized, "upstream_invalid", "too_long"),
            (&endless, "upstream_invalid", "too_long"),
            (switching, "upstream_invalid", "informational"),
            // The end of the connection in place of an answer.
            ("", "upstream_unreachable", ""),
        ] {
            let answer = bytes.as_bytes().to_vec();
            let service = Fake::start(net, move |asked| match asked.is_put() {
                true => Act::token("t", 21600),
                false => Act::Close(answer.clone()),
            });
            let what = bytes.get(..bytes.len().min(60)).unwrap();
            assert_eq!(read(&host), outcome(502, reason, detail), "{what}");
            let asked = service.asked();
            assert!(
                asked.iter().all(|it| it.is_put() || it.head.contains(AMI)),
                "{what}"
            );
        }
    });
}

#[test]
fn a_connection_the_service_gave_up_is_replaced_once() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        // Each connection is good for one request.
        let service = Fake::start(net, |asked| match (asked.number, asked.is_put()) {
            (0, true) => Act::token("t", 21600),
            (0, false) => Act::ok("ami-1"),
            _ => Act::Close(Vec::new()),
        });
        for _ in 0..3 {
            assert_eq!(read(&host), outcome(200, "allowed", ""));
        }
        let served = |it: &&Asked| it.number == 0 && !it.is_put();
        assert_eq!(service.asked().iter().filter(served).count(), 3);
        drop(service);

        let service = Fake::start(net, |asked| match asked.is_put() {
            true => Act::token("t", 21600),
            false => Act::Close(Vec::new()),
        });
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
        assert_eq!(
            service.asked().len(),
            1,
            "tried again on a new connection only"
        );
    });
}

#[test]
fn a_service_that_forgot_its_tokens_is_asked_for_another() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        let tokens = Mutex::new(0);
        let service = Fake::start(net, move |asked| {
            let mut tokens = tokens.lock().unwrap();
            if asked.is_put() {
                *tokens += 1;
                return Act::token(&format!("t{tokens}"), 21600);
            }
            // The first token is good once, the others for good.
            let sent = asked.header("x-aws-ec2-metadata-token").unwrap();
            match (sent, asked.number) {
                ("t1", 2..) => Act::status(401),
                _ => Act::ok("ami-1"),
            }
        });
        for _ in 0..3 {
            assert_eq!(read(&host), outcome(200, "allowed", ""));
        }
        let puts = service.asked().iter().filter(|it| it.is_put()).count();
        assert_eq!(puts, 2);
        drop(service);

        let service = Fake::start(net, |asked| match asked.is_put() {
            true => Act::token("t", 21600),
            false => Act::status(401),
        });
        let refused = outcome(502, "upstream_invalid", "own_token_refused");
        assert_eq!(read(&host), refused, "its 401 is about our token");
        let gets = service.asked().iter().filter(|it| !it.is_put()).count();
        assert_eq!(gets, 2, "and it is asked twice at most");
    });
}

#[test]
fn nonsense_in_place_of_the_services_token_is_not_used() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        let answer = |head: &str, body: &str| {
            let length = body.len();
            let head = format!("HTTP/1.1 {head}\r\nContent-Length: {length}\r\n\r\n{body}");
            head.into_bytes()
        };
        let ttl = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";
        for put in [
            answer("200 OK", "t"),
            answer(&format!("200 OK\r\n{ttl}: soon"), "t"),
            answer(&format!("200 OK\r\n{ttl}: 99999999999"), "t"),
            answer(&format!("200 OK\r\n{ttl}: 60"), ""),
            answer(&format!("200 OK\r\n{ttl}: 60"), "a\r\nX-Forwarded-For: b"),
            answer(&format!("200 OK\r\n{ttl}: 60"), &"t".repeat(2000)),
            answer(&format!("403 Forbidden\r\n{ttl}: 60"), "t"),
        ] {
            let what = String::from_utf8_lossy(&put[..60.min(put.len())]).into_owned();
            let service = Fake::start(net, move |asked| match asked.is_put() {
                true => Act::Answer(put.clone()),
                false => Act::ok("ami-1"),
            });
            let refused = outcome(502, "upstream_invalid", "own_token");
            assert_eq!(read(&host), refused, "{what}");
            assert!(service.asked().iter().all(Asked::is_put), "{what}");
        }
        // A life longer than was asked for is not counted on.
        let _service = Fake::start(net, |asked| match asked.is_put() {
            true => Act::token("t", u32::MAX),
            false => Act::ok("ami-1"),
        });
        assert_eq!(read(&host), outcome(200, "allowed", ""));
    });
}

#[test]
fn fifty_callers_at_once_need_one_token_of_the_services() {
    in_network(|net| {
        let setup = Setup {
            sim: vec!["--latency", "50ms"],
            ..Setup::default()
        };
        let host = Host::start(net, &setup);
        let token = token(ALICE, V4, 60);
        let get = request("GET", V4, AMI, Some(&token), "close");
        let mut clients: Vec<_> = (0..50).map(|_| connect(ALICE, V4)).collect();
        for client in &mut clients {
            client.write_all(get.as_bytes()).unwrap();
        }
        for client in &mut clients {
            assert_eq!(read_answer(client).unwrap().status, 200);
        }
        let seen = host.seen_by_service("request");
        let puts = seen.iter().filter(|it| it["method"] == "PUT").count();
        assert_eq!((puts, seen.len()), (1, 51));
    });
}

#[test]
fn the_services_token_is_renewed_ahead_of_its_end() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        let granted = Arc::new(Mutex::new(Vec::new()));
        let puts = Arc::clone(&granted);
        let _service = Fake::start(net, move |asked| {
            let mut puts = puts.lock().unwrap();
            if asked.is_put() {
                puts.push(Instant::now());
                // The renewal fails at first, which is not yet anybody's harm.
                return match puts.len() {
                    2 => Act::status(503),
                    count => Act::token(&format!("t{count}"), 3),
                };
            }
            let sent = asked.header("x-aws-ec2-metadata-token").unwrap();
            let number: usize = sent.strip_prefix('t').unwrap().parse().unwrap();
            match puts[number - 1].elapsed() < Duration::from_secs(3) {
                true => Act::ok("ami-1"),
                false => Act::status(401),
            }
        });
        let token = token(ALICE, V4, 60);
        wait_for("the renewal", || {
            assert_eq!(get(ALICE, V4, AMI, Some(&token)).status, 200);
            (granted.lock().unwrap().len() >= 3).then_some(())
        });
        let granted = granted.lock().unwrap();
        let ahead = granted[1] - granted[0];
        assert!(ahead < Duration::from_secs(3), "{ahead:?}");
        drop(host);
    });
}

#[test]
fn nothing_reaches_the_service_before_a_request_is_permitted() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        for to in [V4, V6] {
            let token = token(ALICE, to, 60);
            assert_eq!(get(ALICE, to, CREDENTIALS, Some(&token)).status, 403);
            assert_eq!(get(ALICE, to, AMI, None).status, 401);
            assert_eq!(raw(ALICE, to, b"GET /\r\n\r\n").status, 400);
        }
        host.records(8);
        assert_eq!(net.packets_at_service(), 0);
        let token = token(ALICE, V4, 60);
        assert_eq!(get(ALICE, V4, AMI, Some(&token)).status, 200);
        assert!(net.packets_at_service() > 0);
    });
}

#[test]
fn tokens_are_minted_while_the_service_is_down() {
    in_network(|net| {
        let _host = Host::start(net, &alone());
        for to in [V4, V6] {
            assert_eq!(token(ALICE, to, 60).len(), 56);
        }
    });
}

#[test]
fn a_slow_reader_holds_up_nobody_else() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        let body = "x".repeat(1024 * 1024);
        let _service = Fake::start(net, move |asked| match asked.is_put() {
            true => Act::token("t", 21600),
            false => Act::ok(&body),
        });
        let token = token(ALICE, V4, 60);
        let mut slow: Vec<_> = (0..4).map(|_| connect(ALICE, V4)).collect();
        for client in &mut slow {
            let get = request("GET", V4, AMI, Some(&token), "close");
            client.write_all(get.as_bytes()).unwrap();
        }
        let answer = thread::scope(|scope| {
            let other = scope.spawn(|| get(ALICE, V4, AMI, Some(&token)));
            other.join().unwrap()
        });
        assert_eq!((answer.status, answer.body.len()), (200, 1024 * 1024));
        for client in &mut slow {
            assert_eq!(read_answer(client).unwrap().body.len(), 1024 * 1024);
        }
        drop(host);
    });
}
