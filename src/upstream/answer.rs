//! An answer of the service, whole and checked.

use std::time::SystemTime;

use bytes::Bytes;
use hyper::header::{CONTENT_LENGTH, DATE, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

const SECRET_KEY: &[u8] = b"SecretAccessKey";

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

    /// Whether it is taken for credentials, whatever its path. A body that
    /// merely names a secret key counts: better one too many.
    pub fn names_a_secret_key(&self) -> bool {
        let mut windows = self.body().windows(SECRET_KEY.len());
        windows.any(|window| window == SECRET_KEY)
    }

    /// As if the service had given it now.
    pub(super) fn dated(mut self, now: SystemTime) -> Self {
        if let Some(date) = self.0.headers_mut().get_mut(DATE)
            && let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(now))
        {
            *date = now;
        }
        self
    }

    /// With another body; with none, and of unknown length, where that is all
    /// that can be said of it.
    pub fn with_body(mut self, body: Option<Bytes>) -> Self {
        match body {
            Some(body) => {
                let length = HeaderValue::from(body.len());
                self.0.headers_mut().insert(CONTENT_LENGTH, length);
                *self.0.body_mut() = body;
            }
            None => {
                self.0.headers_mut().remove(CONTENT_LENGTH);
            }
        }
        self
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
