//! Listeners and the connections they accept.
//!
//! A connection is served only if it was redirected here from the metadata
//! address this listener stands for. Out of descriptors, accepting pauses
//! instead of spinning; over the connection cap, clients queue.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::{Ip6tOriginalDst, Mark, OriginalDst};
use nix::sys::socket::{Backlog, getsockopt, listen, setsockopt};
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::SockRef;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;
use tokio::sync::watch;

use super::Proxy;
use super::connection::Connection;
use crate::audit::{self, Event, Reason};
use crate::caller::{ClientSocket, Peer};
use crate::ids::{ClientAddr, MetadataAddr, unmapped};
use crate::limits;

/// How long accepting rests when it fails, as without a descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// An overload that is back within this time is the same one, and is not
/// recorded again.
const OVERLOAD_OVER: Duration = Duration::from_secs(10);

/// Of a request that came before its connection was accepted; what it has more
/// is read later.
const EARLY_MAX: usize = 1024;
/// Connections accepted before the requests of others have their turn.
const IN_A_ROW: u32 = 8;

/// A listening socket and the metadata address whose connections the rules
/// redirect to it. One listener and port per destination and family: were
/// two destinations to share one, source ports could be remapped, and a peer's
/// address would no longer be its socket's.
#[derive(Debug)]
pub struct Listener {
    /// Non-blocking.
    pub socket: TcpListener,
    /// What its connections were meant for.
    pub service: MetadataAddr,
}

impl Listener {
    /// Binds on the loopback address of the metadata address's family. The
    /// rules let no other socket than one with this packet mark answer there;
    /// setting it takes CAP_NET_ADMIN.
    pub fn bind(service: MetadataAddr, port: u16, mark: u32) -> io::Result<Self> {
        let address: SocketAddr = match service.0 {
            SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, port).into(),
            SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, port).into(),
        };
        let socket = TcpListener::bind(address)?;
        setsockopt(&socket, Mark, &mark)?;
        // Listening again lengthens the queue, which is 128 by then: one that
        // is full costs clients a second, all the time that most of them have.
        listen(&socket, Backlog::MAXALLOWABLE)?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, service })
    }
}

