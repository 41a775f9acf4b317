//! What the service says back: statuses, bodies, and the headers in the order
//! and case in which EC2 sends them.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{
    ACCEPT_RANGES, ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderName,
    HeaderValue, LAST_MODIFIED, SERVER,
};
use hyper::{Response, StatusCode};

/// How long a session token lives: asked for on PUT, what is left on answers.
pub(super) const TOKEN_TTL: HeaderName =
    HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

/// One answer, before it knows its connection.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    content: Content,
    /// Seconds left to the token that was presented or minted.
    pub(super) token_ttl: Option<u64>,
}

#[derive(Debug)]
enum Content {
    Item {
        bytes: Bytes,
        content_type: HeaderValue,
        modified: SystemTime,
    },
    Token(String),
    /// A page of XHTML that names the status.
    Page,
    Empty {
        allow: Option<HeaderValue>,
    },
}

/// What becomes of the connection after the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    KeepAlive,
    Close,
}

/// Which part of the answer goes out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Extent {
    Whole,
    /// To a HEAD request: the same head, and no body.
    HeadOnly,
}

impl Answer {
    pub(super) fn text(bytes: impl Into<Bytes>, modified: SystemTime) -> Self {
        Self::item(bytes.into(), "text/plain", modified)
    }

    pub(super) fn octets(bytes: Bytes, modified: SystemTime) -> Self {
        Self::item(bytes, "application/octet-stream", modified)
    }

    pub(super) fn token(token: String, ttl: u64) -> Self {
        Self {
            token_ttl: Some(ttl),
            ..Self::of(StatusCode::OK, Content::Token(token))
        }
    }

    pub(super) fn page(status: StatusCode) -> Self {
        Self::of(status, Content::Page)
    }

    pub(super) fn empty(status: StatusCode) -> Self {
        Self::of(status, Content::Empty { allow: None })
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let allow = Some(HeaderValue::from_static(allow));
        Self::of(StatusCode::METHOD_NOT_ALLOWED, Content::Empty { allow })
    }

    fn item(bytes: Bytes, content_type: &'static str, modified: SystemTime) -> Self {
        let content = Content::Item {
            bytes,
            content_type: HeaderValue::from_static(content_type),
            modified,
        };
        Self::of(StatusCode::OK, content)
    }

    fn of(status: StatusCode, content: Content) -> Self {
        Self {
            status,
            content,
            token_ttl: None,
        }
    }

    /// EC2's order: what the item brings first, then what every answer has,
    /// and the content type at the end where nothing set it earlier (as seen
    /// in public captures of PUT, GET, 401 and 405 answers).
    pub(super) fn into_response(self, persistence: Persistence, extent: Extent) -> Response<Body> {
        let mut headers = HeaderMap::with_capacity(8);
        if let Some(ttl) = self.token_ttl {
            headers.insert(TOKEN_TTL, ttl.into());
        }
        let mut untyped = false;
        let bytes = match self.content {
            Content::Item {
                bytes,
                content_type,
                modified,
            } => {
                headers.insert(CONTENT_TYPE, content_type);
                headers.insert(ACCEPT_RANGES, HeaderValue::from_static("none"));
                headers.insert(LAST_MODIFIED, http_date(modified));
                bytes
            }
            Content::Page => {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
                page(self.status).into()
            }
            Content::Token(token) => {
                untyped = true;
                token.into()
            }
            Content::Empty { allow } => {
                untyped = true;
                if let Some(allow) = allow {
                    headers.insert(ALLOW, allow);
                }
                Bytes::new()
            }
        };
        headers.insert(CONTENT_LENGTH, bytes.len().into());
        headers.insert(DATE, http_date(SystemTime::now()));
        headers.insert(SERVER, HeaderValue::from_static("EC2ws"));
        headers.insert(
            CONNECTION,
            HeaderValue::from_static(match persistence {
                Persistence::KeepAlive => "keep-alive",
                Persistence::Close => "close",
            }),
        );
        if untyped {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        }
        let mut response = Response::new(Body(match extent {
            Extent::Whole => bytes,
            Extent::HeadOnly => Bytes::new(),
        }));
        *response.status_mut() = self.status;
        *response.headers_mut() = headers;
        response
    }
}

fn page(status: StatusCode) -> String {
    let code = status.as_u16();
    let reason = status.canonical_reason().unwrap_or_default();
    format!(
        r#"<?xml version="1.0" encoding="iso-8859-1"?>
<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
	"http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml" xml:lang="en" lang="en">
 <head>
  <title>{code} - {reason}</title>
 </head>
 <body>
  <h1>{code} - {reason}</h1>
 </body>
</html>
"#
    )
}

fn http_date(at: SystemTime) -> HeaderValue {
    // An HTTP date is plain ASCII, so this cannot fail.
    HeaderValue::try_from(httpdate::fmt_http_date(at)).unwrap_or(HeaderValue::from_static(""))
}

/// A body that never calls itself ended before it is polled: of one that
/// does, hyper moves a zero Content-Length behind the other headers.
pub(super) struct Body(Bytes);

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }
}
