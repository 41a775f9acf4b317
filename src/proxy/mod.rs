//! The transparent proxy: accepts what the kernel redirects, and takes each
//! request its way.
//!
//! Runs without any capability. Nothing here may serve a request whose caller
//! is not known, or let an answer leave unrecorded.

mod accept;
mod answer;
mod connection;
mod forward;
mod guards;
mod holders;
mod listing;
mod notice;
mod pipeline;
mod stream;

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Poll;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

pub use accept::Listener;
pub use guards::Guards;

use crate::audit::{Decision, Ending, Log, Pending, Reason};
use crate::caller::{Callers, Peer};
use crate::config::{Action, Config, HOST_CONNECTIONS, TokenMode};
use crate::control::Standing;
use crate::limits::{Limits, Owners};
use crate::request::{Rejected, Service};
use crate::sys::listener;
use crate::upstream::{Traffic, Upstream};
use answer::Reply;
use connection::Arrived;
use holders::Looks;
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
    looks: Looks,
    guards: Guards,
    standing: Standing,
    upstream: Upstream,
    service: Arc<Service>,
    limits: Limits,
    /// Requests that are being served.
    in_service: AtomicUsize,
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
        standing: Standing,
        log: Log,
        callers: Arc<Callers>,
        guards: Guards,
        owners: Arc<Owners>,
        descriptors: usize,
    ) -> Self {
        if config.limits.enabled {
            let per_second = config.limits.denials_recorded_per_second;
            log.limit_denials(per_second, Arc::clone(&owners));
        }
        // Each connection may need one more towards the service.
        let connections = usize::from(HOST_CONNECTIONS)
            .min(descriptors.saturating_sub(64) / 2)
            .max(2);
        Self {
            log,
            connections,
            limits: Limits::new(&config.limits, Arc::clone(&owners), connections),
            callers,
            looks: Looks::new(),
            guards,
            standing,
            upstream: Upstream::new(config, owners),
            in_service: AtomicUsize::new(0),
            service: Arc::new(Service {
                provider: config.provider,
                addresses: config.upstream.addresses.clone(),
            }),
            hide_denied: config.policy.hide_denied,
            token_mode: config.tokens,
            on_audit_failure: config.audit.on_failure,
            drain: config.upstream.timeout.saturating_add(DRAIN),
        }
    }

    /// What goes to the service and back.
    pub fn traffic(&self) -> Traffic {
        self.upstream.traffic()
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
            listener::defer(&socket)?;
            let listener = listener::watch(socket)?;
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
    async fn serve_or_500(
        &self,
        peer: Peer,
        arrived: Arrived,
        whole_since: Instant,
    ) -> Result<Reply, Closed> {
        let mut serving = std::pin::pin!(self.serve(peer, arrived, whole_since));
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
        let mut record = Pending::new(&self.log, peer.address(), self.standing.orders().mode);
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
