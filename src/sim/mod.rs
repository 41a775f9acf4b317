//! A metadata service to run against where there is none: the demo, the tests
//! and the benches stand on it. It behaves as EC2's does, as far as that is
//! documented or was seen on the wire, and hands out examples only.
//!
//! Must never be part of a decision of the firewall, nor use its code for
//! reading requests: a simulation that errs with its subject proves nothing.

mod answer;
mod credentials;
mod instance;
mod request_log;
mod secret;
mod service;
mod throttle;
mod token;
mod tree;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

pub use credentials::{Rotation, RotationError};
use service::Service;

/// How the simulated service behaves. The default is what a new instance has
/// today: tokens required, one role, no delay, no limit.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether a GET needs a token.
    pub http_tokens: HttpTokens,
    /// Waited at least before every answer; timers add up to two milliseconds.
    pub latency: Duration,
    /// Past it, requests get 503.
    pub requests_per_second: Option<NonZeroU32>,
    /// How credentials age and are replaced.
    pub rotation: Rotation,
    /// The role attached to the instance; without one, `iam/` is 404.
    pub role: Option<RoleName>,
    /// Served as it is.
    pub user_data: Bytes,
    /// What this instance has besides, or otherwise, than a new one.
    pub items: Vec<Item>,
    /// Appended to before each answer; see `imdsfw sim --help`.
    pub request_log: Option<PathBuf>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            http_tokens: HttpTokens::Required,
            latency: Duration::ZERO,
            requests_per_second: None,
            rotation: Rotation::default(),
            role: Some(RoleName("web".into())),
            user_data: instance::DEFAULT_USER_DATA.into(),
            items: Vec::new(),
            request_log: None,
        }
    }
}

/// The instance's `HttpTokens` option.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpTokens {
    /// IMDSv2 only: a GET without a token gets 401.
    Required,
    /// IMDSv1 too: a GET without a token passes, one with a bad token does not.
    Optional,
}

/// The name of an IAM role: 1 to 64 of `A-Za-z0-9+=,.@_-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoleName(String);

impl RoleName {
    /// The name as IAM has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for RoleName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+=,.@_-".contains(&byte);
        if (1..=64).contains(&name.len()) && name.bytes().all(plain) {
            Ok(Self(name.to_owned()))
        } else {
            Err("a role's name is 1 to 64 of A-Z a-z 0-9 + = , . @ _ -")
        }
    }
}

/// One item more, or in place of the one that stands there: a key of who is
/// logging in, the end of a spot instance, another network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// Below the version, without outer slashes.
    path: String,
    value: String,
}

impl FromStr for Item {
    type Err = &'static str;

    /// `meta-data/PATH=VALUE` or `dynamic/PATH=VALUE`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (path, value) = text.split_once('=').ok_or("expected PATH=VALUE")?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.,_:@".contains(&byte);
        let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.bytes().all(plain);
        let below = path
            .strip_prefix("meta-data/")
            .or_else(|| path.strip_prefix("dynamic/"));
        match below {
            Some(below) if below.split('/').all(is_name) => Ok(Self {
                path: path.to_owned(),
                value: value.to_owned(),
            }),
            _ => Err("a path is meta-data/NAME or dynamic/NAME, with more names behind slashes"),
        }
    }
}

/// Why the service cannot run.
#[derive(Debug)]
pub enum Error {
    /// The request log cannot be opened.
    RequestLog {
        /// As given.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Two items, of which one would have to be a directory too.
    Item {
        /// The upper of the two.
        above: String,
        /// The one below.
        below: String,
    },
    /// A listener cannot be used by the runtime.
    Listener(io::Error),
    /// The system gives no random bytes.
    Random(getrandom::Error),
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RequestLog { path, source } => {
                write!(
                    f,
                    "cannot open the request log {}: {source}",
                    path.display()
                )
            }
            Self::Item { above, below } => {
                write!(f, "{above} is an item, so {below} cannot stand below it")
            }
            Self::Listener(source) => write!(f, "cannot use a listening socket: {source}"),
            Self::Random(source) => write!(f, "the system gives no random bytes: {source}"),
        }
    }
}

/// Sets the service up; the future then serves on all `listeners` until it is
/// dropped, which also closes the connections. To be called inside a tokio
/// runtime with I/O and time enabled.
pub fn serve(
    settings: Settings,
    listeners: Vec<std::net::TcpListener>,
) -> Result<impl Future<Output = Infallible>, Error> {
    let service = Arc::new(Service::new(settings)?);
    let mut loops = JoinSet::new();
    for listener in listeners {
        listener.set_nonblocking(true).map_err(Error::Listener)?;
        let listener = TcpListener::from_std(listener).map_err(Error::Listener)?;
        loops.spawn(accept(listener, Arc::clone(&service)));
    }
    Ok(async move {
        // The loops end only by being dropped with this future.
        while loops.join_next().await.is_some() {}
        std::future::pending().await
    })
}

async fn accept(listener: TcpListener, service: Arc<Service>) {
    /// Before trying again when the process is out of descriptors.
    const PAUSE: Duration = Duration::from_millis(20);

    let mut connections = JoinSet::new();
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => {
                connections.spawn(converse(stream, peer, Arc::clone(&service)));
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn converse(stream: TcpStream, peer: SocketAddr, service: Arc<Service>) {
    if service.accepted(peer).is_err() || stream.set_nodelay(true).is_err() {
        return;
    }
    let respond = service_fn(|request| service.respond(peer, request));
    let conversation = http1::Builder::new()
        .title_case_headers(true)
        // A client that has sent its request and shut down its side of the
        // connection still gets the answer.
        .half_close(true)
        .serve_connection(TokioIo::new(stream), respond);
    if let Err(error) = conversation.await {
        tracing::debug!(%peer, %error, "connection ended");
    }
}
