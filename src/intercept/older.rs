//! Connections to a metadata address that are older than the rules.
//!
//! They never met the redirect. The guards refuse what they send from now on;
//! here their sockets are destroyed (SOCK_DESTROY, linux/sock_diag.h), so that
//! nothing more arrives on them either. Redirected clients show the metadata
//! address too, so this must only run when the first rules have been loaded.

use std::fmt;
use std::net::IpAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, send};

use super::model::RuleSet;
use crate::caller::sock_diag::{self, Fields};
use crate::ids::unmapped;

// linux/netlink.h, linux/sock_diag.h, net/tcp_states.h.
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const SOCK_DIAG_BY_FAMILY: u16 = 20;
const SOCK_DESTROY: u16 = 21;
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
/// All but TIME_WAIT, CLOSE, LISTEN and NEW_SYN_RECV, which hold no connection.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;
/// `nlmsghdr` and `inet_diag_req_v2`.
const REQUEST_LEN: u32 = 72;

/// What became of the connections older than the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// So many sockets were destroyed.
    Destroyed(usize),
    /// The kernel did not do it.
    Impossible {
        /// EOPNOTSUPP without CONFIG_INET_DIAG_DESTROY.
        errno: Errno,
        /// Whose connections may be left.
        addresses: Vec<IpAddr>,
    },
}

/// Destroys every TCP socket that is connected to an address of the rules.
pub(super) fn end_connections(rules: &RuleSet) -> Ended {
    let destinations = rules.destinations().iter().map(|it| it.0.ip());
    let addresses: Vec<IpAddr> = destinations.chain(rules.closed().iter().copied()).collect();
    match Sockets::open().and_then(|mut sockets| sockets.end(&addresses)) {
        Ok(count) => Ended::Destroyed(count),
        Err(errno) => Ended::Impossible { errno, addresses },
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Destroyed(count) => {
                write!(f, "ended {count} connections older than the rules")
            }
            Self::Impossible { errno, addresses } => {
                let why = match errno {
                    Errno::EOPNOTSUPP => "it has no CONFIG_INET_DIAG_DESTROY",
                    errno => errno.desc(),
                };
                write!(
                    f,
                    "the kernel could not end connections older than the rules ({why}). What \
                     they send is refused; to have them forgotten as well:"
                )?;
                addresses
                    .iter()
                    .try_for_each(|ip| write!(f, "\n  conntrack -D -d {ip}"))
            }
        }
    }
}

/// A socket's family and its `inet_diag_sockid`, which names it to the kernel.
struct Id {
    family: u8,
    id: [u8; 48],
}

struct Sockets {
    fd: OwnedFd,
    seq: u32,
}

impl Sockets {
    fn open() -> Result<Self, Errno> {
        Ok(Self {
            fd: sock_diag::open()?,
            seq: 0,
        })
    }

    fn end(&mut self, addresses: &[IpAddr]) -> Result<usize, Errno> {
        let mut count = 0;
        // Sockets of family inet6 may be connected to mapped addresses.
        for family in [libc::AF_INET, libc::AF_INET6] {
            let family = u8::try_from(family).map_err(|_| Errno::EAFNOSUPPORT)?;
            for id in self.connected(family, addresses)? {
                match self.destroy(&id) {
                    Ok(()) => count += 1,
                    Err(Errno::ENOENT) => {}
                    Err(errno) => return Err(errno),
                }
            }
        }
        Ok(count)
    }

    fn connected(&mut self, family: u8, addresses: &[IpAddr]) -> Result<Vec<Id>, Errno> {
        let dump = NLM_F_REQUEST | NLM_F_DUMP;
        self.ask(SOCK_DIAG_BY_FAMILY, dump, family, &[0; 48])?;
        let mut found = Vec::new();
        loop {
            let batch = self.receive()?;
            let mut rest = batch.as_slice();
            while let Some((kind, message, next)) = message(rest, self.seq) {
                match kind {
                    NLMSG_DONE => return Ok(found),
                    NLMSG_ERROR => return Err(error(message).unwrap_or(Errno::EBADMSG)),
                    _ => found.extend(matching(message, addresses)),
                }
                rest = next;
            }
        }
    }

    fn destroy(&mut self, socket: &Id) -> Result<(), Errno> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        self.ask(SOCK_DESTROY, flags, socket.family, &socket.id)?;
        let answer = self.receive()?;
        match message(&answer, self.seq) {
            Some((NLMSG_ERROR, message, _)) => error(message).map_or(Ok(()), Err),
            _ => Err(Errno::EBADMSG),
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, id: &[u8; 48]) -> Result<(), Errno> {
        self.seq = self.seq.wrapping_add(1);
        let protocol = u8::try_from(libc::IPPROTO_TCP).map_err(|_| Errno::EPROTONOSUPPORT)?;
        let mut request = Vec::with_capacity(72);
        request.extend(REQUEST_LEN.to_ne_bytes());
        request.extend(kind.to_ne_bytes());
        request.extend(flags.to_ne_bytes());
        request.extend(self.seq.to_ne_bytes());
        request.extend(0u32.to_ne_bytes());
        request.extend([family, protocol, 0, 0]);
        request.extend(STATES.to_ne_bytes());
        request.extend(id);
        send(self.fd.as_raw_fd(), &request, MsgFlags::empty()).map(drop)
    }

    fn receive(&self) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; 1 << 16];
        let len = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(len);
        Ok(buffer)
    }
}

/// The kind and payload of the first message, if it answers question `seq`,
/// and what follows it.
fn message(bytes: &[u8], seq: u32) -> Option<(u16, &[u8], &[u8])> {
    let mut fields = Fields(bytes);
    let len = usize::try_from(u32::from_ne_bytes(fields.take()?)).ok()?;
    let kind = u16::from_ne_bytes(fields.take()?);
    let _flags: [u8; 2] = fields.take()?;
    let is_ours = u32::from_ne_bytes(fields.take()?) == seq;
    let payload = bytes.get(16..len)?;
    let next = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    is_ours.then_some((kind, payload, next))
}

/// `None` for an acknowledgement, which is error 0.
fn error(message: &[u8]) -> Option<Errno> {
    match Fields(message).take().map(i32::from_ne_bytes) {
        Some(0) => None,
        Some(code) => Some(Errno::from_raw(code.saturating_neg())),
        None => Some(Errno::EBADMSG),
    }
}

/// From an `inet_diag_msg`: family, state, timer, retrans, then the id, which
/// has the ports, the source and the destination.
fn matching(message: &[u8], addresses: &[IpAddr]) -> Option<Id> {
    let mut fields = Fields(message);
    let [family, ..]: [u8; 4] = fields.take()?;
    let id: [u8; 48] = fields.take()?;
    let destination = Fields(id.get(20..)?).take()?;
    let ip = sock_diag::ip(family, destination)?;
    let ip = unmapped((ip, 0).into()).ip();
    addresses.contains(&ip).then_some(Id { family, id })
}
