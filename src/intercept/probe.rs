//! Whether the rules are in force, as seen without any right to read them:
//! from what becomes of the daemon's own connections.
//!
//! Must never take somebody else's refusal for that of the rules, nor wait.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::model::RuleSet;
use crate::ids::MetadataAddr;

/// The rules refuse before a packet leaves: it takes microseconds. This is
/// for a host that does not get to run.
const AT_ONCE: Duration = Duration::from_millis(250);

/// A way that stands open, or that nothing refuses.
#[derive(Debug)]
pub enum Open {
    /// To the listener, not by way of the redirect: whoever comes that way
    /// could be taken for somebody else.
    Listener(SocketAddr, Met),
    /// To another port of the metadata address: what the redirect misses
    /// reaches the service.
    Service(SocketAddr, Met),
}

/// What a connection met that should have been refused at once.
#[derive(Debug)]
pub enum Met {
    /// It was established.
    Connected,
    /// It was left waiting.
    Silence,
    /// It failed in another way.
    Failed(io::Error),
}

/// Tries what the rules must refuse: for each destination, its listener
/// directly, and another port of the service. Needs no privilege, and
/// listeners that listen.
///
/// An IPv6 destination to which this host has no route is not probed beyond
/// its listener: nobody reaches it either.
///
/// # Errors
/// The first way that is open.
pub fn probe(rules: &RuleSet) -> Result<(), Open> {
    for destination in rules.destinations() {
        let listener = rules.listener(*destination);
        if let Some(met) = met(connect(listener, None)) {
            return Err(Open::Listener(listener, met));
        }
        let service = other_port(*destination);
        match connect(service, Some(listener.ip())) {
            Err(error) if error.kind() == io::ErrorKind::NetworkUnreachable => {}
            outcome => {
                if let Some(met) = met(outcome) {
                    return Err(Open::Service(service, met));
                }
            }
        }
    }
    Ok(())
}

fn other_port(MetadataAddr(mut service): MetadataAddr) -> SocketAddr {
    service.set_port(if service.port() == 81 { 82 } else { 81 });
    service
}

/// Connects, from loopback where that is asked for: a service could refuse
/// the port by itself, but its answer would not find the way back there.
fn connect(to: SocketAddr, from_loopback: Option<IpAddr>) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    match from_loopback {
        // A source of 127.0.0.1 has no way out; the device has. Before Linux
        // 5.7 this takes a capability, and the answer may be the service's.
        Some(IpAddr::V4(_)) => drop(socket.bind_device(Some(b"lo"))),
        Some(IpAddr::V6(_)) => socket.bind(&SocketAddr::from((Ipv6Addr::LOCALHOST, 0)).into())?,
        None => {}
    }
    // Also how long connect(2) waits.
    socket.set_write_timeout(Some(AT_ONCE))?;
    socket.connect(&to.into())
}

fn met(outcome: io::Result<()>) -> Option<Met> {
    match outcome {
        Ok(()) => Some(Met::Connected),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => None,
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Some(Met::Silence),
        Err(error) => Some(Met::Failed(error)),
    }
}

impl fmt::Display for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Listener(addr, met) => write!(
                f,
                "a connection straight to the listener {addr} {met}, where the rules refuse it \
                 at once"
            ),
            Self::Service(addr, met) => write!(
                f,
                "a connection to another port of the metadata address, {addr}, {met}, where the \
                 rules refuse it at once"
            ),
        }
    }
}

impl fmt::Display for Met {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connected => f.write_str("was established"),
            Self::Silence => f.write_str("was left without an answer"),
            Self::Failed(error) => write!(f, "failed otherwise ({error})"),
        }
    }
}

impl std::error::Error for Open {}
