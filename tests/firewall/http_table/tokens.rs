//! Session tokens.

use super::*;
use crate::common::host::wait_for;
use crate::common::http::{V6, get};
use crate::common::user::{BOB, ROOT};

/// A GET of alice's with this token gets 401 in the service's own form, the
/// reason in the record, and nothing reaches the service.
fn assert_unauthorized(net: &Net, host: &mut Host, tokens: &[Option<&str>], reason: &str) {
    let before = host.records(0).len();
    for token in tokens {
        let answer = get(ALICE, V4, AMI, *token);
        assert_eq!((answer.status, answer.body.as_str()), (401, ""));
        assert_eq!(answer.header("content-type"), Some("text/plain"));
        assert_eq!(answer.header("content-length"), Some("0"));
    }
    let records = settled(host, before + tokens.len()).split_off(before);
    for record in &records {
        assert_eq!(record["reason"], reason);
        assert_eq!(
            (&record["decision"], &record["status"]),
            (&"deny".into(), &401.into())
        );
        assert_eq!(record["rule"], Value::Null, "says nothing of the policy");
        assert_eq!(record["request"]["path"], AMI);
        assert_by(ALICE, record);
    }
    assert_untouched(net, host);
}

#[test]
fn missing() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        assert_unauthorized(net, &mut host, &[None], "token_missing");
    });
}

#[test]
fn two_tokens() {
    refused(malformed(400, "token_repeated"), |token| {
        let headers = format!("X-AWS-EC2-Metadata-Token: {token}\r\n");
        let line = format!("GET {AMI} HTTP/1.1");
        vec![(with(&line, &headers, token), Some(AMI.to_owned()))]
    });
}

#[test]
fn altered() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let good = token(ALICE, V4, 60);
        host.records(1);
        let mut flipped = good.clone().into_bytes();
        flipped[0] = if flipped[0] == b'A' { b'B' } else { b'A' };
        let flipped = String::from_utf8(flipped).unwrap();
        let longer = format!("{good}=");
        let tokens = [flipped.as_str(), &good[..55], &longer].map(Some);
        assert_unauthorized(net, &mut host, &tokens, "token_invalid");
    });
}

#[test]
fn malformed_or_foreign() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let long = "A".repeat(4000);
        let tokens = [
            "",
            "x",
            "A A",
            "\u{e9}",
            "' OR 1=1",
            "AQAEAHhbB2Rn3mRo-vfd5Ht2Ub1bR7k9Y-uVhK5gC3JmOK2hw5tNQA==",
            &long,
        ]
        .map(Some);
        assert_unauthorized(net, &mut host, &tokens, "token_invalid");
    });
}

#[test]
fn the_services_own() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let services = token(DAEMON, V4, 60);
        let answer = get(ALICE, V4, AMI, Some(&services));
        assert_eq!((answer.status, answer.body.as_str()), (401, ""));
        let record = settled(&mut host, 1).remove(0);
        assert_eq!(record["reason"], "token_invalid");
        assert_eq!(reads_by_daemon(&host), Vec::<String>::new());
    });
}

#[test]
fn of_another_uid_and_root_has_no_better_right() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let roots = token(ROOT, V4, 60);
        let bobs = token(BOB, V6, 60);
        let alices = token(ALICE, V4, 60);
        assert_eq!(get(ROOT, V6, AMI, Some(&alices)).status, 401);
        let record = host.records(4).pop().unwrap();
        assert_eq!(record["caller"]["uid"], 0);
        assert_eq!(record["detail"], "other_uid");
        assert_eq!(record["reason"], "token_invalid");
        let tokens = [roots.as_str(), &bobs].map(Some);
        assert_unauthorized(net, &mut host, &tokens, "token_invalid");
    });
}

#[test]
fn expired() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let short = token(ALICE, V4, 1);
        // Good until it is not; on a path that never reaches the service.
        let denied = wait_for("the token to expire", || {
            let answer = get(ALICE, V4, "/latest/user-data", Some(&short));
            (answer.status == 401).then_some(host.audit().len())
        });
        assert!(denied > 0);
        // Every record of the polling is written before the count begins.
        host.stop_daemon();
        let polled = host.records(0);
        assert!(
            polled[1..polled.len() - 1]
                .iter()
                .all(|it| it["reason"] == "default")
        );
        assert!(polled.len() > 2, "the token was good at first");
        assert_eq!(polled.last().unwrap()["reason"], "token_invalid");
        assert_eq!(polled.last().unwrap()["detail"], "expired");
        assert_untouched(net, &host);
    });
}

#[test]
fn of_an_earlier_run_of_the_daemon() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let old = token(ALICE, V4, 21_600);
        host.stop_daemon();
        host.start_daemon();
        assert_unauthorized(net, &mut host, &[Some(&old)], "token_invalid");
    });
}

#[test]
fn good_on_both_families_and_the_answer_counts_it_down() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let good = token(ALICE, V4, 300);
        for to in [V4, V6] {
            let answer = get(ALICE, to, AMI, Some(&good));
            assert_eq!(answer.status, 200);
            let left = answer
                .header("x-aws-ec2-metadata-token-ttl-seconds")
                .unwrap();
            assert!((290..=300).contains(&left.parse().unwrap()), "{left}");
        }
        assert!(
            settled(&mut host, 3)
                .iter()
                .all(|it| it["decision"] == "allow")
        );
        assert_eq!(reads_by_daemon(&host), [AMI, AMI]);
    });
}

/// A refusal for want of a token is no reason to connect again.
#[test]
fn a_401_or_403_keeps_the_connection() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let good = token(ALICE, V4, 60);
        let mut bytes = format!("GET {AMI} HTTP/1.1\r\nHost: instance-data\r\n\r\n").into_bytes();
        bytes.extend(with("GET /latest/user-data HTTP/1.1", "", &good));
        bytes.extend(with(
            &format!("GET {AMI} HTTP/1.1"),
            "Connection: close\r\n",
            &good,
        ));
        let statuses: Vec<_> = until_closed(ALICE, V4, &bytes)
            .iter()
            .map(|it| it.status)
            .collect();
        assert_eq!(statuses, [401, 403, 200]);
        settled(&mut host, 4);
    });
}
