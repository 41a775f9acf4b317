//! An answer of the service, whole and checked.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use memchr::memmem;

const SECRET_KEY: &[u8] = b"SecretAccessKey";

/// Status, headers and body as the service sent them, without the headers
/// that were about its connection. Cheap to clone.
#[derive(Clone)]
pub struct Answer {
    whole: Arc<Whole>,
    given: Option<SystemTime>,
}

/// A header as the service spells it.
#[derive(Clone, PartialEq, Eq)]
pub struct Header {
    /// A token.
    pub name: Bytes,
    /// Bytes that cannot end a line.
    pub value: Bytes,
}

struct Whole {
    status: StatusCode,
    headers: Vec<Header>,
    body: Bytes,
}

impl Answer {
    pub(super) fn new(status: StatusCode, headers: Vec<Header>, body: Bytes) -> Self {
        let whole = Arc::new(Whole {
            status,
            headers,
            body,
        });
        Self { whole, given: None }
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.whole.status
    }

    /// The headers, in their order.
    pub fn headers(&self) -> &[Header] {
        &self.whole.headers
    }

    /// The first value of a header, whatever the case of its name.
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        let mut headers = self.whole.headers.iter();
        headers.find(|it| it.is(name)).map(|it| &*it.value)
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.whole.body
    }

    /// Whether it is taken for credentials, whatever its path. A body that
    /// merely names a secret key counts: better one too many.
    pub fn names_a_secret_key(&self) -> bool {
        memmem::find(self.body(), SECRET_KEY).is_some()
    }

    /// As if the service had given it now.
    pub(super) fn dated(mut self, now: SystemTime) -> Self {
        self.given = Some(now);
        self
    }

    /// With another body; with none, and of unknown length, where that is all
    /// that can be said of it.
    pub fn with_body(self, body: Option<Bytes>) -> Self {
        let is_length = |header: &Header| header.is("content-length");
        let mut headers = self.whole.headers.clone();
        match &body {
            Some(body) => {
                let length = Bytes::from(body.len().to_string());
                for header in headers.iter_mut().filter(|it| is_length(it)) {
                    header.value = length.clone();
                }
            }
            None => headers.retain(|header| !is_length(header)),
        }
        let whole = Arc::new(Whole {
            status: self.whole.status,
            headers,
            body: body.unwrap_or_default(),
        });
        Self { whole, ..self }
    }

    /// What its `Date` is to say, where that is not what the service said.
    pub fn given(&self) -> Option<SystemTime> {
        self.given
    }
}

impl Header {
    /// Whether it has this name.
    pub fn is(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name.as_bytes())
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Header({:?})", self.name)
    }
}

impl std::fmt::Debug for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Answer({}, {} bytes)", self.status(), self.body().len())
    }
}
