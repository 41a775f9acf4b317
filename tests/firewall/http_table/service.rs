//! What becomes of answers, and of their absence. The service here is a
//! script: it hands out a token, and to all else it says the same.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::thread::{JoinHandle, spawn};

use super::*;
use crate::common::http::get;
use crate::common::net::families;
use crate::common::user::listen;

const TOKEN: &str = "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: 60\r\n\
                     Content-Length: 4\r\nConnection: close\r\n\r\nAAAA";

/// Answers the token request, then one more with `answer`; gives back that
/// other one. The connection is held until the daemon lets go of it.
fn scripted(net: &Net, answer: impl Into<Vec<u8>>) -> JoinHandle<String> {
    let [v4, _] = families();
    let listener = net.service(|| listen(v4.service));
    let answer = answer.into();
    spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        assert!(head_of(&mut stream).starts_with("PUT /latest/api/token "));
        stream.write_all(TOKEN.as_bytes()).unwrap();
        drop(stream);
        let (mut stream, _) = listener.accept().unwrap();
        let head = head_of(&mut stream);
        // The daemon may have heard enough before it has heard all.
        let _ = stream.write_all(&answer);
        if !answer.is_empty() {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
        let _ = stream.read(&mut [0]);
        head
    })
}

fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.extend(byte);
    }
    String::from_utf8(head).unwrap()
}

fn without_service() -> Setup {
    Setup {
        service: false,
        config: "upstream.timeout = \"500ms\"".into(),
        ..Setup::default()
    }
}

fn assert_failed(host: &mut Host, answer: &Answer, expected: (u16, &str, Option<&str>)) {
    let (status, reason, detail) = expected;
    assert_eq!(answer.status, status, "{answer:?}");
    let record = settled(host, 2).remove(1);
    let message: Value = serde_json::from_str(&answer.body).unwrap();
    let id = record["id"].as_str().unwrap();
    assert!(message["message"].as_str().unwrap().contains(id));
    assert_eq!(record["reason"], reason);
    assert_eq!(record["detail"].as_str(), detail);
    assert_eq!(record["status"], status);
    assert_eq!(
        (&record["verdict"], &record["decision"]),
        (&"allow".into(), &"deny".into())
    );
    assert_eq!(record["request"]["path"], AMI);
    assert_by(ALICE, &record);
}

/// Whatever the service sent, the client gets 502 and no byte of it.
fn invalid(answer: impl Into<Vec<u8>> + Send + 'static, detail: &'static str) {
    in_network(move |net| {
        let mut host = Host::start(net, &without_service());
        let token = token(ALICE, V4, 60);
        let service = scripted(net, answer);
        let got = get(ALICE, V4, AMI, Some(&token));
        assert_failed(&mut host, &got, (502, "upstream_invalid", Some(detail)));
        assert!(
            !got.head.contains("elsewhere") && !got.body.contains("elsewhere"),
            "{got:?}"
        );
        service.join().unwrap();
    });
}

/// The daemon's own words, none of the client's.
#[test]
fn the_service_gets_a_request_built_anew() {
    in_network(|net| {
        let _host = Host::start(net, &without_service());
        let token = token(ALICE, V4, 60);
        let service = scripted(net, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi");
        let headers = "X-Odd: 1\r\nAccept: text/html\r\nCookie: a=b\r\nUser-Agent: curl\r\n\
                       Host: INSTANCE-DATA\r\nConnection: close\r\n";
        let asked = with("GET //latest/meta-data//ami%2Did HTTP/1.1", headers, &token);
        assert_eq!(raw(ALICE, V4, &asked).body, "hi");
        let mut lines: Vec<_> = service
            .join()
            .unwrap()
            .lines()
            .map(str::to_ascii_lowercase)
            .collect();
        assert_eq!(lines.remove(0), format!("get {AMI} http/1.1"));
        lines.retain(|line| !line.is_empty());
        lines.sort();
        let agent = concat!("user-agent: imdsfw/", env!("CARGO_PKG_VERSION"));
        assert_eq!(
            lines,
            [
                "host: 169.254.169.254",
                agent,
                "x-aws-ec2-metadata-token: aaaa"
            ]
        );
    });
}

#[test]
fn a_redirect_is_not_followed() {
    for status in ["301 Moved Permanently", "307 Temporary Redirect"] {
        let answer = format!(
            "HTTP/1.1 {status}\r\nLocation: http://elsewhere.example/\r\nContent-Length: 0\r\n\r\n"
        );
        invalid(answer, "redirect");
    }
}

#[test]
fn an_answer_that_is_no_http() {
    invalid("elsewhere\r\n\r\n", "malformed");
    invalid(
        "HTTP/1.1 200 OK\r\nContent-Length: elsewhere\r\n\r\n",
        "malformed",
    );
}

#[test]
fn an_answer_of_more_than_1_mib() {
    let mut answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1048577\r\n\r\n".to_vec();
    answer.resize(answer.len() + 1024 * 1024 + 1, b'x');
    invalid(answer, "too_long");
    let mut endless = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    endless.extend(format!("200000\r\n{}", "x".repeat(0x20_0000)).bytes());
    invalid(endless, "too_long");
}

#[test]
fn an_answer_that_is_cut_short() {
    invalid(
        "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nelsewhere",
        "cut_short",
    );
}

#[test]
fn no_service() {
    in_network(|net| {
        let mut host = Host::start(net, &without_service());
        let token = token(ALICE, V4, 60);
        let answer = get(ALICE, V4, AMI, Some(&token));
        assert_failed(&mut host, &answer, (502, "upstream_unreachable", None));
    });
}

#[test]
fn a_service_that_does_not_answer() {
    in_network(|net| {
        let mut host = Host::start(net, &without_service());
        let token = token(ALICE, V4, 60);
        let service = scripted(net, "");
        let answer = get(ALICE, V4, AMI, Some(&token));
        assert_failed(&mut host, &answer, (504, "upstream_timeout", None));
        service.join().unwrap();
    });
}
