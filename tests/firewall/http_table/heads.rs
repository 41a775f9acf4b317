//! Methods and headers.

use super::*;

const TTL: &str = "X-aws-ec2-metadata-token-ttl-seconds";

fn of_lines(
    lines: &'static [&'static str],
    raw: &'static str,
) -> impl FnOnce(&str) -> Vec<(Vec<u8>, Option<String>)> + Send {
    move |token| {
        lines
            .iter()
            .map(|line| (with(line, "", token), Some(raw.to_owned())))
            .collect()
    }
}

fn allow_of(line: &'static str) -> String {
    let (sender, receiver) = std::sync::mpsc::channel();
    in_network(move |net| {
        let _host = Host::start(net, &Setup::default());
        let answer = if line.starts_with("HEAD") {
            head_until_closed(&with(line, "", "x"))
        } else {
            until_closed(ALICE, V4, &with(line, "", "x")).remove(0)
        };
        sender
            .send(answer.header("allow").unwrap().to_owned())
            .unwrap();
    });
    receiver.recv().unwrap()
}

#[test]
fn methods_other_than_get_head_and_put() {
    refused(
        malformed(405, "method"),
        of_lines(
            &[
                "POST /latest/meta-data/ami-id HTTP/1.1",
                "DELETE /latest/meta-data/ami-id HTTP/1.1",
                "OPTIONS /latest/meta-data/ami-id HTTP/1.1",
                "TRACE /latest/meta-data/ami-id HTTP/1.1",
                "PATCH /latest/meta-data/ami-id HTTP/1.1",
                "get /latest/meta-data/ami-id HTTP/1.1",
                "X /latest/meta-data/ami-id HTTP/1.1",
            ],
            AMI,
        ),
    );
    assert_eq!(
        allow_of("POST /latest/meta-data/ami-id HTTP/1.1"),
        "GET, HEAD"
    );
}

#[test]
fn connect() {
    refused(
        malformed(405, "method"),
        of_lines(
            &["CONNECT 169.254.169.254:80 HTTP/1.1"],
            "169.254.169.254:80",
        ),
    );
}

#[test]
fn a_post_with_a_body_is_refused_as_a_post() {
    refused(
        malformed(405, "method"),
        as_sent(&[
            (
                "POST /latest/api/token HTTP/1.1\r\nHost: instance-data\r\nContent-Length: 3\r\n\r\na=b",
                Some("/latest/api/token"),
            ),
            (
                "POST / HTTP/1.1\r\nHost: instance-data\r\nTransfer-Encoding: chunked\r\n\r\n3\r\na=b\r\n0\r\n\r\n",
                Some("/"),
            ),
        ]),
    );
}

#[test]
fn put_elsewhere_than_on_the_token_path() {
    for (line, raw) in [
        ("PUT /latest/meta-data/ami-id HTTP/1.1", AMI),
        ("PUT /latest/api/token/ HTTP/1.1", "/latest/api/token/"),
        (
            "PUT /2021-03-23/api/token HTTP/1.1",
            "/2021-03-23/api/token",
        ),
    ] {
        refused(malformed(403, "put_elsewhere"), move |token| {
            let headers = format!("{TTL}: 60\r\n");
            vec![(with(line, &headers, token), Some(raw.to_owned()))]
        });
    }
}

#[test]
fn get_and_head_on_the_token_path() {
    refused(
        malformed(405, "token_path_method"),
        of_lines(
            &[
                "GET /latest/api/token HTTP/1.1",
                "HEAD /latest/api/token HTTP/1.1",
            ],
            "/latest/api/token",
        ),
    );
    for line in [
        "GET /latest/api/token HTTP/1.1",
        "HEAD /latest/api/token HTTP/1.1",
    ] {
        assert_eq!(allow_of(line), "OPTIONS, PUT");
    }
}

