//! What goes over the connections to the service, counted where it goes: for
//! whoever looks on. Nothing is decided by it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::UpstreamError;

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Traffic(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: AtomicU64,
    under_way: AtomicU64,
    opened: AtomicU64,
    idle: AtomicU64,
    throttled: AtomicU64,
    unreachable: AtomicU64,
    invalid: AtomicU64,
}

/// As of one moment.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Sent so far, for callers and for tokens of the daemon's own.
    pub requests: u64,
    /// Not answered yet.
    pub under_way: u64,
    /// Connections made so far.
    pub opened: u64,
    /// Connections kept for the next request.
    pub idle: u64,
    /// Answered with 429 or 503.
    pub throttled: u64,
    /// Without a connection, or it broke.
    pub unreachable: u64,
    /// Answered with what may not be passed on.
    pub invalid: u64,
}

/// One request, under way until this is dropped.
pub(super) struct Sent<'t>(&'t Counts);

impl Traffic {
    /// How it is now.
    pub fn flow(&self) -> Flow {
        let counts = &self.0;
        let count = |of: &AtomicU64| of.load(Ordering::Relaxed);
        Flow {
            requests: count(&counts.requests),
            under_way: count(&counts.under_way),
            opened: count(&counts.opened),
            idle: count(&counts.idle),
            throttled: count(&counts.throttled),
            unreachable: count(&counts.unreachable),
            invalid: count(&counts.invalid),
        }
    }

    pub(super) fn send(&self) -> Sent<'_> {
        self.0.requests.fetch_add(1, Ordering::Relaxed);
        self.0.under_way.fetch_add(1, Ordering::Relaxed);
        Sent(&self.0)
    }

    pub(super) fn opened(&self) {
        self.0.opened.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn kept(&self) {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn taken(&self) {
        self.0.idle.fetch_sub(1, Ordering::Relaxed);
    }

    pub(super) fn throttled(&self) {
        self.0.throttled.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn failed(&self, error: UpstreamError) {
        let count = match error {
            UpstreamError::Unreachable => &self.0.unreachable,
            UpstreamError::Invalid(_) => &self.0.invalid,
            // Whoever waited counts these.
            UpstreamError::Timeout | UpstreamError::HostBudget => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::Relaxed);
    }
}
