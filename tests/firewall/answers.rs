//! The service's answers arrive as they were sent, byte for byte.

use std::fs;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use crate::common::fake::{Act, Fake};
use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, connect, get, put, request, token};
use crate::common::net::in_network;
use crate::common::user::{DAEMON, ROOT, User};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

#[test]
fn answers_arrive_as_the_service_sent_them() {
    in_network(|net| {
        let setup = Setup {
            service: false,
            ..Setup::default()
        };
        let mut host = Host::prepare(net, &setup);
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

#[test]
fn headers_keep_spelling_and_order_and_lose_what_was_the_connections() {
    in_network(|net| {
        let setup = Setup {
            service: false,
            ..Setup::default()
        };
        let _host = Host::start(net, &setup);
        let sent = "HTTP/1.1 299 As It Is\r\nx-lower: 1\r\nX-UPPER: 2\r\nX-Two: a\r\n\
                    Keep-Alive: timeout=5\r\nServer: EC2ws\r\nX-Two: b\r\n\
                    Connection: Keep-Alive\r\nContent-Length: 2\r\nDate: then\r\n\r\nok";
        let _service = Fake::start(net, move |asked| match asked.is_put() {
            true => Act::token("t", 60),
            false => Act::Answer(sent.into()),
        });
        let token = token(ROOT, V4, 60);
        let answer = get(ROOT, V4, AMI, Some(&token));
        assert_eq!((answer.status, answer.body.as_str()), (299, "ok"));
        let lines: Vec<_> = answer.head.lines().skip(1).collect();
        let expected = [
            "x-lower: 1",
            "X-UPPER: 2",
            "X-Two: a",
            "Server: EC2ws",
            "X-Two: b",
            "Connection: close",
            "Content-Length: 2",
            "Date: then",
        ];
        assert_eq!(lines, expected);
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
        assert_eq!(more.kind(), ErrorKind::WouldBlock, "still open");
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
