//! Where the daemon's listening sockets come from: bound by itself, or handed
//! over by a service manager that keeps them while the daemon is away.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

use socket2::{Protocol, SockRef, Type};

use super::StartError;
use crate::ids::MetadataAddr;
use crate::intercept::{Marks, RuleSet};
use crate::proxy::Listener;

/// Why the sockets that were handed over are not the daemon's listeners.
#[derive(Debug)]
pub enum HandedError {
    /// One, counted from 0, that is no listening TCP socket; what it is.
    NotListening(usize, String),
    /// One that listens where the daemon does not.
    Foreign(SocketAddr),
    /// A second one for the same address.
    Twice(SocketAddr),
    /// None for this address.
    Missing(SocketAddr),
    /// One without the packet mark by which the rules know it, and its mark.
    Unmarked(SocketAddr, u32, Marks),
    /// One that could not be set up.
    Failed(SocketAddr, io::Error),
}

/// Binds all listeners.
pub(super) fn bind(rules: &RuleSet) -> Result<Vec<Listener>, StartError> {
    let (port, mark) = (rules.listen_port(), rules.marks().listener);
    let bind = |service: &MetadataAddr| {
        Listener::bind(*service, port, mark)
            .map_err(|error| StartError::Bind(service.0, port, error))
    };
    rules.destinations().iter().map(bind).collect()
}

/// Takes the handed sockets, if they are just those that [`bind`] would make.
/// They are marked here where this process may do that.
pub(super) fn adopt(handed: Vec<OwnedFd>, rules: &RuleSet) -> Result<Vec<Listener>, HandedError> {
    let mut found: Vec<Listener> = Vec::new();
    for (at, fd) in handed.into_iter().enumerate() {
        let address = listening_on(&fd).map_err(|is| HandedError::NotListening(at, is))?;
        let mut destinations = rules.destinations().iter();
        let service = destinations
            .find(|destination| rules.listener(**destination) == address)
            .ok_or(HandedError::Foreign(address))?;
        if found.iter().any(|listener| listener.service == *service) {
            return Err(HandedError::Twice(address));
        }
        let socket = std::net::TcpListener::from(fd);
        set_up(&socket, address, rules.marks())?;
        let service = *service;
        found.push(Listener { socket, service });
    }
    let served = |it: &&MetadataAddr| found.iter().any(|listener| listener.service == **it);
    match rules.destinations().iter().find(|it| !served(it)) {
        Some(missing) => Err(HandedError::Missing(rules.listener(*missing))),
        None => Ok(found),
    }
}

fn set_up(
    socket: &std::net::TcpListener,
    address: SocketAddr,
    marks: Marks,
) -> Result<(), HandedError> {
    let failed = |error| HandedError::Failed(address, error);
    let options = SockRef::from(socket);
    let marked = options.mark().map_err(failed)?;
    if marked & marks.mask != marks.listener && options.set_mark(marks.listener).is_err() {
        return Err(HandedError::Unmarked(address, marked, marks));
    }
    // Its queue is the one of a listener bound here, whoever made it.
    options.listen(i32::MAX).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)
}

/// Where it listens; else, what it is.
fn listening_on(fd: &OwnedFd) -> Result<SocketAddr, String> {
    let socket = SockRef::from(fd);
    let kind = socket.r#type().map_err(|_| "no socket".to_owned())?;
    let protocol = socket.protocol().ok().flatten();
    if (kind, protocol) != (Type::STREAM, Some(Protocol::TCP)) {
        return Err(format!("a socket of {kind:?} and {protocol:?}"));
    }
    if !socket.is_listener().unwrap_or(false) {
        return Err("a TCP socket that does not listen".into());
    }
    let address = socket.local_addr().ok().and_then(|it| it.as_socket());
    address.ok_or_else(|| "a TCP socket without an address".into())
}

impl fmt::Display for HandedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the listeners that were handed over (LISTEN_FDS) are refused: ")?;
        match self {
            Self::NotListening(at, is) => write!(f, "socket {at} is {is}"),
            Self::Foreign(address) => write!(
                f,
                "one listens on {address}, where `port` in [listen] and `addresses` in \
                 [upstream] have none"
            ),
            Self::Twice(address) => write!(f, "two listen on {address}"),
            Self::Missing(address) => write!(
                f,
                "none listens on {address}; name it in the socket unit, as \
                 `ListenStream={address}`"
            ),
            Self::Unmarked(address, marked, wanted) => write!(
                f,
                "the one on {address} has the packet mark {marked:#x}, and the rules let only \
                 {:#x} answer; set it in the socket unit, as `Mark={}`",
                wanted.listener, wanted.listener
            ),
            Self::Failed(address, error) => write!(f, "the one on {address}: {error}"),
        }
    }
}

impl std::error::Error for HandedError {}
