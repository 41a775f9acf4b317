//! Keep-alive connections to one address of the service.

use std::net::SocketAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::Request;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::UpstreamError;
use super::answer::{Answer, Body};

/// Idle connections kept; more than this many at once is a burst.
const IDLE_MAX: usize = 32;

type Sender = http1::SendRequest<Body>;

pub(super) struct Pool {
    address: SocketAddr,
    connect_timeout: Duration,
    idle: Mutex<Vec<Sender>>,
}

/// Whether a request that failed may have met a connection the service had
/// already given up.
enum Failed {
    Stale,
    Finally(UpstreamError),
}

impl Pool {
    pub(super) fn new(address: SocketAddr, connect_timeout: Duration) -> Self {
        Self {
            address,
            connect_timeout,
            idle: Mutex::default(),
        }
    }

    /// Sends a request on an idle connection, else on a new one. A connection
    /// that turns out stale is replaced once.
    pub(super) async fn send(
        &self,
        request: impl Fn() -> Option<Request<Body>>,
    ) -> Result<Answer, UpstreamError> {
        let build = || request().ok_or(UpstreamError::Invalid("request"));
        if let Some(sender) = self.take_idle().await {
            match self.exchange(sender, build()?).await {
                Ok(answer) => return Ok(answer),
                Err(Failed::Finally(error)) => return Err(error),
                Err(Failed::Stale) => {}
            }
        }
        let sender = self.connect().await?;
        self.exchange(sender, build()?)
            .await
            .map_err(|failed| match failed {
                Failed::Stale => UpstreamError::Unreachable,
                Failed::Finally(error) => error,
            })
    }

    async fn exchange(&self, mut sender: Sender, request: Request<Body>) -> Result<Answer, Failed> {
        let response = sender.send_request(request).await.map_err(|error| {
            if error.is_parse() {
                Failed::Finally(UpstreamError::Invalid("malformed"))
            } else {
                Failed::Stale
            }
        })?;
        let answer = Answer::read(response).await.map_err(Failed::Finally)?;
        if !sender.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            if idle.len() < IDLE_MAX {
                idle.push(sender);
            }
        }
        Ok(answer)
    }

    async fn take_idle(&self) -> Option<Sender> {
        loop {
            let mut sender = self
                .idle
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .pop()?;
            if sender.ready().await.is_ok() {
                return Some(sender);
            }
        }
    }

    async fn connect(&self) -> Result<Sender, UpstreamError> {
        let stream = timeout(self.connect_timeout, TcpStream::connect(self.address))
            .await
            .map_err(|_| UpstreamError::Unreachable)?
            .map_err(|_| UpstreamError::Unreachable)?;
        // A request is one write; waiting to fill a segment only delays it.
        let _ = stream.set_nodelay(true);
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| UpstreamError::Unreachable)?;
        // Ends when the sender is dropped or the service closes.
        tokio::spawn(connection);
        Ok(sender)
    }
}
