//! Answers to clients: the service's own, passed on, and refusals that say
//! what happened and whom to ask.
//!
//! Never invents a second service: what the real one would say is said in its
//! own form. No answer may hold anything of another caller's.

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{ALLOW, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, SERVER};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::authorize::Access;
use crate::caller::Caller;
use crate::policy::Account;
use crate::request::{Malformed, Rejection, Ttl};
use crate::token::MintedToken;
use crate::upstream::{Answer, TTL};

pub(super) type Reply = Response<Full<Bytes>>;

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
    let body = Bytes::from(token.into_body());
    let length = body.len();
    let mut reply = Response::new(Full::new(body));
    let headers = reply.headers_mut();
    headers.insert(TTL, ttl.seconds().into());
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(SERVER, EC2WS);
    headers.insert(CONTENT_TYPE, TEXT);
    reply
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
    Response::from_parts(parts, Full::new(body))
}

/// 401, as the service's own.
pub(super) fn unauthorized() -> Reply {
    reply(StatusCode::UNAUTHORIZED, TEXT, Bytes::new())
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
    json(StatusCode::FORBIDDEN, "AccessDenied", message)
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
    let mut reply = json(status, code, message);
    if let Rejection::Malformed(malformed) = cause
        && let Some(allow) = malformed.allow()
    {
        reply
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static(allow));
    }
    reply
        .headers_mut()
        .insert(CONNECTION, HeaderValue::from_static("close"));
    reply
}

/// A failure that is not the client's.
pub(super) fn failed(status: StatusCode, what: &str, id: &str) -> Reply {
    json(status, "Unavailable", format!("imdsfw: {what}, id {id}"))
}

fn json(status: StatusCode, code: &str, message: String) -> Reply {
    // Two strings cannot fail to serialize.
    let body = serde_json::to_vec(&Message { code, message }).unwrap_or_default();
    reply(status, JSON, body.into())
}

fn reply(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Reply {
    let length = body.len();
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    let headers = reply.headers_mut();
    headers.insert(CONTENT_LENGTH, length.into());
    headers.insert(SERVER, EC2WS);
    headers.insert(CONTENT_TYPE, content_type);
    reply
}
