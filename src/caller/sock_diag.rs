//! Who owns the client's end of a connection, asked of the kernel over
//! NETLINK_SOCK_DIAG (sock_diag(7)). Needs no privilege.
//!
//! An exact lookup that finds no connection falls back to a listening socket,
//! and a closed one answers uid 0; so a reply counts only if it is of exactly
//! the socket asked for, established, with an inode. This must never return a
//! uid on anything less.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recvfrom,
    send, socket,
};

use crate::ids::{ClientAddr, MetadataAddr, Uid, unmapped};
use crate::sys::netlink::{self, Fields, Message, NLMSG_ERROR};

// linux/sock_diag.h, linux/inet_diag.h, net/tcp_states.h.
pub(crate) const SOCK_DIAG_BY_FAMILY: u16 = 20;
const TCP_ESTABLISHED: u8 = 1;
const INET_DIAG_CGROUP_ID: u16 = 21;
const NO_COOKIE: u64 = u64::MAX;

/// The two ends of a connection as the client's own socket has them: its
/// address, and the metadata address it connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSocket {
    /// The client's end.
    pub client: ClientAddr,
    /// What it believes it talks to.
    pub service: MetadataAddr,
}

/// What the kernel says of a client's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketOwner {
    /// The fsuid of the process at socket(2), in the initial user namespace.
    pub uid: Uid,
    /// Of the socket; not 0.
    pub inode: u32,
    /// Unique for the life of the kernel: a later socket on the same
    /// addresses has another.
    pub cookie: u64,
    /// The cgroup v2 the socket was made in.
    pub cgroup: Option<u64>,
}

/// Why nobody can be named as the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallerUnknown {
    /// No such socket: closed, reset, or of another network namespace.
    NoSocket,
    /// The kernel answered for another socket, as it does with a listener.
    OtherSocket,
    /// Not established: being closed, its uid no longer holds.
    NotEstablished,
    /// No process has it open.
    NoInode,
    /// It is the daemon's own.
    OwnUid,
    /// Another socket has taken its place since.
    Replaced,
    /// The kernel could not be asked.
    Netlink(Errno),
}

impl CallerUnknown {
    /// The word for the record's `detail`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSocket => "no_socket",
            Self::OtherSocket => "other_socket",
            Self::NotEstablished => "not_established",
            Self::NoInode => "no_inode",
            Self::OwnUid => "own_uid",
            Self::Replaced => "replaced",
            Self::Netlink(_) => "netlink",
        }
    }
}

impl fmt::Display for CallerUnknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Netlink(errno) => write!(f, "sock_diag: {}", errno.desc()),
            other => f.write_str(other.as_str()),
        }
    }
}

/// A long-lived netlink socket. Questions are answered before send(2)
/// returns, so asking never waits.
#[derive(Debug)]
pub struct SockDiag {
    fd: OwnedFd,
    seq: u32,
    own_uid: Uid,
    /// Kept from one to the next.
    request: Vec<u8>,
}

impl SockDiag {
    /// Opens the socket. Sockets of `own_uid` are never callers.
    pub fn new(own_uid: Uid) -> Result<Self, Errno> {
        Ok(Self {
            fd: open()?,
            seq: 0,
            own_uid,
            request: Vec::new(),
        })
    }

    /// The owner of a client's socket.
    pub fn owner(&mut self, of: ClientSocket) -> Result<SocketOwner, CallerUnknown> {
        self.ask(of, NO_COOKIE)
    }

    /// The owner of the very socket that has this cookie: a socket that took
    /// over its addresses is no answer.
    pub fn owner_by_cookie(
        &mut self,
        of: ClientSocket,
        cookie: u64,
    ) -> Result<SocketOwner, CallerUnknown> {
        match self.ask(of, cookie) {
            Ok(owner) if owner.cookie == cookie => Ok(owner),
            Ok(_) | Err(CallerUnknown::Netlink(Errno::ESTALE)) => Err(CallerUnknown::Replaced),
            Err(error) => Err(error),
        }
    }

    /// Whether the very socket that `owner` was read from is still there,
    /// unchanged.
    pub fn still(&mut self, of: ClientSocket, owner: &SocketOwner) -> Result<(), CallerUnknown> {
        match self.owner_by_cookie(of, owner.cookie) {
            Ok(now) if now == *owner => Ok(()),
            Ok(_) => Err(CallerUnknown::Replaced),
            Err(error) => Err(error),
        }
    }

