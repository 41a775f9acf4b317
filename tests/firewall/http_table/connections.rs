//! How requests come over a connection, and how it ends.

use std::io::Write as _;
use std::net::Shutdown;
use std::time::Instant;

use super::*;
use crate::common::http::{V6, put, read_answer, request, reset};

#[test]
fn two_requests_at_once_are_both_answered() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let region = "/latest/meta-data/placement/region";
        let mut bytes = request("GET", V4, AMI, Some(&token), "keep-alive");
        bytes += &request("GET", V4, region, Some(&token), "close");
        let answers = until_closed(ALICE, V4, bytes.as_bytes());
        assert_eq!(answers.len(), 2, "{answers:?}");
        assert_services_own(&answers[0], &direct(AMI));
        assert_services_own(&answers[1], &direct(region));
        let records = settled(&mut host, 3);
        for (record, path) in records[1..].iter().zip([AMI, region]) {
            assert_eq!(record["request"]["path"], path);
            assert_eq!(record["reason"], "allowed");
            assert_by(ALICE, record);
        }
        assert_eq!(reads_by_daemon(&host), [AMI, region]);
    });
}

#[test]
fn a_malformed_request_behind_a_good_one_is_answered_too() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let good = request("GET", V4, AMI, Some(&token), "keep-alive");
        let hidden = request("GET", V4, "/latest/user-data", Some(&token), "close");
        for bad in [
            "GET /?x HTTP/1.1\r\nHost: instance-data\r\n\r\n",
            "GET /?x HTTP/1.1\n\n",
        ] {
            let answers = until_closed(ALICE, V4, format!("{good}{bad}{hidden}").as_bytes());
            let statuses: Vec<_> = answers.iter().map(|it| it.status).collect();
            assert_eq!(statuses, [200, 400], "and nothing behind it is read");
            assert_eq!(answers[1].header("connection"), Some("close"));
        }
        let records = settled(&mut host, 5);
        for (good, bad) in [(1, 2), (3, 4)] {
            assert_eq!(records[good]["reason"], "allowed");
            assert_eq!(records[bad]["reason"], "malformed");
            assert_eq!(records[bad]["request"]["raw"], "/?x");
            assert_by(ALICE, &records[good]);
            assert_by(ALICE, &records[bad]);
        }
        assert_eq!(reads_by_daemon(&host), [AMI, AMI]);
    });
}

/// An unread body must not be taken for the next request.
#[test]
fn what_stands_in_a_body_is_no_request() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let hidden = request("GET", V4, AMI, Some(&token), "close");
        let headers = format!("Content-Length: {}\r\n", hidden.len());
        let mut bytes = with(&format!("GET {AMI} HTTP/1.1"), &headers, &token);
        bytes.extend(hidden.as_bytes());
        let answers = until_closed(ALICE, V4, &bytes);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].status, 400);
        settled(&mut host, 2);
        assert_untouched(net, &host);
    });
}

#[test]
fn a_head_that_comes_byte_by_byte() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let mut stream = connect(ALICE, V4);
        stream.set_nodelay(true).unwrap();
        for connection in ["keep-alive", "close"] {
            for byte in request("GET", V4, AMI, Some(&token), connection).as_bytes() {
                stream.write_all(&[*byte]).unwrap();
            }
            let answer = read_answer(&mut stream).unwrap();
            assert_eq!(answer.status, 200);
        }
        let chunked = put(V4, 60).replacen(
            "\r\n\r\n",
            "\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            1,
        );
        let mut stream = connect(ALICE, V4);
        stream.set_nodelay(true).unwrap();
        for byte in chunked.as_bytes() {
            stream.write_all(&[*byte]).unwrap();
        }
        assert_eq!(rest(&mut stream).len(), 1);
        let records = settled(&mut host, 4);
        assert!(records.iter().all(|it| it["reason"] == "allowed"));
        records.iter().for_each(|it| assert_by(ALICE, it));
        assert_eq!(reads_by_daemon(&host), [AMI, AMI]);
    });
}

#[test]
fn a_client_that_leaves_within_a_head_is_recorded() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let part = format!("GET {AMI} HTTP/1.1\r\nHost: inst");
        // By a plain end, by half of one, and by a reset.
        let mut stream = connect(ALICE, V4);
        stream.write_all(part.as_bytes()).unwrap();
        drop(stream);
        host.records(1);
        let mut stream = connect(ALICE, V4);
        stream.write_all(part.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(rest(&mut stream), []);
        host.records(2);
        let mut stream = connect(ALICE, V4);
        stream.write_all(part.as_bytes()).unwrap();
        reset(stream);
        // One that sent nothing is no request.
        drop(connect(ALICE, V4));
        for record in settled(&mut host, 3) {
            assert_eq!(record["reason"], "client_gone");
            assert_eq!(record["decision"], "deny");
            assert_eq!(record["status"], Value::Null);
            assert_eq!(record["request"]["raw"], AMI);
            // Nobody, where it was closed before it was accepted.
            let uid = &record["caller"]["uid"];
            assert!(uid.is_null() || *uid == ALICE.uid, "{record}");
        }
        assert_untouched(net, &host);
    });
}

