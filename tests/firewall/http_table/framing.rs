//! Where a head and its body begin and end, which every reader of them must
//! find alike.

use super::*;
use crate::common::http::put;

#[test]
fn a_folded_header() {
    refused_headers(
        malformed(400, "obs_fold"),
        &["X: a\r\n b\r\n", "X: a\r\n\tHost: evil.example\r\n"],
    );
}

#[test]
fn a_header_line_that_is_none() {
    refused_headers(
        malformed(400, "header_line"),
        &[
            "X : a\r\n",
            "X\t: a\r\n",
            "Transfer-Encoding : chunked\r\n",
            "X\r\n",
            ": a\r\n",
            "X[]: a\r\n",
        ],
    );
}

#[test]
fn bare_cr_and_bare_lf() {
    refused_headers(
        malformed(400, "bare_line_end"),
        &["X: a\nY: b\r\n", "X: a\rY: b\r\n", "X: a\r\r\n", "\n"],
    );
    refused(
        malformed(400, "bare_line_end"),
        as_sent(&[
            (
                "GET /latest/meta-data/ami-id HTTP/1.1\nHost: instance-data\n\n",
                Some(AMI),
            ),
            ("GET /latest/meta-data/ami-id HTTP/1.0\r\rX", Some(AMI)),
        ]),
    );
}

#[test]
fn nul_and_other_control_bytes_in_headers() {
    refused_headers(
        malformed(400, "control_byte"),
        &[
            "X: a\0b\r\n",
            "X\0: a\r\n",
            "X: \x1b[31m\r\n",
            "X: a\x7f\r\n",
        ],
    );
}

#[test]
fn content_length_with_transfer_encoding() {
    refused_headers(
        malformed(400, "transfer_encoding"),
        &[
            "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Transfer-Encoding: gzip, chunked\r\n",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: xchunked\r\n",
        ],
    );
}

#[test]
fn content_length_repeated_or_no_number() {
    refused_headers(
        malformed(400, "content_length"),
        &[
            "Content-Length: 0\r\nContent-Length: 0\r\n",
            "Content-Length: 0, 0\r\n",
            "Content-Length: 0\r\ncontent-length: 5\r\n",
            "Content-Length: -1\r\n",
            "Content-Length: +0\r\n",
            "Content-Length:\r\n",
        ],
    );
}

#[test]
fn a_body() {
    refused(malformed(400, "body"), |token| {
        let line = format!("GET {AMI} HTTP/1.1");
        let length = with(&line, "Content-Length: 5\r\n", token);
        let chunked = with(&line, "Transfer-Encoding: chunked\r\n", token);
        [
            [length.as_slice(), b"hello"].concat(),
            // Refused for what it announces.
            length.clone(),
            [chunked.as_slice(), b"5\r\nhello\r\n0\r\n\r\n"].concat(),
            [chunked.as_slice(), b"0\r\nTrailer: x\r\n\r\n"].concat(),
            [chunked.as_slice(), b"00\r\n\r\n"].concat(),
            [chunked.as_slice(), b"0;x=y\r\n\r\n"].concat(),
            [
                chunked.as_slice(),
                format!("GET {AMI} HTTP/1.1\r\n").as_bytes(),
            ]
            .concat(),
        ]
        .map(|bytes| (bytes, Some(AMI.to_owned())))
        .to_vec()
    });
}

#[test]
fn http_0_9() {
    refused(
        malformed(400, "http09"),
        as_sent(&[("GET /latest/meta-data/ami-id\r\n", Some(AMI))]),
    );
}

#[test]
fn the_preface_of_http_2_and_other_versions() {
    refused(
        malformed(400, "http_version"),
        as_sent(&[
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Some("*")),
            (
                "GET /latest/meta-data/ami-id HTTP/1.2\r\nHost: x\r\n\r\n",
                Some(AMI),
            ),
            ("GET /latest/meta-data/ami-id HTTP/3\r\n\r\n", Some(AMI)),
        ]),
    );
}

#[test]
fn a_request_line_that_is_none() {
    refused(
        malformed(400, "request_line"),
        as_sent(&[
            ("\r\nGET / HTTP/1.1\r\n\r\n", None),
            ("GET  / HTTP/1.1\r\n\r\n", Some("")),
            ("GET / x HTTP/1.1\r\n\r\n", Some("/")),
            ("GET / HTTP/1.1 \r\n\r\n", Some("/")),
            ("GET / http/1.1\r\n\r\n", Some("/")),
            ("G(T / HTTP/1.1\r\n\r\n", Some("/")),
        ]),
    );
}

