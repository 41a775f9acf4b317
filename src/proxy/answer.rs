//! Answers to clients: the service's own, passed on, and refusals that say
//! what happened and whom to ask.
//!
//! Never invents a second service: what the real one would say is said in its
//! own form. No answer may hold anything of another caller's.

use std::time::SystemTime;

use bytes::Bytes;
use hyper::StatusCode;
use serde::Serialize;

use crate::audit::Reason;
use crate::authorize::Access;
use crate::caller::Caller;
use crate::request::{HttpVersion, Malformed, Persistence, Rejection, Ttl};
use crate::token::MintedToken;
use crate::upstream::{Answer, TTL};

/// What a client is told, not yet in the form that its request asks for.
pub(super) struct Reply {
    status: StatusCode,
    /// Header lines, each with its end.
    lines: Vec<u8>,
    /// Where `Connection` belongs among them, if it is to be said whatever it
    /// says.
    connection: Option<usize>,
    body: Bytes,
    /// Whether the body's length is still to be said, where there is one.
    is_unmeasured: bool,
    /// Whether it may still wait for others to leave beside it.
    at_once: bool,
}

/// What the form of an answer hangs on besides itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) version: HttpVersion,
    /// The answer to HEAD.
    pub(super) without_body: bool,
    pub(super) persistence: Persistence,
}

/// The token's TTL as the service spells it.
const TTL_LINE: &str = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";
const TEXT: &str = "text/plain";
const JSON: &str = "application/json";

#[derive(Serialize)]
struct Message<'a> {
    code: &'a str,
    message: String,
}

/// A token, as the service hands one out.
pub(super) fn minted(token: MintedToken, ttl: Ttl) -> Reply {
    let ttl = [(TTL_LINE, ttl.seconds().to_string())];
    reply(StatusCode::OK, &ttl, TEXT, token.into_body().into())
}

/// The service's answer; its TTL header then counts the client's own token.
pub(super) fn passed_on(answer: Answer, access: Option<&Access>) -> Reply {
    let mut reply = Reply::new(answer.status(), answer.body().clone());
    let (mut dated, mut measured) = (false, false);
    for header in answer.headers() {
        let name = &header.name;
        if header.is(TTL) {
            match access {
                Some(Access::Own { left: Some(left) }) => reply.say(name, left.to_string()),
                Some(Access::Own { left: None }) => {}
                _ => reply.say(name, &header.value),
            }
        } else if header.is("connection") {
            reply.connection.get_or_insert(reply.lines.len());
        } else if header.is("date") {
            dated = true;
            match answer.given() {
                Some(given) => reply.say(name, httpdate::fmt_http_date(given)),
                None => reply.say(name, &header.value),
            }
        } else {
            measured |= header.is("content-length");
            reply.say(name, &header.value);
        }
    }
    reply.is_unmeasured = !measured && reply.status != StatusCode::NO_CONTENT;
    // RFC 9110, 6.6.1.
    if !dated {
        reply.say("Date", httpdate::fmt_http_date(SystemTime::now()));
    }
    reply
}

/// 401, as the service's own.
pub(super) fn unauthorized() -> Reply {
    let status = StatusCode::UNAUTHORIZED;
    reply(status, &[], TEXT, Bytes::new())
}

/// 403 with words for the user and an id for the admin.
pub(super) fn denied(caller: &Caller, path: &str, id: &str) -> Reply {
    let uid = caller.uid();
    let who = match caller.subject().account.facts() {
        Some(facts) => format!("{} (uid {uid})", facts.user),
        None => format!("uid {uid}"),
    };
    let message =
        format!("imdsfw: {who} may not read {path}; ask the administrator of this host, id {id}");
    let status = StatusCode::FORBIDDEN;
    json(status, &[], "AccessDenied", message)
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
    json(status, &[], "AccessDenied", message)
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
    let allow = match cause {
        Rejection::Malformed(malformed) => malformed.allow(),
        Rejection::ForwardedHeader => None,
    };
    let allow = allow.map(|methods| ("Allow", methods.to_owned()));
    json(status, allow.as_slice(), code, message)
}