#[test]
fn a_client_that_leaves_while_the_service_is_asked_is_recorded() {
    in_network(|net| {
        let mut host = Host::start(
            net,
            &Setup {
                sim: vec!["--latency", "300ms"],
                ..Setup::default()
            },
        );
        let token = token(ALICE, V4, 60);
        let mut stream = connect(ALICE, V4);
        let asked = request("GET", V4, AMI, Some(&token), "keep-alive");
        stream.write_all(asked.as_bytes()).unwrap();
        crate::common::host::wait_for("the service to be asked", || {
            (!host.seen_by_service("request").is_empty()).then_some(())
        });
        drop(stream);
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["reason"], "client_gone");
        assert_eq!(record["status"], Value::Null);
        assert_eq!(record["request"]["path"], AMI);
        assert_by(ALICE, &record);
        settled(&mut host, 2);
    });
}

/// Five seconds for the whole head, however the bytes are spread.
#[test]
fn a_head_that_is_not_complete_in_5_seconds() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let line = format!("GET {AMI} HTTP/1.1\r\n");
        let start = Instant::now();
        let mut silent = connect(ALICE, V4);
        let mut partly = connect(ALICE, V6);
        partly.write_all(line.as_bytes()).unwrap();
        let mut dripping = connect(ALICE, V4);
        dripping.write_all(line.as_bytes()).unwrap();
        dripping
            .set_read_timeout(Some(std::time::Duration::from_millis(200)))
            .unwrap();
        let answer = loop {
            // The read's timeout paces the drip.
            match read_answer(&mut dripping) {
                Ok(answer) => break answer,
                Err(_) => dripping.write_all(b"X: a\r\n").unwrap(),
            }
        };
        assert_eq!(answer.status, 408);
        assert_eq!(rest(&mut dripping), []);
        let answers = rest(&mut partly);
        assert_eq!(answers.len(), 1);
        assert_eq!(answers[0].status, 408);
        assert_eq!(answers[0].header("connection"), Some("close"));
        assert_eq!(rest(&mut silent), [], "closed, and no request to answer");
        let took = start.elapsed().as_secs_f32();
        assert!((4.9..7.0).contains(&took), "{took} s");
        for record in settled(&mut host, 2) {
            assert_eq!(record["reason"], "malformed");
            assert_eq!(record["detail"], "head_timeout");
            assert_eq!(record["status"], 408);
            assert_eq!(record["request"]["raw"], AMI);
            assert_by(ALICE, &record);
        }
        assert_untouched(net, &host);
    });
}

/// The kernel keeps a connection to itself until its client has sent something,
/// but not for ever.
#[test]
fn a_client_that_asks_late_is_answered() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        for to in [V4, V6] {
            let token = token(ALICE, to, 60);
            let start = Instant::now();
            let mut late = host.handed_over(|| connect(ALICE, to));
            let kept = start.elapsed().as_secs_f32();
            assert!((0.9..5.0).contains(&kept), "{kept} s");
            let asked = request("GET", to, AMI, Some(&token), "close");
            late.write_all(asked.as_bytes()).unwrap();
            let answers = rest(&mut late);
            assert_eq!(answers.len(), 1);
            assert_services_own(&answers[0], &direct(AMI));
        }
        for record in settled(&mut host, 4) {
            assert_by(ALICE, &record);
        }
    });
}

#[test]
fn many_requests_on_one_connection() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V6, 60);
        let own = direct(AMI);
        let mut stream = connect(ALICE, V6);
        for _ in 0..200 {
            let asked = request("GET", V6, AMI, Some(&token), "keep-alive");
            stream.write_all(asked.as_bytes()).unwrap();
            assert_services_own(&read_answer(&mut stream).unwrap(), &own);
        }
        drop(stream);
        let records = settled(&mut host, 201);
        for record in &records {
            assert_eq!(record["reason"], "allowed");
            assert_by(ALICE, record);
        }
        assert_eq!(reads_by_daemon(&host).len(), 200);
        let daemons = host
            .seen_by_service("request")
            .into_iter()
            .filter(|it| it["user_agent"].is_string())
            .map(|it| it["peer"].to_string());
        let connections: std::collections::BTreeSet<_> = daemons.collect();
        assert_eq!(connections.len(), 1, "towards the service as well");
    });
}

#[test]
fn head_gets_the_head_alone() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let own = direct(AMI);
        let asked = request("HEAD", V4, AMI, Some(&token), "close");
        let answer = head_until_closed(asked.as_bytes());
        assert_eq!(answer.status, 200);
        let length = own.body.len().to_string();
        assert_eq!(answer.header("content-length"), Some(length.as_str()));
        assert_eq!(answer.header("last-modified"), own.header("last-modified"));
        let asked = request("HEAD", V4, "/latest/user-data", Some(&token), "close");
        assert_eq!(head_until_closed(asked.as_bytes()).status, 403);
        let records = settled(&mut host, 3);
        for (record, decision) in records[1..].iter().zip(["allow", "deny"]) {
            assert_eq!(record["request"]["method"], "HEAD");
            assert_eq!(record["decision"], decision);
            assert_eq!(record["bytes"], 0, "{decision}");
            assert_by(ALICE, record);
        }
        let heads = host.seen_by_service("request");
        assert_eq!(heads.last().unwrap()["method"], "HEAD");
        assert_eq!(reads_by_daemon(&host), [AMI]);
    });
}
