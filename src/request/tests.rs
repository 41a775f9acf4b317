use proptest::prelude::*;

use super::*;
use crate::provider::{Class, Provider};

fn service() -> Service {
    Service {
        provider: Provider::Aws,
        addresses: Provider::Aws.addresses(),
    }
}

/// What becomes of a whole request: the canonical request or the refusal's word.
fn outcome(text: &str) -> Result<CanonicalRequest, String> {
    match scan(text.as_bytes()) {
        Scan::Whole { head, len } => {
            assert_eq!(len, text.len(), "{text:?}");
            CanonicalRequest::parse(&service(), &head).map_err(|rejected| match rejected.cause {
                Rejection::Malformed(malformed) => malformed.to_string(),
                Rejection::ForwardedHeader => "forwarded_header".into(),
            })
        }
        Scan::Refused(malformed) => Err(malformed.to_string()),
        Scan::Partial => panic!("not whole: {text:?}"),
    }
}

fn get(lines: &str) -> Result<CanonicalRequest, String> {
    outcome(&format!(
        "GET /latest/meta-data/ami-id HTTP/1.1\r\nHost: 169.254.169.254\r\n{lines}\r\n"
    ))
}

fn put(lines: &str) -> Result<CanonicalRequest, String> {
    outcome(&format!(
        "PUT /latest/api/token HTTP/1.1\r\nHost: 169.254.169.254\r\n{lines}\r\n"
    ))
}

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

#[test]
fn a_plain_read() {
    let request = get("User-Agent: curl/7.88.1\r\nX-aws-ec2-metadata-token: AQAAA-_=\r\n").unwrap();
    let Intent::Read(read) = request.intent() else {
        panic!("{request:?}")
    };
    assert_eq!(
        (read.method, read.path.class()),
        (ReadMethod::Get, Class::Routine)
    );
    assert_eq!(read.token.as_ref().unwrap().as_str(), "AQAAA-_=");
    assert_eq!(request.user_agent(), Some("curl/7.88.1"));
    assert!(
        !format!("{request:?}").contains("AQAAA"),
        "a token never prints"
    );
}

#[test]
fn a_token_request_with_each_kind_of_empty_body() {
    for body in [
        "\r\n",
        "Content-Length: 0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let text = format!(
            "PUT /latest/api/token HTTP/1.1\r\nHost: instance-data\r\n{TTL}: 21600\r\n{body}"
        );
        let request = outcome(&text).unwrap();
        assert_eq!(
            request.intent(),
            &Intent::Mint(Ttl::parse(b"21600").unwrap()),
            "{body:?}"
        );
    }
}

#[test]
fn the_ttl_is_never_clamped() {
    assert_eq!(put("").unwrap_err(), "ttl_missing");
    assert_eq!(
        put(&format!("{TTL}: 60\r\n{TTL}: 60\r\n")).unwrap_err(),
        "ttl_repeated"
    );
    for value in [
        "",
        "0",
        "21601",
        "99999999999",
        "-1",
        "+60",
        "6 0",
        "60s",
        "1e3",
        "0x10",
    ] {
        assert_eq!(
            put(&format!("{TTL}: {value}\r\n")).unwrap_err(),
            "ttl_invalid",
            "{value}"
        );
    }
}

#[test]
fn header_rows() {
    for (lines, word) in [
        ("Host: 169.254.169.254\r\n", "host_repeated"),
        (
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            "content_length",
        ),
        ("Content-Length: 0, 0\r\n", "content_length"),
        ("Content-Length: +0\r\n", "content_length"),
        ("Content-Length: 5\r\n", "body"),
        (
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "transfer_encoding",
        ),
        ("Transfer-Encoding: gzip, chunked\r\n", "transfer_encoding"),
        ("Expect: 100-continue\r\n", "expect"),
        ("Expect: 100-continue\r\nContent-Length: 5\r\n", "expect"),
        ("Upgrade: websocket\r\n", "upgrade"),
        ("X-Forwarded-For: 1.2.3.4\r\n", "forwarded_header"),
        ("Forwarded: for=1.2.3.4\r\n", "forwarded_header"),
        ("Via: 1.1 proxy\r\n", "forwarded_header"),
        (
            "X-aws-ec2-metadata-token: a\r\nx-aws-ec2-metadata-token: a\r\n",
            "token_repeated",
        ),
        ("A: b\r\n c\r\n", "obs_fold"),
        ("A : b\r\n", "header_line"),
        ("A\r\n", "header_line"),
        (": b\r\n", "header_line"),
        ("A: b\nC: d\r\n", "bare_line_end"),
        ("A: b\rC: d\r\n", "bare_line_end"),
        ("A: b\0c\r\n", "control_byte"),
        ("A: b\x7f\r\n", "control_byte"),
    ] {
        assert_eq!(get(lines).unwrap_err(), word, "{lines:?}");
    }
}