#[test]
fn host_absent_on_http_1_1() {
    refused(
        malformed(400, "host_missing"),
        as_sent(&[("GET /latest/meta-data/ami-id HTTP/1.1\r\n\r\n", Some(AMI))]),
    );
}

#[test]
fn host_repeated() {
    refused_headers(
        malformed(400, "host_repeated"),
        &[
            "Host: 169.254.169.254\r\nHost: 169.254.169.254\r\n",
            "Host: 169.254.169.254\r\nhost: evil.example\r\n",
        ],
    );
}

#[test]
fn host_that_is_no_name_of_the_service() {
    refused_headers(
        malformed(400, "host_foreign"),
        &[
            "Host: evil.example\r\n",
            "Host: localhost\r\n",
            "Host: 127.0.0.1:253\r\n",
            "Host: 169.254.169.254:8080\r\n",
            "Host: 169.254.169.254.evil.example\r\n",
            "Host: 2852039166\r\n",
            "Host: \r\n",
        ],
    );
}

#[test]
fn every_name_of_the_service() {
    answered(|token| {
        [
            "169.254.169.254",
            "169.254.169.254:80",
            "[fd00:ec2::254]",
            "[FD00:EC2::254]:80",
            "[::ffff:169.254.169.254]",
            "[::ffff:169.254.169.254]:80",
            "instance-data",
            "INSTANCE-DATA.ec2.internal:80",
        ]
        .map(|host| {
            let headers = format!("Host: {host}\r\nConnection: close\r\n");
            let line = format!("GET {AMI} HTTP/1.1");
            (with(&line, &headers, token), AMI.to_owned())
        })
        .to_vec()
    });
}

#[test]
fn http_1_0_with_and_without_a_host() {
    answered(|token| {
        ["", "Host: instance-data\r\n"]
            .map(|host| {
                let bytes = format!(
                    "GET {AMI} HTTP/1.0\r\n{host}X-aws-ec2-metadata-token: {token}\r\n\r\n"
                );
                (bytes.into_bytes(), AMI.to_owned())
            })
            .to_vec()
    });
}

#[test]
fn headers_of_a_forwarding_proxy() {
    let refusal = || Refusal {
        status: 403,
        reason: "forwarded_header",
        detail: None,
    };
    refused_headers(
        refusal(),
        &[
            "X-Forwarded-For: 10.0.0.1\r\n",
            "x-forwarded-for:\r\n",
            "Forwarded: for=10.0.0.1\r\n",
            "Via: 1.1 proxy\r\n",
        ],
    );
    refused(refusal(), |token| {
        let headers = format!("{TTL}: 60\r\nX-Forwarded-For: 10.0.0.1\r\n");
        let bytes = with("PUT /latest/api/token HTTP/1.1", &headers, token);
        vec![(bytes, Some("/latest/api/token".into()))]
    });
}

fn refused_ttls(detail: &'static str, headers: &'static [&'static str]) {
    refused(malformed(400, detail), |token| {
        headers
            .iter()
            .map(|headers| {
                let bytes = with("PUT /latest/api/token HTTP/1.1", headers, token);
                (bytes, Some("/latest/api/token".to_owned()))
            })
            .collect()
    });
}

#[test]
fn ttl_missing() {
    refused_ttls("ttl_missing", &[""]);
}

#[test]
fn ttl_repeated() {
    refused_ttls(
        "ttl_repeated",
        &[
            "X-aws-ec2-metadata-token-ttl-seconds: 60\r\nx-aws-ec2-metadata-token-ttl-seconds: 60\r\n",
        ],
    );
}

#[test]
fn ttl_not_digits_zero_or_too_long_is_never_clamped() {
    refused_ttls(
        "ttl_invalid",
        &[
            "X-aws-ec2-metadata-token-ttl-seconds:\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: 0\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: 21601\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: 99999999999999999999\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: -1\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: +60\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: 6 0\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: 60, 60\r\n",
            "X-aws-ec2-metadata-token-ttl-seconds: 0x3c\r\n",
        ],
    );
}
