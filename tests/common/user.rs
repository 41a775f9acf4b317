//! Sockets of other users, made in this process: a socket belongs to the
//! filesystem uid of the thread that calls socket(), and that can be set for
//! one thread alone.

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockProtocol, SockType, SockaddrStorage, bind, connect, getsockopt,
    setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};
use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

/// Longer than any refusal takes, shorter than the first retransmission of a
/// SYN: what has not been refused by then hangs.
const AT_ONCE: Duration = Duration::from_millis(700);

/// Whose socket it is; root aside, never a uid that is also the gid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

pub(crate) const ROOT: User = User { uid: 0, gid: 0 };
pub(crate) const DAEMON: User = User {
    uid: 64000,
    gid: 64100,
};
pub(crate) const ALICE: User = User {
    uid: 4001,
    gid: 4100,
};
pub(crate) const BOB: User = User {
    uid: 4002,
    gid: 4200,
};
pub(crate) const INSTANCE_CONNECT: User = User {
    uid: 4003,
    gid: 4300,
};
pub(crate) const CWAGENT: User = User {
    uid: 4004,
    gid: 4400,
};
/// A uid without account.
pub(crate) const STRANGER: User = User {
    uid: 4009,
    gid: 4900,
};

/// A TCP client before it connects.
pub(crate) struct Client {
    fd: OwnedFd,
}

impl User {
    /// Runs `f` with this user's filesystem ids, on this thread.
    pub(crate) fn run<T>(self, f: impl FnOnce() -> T) -> T {
        setfsgid(Gid::from_raw(self.gid));
        setfsuid(Uid::from_raw(self.uid));
        let result = f();
        setfsuid(Uid::from_raw(0));
        setfsgid(Gid::from_raw(0));
        result
    }

    /// A socket of this user; nothing on it waits longer than a refusal takes.
    pub(crate) fn socket(
        self,
        family: SocketAddr,
        kind: SockType,
        protocol: Option<SockProtocol>,
    ) -> OwnedFd {
        let domain = match family {
            SocketAddr::V4(_) => AddressFamily::Inet,
            SocketAddr::V6(_) => AddressFamily::Inet6,
        };
        let fd = self
            .run(|| socket(domain, kind, SockFlag::SOCK_CLOEXEC, protocol))
            .unwrap();
        let wait = TimeVal::new(0, AT_ONCE.as_micros() as i64);
        setsockopt(&fd, sockopt::SendTimeout, &wait).unwrap();
        setsockopt(&fd, sockopt::ReceiveTimeout, &wait).unwrap();
        fd
    }

    /// A TCP client for an address of this family.
    pub(crate) fn client(self, family: SocketAddr) -> Client {
        Client {
            fd: self.socket(family, SockType::Stream, None),
        }
    }

    /// Connects, or fails within [`AT_ONCE`].
    pub(crate) fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        self.client(to).connect(to)
    }

    /// Connects from a given address and port, also one in use elsewhere.
    pub(crate) fn connect_from(self, from: SocketAddr, to: SocketAddr) -> io::Result<TcpStream> {
        self.client(to).bound(from).connect(to)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Client {
    /// Does not give up before a busy machine gets round to it.
    pub(crate) fn patient(self, patience: Duration) -> Self {
        let wait = TimeVal::new(
            patience.as_secs().cast_signed(),
            patience.subsec_micros().into(),
        );
        setsockopt(&self.fd, sockopt::SendTimeout, &wait).unwrap();
        self
    }

    pub(crate) fn bound(self, from: SocketAddr) -> Self {
        setsockopt(&self.fd, sockopt::ReuseAddr, &true).unwrap();
        bind(self.fd.as_raw_fd(), &SockaddrStorage::from(from)).unwrap();
        self
    }

    /// So that what is sent to it piles up at the other end.
    pub(crate) fn small_receive_buffer(self) -> Self {
        setsockopt(&self.fd, sockopt::RcvBuf, &4096).unwrap();
        self
    }

    pub(crate) fn bound_to_device(self, device: &str) -> Self {
        setsockopt(&self.fd, sockopt::BindToDevice, &device.into()).unwrap();
        self
    }

    pub(crate) fn connect(self, to: SocketAddr) -> io::Result<TcpStream> {
        let start = Instant::now();
        match connect(self.fd.as_raw_fd(), &SockaddrStorage::from(to)) {
            Ok(()) => Ok(TcpStream::from(self.fd)),
            // EINTR also without a signal: from a machine that was frozen.
            Err(Errno::EINPROGRESS | Errno::EINTR) => self.connecting(start),
            Err(errno) => Err(errno.into()),
        }
    }

    /// What became of a connection. Where the machine stood still, both the
    /// answer and the end of the wait have come since.
    fn connecting(self, start: Instant) -> io::Result<TcpStream> {
        let wait = getsockopt(&self.fd, sockopt::SendTimeout)?;
        let end = start + Duration::from_micros(wait.num_microseconds().cast_unsigned());
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut fds = [PollFd::new(self.fd.as_fd(), PollFlags::POLLOUT)];
            match poll(&mut fds, PollTimeout::try_from(left).unwrap()) {
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
                Ok(0) => {
                    let waited = format!("no answer in {:?}", start.elapsed());
                    return Err(io::Error::new(io::ErrorKind::TimedOut, waited));
                }
                Ok(_) => break,
            }
        }
        match getsockopt(&self.fd, sockopt::SocketError)? {
            0 => Ok(TcpStream::from(self.fd)),
            errno => Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

/// A listener on which `accept` gives up after [`AT_ONCE`].
pub(crate) fn listen(on: SocketAddr) -> TcpListener {
    let listener = TcpListener::bind(on).unwrap_or_else(|e| panic!("{on}: {e}"));
    let wait = TimeVal::new(0, AT_ONCE.as_micros() as i64);
    setsockopt(&listener, sockopt::ReceiveTimeout, &wait).unwrap();
    listener
}

/// A listener as the daemon's are: with the mark by which the rules know it.
pub(crate) fn listen_marked(on: SocketAddr) -> TcpListener {
    let listener = listen(on);
    setsockopt(&listener, sockopt::Mark, &0x61).unwrap();
    listener
}

/// That a connection was refused by a reset, and not left to hang.
#[track_caller]
pub(crate) fn assert_refused(outcome: io::Result<TcpStream>) {
    match outcome {
        Ok(stream) => panic!("connected to {:?}", stream.peer_addr()),
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{error}"),
    }
}
