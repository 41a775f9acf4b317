//! One request in, one answer out, as EC2 gives it.
//!
//! The order of refusals: what cannot be read (400), what the method rules
//! out (403, 405, 417), the token (401, 403), the path (404).

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime};

use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::header::{CONNECTION, EXPECT, HeaderMap, HeaderName, USER_AGENT};
use hyper::http::request::Parts;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::answer::{Answer, Body, Extent, Persistence, TOKEN_TTL};
use super::credentials::{Epoch, Issuer};
use super::request_log::{Event, RequestLog};
use super::secret::Secret;
use super::throttle::Throttle;
use super::token::{Tokens, Ttl};
use super::tree::{Live, Node, Tree};
use super::{Error, HttpTokens, RoleName, Settings, instance};

const TOKEN_PATH: &str = "/latest/api/token";
const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The body of a PUT has no meaning; more than this of it is refused.
const MAX_IGNORED_BODY: usize = 4096;

/// The simulated service, shared by all connections.
pub(super) struct Service {
    http_tokens: HttpTokens,
    latency: Duration,
    launched: SystemTime,
    role: Option<RoleName>,
    role_credentials: Issuer,
    identity_credentials: Issuer,
    tokens: Tokens,
    tree: Tree,
    throttle: Option<Throttle>,
    request_log: Option<RequestLog>,
}

impl Service {
    pub(super) fn new(settings: Settings) -> Result<Self, Error> {
        let secret = Secret::new()?;
        let epoch = Epoch {
            monotonic: Instant::now(),
            civil: SystemTime::now(),
        };
        let request_log = match settings.request_log {
            None => None,
            Some(path) => match RequestLog::open(&path) {
                Ok(log) => Some(log),
                Err(source) => return Err(Error::RequestLog { path, source }),
            },
        };
        let issuer = |principal| Issuer::new(secret.mac(principal), settings.rotation, epoch);
        Ok(Self {
            http_tokens: settings.http_tokens,
            latency: settings.latency,
            launched: epoch.civil,
            role_credentials: issuer("role"),
            identity_credentials: issuer("ec2-instance"),
            tokens: Tokens::new(secret.mac("tokens"), epoch.monotonic),
            tree: Tree::new(
                settings.role.as_ref().map(RoleName::as_str),
                settings.user_data,
                settings.items,
                epoch.civil,
            )?,
            role: settings.role,
            throttle: settings
                .requests_per_second
                .map(|limit| Throttle::new(limit, epoch.monotonic)),
            request_log,
        })
    }

    /// Notes a connection in the request log.
    pub(super) fn accepted(&self, peer: SocketAddr) -> std::io::Result<()> {
        self.log(|| Event::Connection { peer })
    }

    /// Answers one request. An error closes the connection: what the request
    /// log could not take is not answered.
    pub(super) async fn respond(
        &self,
        peer: SocketAddr,
        request: Request<Incoming>,
    ) -> std::io::Result<Response<Body>> {
        let (head, body) = request.into_parts();
        let mut answer = self.answer(&head, Instant::now());
        if head.method == Method::PUT && answer.status == StatusCode::OK {
            let body = Limited::new(body, MAX_IGNORED_BODY).collect().await;
            if body.is_err() {
                answer = Answer::page(StatusCode::BAD_REQUEST);
            }
        }
        self.log(|| Event::Request {
            peer,
            method: head.method.as_str(),
            path: head.uri.to_string(),
            token: head.headers.contains_key(TOKEN),
            user_agent: head
                .headers
                .get(USER_AGENT)
                .map(|value| String::from_utf8_lossy(value.as_bytes())),
            status: answer.status.as_u16(),
        })?;
        if !self.latency.is_zero() {
            tokio::time::sleep(self.latency).await;
        }
        let extent = match head.method {
            Method::HEAD => Extent::HeadOnly,
            _ => Extent::Whole,
        };
        Ok(answer.into_response(persistence(&head), extent))
    }

