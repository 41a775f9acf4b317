//! Where the daemon's listening sockets come from: bound by itself, or handed
//! over by a service manager that keeps them while the daemon is away.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use socket2::{Protocol, SockRef, Type};

use super::StartError;
use crate::caller::witness;
use crate::config::sinks::{STREAM, SinkTarget};
use crate::config::{Config, MetricsAt};
use crate::control;
use crate::ids::MetadataAddr;
use crate::intercept::{Marks, RuleSet};
use crate::metrics;
use crate::proxy::Listener;
use crate::watch::report;

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

/// What the daemon listens on.
pub(super) struct Sockets {
    pub(super) listeners: Vec<Listener>,
    /// For the watcher of the rules, if one was handed over.
    pub(super) post: Option<UnixListener>,
    /// For the witness, as well.
    pub(super) witness: Option<UnixListener>,
    /// For root's orders, as well.
    pub(super) control: Option<UnixListener>,
    /// For the same where nobody else can connect, as well.
    pub(super) root: Option<UnixListener>,
    /// For whoever reads metrics, as well.
    pub(super) metrics: Option<metrics::Listener>,
    /// For those who follow the log, as well, and where.
    pub(super) streams: Vec<(PathBuf, UnixListener)>,
}

impl Sockets {
    /// Binds all listeners.
    pub(super) fn bind(rules: &RuleSet) -> Result<Self, StartError> {
        let (port, mark) = (rules.listen_port(), rules.marks().listener);
        let bind = |service: &MetadataAddr| {
            Listener::bind(*service, port, mark)
                .map_err(|error| StartError::Bind(service.0, port, error))
        };
        let listeners: Result<_, _> = rules.destinations().iter().map(bind).collect();
        Ok(Self {
            listeners: listeners?,
            post: None,
            witness: None,
            control: None,
            root: None,
            metrics: None,
            streams: Vec::new(),
        })
    }

    /// Takes the handed sockets, if they are just those that [`Sockets::bind`]
    /// would make, and those for watcher, witness and orders. The listeners
    /// are marked here where this process may do that.
    pub(super) fn adopt(
        handed: Vec<OwnedFd>,
        rules: &RuleSet,
        config: &Config,
    ) -> Result<Self, HandedError> {
        let mut sockets = Self {
            listeners: Vec::new(),
            post: None,
            witness: None,
            control: None,
            root: None,
            metrics: None,
            streams: Vec::new(),
        };
        for (at, fd) in handed.into_iter().enumerate() {
            if listens_at(&fd, &report::socket(config), Type::STREAM) {
                sockets.post = Some(fd.into());
            } else if listens_at(&fd, &witness::socket(config), Type::SEQPACKET) {
                sockets.witness = Some(fd.into());
            } else if listens_at(&fd, &config.control_socket, Type::STREAM) {
                sockets.control = Some(fd.into());
            } else if listens_at(
                &fd,
                &control::root_socket(&config.control_socket),
                Type::STREAM,
            ) {
                sockets.root = Some(fd.into());
            } else if let Some(fetched) = fetched_at(&fd, config) {
                sockets.metrics = Some(fetched(fd));
            } else if let Some(path) = streams(config).find(|it| listens_at(&fd, it, Type::STREAM))
            {
                sockets.streams.push((path.to_path_buf(), fd.into()));
            } else if listens_at(&fd, Path::new(STREAM), Type::STREAM) {
                tracing::warn!("{STREAM} is held, but no [[audit.sink]] has it as its path");
            } else {
                sockets.listen(at, fd, rules)?;
            }
        }
        let served = |it: &&MetadataAddr| sockets.has(**it);
        match rules.destinations().iter().find(|it| !served(it)) {
            Some(missing) => Err(HandedError::Missing(rules.listener(*missing))),
            None => Ok(sockets),
        }
    }

    fn listen(&mut self, at: usize, fd: OwnedFd, rules: &RuleSet) -> Result<(), HandedError> {
        let address = listening_on(&fd).map_err(|is| HandedError::NotListening(at, is))?;
        let mut destinations = rules.destinations().iter();
        let service = *destinations
            .find(|destination| rules.listener(**destination) == address)
            .ok_or(HandedError::Foreign(address))?;
        if self.has(service) {
            return Err(HandedError::Twice(address));
        }
        let socket = std::net::TcpListener::from(fd);
        set_up(&socket, address, rules.marks())?;
        self.listeners.push(Listener { socket, service });
        Ok(())
    }

    fn has(&self, service: MetadataAddr) -> bool {
        self.listeners.iter().any(|it| it.service == service)
    }
}

/// Where the log can be followed.
pub(super) fn streams(config: &Config) -> impl Iterator<Item = &Path> {
    config.audit.sinks.iter().filter_map(|sink| match &sink.to {
        SinkTarget::Stream(path) => Some(path.as_path()),
        _ => None,
    })
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

fn listens_at(fd: &OwnedFd, path: &Path, kind: Type) -> bool {
    let socket = SockRef::from(fd);
    let address = socket.local_addr().ok();
    address.is_some_and(|it| it.as_pathname() == Some(path))
        && socket.r#type().is_ok_and(|it| it == kind)
        && socket.is_listener().unwrap_or(false)
}

/// As what it is a place where the config has metrics fetched.
fn fetched_at(fd: &OwnedFd, config: &Config) -> Option<fn(OwnedFd) -> metrics::Listener> {
    match config.metrics.as_ref()? {
        MetricsAt::Socket(path) if listens_at(fd, path, Type::STREAM) => {
            Some(|fd| metrics::Listener::Unix(fd.into()))
        }
        MetricsAt::Loopback(address) if listening_on(fd) == Ok(*address) => {
            Some(|fd| metrics::Listener::Tcp(fd.into()))
        }
        _ => None,
    }
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
