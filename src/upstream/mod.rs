//! The only way to the metadata service: a permit goes in, an answer comes
//! out.
//!
//! Requests are built from what the permit holds; no byte of a client's is
//! passed on. No connection is opened before the first permit, redirects are
//! never followed, and an answer is whole before anybody sees it.

mod answer;
mod pool;
mod token;
mod wire;

use std::collections::HashMap;
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::HeaderName;
use tokio::time::{Instant, timeout_at};

pub use answer::Answer;

use crate::authorize::{Access, Ask, Permit};
use crate::config;
use crate::ids::MetadataAddr;
use crate::request::{ReadMethod, TOKEN_PATH};
use pool::Pool;
use token::OwnToken;
use wire::Expects;

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
    /// Of every request.
    headers: String,
}

impl Upstream {
    /// For the addresses of the config. Connects to nothing yet.
    pub fn new(config: &config::Upstream) -> Self {
        let service = |address: &std::net::SocketAddr| {
            let host = match address.port() {
                80 => bracketed(address.ip()),
                port => format!("{}:{port}", bracketed(address.ip())),
            };
            let version = env!("CARGO_PKG_VERSION");
            let service = Service {
                pool: Pool::new(*address, config.connect_timeout),
                token: OwnToken::default(),
                headers: format!("host: {host}\r\nuser-agent: imdsfw/{version}\r\n"),
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
                let request = self.token_request(ttl.seconds());
                self.pool.send(&request, Expects::Body).await
            }
            Ask::Read {
                method,
                path,
                access,
            } => {
                let expects = match method {
                    ReadMethod::Get => Expects::Body,
                    ReadMethod::Head => Expects::HeadAlone,
                };
                let request =
                    |token: Option<&str>| self.read_request(*method, path.as_str(), token);
                match access {
                    Access::Relayed(token) => {
                        self.pool
                            .send(&request(Some(token.as_str())), expects)
                            .await
                    }
                    Access::Tokenless => self.pool.send(&request(None), expects).await,
                    Access::Own { .. } => self.with_own_token(request, expects).await,
                }
            }
        }
    }

    async fn with_own_token(
        &self,
        request: impl Fn(Option<&str>) -> Vec<u8>,
        expects: Expects,
    ) -> Result<Answer, UpstreamError> {
        let token = self.token.current(self).await?;
        let answer = self.pool.send(&request(Some(&token)), expects).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // The service has forgotten the token: one more, and one more try.
        self.token.void(&token);
        let token = self.token.current(self).await?;
        let answer = self.pool.send(&request(Some(&token)), expects).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(UpstreamError::Invalid("own_token_refused"));
        }
        Ok(answer)
    }

    fn token_request(&self, ttl: u32) -> Vec<u8> {
        let name = TTL;
        format!(
            "PUT {TOKEN_PATH} HTTP/1.1\r\n{}{name}: {ttl}\r\n\r\n",
            self.headers
        )
        .into_bytes()
    }

    /// `path` and `token` are of bytes that cannot end a line: a path is
    /// canonical, and a token was read from one header.
    fn read_request(&self, method: ReadMethod, path: &str, token: Option<&str>) -> Vec<u8> {
        let mut request = Vec::with_capacity(256 + path.len());
        let mut say = |words: &[&str]| {
            for word in words {
                request.extend_from_slice(word.as_bytes());
            }
        };
        say(&[method.as_str(), " ", path, " HTTP/1.1\r\n", &self.headers]);
        if let Some(token) = token {
            say(&[TOKEN.as_str(), ": ", token, "\r\n"]);
        }
        say(&["\r\n"]);
        request
    }
}

fn bracketed(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
