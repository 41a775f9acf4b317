//! Answers to clients: the service's own, passed on, and refusals that say
//! what happened and whom to ask.
//!
//! Never invents a second service: what the real one would say is said in its
//! own form. No answer may hold anything of another caller's.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::SystemTime;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use hyper::header::{
    ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderMap, HeaderValue, SERVER,
};
use hyper::{Request, Response, StatusCode, Version};
use serde::Serialize;

use crate::audit::Reason;
use crate::authorize::Access;
use crate::caller::Caller;
use crate::policy::Account;
use crate::request::{Malformed, Rejection, Ttl};
use crate::token::MintedToken;
use crate::upstream::{Answer, TTL};

pub(super) type Reply = Response<Body>;

/// A whole body. It never calls itself ended before it is polled: of one that
/// does, hyper moves a zero Content-Length behind the other headers.
pub(super) struct Body(Bytes);

/// What becomes of the client's connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Persistence {
    KeepAlive,
    Close,
}

/// Several tools take an answer for the service's by this header.
const EC2WS: HeaderValue = HeaderValue::from_static("EC2ws");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

#[derive(Serialize)]
struct Message<'a> {
    code: &'a str,
    message: String,
}

/// A token, as the service hands one out.
pub(super) fn minted(token: MintedToken, ttl: Ttl) -> Reply {
    let mut headers = HeaderMap::new();
    headers.insert(TTL, ttl.seconds().into());
    reply(StatusCode::OK, headers, TEXT, token.into_body().into())
}

/// The service's answer; its TTL header then counts the client's own token.
pub(super) fn passed_on(answer: Answer, access: Option<&Access>) -> Reply {
    let (mut parts, body) = answer.into_response().into_parts();
    match access {
        Some(Access::Own { left: Some(left) }) if parts.headers.contains_key(TTL) => {
            parts.headers.insert(TTL, (*left).into());
        }
        Some(Access::Own { left: None }) => {
            parts.headers.remove(TTL);
        }
        _ => {}
    }
    Response::from_parts(parts, Body(body))
}

/// 401, as the service's own.
pub(super) fn unauthorized() -> Reply {
    let status = StatusCode::UNAUTHORIZED;
    reply(status, HeaderMap::new(), TEXT, Bytes::new())
}

/// 403 with words for the user and an id for the admin.
pub(super) fn denied(caller: &Caller, path: &str, id: &str) -> Reply {
    let uid = caller.uid();
    let who = match &caller.subject().account {
        Account::Known(facts) => format!("{} (uid {uid})", facts.user),
        Account::Undecidable => format!("uid {uid}"),
    };
    let message =
        format!("imdsfw: {who} may not read {path}; ask the administrator of this host, id {id}");
    let status = StatusCode::FORBIDDEN;
    json(status, HeaderMap::new(), "AccessDenied", message)
}

/// 403 where it is not the caller's uid that may not, but who else holds the
/// connection, or where that is not known.
pub(super) fn withheld(path: &str, reason: Reason, id: &str) -> Reply {
    let why = match reason {
        Reason::Lockdown => "no credentials leave this host for now",
        Reason::Policy | Reason::Default | Reason::AccountUnknown => {
            "what let you have it has ended"
        }
        Reason::WitnessGone => "it cannot be found out who holds this connection",
        _ => "not everyone who holds this connection may have it",
    };
    let message =
        format!("imdsfw: {path} is withheld: {why}; ask the administrator of this host, id {id}");
    let status = StatusCode::FORBIDDEN;
    json(status, HeaderMap::new(), "AccessDenied", message)
}

/// A request with no one meaning; the connection ends with it.
pub(super) fn rejected(cause: Rejection, id: &str) -> Reply {
    let (status, code, what) = match cause {
        Rejection::Malformed(malformed) => {
            let code = if malformed == Malformed::PutElsewhere {
                "AccessDenied"
            } else {
                "BadRequest"
            };
            (malformed.status(), code, malformed.as_str())
        }
        Rejection::ForwardedHeader => (403, "AccessDenied", "forwarded_header"),
    };
    let message = format!("imdsfw: the request is refused ({what}), id {id}");
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::BAD_REQUEST);
    let mut headers = HeaderMap::new();
    if let Rejection::Malformed(malformed) = cause
        && let Some(allow) = malformed.allow()
    {
        headers.insert(ALLOW, HeaderValue::from_static(allow));
    }
    json(status, headers, code, message)
}

/// 429: more of them than the caller's share; others are served meanwhile.
pub(super) fn too_many(what: &str, id: &str) -> Reply {
    let message = format!("imdsfw: too many {what} for one user; wait and try again, id {id}");
    let status = StatusCode::TOO_MANY_REQUESTS;
    json(status, HeaderMap::new(), "TooManyRequests", message)
}

/// A failure that is not the client's.
pub(super) fn failed(status: StatusCode, what: &str, id: &str) -> Reply {
    let message = format!("imdsfw: {what}, id {id}");
    json(status, HeaderMap::new(), "Unavailable", message)
}

/// Says in the answer what becomes of the client's connection.
pub(super) fn settle(reply: &mut Reply, persistence: Persistence) {
    // Where the service says nothing of it, hyper says what is needed.
    if reply.headers().contains_key(CONNECTION) {
        let word = match persistence {
            Persistence::KeepAlive => "keep-alive",
            Persistence::Close => "close",
        };
        let word = HeaderValue::from_static(word);
        reply.headers_mut().insert(CONNECTION, word);
    }
}

impl Persistence {
    /// As the client asks (RFC 9112, 9.3).
    pub(super) fn asked_by<B>(request: &Request<B>) -> Self {
        let asks = |word: &str| {
            let mut values = request.headers().get_all(CONNECTION).iter();
            values.any(|value| {
                let mut options = value.as_bytes().split(|byte| *byte == b',');
                options.any(|it| it.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
            })
        };
        let keeps = request.version() >= Version::HTTP_11 || asks("keep-alive");
        if keeps && !asks("close") {
            Self::KeepAlive
        } else {
            Self::Close
        }
    }
}

fn json(status: StatusCode, headers: HeaderMap, code: &str, message: String) -> Reply {
    // Two strings cannot fail to serialize.
    let body = serde_json::to_vec(&Message { code, message }).unwrap_or_default();
    reply(status, headers, JSON, body.into())
}

/// In the service's order of headers, behind those given.
fn reply(
    status: StatusCode,
    mut headers: HeaderMap,
    content_type: HeaderValue,
    body: Bytes,
) -> Reply {
    headers.insert(CONTENT_LENGTH, body.len().into());
    if let Ok(now) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        headers.insert(DATE, now);
    }
    headers.insert(SERVER, EC2WS);
    headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
    headers.insert(CONTENT_TYPE, content_type);
    let mut reply = Response::new(Body(body));
    *reply.status_mut() = status;
    *reply.headers_mut() = headers;
    reply
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = std::mem::take(&mut self.0);
        Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }
}
