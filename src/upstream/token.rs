//! The daemon's own IMDSv2 token: fetched once for many callers, renewed
//! ahead of its expiry, used for every permitted request also where the
//! service would still answer without one.

use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hyper::StatusCode;
use tokio::sync;
use tokio::time::Instant;

use super::budget::Claim;
use super::wire::Expects;
use super::{Service, TTL, UpstreamError};

/// Six hours, the longest the service grants.
const ASKED: u32 = crate::request::TTL_MAX;
/// No token of the service's is longer than this, in bytes.
const TOKEN_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct OwnToken {
    held: Mutex<Option<Held>>,
    fetching: sync::Mutex<Fetches>,
}

/// The token's text: bytes of one header's value.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Token(Arc<str>);

struct Held {
    value: Token,
    renew: Instant,
    expires: Instant,
}

#[derive(Default)]
struct Fetches {
    failed: Option<(UpstreamError, Instant)>,
}

impl OwnToken {
    /// A token with time left. Callers that come while one is being fetched
    /// wait for that one, and share its failure. A renewal that fails harms
    /// nobody while the old token is good.
    pub(super) async fn current(
        &self,
        service: &Service,
        claim: &Claim,
    ) -> Result<Token, UpstreamError> {
        let now = Instant::now();
        if let Some(held) = &*self.held() {
            if now < held.renew {
                return Ok(held.value.clone());
            }
            // Due for renewal, still good: one caller renews, the others go on.
            if now < held.expires && self.fetching.try_lock().is_err() {
                return Ok(held.value.clone());
            }
        }
        let arrived = Instant::now();
        let mut fetches = self.fetching.lock().await;
        if let Some(held) = &*self.held()
            && now < held.renew
        {
            return Ok(held.value.clone());
        }
        if let Some((error, at)) = fetches.failed
            && at > arrived
        {
            return Err(error);
        }
        match fetch(service, claim).await {
            Ok(held) => {
                let value = held.value.clone();
                *self.held() = Some(held);
                Ok(value)
            }
            Err(error) => {
                let now = Instant::now();
                fetches.failed = Some((error, now));
                match &mut *self.held() {
                    // Asked ahead of time: the old one does until the next attempt.
                    Some(held) if now < held.expires => {
                        held.renew = now + (held.expires - now) / 2;
                        Ok(held.value.clone())
                    }
                    _ => Err(error),
                }
            }
        }
    }

    /// Forgets a token that the service refused.
    pub(super) fn void(&self, refused: &Token) {
        let mut held = self.held();
        if held.as_ref().is_some_and(|held| held.value == *refused) {
            *held = None;
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Token {
    fn parse(body: &[u8]) -> Option<Self> {
        let fits = !body.is_empty() && body.len() <= TOKEN_MAX;
        let text = std::str::from_utf8(body).ok().filter(|_| fits)?;
        let plain = text.bytes().all(|byte| byte.is_ascii_graphic());
        plain.then(|| Self(text.into()))
    }
}

impl Deref for Token {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

async fn fetch(service: &Service, claim: &Claim) -> Result<Held, UpstreamError> {
    let asked = Instant::now();
    let request = service.token_request(ASKED);
    let claim = claim.for_everybody();
    let answer = service.send(&claim, &request, Expects::Body).await?;
    let refused = UpstreamError::Invalid("own_token");
    if answer.status() != StatusCode::OK {
        return Err(refused);
    }
    let value = Token::parse(answer.body()).ok_or(refused)?;
    let granted: u32 = answer
        .header(TTL)
        .and_then(|ttl| std::str::from_utf8(ttl).ok()?.parse().ok())
        .ok_or(refused)?;
    let life = Duration::from_secs(granted.min(ASKED).into());
    Ok(Held {
        value,
        renew: asked + life * 9 / 10,
        expires: asked + life,
    })
}
