//! Numbers for Prometheus: one page at `GET /metrics`, where the config says
//! so, and nowhere else.
//!
//! Local users may be able to read it, so it names none of them, nor what they
//! asked for; and whoever fetches it without end must take little of the
//! daemon's time. Where it cannot be served, the daemon serves all the same.

mod disk;
mod page;
mod process;
mod text;

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};

pub use process::Process;

use crate::audit::Log;
use crate::control::Desk;
use crate::upstream::Traffic;
use disk::Disk;
use page::Seen;

/// At once; a scraper needs one.
const CONNECTIONS_MAX: usize = 16;
/// Of a request, in bytes; the least that hyper takes.
const REQUEST_MAX: usize = 8 * 1024;
/// From a connection to the end of its answer.
const DEADLINE: Duration = Duration::from_secs(2);
/// Between two connections accepted: whoever fetches without end costs less
/// than a hundredth of a processor.
const REST: Duration = Duration::from_millis(20);

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");

/// Where the page is fetched.
pub enum Listener {
    /// Of the loopback interface.
    Tcp(TcpListener),
    /// Whoever the file's mode lets in.
    Unix(UnixListener),
}

impl Listener {
    /// On a loopback address.
    pub fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).map(Self::Tcp)
    }
}

/// What is looked at.
pub struct Sources {
    /// What is in force.
    pub desk: Arc<Desk>,
    /// What was decided and recorded.
    pub log: Log,
    /// What goes to the service.
    pub traffic: Traffic,
    /// How many descriptors it may have.
    pub descriptors: usize,
}

struct Page {
    sources: Sources,
    process: Mutex<Process>,
    disk: Disk,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

enum Accepting {
    Tcp(tokio::net::TcpListener),
    Unix(tokio::net::UnixListener),
}

/// Serves the page for as long as the daemon lives.
///
/// # Errors
/// The runtime does not take the listener.
pub fn serve(
    listener: Listener,
    process: Process,
    sources: Sources,
) -> io::Result<impl Future<Output = ()> + Send> {
    let accepting = Accepting::new(listener)?;
    let page = Arc::new(Page {
        sources,
        process: Mutex::new(process),
        disk: Disk::default(),
    });
    Ok(async move {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // Nobody closes it.
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
                return;
            };
            if let Ok(stream) = accepting.accept().await {
                let page = Arc::clone(&page);
                tokio::spawn(async move {
                    let _ = timeout(DEADLINE, page.converse(stream)).await;
                    drop(slot);
                });
            }
            sleep(REST).await;
        }
    })
}

impl Accepting {
    fn new(listener: Listener) -> io::Result<Self> {
        Ok(match listener {
            Listener::Tcp(listener) => {
                listener.set_nonblocking(true)?;
                Self::Tcp(tokio::net::TcpListener::from_std(listener)?)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                Self::Unix(tokio::net::UnixListener::from_std(listener)?)
            }
        })
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        Ok(match self {
            Self::Tcp(listener) => Box::new(listener.accept().await?.0),
            Self::Unix(listener) => Box::new(listener.accept().await?.0),
        })
    }
}

impl Page {
    /// One request, and the end.
    async fn converse(&self, stream: Box<dyn Stream>) {
        let respond = service_fn(|request| self.respond(request));
        let conversation = http1::Builder::new()
            .keep_alive(false)
            .max_buf_size(REQUEST_MAX)
            .serve_connection(TokioIo::new(stream), respond);
        if let Err(error) = conversation.await {
            tracing::debug!(%error, "a reader of metrics left");
        }
    }

    async fn respond(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<Full<Bytes>>, Infallible> {
        let mut response = Response::new(Full::default());
        if request.uri().path() != "/metrics" {
            *response.status_mut() = StatusCode::NOT_FOUND;
        } else if request.method() != Method::GET {
            *response.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            let allowed = HeaderValue::from_static("GET");
            response.headers_mut().insert(ALLOW, allowed);
        } else {
            response.headers_mut().insert(CONTENT_TYPE, TEXT);
            *response.body_mut() = Full::from(self.text().await);
        }
        Ok(response)
    }

    async fn text(&self) -> Vec<u8> {
        let Sources {
            desk,
            log,
            traffic,
            descriptors,
        } = &self.sources;
        let reading = Arc::clone(desk);
        let on_disk = self.disk.says(async move { reading.on_disk().await }).await;
        let takes = self.process.lock().await.takes();
        let status = desk.status_with(on_disk).await;
        let seen = Seen {
            status: &status,
            measured: &log.measured(),
            life: &log.credentials_life(),
            backlog: log.backlog(),
            flow: traffic.flow(),
            takes,
            descriptors_max: *descriptors,
        };
        seen.text()
    }
}
