//! An answer of the service, whole and checked.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    CONNECTION, HeaderMap, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Response, StatusCode};

use super::UpstreamError;

/// Requests to the service have no body.
pub(super) type Body = Empty<Bytes>;

/// The largest answer passed on, in bytes; user data is at most 16 KiB.
const BODY_MAX: usize = 1024 * 1024;

/// Headers of the connection to the service, which are not for the client.
const HOP_BY_HOP: [HeaderName; 6] = [
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

const KEEP_ALIVE: HeaderValue = HeaderValue::from_static("keep-alive");

/// Status, headers and body as the service sent them, without the headers
/// that were about its connection.
pub struct Answer(Response<Bytes>);

impl Answer {
    pub(super) async fn read(response: Response<Incoming>) -> Result<Self, UpstreamError> {
        let (mut parts, body) = response.into_parts();
        if parts.status.is_informational() {
            return Err(UpstreamError::Invalid("informational"));
        }
        if parts.status.is_redirection() {
            return Err(UpstreamError::Invalid("redirect"));
        }
        let body = match Limited::new(body, BODY_MAX).collect().await {
            Ok(body) => body.to_bytes(),
            Err(error) if error.is::<LengthLimitError>() => {
                return Err(UpstreamError::Invalid("too_long"));
            }
            Err(_) => return Err(UpstreamError::Invalid("cut_short")),
        };
        // Rebuilt, not removed from: removal would change the order.
        parts.headers = std::mem::take(&mut parts.headers)
            .into_iter()
            .scan(None, |last, (name, value)| {
                *last = name.or(last.take());
                Some((last.clone()?, value))
            })
            .filter(|(name, _)| !HOP_BY_HOP.contains(name))
            .fold(HeaderMap::new(), |mut kept, (name, value)| {
                // Keeps its place among the headers; what it says will be
                // about the client's connection.
                let value = if name == CONNECTION {
                    KEEP_ALIVE
                } else {
                    value
                };
                kept.append(name, value);
                kept
            });
        Ok(Self(Response::from_parts(parts, body)))
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        self.0.headers()
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        self.0.body()
    }

    /// All of it.
    pub fn into_response(self) -> Response<Bytes> {
        self.0
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Answer({}, {} bytes)",
            self.0.status(),
            self.0.body().len()
        )
    }
}