#[test]
fn a_tls_hello() {
    refused(
        malformed(400, "control_byte"),
        as_sent(&[("\x16\x03\x01\x02\0\x01", None)]),
    );
}

#[test]
fn upgrade_to_another_protocol() {
    refused_headers(
        malformed(400, "upgrade"),
        &[
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\n",
            "Upgrade: websocket\r\n",
        ],
    );
}

#[test]
fn expect() {
    refused_headers(
        malformed(417, "expect"),
        &["Expect: 100-continue\r\n", "expect: x\r\n"],
    );
    refused(malformed(417, "expect"), |token| {
        let headers = "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nExpect: 100-continue\r\n\
                       Content-Length: 2\r\n";
        let bytes = with("PUT /latest/api/token HTTP/1.1", headers, token);
        vec![(bytes, Some("/latest/api/token".into()))]
    });
}

#[test]
fn a_request_line_longer_than_2_kib() {
    refused(malformed(414, "request_line_too_long"), |token| {
        let shown = format!("/{}…", "a".repeat(255));
        [2048, 100_000]
            .map(|len| {
                let line = format!("GET /{} HTTP/1.1", "a".repeat(len));
                (with(&line, "", token), Some(shown.clone()))
            })
            .to_vec()
    });
}

#[test]
fn headers_longer_than_8_kib() {
    refused(malformed(431, "headers_too_long"), |token| {
        [8 * 1024, 100_000]
            .map(|len| {
                let headers = format!("X: {}\r\n", "a".repeat(len));
                let line = format!("GET {AMI} HTTP/1.1");
                (with(&line, &headers, token), Some(AMI.to_owned()))
            })
            .to_vec()
    });
}

#[test]
fn more_than_32_headers() {
    refused(malformed(431, "headers_too_many"), |token| {
        // With Host and token.
        let headers = "X: a\r\n".repeat(31);
        let line = format!("GET {AMI} HTTP/1.1");
        vec![(with(&line, &headers, token), Some(AMI.to_owned()))]
    });
}

#[test]
fn up_to_each_limit_requests_are_served() {
    answered(|token| {
        let line = format!("GET {AMI} HTTP/1.1");
        let filler = format!("X: {}\r\n", "a".repeat(8000));
        // 2048 bytes, most of them slashes.
        let slashes = "/".repeat(2048 - line.len());
        let long = format!("GET {slashes}{AMI} HTTP/1.1");
        assert_eq!(long.len(), 2048);
        [
            (line.as_str(), "X: a\r\n".repeat(29)),
            (&line, filler),
            (&long, String::new()),
        ]
        .map(|(line, headers)| {
            let bytes = with(line, &format!("{headers}Connection: close\r\n"), token);
            (bytes, AMI.to_owned())
        })
        .to_vec()
    });
}

/// As older clients send it; and the token is good.
#[test]
fn a_put_with_an_empty_body_of_any_form_mints() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let plain = put(V4, 21_600);
        for (headers, body) in [
            ("", ""),
            ("Content-Length: 0\r\n", ""),
            ("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"),
            ("transfer-encoding: CHUNKED\r\n", "0\r\n\r\n"),
        ] {
            let request = plain.replacen("\r\n\r\n", &format!("\r\n{headers}\r\n{body}"), 1);
            let [answer] = &until_closed(ALICE, V4, request.as_bytes())[..] else {
                panic!("{request}")
            };
            assert_eq!(answer.status, 200, "{request}");
            assert_eq!(answer.body.len(), 56);
            assert_eq!(
                answer.header("x-aws-ec2-metadata-token-ttl-seconds"),
                Some("21600")
            );
            assert_eq!(answer.header("server"), Some("EC2ws"));
            let read = crate::common::http::get(ALICE, V4, AMI, Some(&answer.body));
            assert_eq!(read.status, 200);
        }
        for record in settled(&mut host, 8).iter().step_by(2) {
            assert_eq!(record["request"]["method"], "PUT");
            assert_eq!(record["request"]["path"], "/latest/api/token");
            assert_eq!(record["reason"], "allowed");
            assert_by(ALICE, record);
        }
        assert_eq!(reads_by_daemon(&host), vec![AMI; 4]);
    });
}
