//! What each kind of request must come to, a test for each: the answer, the
//! one record, and what the service saw of it. Everything is sent by alice,
//! whose uid is not her gid, and with a token wherever one would help.

mod connections;
mod framing;
mod heads;
mod reasons;
mod service;
mod targets;
mod tokens;

use serde_json::Value;

use crate::common::host::{Host, Setup};
use crate::common::http::{Answer, V4, connect, raw, rest, token, until_closed};
use crate::common::net::{Net, in_network};
use crate::common::user::{ALICE, DAEMON, User};

const AMI: &str = "/latest/meta-data/ami-id";

/// What must come of requests that are refused before anyone asks the policy.
struct Refusal {
    status: u16,
    reason: &'static str,
    detail: Option<&'static str>,
}

const fn malformed(status: u16, detail: &'static str) -> Refusal {
    Refusal {
        status,
        reason: "malformed",
        detail: Some(detail),
    }
}

/// A request with nothing wrong but what `line` and `headers` bring, the
/// latter each with its CRLF. It does not ask for the connection to be closed.
fn with(line: &str, headers: &str, token: &str) -> Vec<u8> {
    let mut bytes = format!("{line}\r\n").into_bytes();
    if !headers.to_ascii_lowercase().contains("host") {
        bytes.extend(b"Host: 169.254.169.254\r\n");
    }
    bytes.extend(headers.as_bytes());
    bytes.extend(format!("X-aws-ec2-metadata-token: {token}\r\n\r\n").bytes());
    bytes
}

/// Each of the requests that `requests` makes for a token, with the `raw` that
/// its record must hold, is refused as stated: the connection ends with the
/// answer, the one record names alice, and the service sees nothing at all.
fn refused(
    refusal: Refusal,
    requests: impl FnOnce(&str) -> Vec<(Vec<u8>, Option<String>)> + Send + 'static,
) {
    in_network(move |net| {
        let mut host = Host::start(net, &Setup::default());
        let requests = requests(&token(ALICE, V4, 60));
        assert!(!requests.is_empty());
        let mut ids = Vec::new();
        for (bytes, _) in &requests {
            let shown = String::from_utf8_lossy(bytes);
            let answer = if bytes.starts_with(b"HEAD ") {
                head_until_closed(bytes)
            } else {
                let [answer] = <[_; 1]>::try_from(until_closed(ALICE, V4, bytes))
                    .unwrap_or_else(|answers| panic!("{shown}: {answers:?}"));
                let message: Value = serde_json::from_str(&answer.body).unwrap();
                ids.push(message["message"].as_str().unwrap().to_owned());
                answer
            };
            assert_eq!(answer.status, refusal.status, "{shown}");
            assert_eq!(answer.header("connection"), Some("close"), "{shown}");
            assert_eq!(answer.header("server"), Some("EC2ws"), "{shown}");
        }
        let records = settled(&mut host, 1 + requests.len()).split_off(1);
        for (record, (bytes, raw)) in records.iter().zip(&requests) {
            let shown = String::from_utf8_lossy(bytes);
            assert_eq!(record["event"], "request", "{shown}");
            assert_eq!(record["decision"], "deny", "{shown}");
            assert_eq!(record["verdict"], "deny", "{shown}");
            assert_eq!(record["reason"], refusal.reason, "{shown}");
            assert_eq!(record["detail"].as_str(), refusal.detail, "{shown}");
            assert_eq!(record["status"], refusal.status, "{shown}");
            assert_eq!(record["request"]["path"], Value::Null, "{shown}");
            assert_eq!(record["request"]["raw"].as_str(), raw.as_deref(), "{shown}");
            assert_by(ALICE, record);
        }
        for (id, record) in ids.iter().zip(&records) {
            assert!(id.contains(record["id"].as_str().unwrap()), "{id}");
        }
        assert_untouched(net, &host);
    });
}

/// Whole requests as they are.
fn as_sent(
    requests: &'static [(&'static str, Option<&'static str>)],
) -> impl FnOnce(&str) -> Vec<(Vec<u8>, Option<String>)> + Send {
    move |_| {
        requests
            .iter()
            .map(|(bytes, raw)| (bytes.as_bytes().to_vec(), raw.map(str::to_owned)))
            .collect()
    }
}

