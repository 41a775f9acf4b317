//! The only way to the metadata service: a permit goes in, an answer comes
//! out.
//!
//! Requests are built from what the permit holds; no byte of a client's is
//! passed on. No connection is opened before the first permit, redirects are
//! never followed, and an answer is whole before anybody sees it.

mod answer;
mod budget;
mod flights;
mod memory;
mod pool;
mod token;
mod traffic;
mod wire;

use std::collections::HashMap;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use hyper::StatusCode;
use tokio::time::{Instant, timeout_at};

pub use answer::{Answer, Header};
pub use traffic::{Flow, Traffic};
pub(crate) use wire::Expects;
#[cfg(any(test, fuzzing))]
pub(crate) use wire::{After, arriving};

use crate::authorize::{Access, Ask, Permit};
use crate::config::Config;
use crate::ids::MetadataAddr;
use crate::limits::Owners;
use crate::request::{CanonicalPath, ReadMethod, TOKEN_PATH};
use budget::{Budget, Claim};
use flights::Flights;
use memory::{Key, Memory};
use pool::Pool;
use token::OwnToken;

const TOKEN: &str = "x-aws-ec2-metadata-token";
/// The TTL header, of token requests and of answers.
pub const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

/// Why there is no answer to pass on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamError {
    /// No connection, or it broke.
    Unreachable,
    /// An answer that may not be passed on; what was wrong with it.
    Invalid(&'static str),
    /// Not whole in time.
    Timeout,
    /// Not asked: this host's share of it is used up.
    HostBudget,
}

/// The service, as the daemon sees it.
pub struct Upstream {
    timeout: Duration,
    services: HashMap<MetadataAddr, Service>,
    owners: Arc<Owners>,
    shared: Option<Shared>,
    traffic: Traffic,
}

/// What callers share, each permitted by itself.
#[derive(Default)]
struct Shared {
    memory: Mutex<Memory>,
    flights: Flights,
}

struct Service {
    pool: Pool,
    token: OwnToken,
    budget: Budget,
    traffic: Traffic,
    /// Of every request.
    headers: String,
}

impl Upstream {
    /// For the addresses of the config. Connects to nothing yet.
    pub fn new(config: &Config, owners: Arc<Owners>) -> Self {
        let Config {
            upstream, limits, ..
        } = config;
        let per_second = limits.host_upstream_requests_per_second;
        let budget = Budget::new(limits.enabled.then_some(per_second));
        let traffic = Traffic::default();
        let service = |address: &std::net::SocketAddr| {
            let host = match address.port() {
                80 => bracketed(address.ip()),
                port => format!("{}:{port}", bracketed(address.ip())),
            };
            let version = env!("CARGO_PKG_VERSION");
            let service = Service {
                pool: Pool::new(*address, upstream.connect_timeout, traffic.clone()),
                traffic: traffic.clone(),
                token: OwnToken::default(),
                budget: budget.clone(),
                headers: format!("host: {host}\r\nuser-agent: imdsfw/{version}\r\n"),
            };
            (MetadataAddr(*address), service)
        };
        Self {
            timeout: upstream.timeout,
            services: upstream.addresses.iter().map(service).collect(),
            owners,
            shared: config.memory.then(Shared::default),
            traffic,
        }
    }

    /// What goes over the connections.
    pub fn traffic(&self) -> Traffic {
        self.traffic.clone()
    }

    /// What the permit is for, where an earlier answer of the service still
    /// holds.
    pub fn recall(&self, permit: &Permit) -> Option<Answer> {
        let shared = self.shared.as_ref()?;
        let now = SystemTime::now();
        Some(shared.memory().recall(&sharable(permit)?, now)?.dated(now))
    }

    /// Asks the service what the permit is for, once. What somebody else asks
    /// at this moment is not asked again.
    pub async fn fetch(&self, permit: Permit) -> Result<Answer, UpstreamError> {
        let service = self
            .services
            .get(&permit.service())
            .ok_or(UpstreamError::Unreachable)?;
        let deadline = Instant::now() + self.timeout;
        // Handed on by reference: each call that takes it whole has room for it
        // twice, and every connection would carry that.
        let claim = Arc::new(Claim::new(self.owners.owner(permit.uid())));
        let fetch = pin!(service.fetch(&claim, permit.ask()));
        let outcome = match self.shared.as_ref().zip(sharable(&permit)) {
            Some((shared, key)) => {
                let shared = shared.fetch(&key, &claim, &service.budget, fetch);
                timeout_at(deadline, shared).await
            }
            None => timeout_at(deadline, fetch).await,
        };
        outcome.unwrap_or(Err(UpstreamError::Timeout))
    }

