//! A second reading of a head by another's parser, httparse, which is
//! hyper's. Written apart from ours and read by many, it is there to notice
//! what ours would overlook. Nothing is taken from it but whether it agrees.

use super::head::{HEADER_COUNT_MAX, HttpVersion, RawHead};

/// An empty chunked body, in bytes.
const EMPTY_CHUNKED: usize = 5;

/// Whether httparse finds in `bytes` the head that we found there, with
/// nothing but an empty body up to `len`.
pub fn parsers_agree(bytes: &[u8], ours: &RawHead<'_>, len: usize) -> bool {
    let mut headers = [const { std::mem::MaybeUninit::uninit() }; HEADER_COUNT_MAX];
    let mut theirs = httparse::Request::new(&mut []);
    let Ok(httparse::Status::Complete(end)) = theirs.parse_with_uninit_headers(bytes, &mut headers)
    else {
        return false;
    };
    let version = match ours.version {
        HttpVersion::Http10 => 0,
        HttpVersion::Http11 => 1,
    };
    let same_headers = theirs.headers.len() == ours.headers.len()
        && (theirs.headers.iter().zip(&ours.headers))
            .all(|(theirs, ours)| (theirs.name.as_bytes(), theirs.value) == *ours);
    matches!(len.checked_sub(end), Some(0 | EMPTY_CHUNKED))
        && theirs.method.map(str::as_bytes) == Some(ours.method)
        && theirs.path.map(str::as_bytes) == Some(ours.target)
        && theirs.version == Some(version)
        && same_headers
}

#[cfg(test)]
mod tests {
    use super::super::{Scan, scan};
    use super::*;

    const HEAD: &[u8] = b"GET /latest HTTP/1.1\r\nHost: x\r\nAccept:  */* \r\n\r\n";

    #[test]
    fn agrees_on_one_request_and_on_no_other() {
        let Scan::Whole { head, len } = scan(HEAD) else {
            panic!("a sound head");
        };
        assert!(parsers_agree(HEAD, &head, len));
        assert!(!parsers_agree(HEAD, &head, len + 1), "something behind it");
        for (what, other) in [
            ("cut", &HEAD[..len - 1]),
            (
                "another method",
                b"PUT /latest HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
            ),
            (
                "another target",
                b"GET /lates_ HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
            ),
            (
                "another version",
                b"GET /latest HTTP/1.0\r\nHost: x\r\nAccept: */*\r\n\r\n",
            ),
            (
                "another value",
                b"GET /latest HTTP/1.1\r\nHost: y\r\nAccept: */*\r\n\r\n",
            ),
            (
                "one header less",
                b"GET /latest HTTP/1.1\r\nHost: x\r\n\r\n",
            ),
        ] {
            let end = if what == "cut" { len } else { other.len() };
            assert!(!parsers_agree(other, &head, end), "{what}");
        }
    }

    #[test]
    fn an_empty_chunked_body_may_follow() {
        let bytes =
            b"PUT /latest/api/token HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let Scan::Whole { head, len } = scan(bytes) else {
            panic!("a sound head");
        };
        assert_eq!(len, bytes.len());
        assert!(parsers_agree(bytes, &head, len));
    }
}
