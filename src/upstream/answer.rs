//! An answer of the service, whole and checked.

use bytes::Bytes;
use hyper::header::HeaderMap;
use hyper::{Response, StatusCode};

/// Status, headers and body as the service sent them, without the headers
/// that were about its connection. Cheap to clone.
#[derive(Clone)]
pub struct Answer(Response<Bytes>);

impl Answer {
    pub(super) fn new(response: Response<Bytes>) -> Self {
        Self(response)
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
