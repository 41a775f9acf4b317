//! The daemon's own IMDSv2 token: fetched once for many callers, renewed
//! ahead of its expiry, used for every permitted request also where the
//! service would still answer without one.

use std::time::Duration;

use hyper::header::HeaderValue;
use hyper::{Method, StatusCode};
use tokio::sync::{Mutex, RwLock};
use tokio::time::Instant;

use super::{Service, TTL, UpstreamError, secret};
use crate::request::TOKEN_PATH;

/// Six hours, the longest the service grants.
const ASKED: u32 = crate::request::TTL_MAX;
/// No token of the service's is longer than this, in bytes.
const TOKEN_MAX: usize = 1024;

#[derive(Default)]
pub(super) struct OwnToken {
    held: RwLock<Option<Held>>,
    fetching: Mutex<Fetches>,
}

struct Held {
    value: HeaderValue,
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
    pub(super) async fn current(&self, service: &Service) -> Result<HeaderValue, UpstreamError> {
        let now = Instant::now();
        if let Some(held) = &*self.held.read().await {
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
        if let Some(held) = &*self.held.read().await
            && now < held.renew
        {
            return Ok(held.value.clone());
        }
        if let Some((error, at)) = fetches.failed
            && at > arrived
        {
            return Err(error);
        }
        match fetch(service).await {
            Ok(held) => {
                let value = held.value.clone();
                *self.held.write().await = Some(held);
                Ok(value)
            }
            Err(error) => {
                let now = Instant::now();
                fetches.failed = Some((error, now));
                match &mut *self.held.write().await {
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
    pub(super) async fn void(&self, refused: &HeaderValue) {
        let mut held = self.held.write().await;
        if held.as_ref().is_some_and(|held| held.value == refused) {
            *held = None;
        }
    }
}

async fn fetch(service: &Service) -> Result<Held, UpstreamError> {
    let asked = Instant::now();
    let ttl = HeaderValue::from(ASKED);
    let answer = service
        .pool
        .send(|| service.request(Method::PUT, TOKEN_PATH, (TTL, &ttl)))
        .await?;
    if answer.status() != StatusCode::OK || answer.body().len() > TOKEN_MAX {
        return Err(UpstreamError::Invalid("own_token"));
    }
    let value = std::str::from_utf8(answer.body())
        .ok()
        .and_then(secret)
        .filter(|value| !value.is_empty())
        .ok_or(UpstreamError::Invalid("own_token"))?;
    let granted: u32 = answer
        .headers()
        .get(TTL)
        .and_then(|ttl| ttl.to_str().ok()?.parse().ok())
        .ok_or(UpstreamError::Invalid("own_token"))?;
    let life = Duration::from_secs(granted.min(ASKED).into());
    Ok(Held {
        value,
        renew: asked + life * 9 / 10,
        expires: asked + life,
    })
}
