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
