//! Status lines, headers in their order and case, connections.

use std::io::{BufReader, Read, Write};
use std::net::Shutdown;

use crate::harness::{Answer, Sim};

#[test]
fn a_token_answer_has_the_services_headers_in_its_order() {
    let sim = Sim::start(&[]);
    assert_eq!(
        sim.put(300).head(),
        "HTTP/1.1 200 OK\n\
         X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 300\n\
         Content-Length: 56\n\
         Date: DATE\n\
         Server: EC2ws\n\
         Connection: close\n\
         Content-Type: text/plain"
    );
}

#[test]
fn an_items_answer_has_the_services_headers_in_its_order() {
    let sim = Sim::start(&[]);
    assert_eq!(
        sim.get("/latest/meta-data/instance-id").head(),
        "HTTP/1.1 200 OK\n\
         X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\n\
         Content-Type: text/plain\n\
         Accept-Ranges: none\n\
         Last-Modified: DATE\n\
         Content-Length: 19\n\
         Date: DATE\n\
         Server: EC2ws\n\
         Connection: close"
    );
}

#[test]
fn refusals_are_empty_plain_text() {
    let sim = Sim::start(&[]);
    for (request, status) in [
        ("GET /latest/meta-data/ HTTP/1.1", "401 Unauthorized"),
        ("PUT /latest/meta-data/ HTTP/1.1", "403 Forbidden"),
    ] {
        let answer = sim.ask(request);
        assert_eq!(
            answer.head(),
            format!(
                "HTTP/1.1 {status}\n\
                 Content-Length: 0\n\
                 Date: DATE\n\
                 Server: EC2ws\n\
                 Connection: close\n\
                 Content-Type: text/plain"
            )
        );
        assert_eq!(answer.text(), "");
    }
}

#[test]
fn what_is_not_there_is_an_xhtml_page() {
    let answer = Sim::start(&[]).get("/latest/meta-data/nothing");
    let length = answer.body.len();
    assert_eq!(
        answer.head(),
        format!(
            "HTTP/1.1 404 Not Found\n\
             X-Aws-Ec2-Metadata-Token-Ttl-Seconds: 21600\n\
             Content-Type: text/html\n\
             Content-Length: {length}\n\
             Date: DATE\n\
             Server: EC2ws\n\
             Connection: close"
        )
    );
    let page = answer.text();
    assert!(page.starts_with("<?xml version=\"1.0\""), "{page}");
    assert!(page.contains("//DTD XHTML 1.0 Transitional//EN"), "{page}");
    assert!(page.contains("<h1>404 - Not Found</h1>"), "{page}");
}

#[test]
fn head_answers_like_get_without_a_body() {
    let sim = Sim::start(&[]);
    let token = sim.token();
    for path in [
        "/latest/meta-data/instance-id",
        "/latest/meta-data/managed-ssh-keys/active-keys/bob/",
    ] {
        let get = sim.get_with(&token, path);
        let head = sim.ask(&format!(
            "HEAD {path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}"
        ));
        assert_eq!(head.head(), get.head());
        assert!(!get.body.is_empty() && head.body.is_empty());
    }
}

#[test]
fn one_connection_carries_token_role_and_credentials() {
    let sim = Sim::start(&[]);
    let mut stream = BufReader::new(sim.connect());
    let mut ask = |request: String| {
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        let answer = Answer::read_from(&mut stream);
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("Connection"), Some("keep-alive"));
        answer.text()
    };
    let token = ask(
        "PUT /latest/api/token HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n\r\n"
            .into(),
    );
    let path = "/latest/meta-data/iam/security-credentials/";
    let mut get = |path: &str| {
        ask(format!(
            "GET {path} HTTP/1.1\r\nHost: x\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n"
        ))
    };
    let role = get(path);
    assert_eq!(role, "web");
    assert!(get(&format!("{path}{role}")).contains("SecretAccessKey"));
}

#[test]
fn a_connection_stays_usable_after_refusals() {
    let sim = Sim::start(&[]);
    let mut stream = BufReader::new(sim.connect());
    for (request, status) in [
        ("GET /latest/ HTTP/1.1\r\n\r\n", 401),
        ("PUT /latest/api/token HTTP/1.1\r\n\r\n", 400),
        ("PUT /latest/api/token/ HTTP/1.1\r\n\r\n", 403),
        ("GET /latest/api/token HTTP/1.1\r\n\r\n", 405),
    ] {
        stream.get_mut().write_all(request.as_bytes()).unwrap();
        assert_eq!(Answer::read_from(&mut stream).status, status, "{request}");
    }
}

#[test]
fn http_1_0_is_answered_and_closed() {
    let sim = Sim::start(&["--http-tokens", "optional"]);
    let answer = sim.ask_raw(b"GET /latest/meta-data/instance-id HTTP/1.0\r\n\r\n");
    assert_eq!(answer.status_line, "HTTP/1.0 200 OK");
    assert_eq!(answer.header("Connection"), Some("close"));
    assert_eq!(answer.text(), "i-1234567890abcdef0");
}

#[test]
fn a_space_in_the_path_is_a_bad_request() {
    let sim = Sim::start(&[]);
    let answer = sim.ask("GET /latest/meta data/ HTTP/1.1");
    assert_eq!(answer.status, 400);
}

#[test]
fn a_client_that_shuts_down_its_side_still_gets_its_answer() {
    let sim = Sim::start(&["--http-tokens", "optional", "--latency", "20ms"]);
    let mut stream = sim.connect();
    stream
        .write_all(b"GET /latest/meta-data/mac HTTP/1.1\r\n\r\n")
        .unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(Answer::parse(&bytes).text(), "06:00:00:00:00:05");
}

#[test]
fn a_head_that_arrives_byte_by_byte_is_answered() {
    let sim = Sim::start(&["--http-tokens", "optional"]);
    let mut stream = sim.connect();
    stream.set_nodelay(true).unwrap();
    for byte in b"GET /latest/meta-data/mac HTTP/1.1\r\nConnection: close\r\n\r\n" {
        stream.write_all(&[*byte]).unwrap();
    }
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    assert_eq!(Answer::parse(&bytes).text(), "06:00:00:00:00:05");
}