    fn ask(&mut self, of: ClientSocket, cookie: u64) -> Result<SocketOwner, CallerUnknown> {
        self.seq = self.seq.wrapping_add(1);
        request(&mut self.request, of, cookie, self.seq).ok_or(CallerUnknown::OtherSocket)?;
        send(self.fd.as_raw_fd(), &self.request, MsgFlags::empty())
            .map_err(CallerUnknown::Netlink)?;
        let mut buffer = [0; 1024];
        // A reply to an earlier question can only be left over from one whose
        // reading failed; what is behind it is ours.
        for _ in 0..8 {
            let (len, from) = recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut buffer)
                .map_err(CallerUnknown::Netlink)?;
            if from.is_none_or(|from| from.pid() != 0) {
                continue;
            }
            let reply = buffer.get(..len).unwrap_or_default();
            if let Some(reply) = Reply::parse(reply, self.seq) {
                return reply?.owner(of, self.own_uid);
            }
        }
        Err(CallerUnknown::Netlink(Errno::EBADMSG))
    }
}

/// A socket on which the kernel, and nobody else, is asked.
pub(crate) fn open() -> Result<OwnedFd, Errno> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
        SockProtocol::NetlinkSockDiag,
    )?;
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    Ok(fd)
}

/// One for one socket: an `inet_diag_req_v2`.
fn request(to: &mut Vec<u8>, of: ClientSocket, cookie: u64, seq: u32) -> Option<()> {
    let (client, service) = (of.client.get(), of.service.0);
    let family = match (client, service) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => libc::AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => libc::AF_INET6,
        _ => return None,
    };
    let interface = 0u32;
    netlink::request(
        to,
        SOCK_DIAG_BY_FAMILY,
        0,
        seq,
        &[
            &of_tcp(u8::try_from(family).ok()?, 1 << TCP_ESTABLISHED),
            &client.port().to_be_bytes(),
            &service.port().to_be_bytes(),
            &address(client.ip()),
            &address(service.ip()),
            &interface.to_ne_bytes(),
            &cookie.to_ne_bytes(),
        ],
    );
    Some(())
}

/// What an `inet_diag_req_v2` has before the `inet_diag_sockid`: family,
/// protocol, two fields unused, and a bit for each state.
pub(crate) fn of_tcp(family: u8, states: u32) -> [u8; 8] {
    /// IPPROTO_TCP.
    const TCP: u8 = 6;
    let [s0, s1, s2, s3] = states.to_ne_bytes();
    [family, TCP, 0, 0, s0, s1, s2, s3]
}

fn address(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V6(v6) => v6.octets(),
        IpAddr::V4(v4) => {
            let mut out = [0; 16];
            for (to, from) in out.iter_mut().zip(v4.octets()) {
                *to = from;
            }
            out
        }
    }
}

/// What [`SockDiag`] makes of a message that the kernel sent.
#[cfg(any(test, fuzzing))]
pub(crate) fn reply(
    message: &[u8],
    seq: u32,
    asked: ClientSocket,
    own_uid: Uid,
) -> Option<Result<SocketOwner, CallerUnknown>> {
    Some(Reply::parse(message, seq)?.and_then(|reply| reply.owner(asked, own_uid)))
}

/// `inet_diag_msg` and the one attribute of interest.
#[derive(Debug, PartialEq, Eq)]
struct Reply {
    state: u8,
    local: SocketAddr,
    remote: SocketAddr,
    cookie: u64,
    uid: u32,
    inode: u32,
    cgroup: Option<u64>,
}

impl Reply {
    /// `None` for a message that is no reply to question `seq`.
    fn parse(datagram: &[u8], seq: u32) -> Option<Result<Self, CallerUnknown>> {
        let (message, _) = Message::parse(datagram)?;
        if message.seq != seq {
            return None;
        }
        match message.kind {
            NLMSG_ERROR => Some(Err(match message.outcome() {
                Err(Errno::ENOENT) => CallerUnknown::NoSocket,
                Err(errno) => CallerUnknown::Netlink(errno),
                // No acknowledgement was asked for.
                Ok(()) => CallerUnknown::Netlink(Errno::EBADMSG),
            })),
            SOCK_DIAG_BY_FAMILY => {
                Some(Self::fields(message.payload).ok_or(CallerUnknown::Netlink(Errno::EBADMSG)))
            }
            _ => None,
        }
    }

    fn fields(mut fields: Fields<'_>) -> Option<Self> {
        let [family, state, _timer, _retrans] = fields.take()?;
        let local_port = u16::from_be_bytes(fields.take()?);
        let remote_port = u16::from_be_bytes(fields.take()?);
        let local = ip(family, fields.take()?)?;
        let remote = ip(family, fields.take()?)?;
        let _interface: [u8; 4] = fields.take()?;
        let cookie = u64::from_ne_bytes(fields.take()?);
        let _expires_and_queues: [u8; 12] = fields.take()?;
        Some(Self {
            state,
            local: unmapped(SocketAddr::new(local, local_port)),
            remote: unmapped(SocketAddr::new(remote, remote_port)),
            cookie,
            uid: u32::from_ne_bytes(fields.take()?),
            inode: u32::from_ne_bytes(fields.take()?),
            cgroup: fields
                .attribute(INET_DIAG_CGROUP_ID)
                .and_then(|id| id.try_into().ok())
                .map(u64::from_ne_bytes),
        })
    }

