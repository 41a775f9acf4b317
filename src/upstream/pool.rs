//! Keep-alive connections to one address of the service.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::UpstreamError;
use super::answer::Answer;
use super::traffic::Traffic;
use super::wire::{After, Connection, Expects, Failed};

/// Idle connections kept; more than this many at once is a burst.
const IDLE_MAX: usize = 256;
/// One that nobody needed for so long is closed when others come back.
const IDLE_FOR: Duration = Duration::from_secs(30);

pub(super) struct Pool {
    address: SocketAddr,
    connect_timeout: Duration,
    idle: Mutex<VecDeque<(Instant, Connection)>>,
    /// Requests under way.
    asking: AtomicUsize,
    traffic: Traffic,
}

/// Counts a request as under way, however that ends.
struct Asking<'p>(&'p AtomicUsize);

impl Pool {
    pub(super) fn new(address: SocketAddr, connect_timeout: Duration, traffic: Traffic) -> Self {
        Self {
            address,
            connect_timeout,
            idle: Mutex::default(),
            asking: AtomicUsize::new(0),
            traffic,
        }
    }

    /// Sends a request on an idle connection, else on a new one. A connection
    /// that turns out stale is replaced once.
    pub(super) async fn send(
        &self,
        request: &[u8],
        expects: Expects,
    ) -> Result<Answer, UpstreamError> {
        let _asking = Asking::new(&self.asking);
        let _sent = self.traffic.send();
        let outcome = self.send_on_some(request, expects).await;
        if let Err(error) = &outcome {
            self.traffic.failed(*error);
        }
        outcome
    }

    async fn send_on_some(
        &self,
        request: &[u8],
        expects: Expects,
    ) -> Result<Answer, UpstreamError> {
        // Requests that leave one right after the other wake the service once.
        if self.asking.load(Ordering::Relaxed) > 1 {
            tokio::task::yield_now().await;
        }
        if let Some(connection) = self.take_idle() {
            match self.exchange(connection, request, expects).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::Stale) => {}
            }
        }
        let connection = Connection::open(self.address, self.connect_timeout).await?;
        self.traffic.opened();
        self.exchange(connection, request, expects)
            .await
            .map_err(|failed| match failed {
                Failed::Stale => UpstreamError::Unreachable,
                Failed::Finally(error) => error,
            })
    }

    async fn exchange(
        &self,
        mut connection: Connection,
        request: &[u8],
        expects: Expects,
    ) -> Result<Answer, Failed> {
        let (answer, after) = connection.exchange(request, expects).await?;
        if after == After::Reuse {
            let now = Instant::now();
            let mut idle = self.idle();
            while idle.len() >= IDLE_MAX || idle.front().is_some_and(|it| now - it.0 > IDLE_FOR) {
                idle.pop_front();
                self.traffic.taken();
            }
            idle.push_back((now, connection));
            self.traffic.kept();
        }
        Ok(answer)
    }

    /// The one used last: the others may be let go.
    fn take_idle(&self) -> Option<Connection> {
        loop {
            let (_, connection) = self.idle().pop_back()?;
            self.traffic.taken();
            if connection.is_idle() {
                return Some(connection);
            }
        }
    }

    fn idle(&self) -> MutexGuard<'_, VecDeque<(Instant, Connection)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<'p> Asking<'p> {
    fn new(count: &'p AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
