//! The service's side: what its failures become for the client, and that its
//! answers arrive as they were sent.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::fake::{Act, Asked, Fake};
use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, connect, get, put, raw, read_answer, request, token};
use crate::common::net::{in_network, ip};
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, ROOT, User};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
/// Deadlines short enough to be waited for.
const SHORT: &str = "upstream.timeout = \"400ms\"\nupstream.connect_timeout = \"200ms\"";

fn alone() -> Setup {
    Setup {
        service: false,
        config: SHORT.into(),
        ..Setup::default()
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
        let host = Host::start(net, &alone());
        net.service(|| nft::load("add rule inet watch prerouting tcp flags syn drop\n"));
        let start = Instant::now();
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
        let took = start.elapsed();
        let expected = Duration::from_millis(200)..Duration::from_millis(390);
        assert!(expected.contains(&took), "{took:?}");

        ip(&format!("rule add uidrange {0}-{0} prohibit", DAEMON.uid));
        assert_eq!(read(&host), outcome(502, "upstream_unreachable", ""));
    });
}

#[test]
fn a_service_that_says_nothing_is_a_504_in_time() {
    in_network(|net| {
        let host = Host::start(net, &alone());
        let service = Fake::start(net, |asked| match asked.is_put() {
            true => Act::token("t", 21600),
            false => Act::Silence,
        });
        let start = Instant::now();
        assert_eq!(read(&host), outcome(504, "upstream_timeout", ""));
        let took = start.elapsed();
        assert!(took > Duration::from_millis(400), "{took:?}");
        assert!(took < Duration::from_secs(2), "{took:?}");
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
        let granted = Mutex::new(Vec::new());
        let service = Fake::start(net, move |asked| {
            let mut granted = granted.lock().unwrap();
            if asked.is_put() {
                granted.push(Instant::now());
                // The renewal fails at first, which is not yet anybody's harm.
                return match granted.len() {
                    2 => Act::status(503),
                    count => Act::token(&format!("t{count}"), 2),
                };
            }
            let sent = asked.header("x-aws-ec2-metadata-token").unwrap();
            let number: usize = sent.strip_prefix('t').unwrap().parse().unwrap();
            match granted[number - 1].elapsed() < Duration::from_secs(2) {
                true => Act::ok("ami-1"),
                false => Act::status(401),
            }
        });
        let token = token(ALICE, V4, 60);
        let start = Instant::now();
        let puts = |service: &Fake| service.asked().iter().filter(|it| it.is_put()).count();
        while puts(&service) < 3 {
            assert_eq!(get(ALICE, V4, AMI, Some(&token)).status, 200);
            assert!(start.elapsed() < Duration::from_secs(5), "no renewal");
        }
        assert!(start.elapsed() < Duration::from_secs(2), "renewed too late");
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
fn answers_arrive_as_the_service_sent_them() {
    in_network(|net| {
        let mut host = Host::prepare(net, &alone());
        let user_data = host.path("user-data");
        let bytes: Vec<u8> = (0..=255).cycle().take(16 * 1024).collect();
        fs::write(&user_data, bytes).unwrap();
        host.start_service(&["--user-data", user_data.to_str().unwrap()]);
        host.run("rules apply");
        host.start_daemon();
        for to in [V4, V6] {
            // The daemon's own uid is not redirected.
            let direct = token(DAEMON, to, 60);
            let through = token(ROOT, to, 300);
            for path in [
                "/",
                "/latest",
                "/latest/meta-data/",
                "/latest/meta-data",
                AMI,
                "/latest/meta-data/ami-id/",
                "/2009-04-04/meta-data/ami-id",
                "/latest/meta-data/no-such-item",
                "/latest/user-data",
                CREDENTIALS,
                "/latest/dynamic/instance-identity/document",
                "/latest/dynamic/instance-identity/pkcs7",
            ] {
                for (method, connection) in [
                    ("GET", "close"),
                    ("GET", "keep-alive"),
                    ("HEAD", "close"),
                    ("HEAD", "keep-alive"),
                ] {
                    let ask = |user, token: &str| {
                        exchange(
                            user,
                            to,
                            &request(method, to, path, Some(token), connection),
                        )
                    };
                    let (expected, ttl) = ask(DAEMON, &direct);
                    assert!(ttl.unwrap() <= 60, "the service's own");
                    let (answer, ttl) = ask(ROOT, &through);
                    assert!(
                        (295..=300).contains(&ttl.unwrap()),
                        "the client's own token's: {ttl:?}"
                    );
                    assert_eq!(answer, expected, "{method} {path} {connection}");
                }
            }
            // What the daemon says itself has the service's form.
            for request in [put(to, 300), put(to, 300).replace("close", "keep-alive")] {
                let (expected, _) = exchange(DAEMON, to, &request);
                let (answer, _) = exchange(ROOT, to, &request);
                let head = |answer: &str| answer.split_once("\n\n").unwrap().0.to_owned();
                assert_eq!(head(&answer), head(&expected));
            }
            for connection in ["close", "keep-alive"] {
                let request = request("GET", to, AMI, None, connection);
                let (expected, _) = exchange(DAEMON, to, &request);
                assert_eq!(exchange(ROOT, to, &request).0, expected);
            }
        }
    });
}

/// Every byte of one answer, but for the date and the seconds a token has
/// left; and the latter.
fn exchange(user: User, to: &str, request: &str) -> (String, Option<u32>) {
    let mut stream = connect(user, to);
    stream.write_all(request.as_bytes()).unwrap();
    let bytes = read_bytes(&mut stream, request.starts_with("HEAD"));
    if request.contains("Connection: close") {
        assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed as asked");
    } else {
        stream.set_nonblocking(true).unwrap();
        let more = stream.read(&mut [0]).unwrap_err();
        assert_eq!(more.kind(), std::io::ErrorKind::WouldBlock, "still open");
    }
    let mut ttl = None;
    // Byte n becomes the character of that number: nothing is lost.
    let text: String = bytes.into_iter().map(char::from).collect();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let head: Vec<_> = head
        .split("\r\n")
        .map(|line| match line.split_once(": ") {
            Some((name @ "Date", _)) => name,
            Some((name @ "X-Aws-Ec2-Metadata-Token-Ttl-Seconds", left)) => {
                ttl = left.parse().ok();
                name
            }
            _ => line,
        })
        .collect();
    (format!("{}\n\n{body}", head.join("\n")), ttl)
}

fn read_bytes(stream: &mut TcpStream, head_only: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        bytes.extend(byte);
    }
    let head = String::from_utf8(bytes.clone()).unwrap();
    let (_, rest) = head.split_once("Content-Length: ").unwrap();
    let length: usize = rest.split("\r\n").next().unwrap().parse().unwrap();
    if !head_only {
        let mut body = vec![0; length];
        stream.read_exact(&mut body).unwrap();
        bytes.extend(body);
    }
    bytes
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