    fn owner(self, asked: ClientSocket, own_uid: Uid) -> Result<SocketOwner, CallerUnknown> {
        if self.local != asked.client.get() || self.remote != asked.service.0 {
            return Err(CallerUnknown::OtherSocket);
        }
        if self.state != TCP_ESTABLISHED {
            return Err(CallerUnknown::NotEstablished);
        }
        if self.inode == 0 {
            return Err(CallerUnknown::NoInode);
        }
        if Uid(self.uid) == own_uid {
            return Err(CallerUnknown::OwnUid);
        }
        Ok(SocketOwner {
            uid: Uid(self.uid),
            inode: self.inode,
            cookie: self.cookie,
            cgroup: self.cgroup,
        })
    }
}

/// A client that connected to a v4-mapped address has a v6 socket; the kernel
/// answers with mapped addresses then.
pub(crate) fn ip(family: u8, bytes: [u8; 16]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => bytes.first_chunk::<4>().map(|v4| IpAddr::from(*v4)),
        libc::AF_INET6 => Some(Ipv6Addr::from(bytes).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::getuid;
    use proptest::prelude::*;
    use std::net::{TcpListener, TcpStream};

    fn socket_of(stream: &TcpStream) -> ClientSocket {
        ClientSocket {
            client: ClientAddr::new(stream.local_addr().unwrap()),
            service: MetadataAddr(unmapped(stream.peer_addr().unwrap())),
        }
    }

    fn diag() -> SockDiag {
        SockDiag::new(Uid(u32::MAX)).unwrap()
    }

    #[test]
    fn names_the_owner_of_v4_v6_and_mapped_sockets() {
        for (listen, to) in [
            ("127.0.0.1:0", "127.0.0.1"),
            ("[::1]:0", "[::1]"),
            ("127.0.0.1:0", "[::ffff:127.0.0.1]"),
        ] {
            let listener = TcpListener::bind(listen).unwrap();
            let port = listener.local_addr().unwrap().port();
            let client = TcpStream::connect(format!("{to}:{port}")).unwrap();
            let owner = diag().owner(socket_of(&client)).unwrap();
            assert_eq!(owner.uid, Uid(getuid().as_raw()));
            assert_eq!(diag().still(socket_of(&client), &owner), Ok(()));
        }
    }

    #[test]
    fn a_listener_is_never_taken_for_the_caller() {
        // The kernel falls back to a listener on the client's port.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let asked = ClientSocket {
            client: ClientAddr::new(listener.local_addr().unwrap()),
            service: MetadataAddr("127.0.0.1:9".parse().unwrap()),
        };
        assert_eq!(diag().owner(asked), Err(CallerUnknown::OtherSocket));
    }

    #[test]
    fn a_closed_or_half_closed_socket_names_nobody() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (_server, _) = listener.accept().unwrap();
        let asked = socket_of(&client);
        let owner = diag().owner(asked).unwrap();
        client.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(diag().owner(asked), Err(CallerUnknown::NotEstablished));
        drop(client);
        assert!(diag().owner(asked).is_err());
        assert!(diag().still(asked, &owner).is_err());
    }

    #[test]
    fn the_daemons_own_socket_is_nobodys() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut diag = SockDiag::new(Uid(getuid().as_raw())).unwrap();
        assert_eq!(diag.owner(socket_of(&client)), Err(CallerUnknown::OwnUid));
    }

    #[test]
    fn a_successor_on_the_same_addresses_is_not_the_first() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let owner = diag().owner(socket_of(&client)).unwrap();
        let other = SocketOwner {
            cookie: owner.cookie ^ 1,
            ..owner
        };
        assert!(diag().still(socket_of(&client), &other).is_err());
    }

    proptest! {
        #[test]
        fn total_on_any_reply(mut bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Reply::parse(&bytes, 0);
            // Past the header: the right length, kind and sequence number.
            if bytes.len() >= 16 {
                let len = u32::try_from(bytes.len()).unwrap().to_ne_bytes();
                bytes[..4].copy_from_slice(&len);
                bytes[4..6].copy_from_slice(&SOCK_DIAG_BY_FAMILY.to_ne_bytes());
                bytes[8..12].copy_from_slice(&7u32.to_ne_bytes());
                let _ = Reply::parse(&bytes, 7);
            }
        }
    }
}
