use proptest::prelude::*;

use super::*;

const PLAIN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nServer: EC2ws\r\n\r\nami-1";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
                       3\r\nami\r\n00A\r\n-123456789\r\n0\r\n\r\n";
const ENDLESS: &str = "HTTP/1.0 200 OK\r\nServer: EC2ws\r\n\r\nami-1";

fn whole(bytes: &[u8], expects: Expects) -> Result<(Answer, After), UpstreamError> {
    arriving(vec![Bytes::copy_from_slice(bytes)], expects)
}

/// Status, body and what becomes of the connection.
fn said(text: &str) -> Result<(u16, String, After), UpstreamError> {
    let (answer, after) = whole(text.as_bytes(), Expects::Body)?;
    let body = String::from_utf8(answer.body().to_vec()).unwrap();
    Ok((answer.status().as_u16(), body, after))
}

fn is(status: u16, body: &str, after: After) -> Result<(u16, String, After), UpstreamError> {
    Ok((status, body.into(), after))
}

#[test]
fn an_answer_ends_where_it_says() {
    assert_eq!(said(PLAIN), is(200, "ami-1", After::Reuse));
    assert_eq!(said(CHUNKED), is(200, "ami-123456789", After::Reuse));
    assert_eq!(said(ENDLESS), is(200, "ami-1", After::Close));
    let unsized_one = ENDLESS.replace("1.0", "1.1");
    assert_eq!(said(&unsized_one), is(200, "ami-1", After::Close));
    let nothing = "HTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(said(nothing), is(204, "", After::Reuse));
    let missing = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(said(missing), is(404, "", After::Reuse));
}

#[test]
fn a_connection_is_used_again_where_both_ends_keep_it() {
    for (head, after) in [
        ("HTTP/1.1 200 OK\r\nConnection: close", After::Close),
        ("HTTP/1.1 200 OK\r\nconnection: x, CLOSE", After::Close),
        ("HTTP/1.1 200 OK\r\nConnection: keep-alive", After::Reuse),
        ("HTTP/1.0 200 OK\r\nConnection: keep-alive", After::Close),
    ] {
        let text = format!("{head}\r\nContent-Length: 1\r\n\r\nx");
        let (answer, got) = whole(text.as_bytes(), Expects::Body).unwrap();
        assert_eq!(got, after, "{head}");
        // It is the client's connection that the header will speak of.
        if head.contains(':') {
            assert_eq!(answer.header("connection"), Some(&b"keep-alive"[..]));
        }
    }
}

#[test]
fn an_answer_to_head_has_no_body_whatever_it_says() {
    let (head, _) = PLAIN.split_once("ami-1").unwrap();
    let (answer, after) = whole(head.as_bytes(), Expects::HeadAlone).unwrap();
    assert_eq!(answer.header("content-length"), Some(&b"5"[..]));
    assert!(answer.body().is_empty() && after == After::Reuse);
    let behind = whole(PLAIN.as_bytes(), Expects::HeadAlone);
    assert_eq!(behind.unwrap_err(), MALFORMED, "nobody asked for that body");
}

#[test]
fn headers_of_the_services_connection_stay_behind() {
    let text = "HTTP/1.1 200 OK\r\nKeep-Alive: timeout=5\r\nTE: x\r\nTrailer: y\r\n\
                Upgrade: z\r\nProxy-Connection: x\r\nTransfer-Encoding: Chunked\r\n\
                X-Own: stays\r\n\r\n0\r\n\r\n";
    let (answer, _) = whole(text.as_bytes(), Expects::Body).unwrap();
    let names: Vec<_> = answer.headers().iter().map(|it| &*it.name).collect();
    assert_eq!(names, [b"X-Own"]);
}

#[test]
fn what_could_be_read_in_two_ways_is_no_answer() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let chunked = "Transfer-Encoding: chunked\r\n";
    for malformed in [
        format!("{PLAIN}!"),
        format!("{PLAIN}{PLAIN}"),
        format!("{CHUNKED}\r\n"),
        format!("\r\n{PLAIN}"),
        PLAIN.replace("OK\r\n", "OK\n"),
        PLAIN.replace("5\r\n", "5\n"),
        PLAIN.replace("Server", "Ser ver"),
        PLAIN.replace("Server:", "Server :"),
        PLAIN.replace("EC2ws", "EC2\r\n ws"),
        PLAIN.replace("EC2ws", "EC2\rws"),
        PLAIN.replace("EC2ws", "EC2\0ws"),
        PLAIN.replace("HTTP/1.1", "HTTP/2.0"),
        PLAIN.replace("200", "20"),
        PLAIN.replace("200", "099"),
        format!("{ok}Content-Length: 5\r\nContent-Length: 5\r\n\r\nami-1"),
        format!("{ok}Content-Length: 5, 5\r\n\r\nami-1"),
        format!("{ok}Content-Length: +5\r\n\r\nami-1"),
        format!("{ok}Content-Length: 0x5\r\n\r\nami-1"),
        format!("{ok}Content-Length:\r\n\r\n"),
        format!("{ok}Content-Length: 99999999999999999999\r\n\r\n"),
        format!("{ok}Content-Length: 5\r\n{chunked}\r\n0\r\n\r\n"),
        format!("{ok}{chunked}{chunked}\r\n0\r\n\r\n"),
        format!("{ok}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        format!("{ok}Transfer-Encoding: identity\r\n\r\nami-1"),
        CHUNKED.replace("HTTP/1.1", "HTTP/1.0"),
        CHUNKED.replace("00A", "A;x=y"),
        CHUNKED.replace("00A", "+A"),
        CHUNKED.replace("00A", " A"),
        CHUNKED.replace("00A", ""),
        CHUNKED.replace("00A", "B"),
        CHUNKED.replace("00A", "9"),
        CHUNKED.replace("00A", "0000000000000000A"),
        CHUNKED.replace("00A", "FFFFFFFFFFFFFFFFF"),
        CHUNKED.replace("0\r\n\r\n", "0\r\nX-Trailer: y\r\n\r\n"),
        // Also this one line without an end.
        "HTTP/1.1 200 OK".into(),
    ] {
        assert_eq!(said(&malformed), Err(MALFORMED), "{malformed:?}");
    }
    for (answer, detail) in [
        ("HTTP/1.1 100 Continue\r\n\r\n", "informational"),
        ("HTTP/1.1 304 Not Modified\r\n\r\n", "redirect"),
    ] {
        assert_eq!(said(answer), Err(UpstreamError::Invalid(detail)));
    }
    assert_eq!(said(""), Err(UpstreamError::Unreachable));
}

