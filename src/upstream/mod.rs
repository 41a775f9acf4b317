//! The only way to the metadata service: a permit goes in, an answer comes
//! out.
//!
//! Requests are built from what the permit holds; no byte of a client's is
//! passed on. No connection is opened before the first permit, redirects are
//! never followed, and an answer is whole before anybody sees it.

mod answer;
mod pool;
mod token;

use std::collections::HashMap;
use std::time::Duration;

use hyper::header::{HOST, HeaderName, HeaderValue, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use tokio::time::{Instant, timeout_at};

pub use answer::Answer;

use crate::authorize::{Access, Ask, Permit};
use crate::config;
use crate::ids::MetadataAddr;
use answer::Body;
use pool::Pool;
use token::OwnToken;

pub(crate) const TOKEN: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token");
/// The TTL header, of token requests and of answers.
pub const TTL: HeaderName = HeaderName::from_static("x-aws-ec2-metadata-token-ttl-seconds");

/// Why there is no answer to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// No connection, or it broke.
    Unreachable,
    /// An answer that may not be passed on; what was wrong with it.
    Invalid(&'static str),
    /// Not whole in time.
    Timeout,
}

/// The service, as the daemon sees it.
pub struct Upstream {
    timeout: Duration,
    services: HashMap<MetadataAddr, Service>,
}

struct Service {
    pool: Pool,
    token: OwnToken,
    host: HeaderValue,
}

impl Upstream {
    /// For the addresses of the config. Connects to nothing yet.
    pub fn new(config: &config::Upstream) -> Self {
        let service = |address: &std::net::SocketAddr| {
            let host = match address.port() {
                80 => HeaderValue::try_from(bracketed(address.ip())),
                port => HeaderValue::try_from(format!("{}:{port}", bracketed(address.ip()))),
            };
            let service = Service {
                pool: Pool::new(*address, config.connect_timeout),
                token: OwnToken::default(),
                host: host.unwrap_or(HeaderValue::from_static("instance-data")),
            };
            (MetadataAddr(*address), service)
        };
        Self {
            timeout: config.timeout,
            services: config.addresses.iter().map(service).collect(),
        }
    }

    /// Asks the service what the permit is for, once.
    pub async fn fetch(&self, permit: Permit) -> Result<Answer, UpstreamError> {
        let service = self
            .services
            .get(&permit.service())
            .ok_or(UpstreamError::Unreachable)?;
        let deadline = Instant::now() + self.timeout;
        timeout_at(deadline, service.fetch(permit.ask()))
            .await
            .unwrap_or(Err(UpstreamError::Timeout))
    }
}

impl Service {
    async fn fetch(&self, ask: &Ask) -> Result<Answer, UpstreamError> {
        match ask {
            Ask::Mint(ttl) => {
                let ttl = HeaderValue::from(ttl.seconds());
                self.pool
                    .send(|| self.request(Method::PUT, crate::request::TOKEN_PATH, (TTL, &ttl)))
                    .await
            }
            Ask::Read {
                method,
                path,
                access,
            } => {
                let method = match method {
                    crate::request::ReadMethod::Get => Method::GET,
                    crate::request::ReadMethod::Head => Method::HEAD,
                };
                self.read(method, path.as_str(), access).await
            }
        }
    }

    async fn read(
        &self,
        method: Method,
        path: &str,
        access: &Access,
    ) -> Result<Answer, UpstreamError> {
        let send = async |token: &HeaderValue| {
            self.pool
                .send(|| self.request(method.clone(), path, (TOKEN, token)))
                .await
        };
        match access {
            Access::Relayed(token) => {
                send(&secret(token.as_str()).ok_or(UpstreamError::Invalid("token"))?).await
            }
            Access::Tokenless => {
                self.pool
                    .send(|| self.plain_request(method.clone(), path))
                    .await
            }
            Access::Own { .. } => {
                let token = self.token.current(self).await?;
                let answer = send(&token).await?;
                if answer.status() != StatusCode::UNAUTHORIZED {
                    return Ok(answer);
                }
                // The service has forgotten the token: one more, and one more try.
                self.token.void(&token).await;
                let answer = send(&self.token.current(self).await?).await?;
                if answer.status() == StatusCode::UNAUTHORIZED {
                    return Err(UpstreamError::Invalid("own_token_refused"));
                }
                Ok(answer)
            }
        }
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        (name, value): (HeaderName, &HeaderValue),
    ) -> Option<Request<Body>> {
        let mut request = self.plain_request(method, path)?;
        request.headers_mut().insert(name, value.clone());
        Some(request)
    }

    fn plain_request(&self, method: Method, path: &str) -> Option<Request<Body>> {
        Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("imdsfw/", env!("CARGO_PKG_VERSION")))
            .body(Body::new())
            .ok()
    }
}

fn secret(token: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(token).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn bracketed(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
