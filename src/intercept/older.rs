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
use crate::caller::sock_diag::{self, SOCK_DIAG_BY_FAMILY};
use crate::ids::unmapped;
use crate::sys::netlink::{self, Fields, Message, NLM_F_ACK, NLM_F_DUMP, NLMSG_DONE, NLMSG_ERROR};

// linux/sock_diag.h, net/tcp_states.h.
const SOCK_DESTROY: u16 = 21;
/// All but TIME_WAIT, CLOSE, LISTEN and NEW_SYN_RECV, which hold no connection.
const STATES: u32 = 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 8 | 1 << 9 | 1 << 11;

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
        self.ask(SOCK_DIAG_BY_FAMILY, NLM_F_DUMP, family, &[0; 48])?;
        let mut found = Vec::new();
        loop {
            let batch = self.receive()?;
            let mut rest = batch.as_slice();
            while let Some((message, next)) = self.answer(rest) {
                match message.kind {
                    NLMSG_DONE => return message.outcome().map(|()| found),
                    NLMSG_ERROR => return Err(message.outcome().err().unwrap_or(Errno::EBADMSG)),
                    _ => found.extend(matching(message.payload, addresses)),
                }
                rest = next;
            }
        }
    }

    fn destroy(&mut self, socket: &Id) -> Result<(), Errno> {
        self.ask(SOCK_DESTROY, NLM_F_ACK, socket.family, &socket.id)?;
        let received = self.receive()?;
        match self.answer(&received) {
            Some((message, _)) if message.kind == NLMSG_ERROR => message.outcome(),
            _ => Err(Errno::EBADMSG),
        }
    }

    fn ask(&mut self, kind: u16, flags: u16, family: u8, id: &[u8; 48]) -> Result<(), Errno> {
        self.seq = self.seq.wrapping_add(1);
        let mut request = Vec::new();
        let of = sock_diag::of_tcp(family, STATES);
        netlink::request(&mut request, kind, flags, self.seq, &[&of, id]);
        send(self.fd.as_raw_fd(), &request, MsgFlags::empty()).map(drop)
    }

    /// The first message, if it answers the last question, and what follows.
    fn answer<'a>(&self, received: &'a [u8]) -> Option<(Message<'a>, &'a [u8])> {
        Message::parse(received).filter(|(message, _)| message.seq == self.seq)
    }

    fn receive(&self) -> Result<Vec<u8>, Errno> {
        let mut buffer = vec![0; 1 << 16];
        let len = recv(self.fd.as_raw_fd(), &mut buffer, MsgFlags::empty())?;
        buffer.truncate(len);
        Ok(buffer)
    }
}

/// From an `inet_diag_msg`: family, state, timer, retrans, then the id, which
/// has the ports, the source and the destination.
fn matching(mut fields: Fields<'_>, addresses: &[IpAddr]) -> Option<Id> {
    let [family, ..]: [u8; 4] = fields.take()?;
    let id: [u8; 48] = fields.take()?;
    let destination = Fields(id.get(20..)?).take()?;
    let ip = sock_diag::ip(family, destination)?;
    let ip = unmapped((ip, 0).into()).ip();
    addresses.contains(&ip).then_some(Id { family, id })
}