#[test]
fn request_line_rows() {
    let host = "Host: 169.254.169.254\r\n\r\n";
    for (line, word) in [
        ("GET /latest", "http09"),
        ("GET  /latest HTTP/1.1", "request_line"),
        ("GET /latest/a b HTTP/1.1", "request_line"),
        ("GET /latest HTTP/1.2", "http_version"),
        ("PRI * HTTP/2.0", "http_version"),
        ("GET /latest http/1.1", "request_line"),
        ("", "request_line"),
        ("G:ET / HTTP/1.1", "request_line"),
        ("GET * HTTP/1.1", "target_form"),
        ("GET http://169.254.169.254/latest HTTP/1.1", "target_form"),
        ("CONNECT 169.254.169.254:80 HTTP/1.1", "method"),
        ("POST /latest HTTP/1.1", "method"),
        ("get /latest HTTP/1.1", "method"),
        ("PUT /latest/meta-data/x HTTP/1.1", "put_elsewhere"),
        ("PUT /latest/api/token/ HTTP/1.1", "put_elsewhere"),
        ("PUT /2021-03-23/api/token HTTP/1.1", "put_elsewhere"),
        ("GET /latest/api/token HTTP/1.1", "token_path_method"),
        ("HEAD //latest/api/token HTTP/1.1", "token_path_method"),
        ("GET /latest?x=1 HTTP/1.1", "query"),
        ("GET /latest/../x HTTP/1.1", "dot_segment"),
    ] {
        let text = format!("{line}\r\n{host}");
        // A refusal in the request line comes as soon as the line is whole.
        assert_eq!(outcome(&text).unwrap_err(), word, "{line:?}");
    }
    assert_eq!(
        outcome("GET / HTTP/1.1\r\n\r\n").unwrap_err(),
        "host_missing"
    );
    assert!(
        outcome("GET / HTTP/1.0\r\n\r\n").is_ok(),
        "HTTP/1.0 knows no Host"
    );
    assert_eq!(
        outcome("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n").unwrap_err(),
        "host_foreign"
    );
}

#[test]
fn a_post_with_a_body_is_refused_as_a_post() {
    let text = "POST /latest HTTP/1.1\r\nHost: 169.254.169.254\r\nContent-Length: 4\r\n\r\n";
    assert_eq!(outcome(text).unwrap_err(), "method");
}

#[test]
fn limits() {
    let line = |len: usize| format!("GET /{} HTTP/1.1\r\n", "a".repeat(len - 14));
    assert!(matches!(
        scan(line(REQUEST_LINE_MAX).as_bytes()),
        Scan::Partial
    ));
    assert_eq!(
        scan(line(REQUEST_LINE_MAX + 1).as_bytes()),
        Scan::Refused(Malformed::RequestLineTooLong)
    );
    let unended = vec![b'a'; REQUEST_LINE_MAX + 1];
    assert_eq!(scan(&unended), Scan::Refused(Malformed::RequestLineTooLong));

    assert_eq!(
        get(&"A: b\r\n".repeat(HEADER_COUNT_MAX)).unwrap_err(),
        "headers_too_many"
    );
    assert!(get(&"A: b\r\n".repeat(HEADER_COUNT_MAX - 1)).is_ok());
    assert_eq!(
        get(&format!("A: {}\r\n", "b".repeat(HEADERS_MAX))).unwrap_err(),
        "headers_too_long"
    );
}

#[test]
fn what_is_recorded_of_a_rejected_request_is_harmless() {
    let bytes = b"GET /\x1b[31m\xff\\ HTTP/1.1\r\nUser-Agent: a\xe9\x1b\r\n\r\n";
    let rejected = Rejected::of_bytes(Malformed::ControlByte, bytes);
    assert_eq!(rejected.raw.as_deref(), Some("/\\x1b[31m\\xff\\\\"));
    let long = format!("GET /{} HTTP/1.1", "a".repeat(1000));
    let raw = Rejected::of_bytes(Malformed::RequestLineTooLong, long.as_bytes())
        .raw
        .unwrap();
    assert!(raw.ends_with('…') && raw.len() < 300);
}

#[test]
fn two_requests_at_once_are_read_one_by_one() {
    let one = "GET / HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n";
    let both = format!("{one}{one}");
    let Scan::Whole { len, .. } = scan(both.as_bytes()) else {
        panic!()
    };
    assert_eq!(len, one.len());
}

proptest! {
    #[test]
    fn total_on_any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        if let Scan::Whole { head, .. } = scan(&bytes) {
            let _ = CanonicalRequest::parse(&service(), &head);
        }
    }

    #[test]
    fn total_and_stable_near_real_requests(
        head in "(GET|HEAD|PUT|POST) /[ -~]{0,30} HTTP/1.[01]\r\n(Host: 169.254.169.254\r\n)?([A-Za-z-]{1,8}: ?[\t -~]{0,9}\r?\n){0,4}\r\n"
    ) {
        // No prefix of a request may be read as a whole one, and no refusal
        // may turn into an acceptance when more bytes arrive.
        let bytes = head.as_bytes();
        let whole = scan(bytes);
        for cut in 0..bytes.len() {
            match scan(&bytes[..cut]) {
                Scan::Partial => {}
                Scan::Refused(malformed) => prop_assert_eq!(&whole, &Scan::Refused(malformed)),
                Scan::Whole { .. } => prop_assert!(false, "whole at {}", cut),
            }
        }
    }

    /// Judged = sent: a request rebuilt from what was judged is read as the
    /// same request again.
    #[test]
    fn what_is_judged_parses_to_itself(path in "(/[a-z%0-9.]{0,6}){1,6}", head_ in any::<bool>()) {
        let method = if head_ { "HEAD" } else { "GET" };
        let text = format!("{method} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n");
        if let Ok(request) = outcome(&text) {
            let Intent::Read(read) = request.intent().clone() else { panic!() };
            let sent = format!(
                "{} {} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
                read.method.as_str(), read.path
            );
            prop_assert_eq!(outcome(&sent).unwrap(), request);
        }
    }
}
