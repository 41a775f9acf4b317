//! The daemon's side: asks the witness, and waits no longer than it may.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};
use tokio::net::UnixDatagram;
use tokio::sync::oneshot;

use super::start::{WitnessError, start};
use super::{ANSWER_MAX, Answer, Question, Reply, RunAs, Seen, Urgency};
use crate::ids::Uid;

/// Clients give up after one second. Longer than one pass may take.
const DEADLINE: Duration = Duration::from_millis(900);
/// A witness that has had enough of questions is not asked again so soon.
const REST: Duration = Duration::from_millis(20);
/// For a witness that comes and goes by itself.
const CONNECT_EVERY: Duration = Duration::from_millis(500);

/// Why it is not known who holds a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unwitnessed {
    /// There is no witness.
    Gone,
    /// No answer in time.
    Slow,
    /// Not every process could be looked at, or not in time.
    Incomplete,
    /// More processes than an answer holds.
    TooMany,
    /// Not looked for now; nobody was in a hurry.
    Busy,
}

/// The daemon's witness.
pub struct Witness {
    source: Source,
    state: Mutex<State>,
}

enum Source {
    /// Started by this process, and not again: that takes root.
    Child,
    /// At a socket that root or this uid listens on.
    At(PathBuf, Uid),
}

#[derive(Default)]
struct State {
    /// Of a child that was not asked yet.
    fresh: Option<OwnedFd>,
    link: Option<Arc<Link>>,
    tried: Option<Instant>,
    rests_until: Option<Instant>,
}

impl Witness {
    /// Starts one; to be called as root. It ends when this is dropped, or
    /// with this process.
    ///
    /// # Errors
    /// [`WitnessError`]; there is none then.
    pub fn start(account: &str, daemon: Uid) -> Result<Self, WitnessError> {
        let fresh = Some(start(RunAs::new(account, daemon)?)?);
        Ok(Self {
            source: Source::Child,
            state: Mutex::new(State {
                fresh,
                ..State::default()
            }),
        })
    }

    /// One that runs apart, as root's service manager started it, as `uid`;
    /// it may come and go.
    pub fn at(socket: PathBuf, uid: Uid) -> Self {
        Self {
            source: Source::At(socket, uid),
            state: Mutex::default(),
        }
    }

    /// Who holds the socket of this inode, seen after this was called.
    pub async fn holders(&self, inode: u32, urgency: Urgency) -> Result<Seen, Unwitnessed> {
        let link = self.link(urgency)?;
        let answer = tokio::time::timeout(DEADLINE, link.ask(inode, urgency)).await;
        match answer.unwrap_or(Err(Unwitnessed::Slow))? {
            Answer::Seen(seen) => Ok(seen),
            Answer::TooMany => Err(Unwitnessed::TooMany),
            Answer::Incomplete => Err(Unwitnessed::Incomplete),
            Answer::Busy => {
                self.state().rests_until = Some(Instant::now() + REST);
                Err(Unwitnessed::Busy)
            }
        }
    }

    /// Whether it has had enough of questions that nobody is in a hurry for.
    pub fn rests(&self) -> bool {
        let rests_until = self.state().rests_until;
        rests_until.is_some_and(|until| Instant::now() < until)
    }

    fn link(&self, urgency: Urgency) -> Result<Arc<Link>, Unwitnessed> {
        let mut state = self.state();
        let now = Instant::now();
        if urgency == Urgency::WhenIdle && state.rests_until.is_some_and(|until| now < until) {
            return Err(Unwitnessed::Busy);
        }
        if let Some(link) = &state.link
            && !link.is_over()
        {
            return Ok(Arc::clone(link));
        }
        let fd = match &self.source {
            Source::Child => state.fresh.take(),
            Source::At(..) if state.tried.is_some_and(|at| at.elapsed() < CONNECT_EVERY) => None,
            Source::At(socket, uid) => {
                state.tried = Some(now);
                connect_to(socket, *uid)
                    .inspect_err(|error| {
                        tracing::warn!(socket = %socket.display(), %error, "no witness");
                    })
                    .ok()
            }
        };
        let link = fd.and_then(|fd| Link::new(fd).ok());
        state.link.clone_from(&link);
        link.ok_or(Unwitnessed::Gone)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect_to(path: &PathBuf, uid: Uid) -> io::Result<OwnedFd> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let fd = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new(path)?)?;
    let listener = getsockopt(&fd, sockopt::PeerCredentials)?.uid();
    if listener != 0 && listener != uid.0 {
        return Err(io::Error::other(format!("uid {listener} listens there")));
    }
    Ok(fd)
}

/// One connection to a witness, while it lasts.
struct Link {
    /// SOCK_SEQPACKET: one message at a time, as with datagrams, and an end.
    socket: UnixDatagram,
    next: AtomicU64,
    /// `None` once it is over.
    asked: Mutex<Option<HashMap<u64, oneshot::Sender<Answer>>>>,
}

impl Link {
    fn new(fd: OwnedFd) -> io::Result<Arc<Self>> {
        let socket = std::os::unix::net::UnixDatagram::from(fd);
        socket.set_nonblocking(true)?;
        let link = Arc::new(Self {
            socket: UnixDatagram::from_std(socket)?,
            next: AtomicU64::new(0),
            asked: Mutex::new(Some(HashMap::new())),
        });
        let reader = Arc::clone(&link);
        tokio::spawn(async move {
            let mut bytes = vec![0; ANSWER_MAX];
            while reader.take_answer(&mut bytes).await.is_some() {}
            // Whoever waits learns of it by this.
            *reader.asked() = None;
            tracing::error!("the witness is gone; without one, no credentials are given out");
        });
        Ok(link)
    }

    async fn ask(&self, inode: u32, urgency: Urgency) -> Result<Answer, Unwitnessed> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (tell, told) = oneshot::channel();
        match &mut *self.asked() {
            Some(asked) => asked.insert(id, tell),
            None => return Err(Unwitnessed::Gone),
        };
        let _forget = Forget { link: self, id };
        let question = Question { id, inode, urgency }.to_bytes();
        let sent = self.socket.send(&question).await;
        sent.map_err(|_| Unwitnessed::Gone)?;
        told.await.map_err(|_| Unwitnessed::Gone)
    }

    async fn take_answer(&self, bytes: &mut [u8]) -> Option<()> {
        let len = self.socket.recv(bytes).await.ok()?;
        let reply: Reply = serde_json::from_slice(bytes.get(..len)?).ok()?;
        let tell = self.asked().as_mut()?.remove(&reply.id);
        // Nobody may be waiting any more.
        if let Some(tell) = tell {
            let _ = tell.send(reply.answer);
        }
        Some(())
    }

    fn is_over(&self) -> bool {
        self.asked().is_none()
    }

    fn asked(&self) -> MutexGuard<'_, Option<HashMap<u64, oneshot::Sender<Answer>>>> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For a question that nobody waits for any more.
struct Forget<'l> {
    link: &'l Link,
    id: u64,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        if let Some(asked) = &mut *self.link.asked() {
            asked.remove(&self.id);
        }
    }
}
