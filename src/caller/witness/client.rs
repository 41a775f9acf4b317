//! The daemon's side: asks the witness, and waits no longer than it may.

use std::collections::HashMap;
use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::policy::Obscured;

use super::{ANSWER_MAX, Answer, Question, Reply, Seen, Urgency};

/// Clients give up after one second. Longer than one pass may take.
const DEADLINE: Duration = Duration::from_millis(900);
/// A witness that has had enough of questions is not asked again so soon.
const REST: Duration = Duration::from_millis(20);

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

impl From<Unwitnessed> for Obscured {
    fn from(unwitnessed: Unwitnessed) -> Self {
        match unwitnessed {
            Unwitnessed::Gone => Self::Gone,
            Unwitnessed::Slow | Unwitnessed::Busy => Self::Slow,
            Unwitnessed::Incomplete => Self::Incomplete,
            Unwitnessed::TooMany => Self::TooMany,
        }
    }
}

/// The daemon's witness, and whether there is one just now.
#[derive(Clone)]
pub struct Witness(Arc<Shared>);

struct Shared {
    returns_within: Duration,
    presence: watch::Sender<Presence>,
    rests_until: Mutex<Option<Instant>>,
}

struct Presence {
    link: Option<Arc<Link>>,
    /// When the last one ended; at first, when the first one was looked for.
    lost: Instant,
}

impl Witness {
    /// Nobody yet. One that ends is back within this time, or not for long:
    /// a verdict waits for it so long and no longer.
    pub fn new(returns_within: Duration) -> Self {
        let presence = Presence {
            link: None,
            lost: Instant::now(),
        };
        Self(Arc::new(Shared {
            returns_within,
            presence: watch::Sender::new(presence),
            rests_until: Mutex::new(None),
        }))
    }

    /// From now on the one at the other end of this socket, of SOCK_SEQPACKET,
    /// is asked, and none before it.
    ///
    /// # Errors
    /// Where the runtime cannot take the socket; everything is as before then.
    pub fn meet(&self, socket: OwnedFd) -> io::Result<()> {
        let link = Arc::new(Link::new(socket)?);
        let before = self.0.presence.send_replace(Presence {
            link: Some(Arc::clone(&link)),
            lost: Instant::now(),
        });
        if let Some(before) = before.link {
            before.end();
        }
        tokio::spawn(Arc::clone(&self.0).read(link));
        Ok(())
    }

    /// Who holds the socket of this inode, seen after this was called.
    pub async fn holders(&self, inode: u32, urgency: Urgency) -> Result<Seen, Unwitnessed> {
        let answer = timeout(DEADLINE, self.ask(inode, urgency)).await;
        match answer.unwrap_or(Err(Unwitnessed::Slow))? {
            Answer::Seen(seen) => Ok(seen),
            Answer::TooMany => Err(Unwitnessed::TooMany),
            Answer::Incomplete => Err(Unwitnessed::Incomplete),
            Answer::Busy => {
                *self.0.rests_until() = Some(Instant::now() + REST);
                Err(Unwitnessed::Busy)
            }
        }
    }

    /// Whether it has had enough of questions that nobody is in a hurry for,
    /// or is not there.
    pub fn rests(&self) -> bool {
        self.0.is_resting() || self.0.presence.borrow().link.is_none()
    }

    /// Whether there is one.
    pub fn is_there(&self) -> bool {
        self.0.presence.borrow().link.is_some()
    }

    /// Returns once there is none, nor one to be expected.
    pub async fn gone(&self) {
        let mut presence = self.0.presence.subscribe();
        loop {
            // It cannot be closed as long as this is there.
            let _ = presence.wait_for(|it| it.link.is_none()).await;
            if self.present().await.is_none() {
                return;
            }
        }
    }

    /// Returns once there is one.
    pub async fn back(&self) {
        let mut presence = self.0.presence.subscribe();
        let _ = presence.wait_for(|it| it.link.is_some()).await;
    }

    async fn ask(&self, inode: u32, urgency: Urgency) -> Result<Answer, Unwitnessed> {
        let link = match urgency {
            Urgency::Now => self.present().await,
            Urgency::WhenIdle if self.0.is_resting() => return Err(Unwitnessed::Busy),
            Urgency::WhenIdle => self.0.presence.borrow().link.clone(),
        };
        link.ok_or(Unwitnessed::Gone)?.ask(inode, urgency).await
    }

    /// The one there is, or that comes back in time.
    async fn present(&self) -> Option<Arc<Link>> {
        let mut presence = self.0.presence.subscribe();
        let until = presence.borrow().lost + self.0.returns_within;
        let here = timeout_at(until, presence.wait_for(|it| it.link.is_some())).await;
        here.ok()?.ok()?.link.clone()
    }
}

impl Shared {
    /// Whoever waits for an answer learns of the end by this.
    async fn read(self: Arc<Self>, link: Arc<Link>) {
        let mut bytes = vec![0; ANSWER_MAX];
        while link.take_answer(&mut bytes).await.is_some() {}
        link.end();
        self.presence.send_if_modified(|presence| {
            let is_it = |it: &Arc<Link>| Arc::ptr_eq(it, &link);
            let was_present = presence.link.as_ref().is_some_and(is_it);
            if was_present {
                *presence = Presence {
                    link: None,
                    lost: Instant::now(),
                };
            }
            was_present
        });
    }

    fn is_resting(&self) -> bool {
        self.rests_until()
            .is_some_and(|until| Instant::now() < until)
    }

    fn rests_until(&self) -> MutexGuard<'_, Option<Instant>> {
        self.rests_until
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
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
    fn new(fd: OwnedFd) -> io::Result<Self> {
        let socket = std::os::unix::net::UnixDatagram::from(fd);
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket: UnixDatagram::from_std(socket)?,
            next: AtomicU64::new(0),
            asked: Mutex::new(Some(HashMap::new())),
        })
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

    /// What was asked stays unanswered, and whoever reads comes to an end.
    fn end(&self) {
        *self.asked() = None;
        let _ = self.socket.shutdown(Shutdown::Both);
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
