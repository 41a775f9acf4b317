//! One HTTP/1.1 exchange after the other on one connection to the service.
//!
//! Written by hand because it is the shorter way: what is asked has one form,
//! and of the answer no more is understood than has to be. Whatever could be
//! read in two ways is no answer; bytes behind an answer make it none.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::StatusCode;
use memchr::{memchr_iter, memmem};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::UpstreamError;
use super::answer::{Answer, Header};

/// The largest body passed on, in bytes; user data is at most 16 KiB.
const BODY_MAX: usize = 1024 * 1024;
/// The longest head that is read, in bytes.
const HEAD_MAX: usize = 16 * 1024;
const HEADERS_MAX: usize = 64;
/// A line that gives a chunk's size, with its end, in bytes.
const CHUNK_LINE_MAX: usize = 18;

/// Headers of the connection to the service, which are not for the client.
const HOP_BY_HOP: [&str; 5] = ["keep-alive", "proxy-connection", "te", "trailer", "upgrade"];
const KEEP_ALIVE: Bytes = Bytes::from_static(b"keep-alive");

/// Whether an answer to this has a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expects {
    Body,
    HeadAlone,
}

/// What may be done with the connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum After {
    Reuse,
    Close,
}

/// Why an exchange failed.
pub(super) enum Failed {
    /// The connection ended before a byte of an answer: the service may have
    /// given it up before it was asked.
    Stale,
    Finally(UpstreamError),
}

impl From<UpstreamError> for Failed {
    fn from(error: UpstreamError) -> Self {
        Self::Finally(error)
    }
}

const MALFORMED: UpstreamError = UpstreamError::Invalid("malformed");
const CUT_SHORT: UpstreamError = UpstreamError::Invalid("cut_short");
const TOO_LONG: UpstreamError = UpstreamError::Invalid("too_long");

/// A connection on which nothing is under way.
pub(super) struct Connection<S = TcpStream> {
    stream: S,
    buffer: BytesMut,
}

impl Connection {
    pub(super) async fn open(address: SocketAddr, within: Duration) -> Result<Self, UpstreamError> {
        let stream = timeout(within, TcpStream::connect(address))
            .await
            .map_err(|_| UpstreamError::Unreachable)?
            .map_err(|_| UpstreamError::Unreachable)?;
        // A request is one write; waiting to fill a segment only delays it.
        let _ = stream.set_nodelay(true);
        Ok(Self {
            stream,
            buffer: BytesMut::new(),
        })
    }

