//! IMDSv2 session tokens.

use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;

use crate::harness::{Sim, until};

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

#[test]
fn a_token_is_56_characters_of_padded_base64url_of_40_bytes() {
    let token = Sim::start(&[]).token();
    assert_eq!(token.len(), 56);
    assert_eq!(URL_SAFE.decode(&token).unwrap().len(), 40);
}

#[test]
fn a_put_with_no_body_an_empty_one_or_an_empty_chunked_one_mints() {
    let sim = Sim::start(&[]);
    let head =
        format!("PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{TTL}: 60\r\n");
    for rest in [
        "\r\n",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let answer = sim.ask_raw(format!("{head}{rest}").as_bytes());
        assert_eq!((answer.status, answer.body.len()), (200, 56), "{rest:?}");
        assert_eq!(answer.ttl(), Some(60));
    }
}

#[test]
fn a_ttl_is_a_whole_number_from_1_to_21600() {
    let sim = Sim::start(&[]);
    for ttl in [1, 21_600] {
        assert_eq!(sim.put(ttl).status, 200, "{ttl}");
    }
    for header in [
        "X-Other: 60".to_owned(),
        format!("{TTL}:"),
        format!("{TTL}: 0"),
        format!("{TTL}: 21601"),
        format!("{TTL}: -1"),
        format!("{TTL}: +60"),
        format!("{TTL}: 6h"),
        format!("{TTL}: 60\r\n{TTL}: 60"),
    ] {
        let answer = sim.ask(&format!("PUT /latest/api/token HTTP/1.1\r\n{header}"));
        assert_eq!(answer.status, 400, "{header}");
        assert_eq!(answer.ttl(), None);
    }
}

#[test]
fn tokens_are_minted_on_one_path_only() {
    let sim = Sim::start(&[]);
    for path in [
        "/2021-03-23/api/token",
        "/latest/api/token/",
        "/latest//api/token",
        "/latest/meta-data/instance-id",
        "/",
    ] {
        let answer = sim.ask(&format!("PUT {path} HTTP/1.1\r\n{TTL}: 60"));
        assert_eq!(answer.status, 403, "{path}");
    }
}

#[test]
fn other_methods_on_the_token_path_are_not_allowed() {
    let sim = Sim::start(&[]);
    for method in ["GET", "HEAD", "POST", "DELETE"] {
        let answer = sim.ask(&format!("{method} /latest/api/token HTTP/1.1"));
        assert_eq!(answer.status, 405, "{method}");
        assert_eq!(answer.headers[0].0, "Allow");
        assert_eq!(answer.header("Allow"), Some("OPTIONS, PUT"));
    }
}

#[test]
fn a_put_that_expects_to_be_continued_is_refused_at_once() {
    let sim = Sim::start(&[]);
    let answer = sim.ask(&format!(
        "PUT /latest/api/token HTTP/1.1\r\n{TTL}: 60\r\nExpect: 100-continue\r\nContent-Length: 5"
    ));
    assert_eq!(answer.status_line, "HTTP/1.1 417 Expectation Failed");
}

#[test]
fn a_forwarded_request_gets_neither_token_nor_item() {
    let sim = Sim::start(&[]);
    let forwarded = "X-Forwarded-For: 192.0.2.1";
    let put = sim.ask(&format!(
        "PUT /latest/api/token HTTP/1.1\r\n{TTL}: 60\r\n{forwarded}"
    ));
    assert_eq!(put.status, 403);
    let token = sim.token();
    let get = sim.ask(&format!(
        "GET /latest/ HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}\r\n{forwarded}"
    ));
    assert_eq!(get.status, 403);
}

#[test]
fn required_means_no_wrong_foreign_or_altered_token_reads_anything() {
    let sim = Sim::start(&[]);
    let foreign = Sim::start(&[]).token();
    let token = sim.token();
    let altered = token.replacen("AQAA", "AQAB", 1);
    for path in [
        "/",
        "/latest/meta-data/mac",
        "/latest/user-data",
        "/nothing",
    ] {
        let none = sim.ask(&format!("GET {path} HTTP/1.1"));
        assert_eq!((none.status, none.body.len()), (401, 0), "{path}");
        for bad in ["", "x", &foreign, &altered] {
            assert_eq!(sim.get_with(bad, path).status, 401, "{path} with {bad:?}");
        }
    }
    assert_eq!(sim.get_with(&token, "/").status, 200);
}

#[test]
fn optional_lets_a_request_without_token_pass_and_a_bad_token_not() {
    let sim = Sim::start(&["--http-tokens", "optional"]);
    let item = "/latest/meta-data/mac";
    let v1 = sim.ask(&format!("GET {item} HTTP/1.1"));
    assert_eq!((v1.status, v1.ttl()), (200, None));
    let v2 = sim.get(item);
    assert_eq!((v2.status, v2.ttl()), (200, Some(21_600)));
    assert_eq!(sim.get_with("bad", item).status, 401);
}

#[test]
fn answers_carry_the_seconds_left_until_the_token_expires() {
    let sim = Sim::start(&[]);
    let asked = Instant::now();
    let token = sim.put(3).text();
    let get = || sim.get_with(&token, "/latest/meta-data/mac");
    let aged = until(get, |answer| answer.ttl() != Some(3));
    assert_eq!(aged.status, 200);
    assert!((1..3).contains(&aged.ttl().unwrap()));
    let expired = until(get, |answer| answer.status != 200);
    assert_eq!((expired.status, expired.ttl()), (401, None));
    assert!(asked.elapsed() >= Duration::from_secs(3));
}
