//! A strict reading of the raw head, and the only one that counts: parsers
//! in use, hyper's too, accept bare LF, folded lines and more, and two readers
//! of one head must never find two requests in it.
//!
//! Works on the bytes that have arrived so far and refuses as early as they
//! allow. It must never skip, trim away or repair a byte it does not know.

use super::malformed::Malformed;
use crate::eights::{below, equal};

/// Longest request line, in bytes, CRLF not counted. EC2's longest known path
/// is under 200.
pub const REQUEST_LINE_MAX: usize = 2 * 1024;
/// Longest header block, in bytes.
pub const HEADERS_MAX: usize = 8 * 1024;
/// Most header lines.
pub const HEADER_COUNT_MAX: usize = 32;
/// The only chunked body there is room for.
const EMPTY_CHUNKED: &[u8] = b"0\r\n\r\n";

/// What the bytes so far amount to.
#[derive(Debug, PartialEq, Eq)]
pub enum Scan<'a> {
    /// So far a sound beginning.
    Partial,
    /// A whole head and its empty body.
    Whole {
        /// The lines of the head.
        head: RawHead<'a>,
        /// How many bytes head and body take; what follows is the next request.
        len: usize,
    },
    /// Refused, whatever may still come.
    Refused(Malformed),
}

/// The request line and headers of a head that passed the check of its raw
/// form. The meaning of the lines is judged later.
#[derive(Debug, PartialEq, Eq)]
pub struct RawHead<'a> {
    /// Bytes of a token.
    pub method: &'a [u8],
    /// Visible ASCII and above, not empty.
    pub target: &'a [u8],
    /// The minor version of HTTP/1.
    pub version: HttpVersion,
    /// Names as sent and values with the white space around them taken off.
    pub headers: Vec<(&'a [u8], &'a [u8])>,
}

/// The versions this proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// What becomes of the client's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// The next request may come on it.
    KeepAlive,
    /// The answer ends it.
    Close,
}

/// Reads what has arrived.
pub fn scan(bytes: &[u8]) -> Scan<'_> {
    match read(bytes) {
        Ok(Some((head, len))) => Scan::Whole { head, len },
        Ok(None) => Scan::Partial,
        Err(malformed) => Scan::Refused(malformed),
    }
}

fn read(bytes: &[u8]) -> Result<Option<(RawHead<'_>, usize)>, Malformed> {
    let mut lines = Lines { rest: bytes };
    let Some(line) = lines.next(REQUEST_LINE_MAX, Malformed::RequestLineTooLong)? else {
        return Ok(None);
    };
    let (method, target, version) = request_line(line)?;
    let mut headers = Vec::with_capacity(8);
    let header_bytes = lines.rest.len();
    loop {
        let left = HEADERS_MAX.saturating_sub(header_bytes - lines.rest.len());
        match lines.next(left, Malformed::HeadersTooLong)? {
            None => return Ok(None),
            Some([]) => break,
            Some(_) if headers.len() == HEADER_COUNT_MAX => return Err(Malformed::HeadersTooMany),
            Some(line) => headers.push(header_line(line)?),
        }
    }
    let head = RawHead {
        method,
        target,
        version,
        headers,
    };
    let body = match head
        .framing()
        .map_err(|malformed| head.foremost(malformed))?
    {
        Framing::Empty => 0,
        Framing::Chunked if lines.rest.starts_with(EMPTY_CHUNKED) => EMPTY_CHUNKED.len(),
        Framing::Chunked if EMPTY_CHUNKED.starts_with(lines.rest) => return Ok(None),
        Framing::Chunked => return Err(head.foremost(Malformed::Body)),
    };
    Ok(Some((head, bytes.len() - lines.rest.len() + body)))
}

struct Lines<'a> {
    rest: &'a [u8],
}

impl<'a> Lines<'a> {
    /// The next line without its CRLF, or `None` while it is not whole.
    fn next(&mut self, max: usize, too_long: Malformed) -> Result<Option<&'a [u8]>, Malformed> {
        let end = first_control(self.rest);
        if end.unwrap_or(self.rest.len()) > max {
            return Err(too_long);
        }
        let Some((line, ending)) = end.and_then(|end| self.rest.split_at_checked(end)) else {
            return Ok(None);
        };
        match ending {
            [b'\r', b'\n', rest @ ..] => {
                self.rest = rest;
                Ok(Some(line))
            }
            [b'\r'] => Ok(None),
            [b'\r' | b'\n', ..] => Err(Malformed::BareLineEnd),
            _ => Err(Malformed::ControlByte),
        }
    }
}

/// Where the first control byte stands that is no tab. Eight bytes that have
/// none are passed over at once: heads are read in all their bytes, and often.
fn first_control(bytes: &[u8]) -> Option<usize> {
    let (eights, _) = bytes.as_chunks::<8>();
    let is_plain = |eight: &&[u8; 8]| {
        let eight = u64::from_ne_bytes(**eight);
        below(eight, b' ') | equal(eight, 0x7f) == 0
    };
    let plain = 8 * eights.iter().take_while(is_plain).count();
    let rest = bytes.get(plain..)?;
    let found = rest.iter().position(|byte| is_control(*byte))?;
    Some(plain + found)
}