impl Proxy {
    /// Accepts until `stop` changes; then requests under way are finished.
    pub(super) async fn accept(
        self: Arc<Self>,
        listener: AsyncFd<TcpListener>,
        service: MetadataAddr,
        slots: Arc<Semaphore>,
        mut stop: watch::Receiver<bool>,
    ) {
        let mut exhausted: Option<Instant> = None;
        let mut in_a_row = 0;
        loop {
            let accepted = tokio::select! {
                () = stopped(&mut stop) => return,
                accepted = accept_one(&listener, &slots) => accepted,
            };
            match accepted {
                Ok((slot, stream, peer)) => {
                    let (proxy, stop) = (Arc::clone(&self), stop.clone());
                    let client = ClientAddr::new(peer);
                    tokio::spawn(async move {
                        proxy.receive(stream, client, service, stop).await;
                        drop(slot);
                    });
                    // A queue of one user's connections may not keep the
                    // requests of others waiting until it is empty.
                    in_a_row = (in_a_row + 1) % IN_A_ROW;
                    if in_a_row == 0 {
                        tokio::task::yield_now().await;
                    }
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) => {
                    let since = exhausted.replace(Instant::now());
                    if since.is_none_or(|at| at.elapsed() > OVERLOAD_OVER) {
                        tracing::error!(%error, "accepting pauses");
                        let detail = serde_json::json!({ "error": error.to_string() });
                        self.log.event(Event::DaemonOverloaded, &detail);
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// A client has asked by the time it is accepted, but for one that takes
    /// its time or has left, or that came by a SYN cookie. Read before its
    /// socket is looked up, its request needs no second look.
    async fn receive(
        &self,
        stream: TcpStream,
        client: ClientAddr,
        service: MetadataAddr,
        stop: watch::Receiver<bool>,
    ) {
        let early = read_early(&stream);
        let read_at = Instant::now();
        if let Some((peer, _counted)) = self.admit(&stream, client, service) {
            let connection = Connection::new(stream, early, read_at);
            self.serve_connection(connection, peer, stop).await;
        }
    }

    /// Whether a connection may be served: it came by the redirect, and is
    /// within the share of whose it is.
    fn admit(
        &self,
        stream: &TcpStream,
        client: ClientAddr,
        service: MetadataAddr,
    ) -> Option<(Peer, limits::Connection)> {
        let refuse = |uid, reason, detail| {
            let mode = self.standing.orders().mode;
            audit::connection_refused(&self.log, client, uid, reason, detail, mode);
        };
        if let Err(detail) = redirected_from(stream, client, service) {
            refuse(None, Reason::NotRedirected, detail);
            return None;
        }
        // Of a connection that was reset, the peer is no longer told
        // (ENOTCONN, getpeername(2)).
        let peer = self.callers.meet(ClientSocket { client, service }, || {
            stream.peer_addr().is_ok()
        });
        match self.limits.connection(peer.uid(), Instant::now()) {
            Ok(counted) => Some((peer, counted)),
            Err(over) => {
                refuse(peer.uid(), Reason::Limit, over.as_str());
                // With a reset. The kernel rules would count it as open for as
                // long as its client does not close it, too (socket(7)).
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                None
            }
        }
    }
}

/// A sender that is gone ends things as well.
pub(super) async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn accept_one(
    listener: &AsyncFd<TcpListener>,
    slots: &Arc<Semaphore>,
) -> io::Result<(tokio::sync::OwnedSemaphorePermit, TcpStream, SocketAddr)> {
    // The slot comes first, so that a full house leaves clients in the queue.
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let accept = |it: &TcpListener| Ok(acceptfrom_with(it, flags)?);
    let (socket, peer) = listener.async_io(Interest::READABLE, accept).await?;
    let peer = peer.and_then(|it| SocketAddr::try_from(it).ok());
    let peer = peer.ok_or(io::ErrorKind::AddrNotAvailable)?;
    Ok((slot, TcpStream::from(socket), peer))
}

/// What has come already. An end or an error comes again when it is waited for.
fn read_early(mut stream: &TcpStream) -> Vec<u8> {
    let mut space = [0; EARLY_MAX];
    let len = stream.read(&mut space).unwrap_or_default();
    space.get(..len).unwrap_or_default().to_vec()
}

/// Whether only the connection to be accepted is at fault: its client is gone,
/// or the network to it (accept(2)). All else would come again at once.
fn is_the_clients(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::ECONNABORTED
                | libc::ECONNRESET
                | libc::EPROTO
                | libc::ENOPROTOOPT
                | libc::EOPNOTSUPP
                | libc::ENETDOWN
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::EHOSTUNREACH
                | libc::ENONET
        )
    )
}

/// Whether conntrack says that the client connected to `service`
/// (SO_ORIGINAL_DST, linux/netfilter_ipv4.h and ip6_tables.h). A socket on
/// which both ends are v4 has a v4 entry, mapped or not.
fn redirected_from(
    stream: &TcpStream,
    client: ClientAddr,
    service: MetadataAddr,
) -> Result<(), &'static str> {
    let original = match client.get() {
        SocketAddr::V4(_) => getsockopt(&stream.as_fd(), OriginalDst).map(|v4| {
            let ip = Ipv4Addr::from(u32::from_be(v4.sin_addr.s_addr));
            SocketAddr::from((ip, u16::from_be(v4.sin_port)))
        }),
        SocketAddr::V6(_) => getsockopt(&stream.as_fd(), Ip6tOriginalDst).map(|v6| {
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            SocketAddr::from((ip, u16::from_be(v6.sin6_port)))
        }),
    };
    match original {
        Ok(original) if unmapped(original) == service.0 => Ok(()),
        Ok(_) => Err("other_destination"),
        Err(_) => Err("no_original_destination"),
    }
}