/// 429: more of them than the caller's share; others are served meanwhile.
pub(super) fn too_many(what: &str, id: &str) -> Reply {
    let message = format!("imdsfw: too many {what} for one user; wait and try again, id {id}");
    let status = StatusCode::TOO_MANY_REQUESTS;
    json(status, &[], "TooManyRequests", message)
}

/// A failure that is not the client's.
pub(super) fn failed(status: StatusCode, what: &str, id: &str) -> Reply {
    let message = format!("imdsfw: {what}, id {id}");
    json(status, &[], "Unavailable", message)
}

fn json(status: StatusCode, headers: &[(&str, String)], code: &str, message: String) -> Reply {
    // Two strings cannot fail to serialize.
    let body = serde_json::to_vec(&Message { code, message }).unwrap_or_default();
    reply(status, headers, JSON, body.into())
}

/// In the service's order of headers, behind those given. Several tools take
/// an answer for the service's by `Server: EC2ws`.
fn reply(status: StatusCode, headers: &[(&str, String)], content_type: &str, body: Bytes) -> Reply {
    let mut reply = Reply::new(status, body);
    for (name, value) in headers {
        reply.say(name, value);
    }
    reply.say("Content-Length", reply.body.len().to_string());
    reply.say("Date", httpdate::fmt_http_date(SystemTime::now()));
    reply.say("Server", "EC2ws");
    reply.connection = Some(reply.lines.len());
    reply.say("Content-Type", content_type);
    reply
}

impl Reply {
    fn new(status: StatusCode, body: Bytes) -> Self {
        Self {
            status,
            lines: Vec::with_capacity(512),
            connection: None,
            body,
            is_unmeasured: false,
            at_once: false,
        }
    }

    /// The status.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// It was let go by a last look at what is in force, and leaves on that.
    pub(super) fn at_once(mut self) -> Self {
        self.at_once = true;
        self
    }

    pub(super) fn may_wait(&self) -> bool {
        !self.at_once
    }

    /// Of the body, in bytes.
    pub(super) fn length(&self) -> usize {
        self.body.len()
    }

    fn say(&mut self, name: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        for part in [name.as_ref(), b": ", value.as_ref(), b"\r\n"] {
            self.lines.extend_from_slice(part);
        }
    }

    /// As it goes over the wire.
    pub(super) fn to_bytes(&self, form: Form) -> Vec<u8> {
        let version = match form.version {
            HttpVersion::Http10 => "HTTP/1.0 ",
            HttpVersion::Http11 => "HTTP/1.1 ",
        };
        let connection = match (form.persistence, form.version, self.connection) {
            // What goes without saying is said where the service says it.
            (Persistence::KeepAlive, HttpVersion::Http11, None) => "",
            (Persistence::KeepAlive, ..) => "Connection: keep-alive\r\n",
            (Persistence::Close, ..) => "Connection: close\r\n",
        };
        let at = self.connection.unwrap_or(self.lines.len());
        let (before, behind) = self
            .lines
            .split_at_checked(at)
            .unwrap_or((&self.lines, &[]));
        let body: &[u8] = if form.without_body { b"" } else { &self.body };
        let length = match self.is_unmeasured && !form.without_body {
            true => format!("Content-Length: {}\r\n", body.len()),
            false => String::new(),
        };
        let reason = self.status.canonical_reason().unwrap_or("Unknown");
        [
            version.as_bytes(),
            self.status.as_str().as_bytes(),
            b" ",
            reason.as_bytes(),
            b"\r\n",
            before,
            connection.as_bytes(),
            behind,
            length.as_bytes(),
            b"\r\n",
            body,
        ]
        .concat()
    }
}