    /// Whether newer credentials of the same role have come since.
    pub fn is_superseded(&self, path: &CanonicalPath, answer: &Answer) -> bool {
        let shared = self.shared.as_ref();
        shared.is_some_and(|shared| shared.memory().is_superseded(path, answer))
    }
}

impl Shared {
    async fn fetch(
        &self,
        key: &Key,
        claim: &Arc<Claim>,
        budget: &Budget,
        fetch: impl Future<Output = Result<Answer, UpstreamError>>,
    ) -> Result<Answer, UpstreamError> {
        let learn = pin!(async {
            let answer = fetch.await?;
            self.memory().learn(key, &answer, SystemTime::now());
            Ok(answer)
        });
        let join = |leaders: &Claim| budget.join(leaders, claim);
        self.flights.share(key, claim, join, learn).await
    }

    fn memory(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is the same for everybody who may have it: what the daemon asks with
/// a token of its own.
fn sharable(permit: &Permit) -> Option<Key> {
    match permit.ask() {
        Ask::Read {
            method: ReadMethod::Get,
            path,
            access: Access::Own { .. },
        } => Some(Key {
            service: permit.service(),
            path: path.clone(),
        }),
        _ => None,
    }
}

impl Service {
    async fn fetch(&self, claim: &Claim, ask: &Ask) -> Result<Answer, UpstreamError> {
        match ask {
            Ask::Mint(ttl) => {
                let request = self.token_request(ttl.seconds());
                self.send(claim, &request, Expects::Body).await
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
                        self.send(claim, &request(Some(token.as_str())), expects)
                            .await
                    }
                    Access::Tokenless => self.send(claim, &request(None), expects).await,
                    Access::Own { .. } => self.with_own_token(claim, request, expects).await,
                }
            }
        }
    }

    async fn with_own_token(
        &self,
        claim: &Claim,
        request: impl Fn(Option<&str>) -> Vec<u8>,
        expects: Expects,
    ) -> Result<Answer, UpstreamError> {
        let token = self.token.current(self, claim).await?;
        let answer = self.send(claim, &request(Some(&token)), expects).await?;
        if answer.status() != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        // The service has forgotten the token: one more, and one more try.
        self.token.void(&token);
        let token = self.token.current(self, claim).await?;
        let answer = self.send(claim, &request(Some(&token)), expects).await?;
        if answer.status() == StatusCode::UNAUTHORIZED {
            return Err(UpstreamError::Invalid("own_token_refused"));
        }
        Ok(answer)
    }

    /// In the claim's turn. Where the service has had enough, one more try
    /// when it has had its rest, if that is in time.
    async fn send(
        &self,
        claim: &Claim,
        request: &[u8],
        expects: Expects,
    ) -> Result<Answer, UpstreamError> {
        let mut refused = None;
        loop {
            if self.budget.turn(claim).await.is_err() {
                return refused.ok_or(UpstreamError::HostBudget);
            }
            let answer = self.pool.send(request, expects).await?;
            if !is_throttled(answer.status()) {
                self.budget.answered();
                return Ok(answer);
            }
            self.traffic.throttled();
            match self.budget.back_off() {
                Some(until) if refused.is_none() && claim.outlasts(until) => refused = Some(answer),
                _ => return Ok(answer),
            }
        }
    }

    fn token_request(&self, ttl: u32) -> Vec<u8> {
        format!(
            "PUT {TOKEN_PATH} HTTP/1.1\r\n{}{TTL}: {ttl}\r\n\r\n",
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
            say(&[TOKEN, ": ", token, "\r\n"]);
        }
        say(&["\r\n"]);
        request
    }
}

fn is_throttled(status: StatusCode) -> bool {
    matches!(
        status,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
    )
}

fn bracketed(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(v4) => v4.to_string(),
        std::net::IpAddr::V6(v6) => format!("[{v6}]"),
    }
}