    fn answer(&self, head: &Parts, now: Instant) -> Answer {
        let within_limit = self.throttle.as_ref().is_none_or(|t| t.admit(now));
        if !within_limit {
            return Answer::page(StatusCode::SERVICE_UNAVAILABLE);
        }
        let path = head.uri.path();
        if !path.starts_with('/') {
            return Answer::page(StatusCode::BAD_REQUEST);
        }
        match head.method {
            Method::PUT if path == TOKEN_PATH => self.mint(&head.headers, now),
            Method::PUT => Answer::empty(StatusCode::FORBIDDEN),
            _ if path == TOKEN_PATH => Answer::method_not_allowed("OPTIONS, PUT"),
            Method::GET | Method::HEAD => self.read(head, path, now),
            _ => Answer::method_not_allowed("GET, HEAD"),
        }
    }

    fn mint(&self, headers: &HeaderMap, now: Instant) -> Answer {
        if headers.contains_key(FORWARDED_FOR) {
            return Answer::empty(StatusCode::FORBIDDEN);
        }
        if headers.contains_key(EXPECT) {
            return Answer::empty(StatusCode::EXPECTATION_FAILED);
        }
        match only(headers, &TOKEN_TTL).and_then(Ttl::parse) {
            Some(ttl) => Answer::token(self.tokens.mint(ttl, now), ttl.as_secs()),
            None => Answer::page(StatusCode::BAD_REQUEST),
        }
    }

    fn read(&self, head: &Parts, path: &str, now: Instant) -> Answer {
        let token_ttl = match self.presented(&head.headers, now) {
            Presented::Bad => return Answer::empty(StatusCode::UNAUTHORIZED),
            Presented::Good { .. } if head.headers.contains_key(FORWARDED_FOR) => {
                return Answer::empty(StatusCode::FORBIDDEN);
            }
            Presented::Good { remaining } => Some(remaining),
            Presented::Nothing => match self.http_tokens {
                HttpTokens::Required => return Answer::empty(StatusCode::UNAUTHORIZED),
                HttpTokens::Optional => None,
            },
        };
        // A query is not part of any item's name.
        let node = match head.uri.query() {
            Some(_) => None,
            None => self.tree.find(path),
        };
        let mut answer = match node {
            Some(Node::Text(bytes)) => Answer::text(bytes, self.launched),
            Some(Node::UserData(bytes)) => Answer::octets(bytes, self.launched),
            Some(Node::Live(live)) => self.render(live, now),
            None => Answer::page(StatusCode::NOT_FOUND),
        };
        answer.token_ttl = token_ttl;
        answer
    }

    fn presented(&self, headers: &HeaderMap, now: Instant) -> Presented {
        if !headers.contains_key(TOKEN) {
            return Presented::Nothing;
        }
        match only(headers, &TOKEN).and_then(|token| self.tokens.remaining(token, now)) {
            Some(remaining) => Presented::Good { remaining },
            None => Presented::Bad,
        }
    }

    fn render(&self, live: Live, now: Instant) -> Answer {
        let issued = match live {
            Live::ProfileInfo | Live::RoleCredentials => self.role_credentials.current(now),
            Live::IdentityInfo | Live::IdentityCredentials => {
                self.identity_credentials.current(now)
            }
        };
        let at = issued.last_updated;
        match live {
            Live::RoleCredentials | Live::IdentityCredentials => Answer::text(issued.body, at),
            Live::IdentityInfo => Answer::text(instance::identity_credentials_info(at), at),
            Live::ProfileInfo => {
                let role = self.role.as_ref().map(RoleName::as_str).unwrap_or_default();
                Answer::text(instance::profile_info(role, at), at)
            }
        }
    }

    /// Without a log, the event is not even made.
    fn log<'a>(&self, event: impl FnOnce() -> Event<'a>) -> std::io::Result<()> {
        let Some(log) = &self.request_log else {
            return Ok(());
        };
        log.append(&event())
            .inspect_err(|error| tracing::error!(%error, "cannot write the request log"))
    }
}

/// What a request showed in the token header.
enum Presented {
    Nothing,
    Good { remaining: u64 },
    Bad,
}

/// The value of a header that was sent once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a [u8]> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => Some(value.as_bytes()),
        _ => None,
    }
}

fn persistence(head: &Parts) -> Persistence {
    let asked_to_close = head
        .headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .any(|option| option.trim_ascii().eq_ignore_ascii_case(b"close"));
    if asked_to_close || head.version < Version::HTTP_11 {
        Persistence::Close
    } else {
        Persistence::KeepAlive
    }
}