    /// Whether the service has neither ended it nor said anything unasked.
    pub(super) fn is_idle(&self) -> bool {
        let mut byte = [0];
        matches!(self.stream.try_read(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// Sends a request without body and reads the answer to its end.
    pub(super) async fn exchange(
        &mut self,
        request: &[u8],
        expects: Expects,
    ) -> Result<(Answer, After), Failed> {
        self.stream
            .write_all(request)
            .await
            .map_err(|_| Failed::Stale)?;
        let head = self.head().await?;
        let Head {
            status,
            headers,
            framing,
            mut after,
        } = Head::parse(&head, expects)?;
        let body = match framing {
            Framing::Length(length) => self.exactly(length).await?,
            Framing::Chunked => self.chunks().await?,
            Framing::UntilClosed => {
                after = After::Close;
                self.rest().await?
            }
        };
        if !self.buffer.is_empty() {
            return Err(MALFORMED.into());
        }
        Ok((Answer::new(status, headers, body), after))
    }

    /// The bytes up to and with the empty line.
    async fn head(&mut self) -> Result<Bytes, Failed> {
        let mut searched = 0;
        loop {
            // Too long is too long, however much of it arrives at once.
            if let Some(at) = find(&self.buffer, b"\r\n\r\n", searched)
                && at + 4 <= HEAD_MAX
            {
                return Ok(self.buffer.split_to(at + 4).freeze());
            }
            if self.buffer.len() > HEAD_MAX {
                return Err(MALFORMED.into());
            }
            searched = self.buffer.len().saturating_sub(3);
            match self.fill().await {
                Ok(0) | Err(_) if self.buffer.is_empty() => return Err(Failed::Stale),
                Ok(0) | Err(_) => return Err(MALFORMED.into()),
                Ok(_) => {}
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Bytes, UpstreamError> {
        if length > BODY_MAX {
            return Err(TOO_LONG);
        }
        while self.buffer.len() < length {
            self.more().await?;
        }
        Ok(self.buffer.split_to(length).freeze())
    }

    async fn rest(&mut self) -> Result<Bytes, UpstreamError> {
        while self.fill().await.map_err(|_| CUT_SHORT)? > 0 {
            if self.buffer.len() > BODY_MAX {
                return Err(TOO_LONG);
            }
        }
        Ok(self.buffer.split().freeze())
    }

    /// RFC 9112, 7.1, without extensions and trailers, of which this service
    /// has none.
    async fn chunks(&mut self) -> Result<Bytes, UpstreamError> {
        let mut body = BytesMut::new();
        loop {
            let line = loop {
                if let Some(at) = find(&self.buffer, b"\r\n", 0)
                    && at + 2 <= CHUNK_LINE_MAX
                {
                    let line = self.buffer.split_to(at);
                    self.buffer.advance(2);
                    break line;
                }
                if self.buffer.len() > CHUNK_LINE_MAX {
                    return Err(MALFORMED);
                }
                self.more().await?;
            };
            let length = chunk_size(&line).ok_or(MALFORMED)?;
            if length.saturating_add(body.len()) > BODY_MAX {
                return Err(TOO_LONG);
            }
            let chunk = self.exactly(length + 2).await?;
            let (chunk, end) = chunk.split_at_checked(length).ok_or(MALFORMED)?;
            if end != b"\r\n" {
                return Err(MALFORMED);
            }
            if length == 0 {
                return Ok(body.freeze());
            }
            body.extend_from_slice(chunk);
        }
    }

    async fn more(&mut self) -> Result<(), UpstreamError> {
        match self.fill().await {
            Ok(0) | Err(_) => Err(CUT_SHORT),
            Ok(_) => Ok(()),
        }
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.buffer.reserve(4096);
        self.stream.read_buf(&mut self.buffer).await
    }
}

/// What the head of an answer says.
struct Head {
    status: StatusCode,
    /// Those that are for the client.
    headers: Vec<Header>,
    framing: Framing,
    after: After,
}

#[derive(Debug, PartialEq, Eq)]
enum Framing {
    Length(usize),
    Chunked,
    UntilClosed,
}

impl Head {
    fn parse(bytes: &Bytes, expects: Expects) -> Result<Self, UpstreamError> {
        // httparse would take a bare LF, or lines ahead of the first.
        if !bytes.starts_with(b"HTTP/") || has_bare_lf(bytes) {
            return Err(MALFORMED);
        }
        let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
        let mut parsed = httparse::Response::new(&mut headers);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(len)) if len == bytes.len() => {}
            _ => return Err(MALFORMED),
        }
        let code = parsed.code.unwrap_or_default();
        let status = StatusCode::from_u16(code).map_err(|_| MALFORMED)?;
        if status.is_informational() {
            return Err(UpstreamError::Invalid("informational"));
        }
        if status.is_redirection() {
            return Err(UpstreamError::Invalid("redirect"));
        }
        let mut after = match parsed.version {
            Some(1) => After::Reuse,
            _ => After::Close,
        };
        let (mut length, mut chunked) = (None, false);
        let mut headers = Vec::with_capacity(parsed.headers.len());
        for httparse::Header { name, value } in parsed.headers.iter() {
            let is = |other: &str| name.eq_ignore_ascii_case(other);
            let mut said = bytes.slice_ref(value);
            if is("content-length") {
                let digits = number(value).ok_or(MALFORMED)?;
                if length.replace(digits).is_some() {
                    return Err(MALFORMED);
                }
            } else if is("transfer-encoding") {
                if chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(MALFORMED);
                }
                chunked = true;
                continue;
            } else if is("connection") {
                // Keeps its place among the headers; what it says will be
                // about the client's connection.
                if asks_to_close(value) {
                    after = After::Close;
                }
                said = KEEP_ALIVE;
            } else if HOP_BY_HOP.into_iter().any(is) {
                continue;
            }
            headers.push(Header {
                name: bytes.slice_ref(name.as_bytes()),
                value: said,
            });
        }
        let framing = match (length, chunked) {
            (Some(_), true) => return Err(MALFORMED),
            // RFC 9112, 6.1.
            (None, true) if parsed.version != Some(1) => return Err(MALFORMED),
            _ if expects == Expects::HeadAlone || status == StatusCode::NO_CONTENT => {
                Framing::Length(0)
            }
            (Some(length), false) => Framing::Length(length),
            (None, true) => Framing::Chunked,
            (None, false) => Framing::UntilClosed,
        };
        Ok(Self {
            status,
            headers,
            framing,
            after,
        })
    }
}

fn has_bare_lf(bytes: &[u8]) -> bool {
    let before = |at: usize| bytes.get(at.checked_sub(1)?);
    memchr_iter(b'\n', bytes).any(|at| before(at) != Some(&b'\r'))
}

fn asks_to_close(connection: &[u8]) -> bool {
    connection
        .split(|byte| *byte == b',')
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"))
}

fn number(digits: &[u8]) -> Option<usize> {
    let plain = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
    std::str::from_utf8(digits)
        .ok()
        .filter(|_| plain)?
        .parse()
        .ok()
}

fn chunk_size(line: &[u8]) -> Option<usize> {
    let plain = !line.is_empty() && line.iter().all(u8::is_ascii_hexdigit);
    let text = std::str::from_utf8(line).ok().filter(|_| plain)?;
    usize::from_str_radix(text, 16).ok()
}

/// Where `what` begins, looked for from `from` on.
fn find(bytes: &[u8], what: &[u8], from: usize) -> Option<usize> {
    Some(from + memmem::find(bytes.get(from..)?, what)?)
}

/// What [`Connection`] makes of bytes that arrive in these parts, and then end.
#[cfg(any(test, fuzzing))]
pub(crate) fn arriving(
    parts: Vec<Bytes>,
    expects: Expects,
) -> Result<(Answer, After), UpstreamError> {
    scripted::exchange(parts, expects).map_err(|failed| match failed {
        Failed::Stale => UpstreamError::Unreachable,
        Failed::Finally(error) => error,
    })
}

#[cfg(any(test, fuzzing))]
mod scripted;
#[cfg(test)]
mod tests;