/// Refused for their target alone.
fn refused_targets(refusal: Refusal, targets: &'static [&'static str]) {
    refused(refusal, |token| {
        let request = |target: &&str| {
            let bytes = with(&format!("GET {target} HTTP/1.1"), "", token);
            (bytes, Some(target.replace('\\', "\\\\")))
        };
        targets.iter().map(request).collect()
    });
}

/// Refused for their headers alone.
fn refused_headers(refusal: Refusal, headers: &'static [&'static str]) {
    refused(refusal, |token| {
        let line = format!("GET {AMI} HTTP/1.1");
        headers
            .iter()
            .map(|headers| (with(&line, headers, token), Some(AMI.to_owned())))
            .collect()
    });
}

/// Each of the requests that `requests` makes for a token is answered as the
/// service answers a plain GET of the path given with it, and the service sees
/// that path.
fn answered(requests: impl FnOnce(&str) -> Vec<(Vec<u8>, String)> + Send + 'static) {
    in_network(move |net| {
        let mut host = Host::start(net, &Setup::default());
        let requests = requests(&token(ALICE, V4, 60));
        assert!(!requests.is_empty());
        for (bytes, path) in &requests {
            let answer = raw(ALICE, V4, bytes);
            assert_services_own(&answer, &direct(path));
        }
        let records = settled(&mut host, 1 + requests.len()).split_off(1);
        for (record, (_, path)) in records.iter().zip(&requests) {
            assert_eq!(record["request"]["path"], path.as_str());
            assert_eq!(record["decision"], "allow", "{path}");
            assert_eq!(record["reason"], "allowed", "{path}");
            assert_eq!(record["status"], 200, "{path}");
            assert_by(ALICE, record);
        }
        let paths: Vec<_> = requests.iter().map(|(_, path)| path.clone()).collect();
        assert_eq!(reads_by_daemon(&host), paths);
    });
}

fn assert_by(user: User, record: &Value) {
    assert_eq!(record["caller"]["uid"], user.uid, "{record}");
    assert_eq!(record["caller"]["gid"], user.gid, "{record}");
}

/// Status, body and headers are the service's; `Date` and what is about a
/// connection or a token aside.
fn assert_services_own(answer: &Answer, own: &Answer) {
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!((answer.status, &answer.body), (own.status, &own.body));
    for name in ["server", "content-type", "last-modified", "accept-ranges"] {
        assert_eq!(answer.header(name), own.header(name), "{name}");
        assert!(answer.header(name).is_some(), "{name}");
    }
}

/// What the service itself says: asked by the daemon's account, which the
/// rules let through.
fn direct(path: &str) -> Answer {
    let token = token(DAEMON, V4, 60);
    crate::common::http::get(DAEMON, V4, path, Some(&token))
}

/// Paths that the daemon read of the service, in order.
fn reads_by_daemon(host: &Host) -> Vec<String> {
    host.seen_by_service("request")
        .iter()
        .filter(|it| it["method"] != "PUT")
        .filter(|it| {
            it["user_agent"]
                .as_str()
                .is_some_and(|it| it.starts_with("imdsfw/"))
        })
        .map(|it| it["path"].as_str().unwrap().to_owned())
        .collect()
}

/// Not so much as a packet has reached the service.
fn assert_untouched(net: &Net, host: &Host) {
    assert_eq!(host.seen_by_service("request"), Vec::<Value>::new());
    assert_eq!(host.seen_by_service("connection"), Vec::<Value>::new());
    assert_eq!(net.packets_at_service(), 0);
}

/// The records, exactly so many, once the daemon has written its last.
fn settled(host: &mut Host, count: usize) -> Vec<Value> {
    host.stop_daemon();
    let records = host.records(count);
    assert_eq!(records.len(), count, "{records:#?}");
    records
}

/// The answer to a HEAD has no body, whatever its length says.
fn head_until_closed(bytes: &[u8]) -> Answer {
    use std::io::{Read as _, Write as _};
    let mut stream = connect(ALICE, V4);
    let _ = stream.write_all(bytes);
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let head = text.strip_suffix("\r\n\r\n").expect("no body").to_owned();
    Answer {
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head,
        body: String::new(),
    }
}