#[test]
fn what_is_too_long_is_not_read_to_its_end() {
    let ok = "HTTP/1.1 200 OK\r\n";
    let sized = |length: usize| format!("{ok}Content-Length: {length}\r\n\r\n");
    assert_eq!(said(&sized(BODY_MAX + 1)), Err(TOO_LONG));
    assert_eq!(said(&sized(BODY_MAX)), Err(CUT_SHORT));
    let whole = sized(BODY_MAX) + &"x".repeat(BODY_MAX);
    assert_eq!(said(&whole).unwrap().1.len(), BODY_MAX);
    for length in [BODY_MAX, BODY_MAX + 1] {
        let endless = format!("{ok}\r\n{}", "x".repeat(length));
        assert_eq!(said(&endless).is_ok(), length == BODY_MAX);
    }
    let half = format!("{:x}\r\n{}\r\n", BODY_MAX / 2, "x".repeat(BODY_MAX / 2));
    let chunks = format!("{ok}Transfer-Encoding: chunked\r\n\r\n{half}{half}");
    assert_eq!(said(&format!("{chunks}1\r\n")), Err(TOO_LONG));
    assert_eq!(
        said(&format!("{chunks}0\r\n\r\n")).unwrap().1.len(),
        BODY_MAX
    );
    for length in [HEAD_MAX, HEAD_MAX + 1] {
        let head = format!("{ok}Content-Length: 0\r\nX: \r\n\r\n");
        let padding = "x".repeat(length - head.len());
        let padded = head.replace("X: ", &format!("X: {padding}"));
        assert_eq!(padded.len(), length);
        assert_eq!(said(&padded).is_ok(), length == HEAD_MAX);
    }
    let many = |count| format!("{ok}{}Content-Length: 0\r\n\r\n", "X: y\r\n".repeat(count));
    assert!(said(&many(HEADERS_MAX - 1)).is_ok());
    assert_eq!(said(&many(HEADERS_MAX)), Err(MALFORMED));
}

#[test]
fn one_that_is_cut_short_is_none_wherever_it_is_cut() {
    for text in [PLAIN, CHUNKED] {
        for len in 1..text.len() {
            let cut = said(&text[..len]);
            let in_head = !text[..len].contains("\r\n\r\n");
            let expected = if in_head { MALFORMED } else { CUT_SHORT };
            assert_eq!(cut, Err(expected), "{:?}", &text[..len]);
        }
    }
}

#[test]
fn how_an_answer_arrives_does_not_matter() {
    for text in [PLAIN, CHUNKED, ENDLESS] {
        for at in 1..text.len() {
            let (first, second) = text.split_at(at);
            let parts = [first, second].map(|it| Bytes::copy_from_slice(it.as_bytes()));
            let (answer, after) = arriving(parts.into(), Expects::Body).unwrap();
            let (status, body, after_whole) = said(text).unwrap();
            assert_eq!(answer.status(), status);
            assert_eq!((answer.body(), after), (&Bytes::from(body), after_whole));
        }
    }
}

proptest! {
    /// See there: the properties that the fuzzer looks for exceptions to.
    #[test]
    fn near_answers(
        pieces in proptest::collection::vec(prop_oneof![
            Just("HTTP/1.1 200 OK\r\n"), Just("HTTP/1.0 404 x\r\n"), Just("HTTP/1.1 204 x\r\n"),
            Just("Content-Length: 5\r\n"), Just("Transfer-Encoding: chunked\r\n"),
            Just("Connection: close\r\n"), Just("X: y\r\n"), Just("X: y\n"), Just("\r\n"),
            Just("\r\n\r\n"), Just("5\r\nami-1\r\n"), Just("ami-1"), Just("0\r\n\r\n"),
            Just("00000000000000000005\r\n"), Just(" "), Just("\0"),
        ], 0..10),
    ) {
        crate::fuzzing::answer(pieces.concat().as_bytes());
    }
}
