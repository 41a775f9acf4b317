//! The transparent proxy: accepts what the kernel redirects, and takes each
//! request its way.
//!
//! Runs without any capability. Nothing here may serve a request whose caller
//! is not known, or let an answer leave unrecorded.

mod accept;
mod answer;
mod forward;
mod gate;
mod guards;
mod holders;
mod listing;
mod notice;
mod pipeline;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::StatusCode;
use nix::time::{ClockId, clock_gettime};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use accept::Listener;
pub use guards::Guards;

use crate::audit::{Decision, Ending, Log, Pending, Reason};
use crate::caller::{Callers, Peer};
use crate::config::{Action, Config, HOST_CONNECTIONS, Mode, TokenMode};
use crate::limits::{Limits, Owners};
use crate::policy::Policy;
use crate::request::{Rejected, Service};
use crate::token::{Moment, TokenKey};
use crate::upstream::Upstream;
use answer::Reply;
use gate::Arrived;
use pipeline::Closed;

/// How often denials that have no record of their own are summarised.
const SUMMARISE_EVERY: Duration = Duration::from_secs(1);
/// For requests under way when the daemon is told to stop, on top of the time
/// the service may take to answer.
const DRAIN: Duration = Duration::from_secs(1);

/// Everything a request meets on its way.
pub struct Proxy {
    log: Log,
    connections: usize,
    callers: Arc<Callers>,
    looks: Arc<Semaphore>,
    guards: Guards,
    policy: Policy,
    tokens: TokenKey,
    upstream: Upstream,
    service: Arc<Service>,
    limits: Limits,
    mode: Mode,
    hide_denied: bool,
    token_mode: TokenMode,
    on_audit_failure: Action,
    drain: Duration,
}

impl Proxy {
    /// Puts the parts together. Connects to nothing. `descriptors` is how many
    /// this process may have open.
    pub fn new(
        config: &Config,
        policy: Policy,
        log: Log,
        callers: Callers,
        guards: Guards,
        owners: Owners,
        descriptors: usize,
    ) -> Result<Self, getrandom::Error> {
        let mut key = [0; 64];
        getrandom::fill(&mut key)?;
        let owners = Arc::new(owners);
        if config.limits.enabled {
            let per_second = config.limits.denials_recorded_per_second;
            log.limit_denials(per_second, Arc::clone(&owners));
        }
        // Each connection may need one more towards the service.
        let connections = usize::from(HOST_CONNECTIONS)
            .min(descriptors.saturating_sub(64) / 2)
            .max(2);
        Ok(Self {
            log,
            connections,
            limits: Limits::new(&config.limits, Arc::clone(&owners), connections),
            callers: Arc::new(callers),
            looks: Arc::new(Semaphore::new(holders::LOOKS_MAX)),
            guards,
            policy,
            tokens: TokenKey::new(&key),
            upstream: Upstream::new(config, owners),
            service: Arc::new(Service {
                provider: config.provider,
                addresses: config.upstream.addresses.clone(),
            }),
            mode: config.policy.mode,
            hide_denied: config.policy.hide_denied,
            token_mode: config.tokens,
            on_audit_failure: config.audit.on_failure,
            drain: config.upstream.timeout.saturating_add(DRAIN),
        })
    }

    /// Serves the listeners until `stop` changes, then finishes what is under
    /// way.
    pub async fn run(
        self: Arc<Self>,
        listeners: Vec<Listener>,
        mut stop: watch::Receiver<bool>,
    ) -> io::Result<()> {
        let slots = Arc::new(Semaphore::new(self.connections));
        let log = self.log.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(SUMMARISE_EVERY).await;
                log.summarise_denials();
            }
        });
        let mut accepting = JoinSet::new();
        for Listener { socket, service } in listeners {
            let listener = tokio::net::TcpListener::from_std(socket)?;
            let proxy = Arc::clone(&self);
            accepting.spawn(proxy.accept(listener, service, Arc::clone(&slots), stop.clone()));
        }
        accept::stopped(&mut stop).await;
        accepting.join_all().await;
        let all = u32::try_from(self.connections).unwrap_or(u32::MAX);
        // What is not finished by then is cut off, and recorded as that.
        let _ = tokio::time::timeout(self.drain, slots.acquire_many(all)).await;
        Ok(())
    }

    /// A fault in this program costs one request, not the daemon.
    async fn serve_or_500(&self, peer: Peer, arrived: Arrived) -> Result<Reply, Closed> {
        let mut serving = std::pin::pin!(self.serve(peer, arrived));
        std::future::poll_fn(|cx| {
            match catch_unwind(AssertUnwindSafe(|| serving.as_mut().poll(cx))) {
                Ok(poll) => poll,
                Err(_) => {
                    tracing::error!("a request met a fault in this program");
                    let status = StatusCode::INTERNAL_SERVER_ERROR;
                    Poll::Ready(Ok(answer::failed(status, "an internal error", "unknown")))
                }
            }
        })
        .await
    }

    /// Records a head whose connection ended before it was whole: left by the
    /// client or, `cut_off`, by us.
    async fn abandoned(&self, peer: Peer, part: Rejected, cut_off: bool) {
        let mut record = Pending::new(&self.log, peer.address(), self.mode);
        if let Some(caller) = self.callers.opener(peer).await {
            record.facts.subject = Some(Arc::clone(caller.subject()));
            record.facts.unit = caller.unit().cloned();
        }
        record.facts.method = part.method;
        record.facts.raw = part.raw;
        let (reason, detail) = match cut_off {
            true => (Reason::Internal, Some("shutdown")),
            false => (Reason::ClientGone, None),
        };
        record.finish(Ending {
            decision: Decision::Deny,
            reason,
            detail,
            status: None,
            bytes: 0,
        });
    }

    fn nonce(&self) -> Option<[u8; 8]> {
        let mut nonce = [0; 8];
        getrandom::fill(&mut nonce).ok().map(|()| nonce)
    }
}

/// CLOCK_BOOTTIME: goes on while the host is suspended, and cannot be set.
fn boottime() -> Moment {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(std::time::Duration::from);
    // The clock exists since Linux 2.6.39; without it every token is expired.
    now.map_or(Moment(u64::MAX), |now| {
        Moment(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    })
}