fn is_control(byte: u8) -> bool {
    byte.is_ascii_control() && byte != b'\t'
}

fn request_line(line: &[u8]) -> Result<(&[u8], &[u8], HttpVersion), Malformed> {
    let mut parts = line.split(|byte| *byte == b' ');
    let (method, target, version) = (parts.next(), parts.next(), parts.next());
    let (Some(method), Some(target), None) = (method, target, parts.next()) else {
        return Err(Malformed::RequestLine);
    };
    if method.is_empty() || target.is_empty() || !method.iter().all(|byte| is_token(*byte)) {
        return Err(Malformed::RequestLine);
    }
    let version = match version {
        None => return Err(Malformed::Http09),
        Some(b"HTTP/1.1") => HttpVersion::Http11,
        Some(b"HTTP/1.0") => HttpVersion::Http10,
        Some(version) if version.starts_with(b"HTTP/") => return Err(Malformed::HttpVersion),
        Some(_) => return Err(Malformed::RequestLine),
    };
    Ok((method, target, version))
}

fn header_line(line: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    if line
        .first()
        .is_some_and(|byte| matches!(byte, b' ' | b'\t'))
    {
        return Err(Malformed::ObsFold);
    }
    let colon = memchr::memchr(b':', line).ok_or(Malformed::HeaderLine)?;
    let (name, value) = line.split_at_checked(colon).ok_or(Malformed::HeaderLine)?;
    if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
        return Err(Malformed::HeaderLine);
    }
    Ok((name, value.get(1..).unwrap_or_default().trim_ascii()))
}

/// RFC 9110 section 5.6.2, `tchar`.
fn is_token(byte: u8) -> bool {
    let bits = match byte {
        0..64 => TOKENS.0,
        64..128 => TOKENS.1,
        128.. => return false,
    };
    bits >> (byte & 63) & 1 == 1
}

/// A bit for each byte below 64, and for each of the next 64.
const TOKENS: (u64, u64) = {
    let mut bits = (0, 0);
    let mut bytes: &[u8] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789\
        !#$%&'*+-.^_`|~";
    while let [byte, rest @ ..] = bytes {
        match *byte {
            0..64 => bits.0 |= 1 << *byte,
            _ => bits.1 |= 1 << (*byte - 64),
        }
        bytes = rest;
    }
    bits
};

enum Framing {
    Empty,
    Chunked,
}

impl<'a> RawHead<'a> {
    /// Every value of a header, whatever the case of its name.
    pub fn values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers
            .iter()
            .filter(move |(sent, _)| sent.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| *value)
    }

    /// The one value of a header, or `repeated` if there are several.
    pub fn single(&self, name: &str, repeated: Malformed) -> Result<Option<&'a [u8]>, Malformed> {
        let mut values = self.values(name);
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(repeated),
            (value, None) => Ok(value),
        }
    }

    /// What the client asks to become of its connection (RFC 9112, 9.3).
    pub fn persistence(&self) -> Persistence {
        let asks = |word: &str| {
            let mut options = self
                .values("connection")
                .flat_map(|value| value.split(|byte| *byte == b','));
            options.any(|it| it.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
        };
        let keeps = self.version == HttpVersion::Http11 || asks("keep-alive");
        match keeps && !asks("close") {
            true => Persistence::KeepAlive,
            false => Persistence::Close,
        }
    }

    /// A body is refused for what it belongs to, where that is refused anyway:
    /// a POST as a POST, `Expect` as `Expect`.
    fn foremost(&self, malformed: Malformed) -> Malformed {
        if !matches!(self.method, b"GET" | b"HEAD" | b"PUT") {
            Malformed::Method
        } else if self.values("expect").next().is_some() {
            Malformed::Expect
        } else {
            malformed
        }
    }

    fn framing(&self) -> Result<Framing, Malformed> {
        let length = self.single("content-length", Malformed::ContentLength)?;
        let coding = self.single("transfer-encoding", Malformed::TransferEncoding)?;
        match (length, coding) {
            (None, None) => Ok(Framing::Empty),
            (Some(digits), None) if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) => {
                Err(Malformed::ContentLength)
            }
            (Some(b"0"), None) => Ok(Framing::Empty),
            (Some(_), None) => Err(Malformed::Body),
            (None, Some(coding))
                if coding.eq_ignore_ascii_case(b"chunked")
                    && self.version == HttpVersion::Http11 =>
            {
                Ok(Framing::Chunked)
            }
            (_, Some(_)) => Err(Malformed::TransferEncoding),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_control_byte_is_found_wherever_it_stands() {
        for len in 0..20 {
            for plain in [b' ', b'~', b'\t', 0x80, 0xff] {
                let line = vec![plain; len];
                assert_eq!(first_control(&line), None, "{line:?}");
                for (at, control) in (0..len).flat_map(|at| (0..=0xff).map(move |it| (at, it))) {
                    let mut line = line.clone();
                    line[at] = control;
                    let expected = is_control(control).then_some(at);
                    assert_eq!(first_control(&line), expected, "{line:?}");
                }
            }
        }
    }

    #[test]
    fn a_token_is_of_tchar_alone() {
        for byte in 0..=0xff_u8 {
            let expected = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
            assert_eq!(is_token(byte), expected, "{byte:#x}");
        }
    }
}
