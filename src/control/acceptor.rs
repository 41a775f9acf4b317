//! Connections on a Unix socket that anybody can connect to.
//!
//! Who connects, the kernel says (SO_PEERCRED, unix(7)). Whoever connects
//! without end must never take more than a little of the daemon's time. From
//! others than the one user who is let in, where it is one, not a byte is read.

use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{Instant, sleep_until};

use crate::ids::Uid;

/// Connections accepted one after the other, whoever's; some ten microseconds
/// each.
const BURST: u32 = 32;
/// Then accepting rests, and so it does when it fails, as without a descriptor
/// left. What comes meanwhile waits in the kernel.
const REST: Duration = Duration::from_millis(20);

/// A listening Unix socket, and who may be heard on it.
pub struct Acceptor {
    listener: UnixListener,
    only: Option<Uid>,
    burst: u32,
    rest: Duration,
    rests_until: Instant,
}

/// The other end, as the kernel saw it connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Peer {
    /// As whom.
    pub uid: Uid,
    /// Which process; by now it may be gone.
    pub pid: Option<i32>,
}

impl Acceptor {
    /// Connections of one user. To be made within the runtime. Whatever the
    /// type of socket, the connections are of the same.
    pub fn new(listener: std::os::unix::net::UnixListener, only: Uid) -> io::Result<Self> {
        Self::listening(listener, Some(only))
    }

    /// Connections of everybody.
    pub fn open(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        Self::listening(listener, None)
    }

    fn listening(
        listener: std::os::unix::net::UnixListener,
        only: Option<Uid>,
    ) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            only,
            burst: 0,
            rest: REST,
            rests_until: Instant::now(),
        })
    }

    /// The next connection of who is let in. Cancel safe.
    pub async fn accept(&mut self) -> UnixStream {
        self.accept_peer().await.0
    }

    /// The same, and whose it is.
    pub async fn accept_peer(&mut self) -> (UnixStream, Peer) {
        loop {
            sleep_until(self.rests_until).await;
            let accepted = self.listener.accept().await;
            self.burst += 1;
            if self.burst == BURST || accepted.is_err() {
                self.burst = 0;
                self.rests_until = Instant::now() + self.rest;
            }
            let Ok((connection, _)) = accepted else {
                continue;
            };
            let Ok(peer) = connection.peer_cred() else {
                continue;
            };
            if self.only.is_none_or(|only| peer.uid() == only.0) {
                let peer = Peer {
                    uid: Uid(peer.uid()),
                    pid: peer.pid(),
                };
                return (connection, peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::time::{ClockId, clock_gettime};
    use nix::unistd::getuid;
    use std::io::Read as _;
    use std::os::unix::net::{UnixListener, UnixStream};
    use std::path::{Path, PathBuf};
    use std::sync::atomic::{AtomicBool, Ordering};

    const WATCHED: Duration = Duration::from_millis(400);

    fn listener() -> (tempfile::TempDir, PathBuf, UnixListener) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let listener = UnixListener::bind(&path).unwrap();
        (dir, path, listener)
    }

    /// How much of its time `body` spends while somebody connects as fast as
    /// can be. It is to close the listener.
    fn share_of_time_flooded(path: &Path, body: impl FnOnce()) -> f64 {
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        drop(UnixStream::connect(path));
                    }
                });
            }
            let spent = || -> Duration {
                let of_thread = clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID);
                of_thread.unwrap().into()
            };
            let (before, start) = (spent(), Instant::now());
            body();
            let share = (spent() - before).as_secs_f64() / start.elapsed().as_secs_f64();
            over.store(true, Ordering::Relaxed);
            share
        })
    }

    fn me() -> Uid {
        Uid(getuid().as_raw())
    }

    #[tokio::test]
    async fn one_users_connections_are_accepted_and_others_closed_unread() {
        for (only, is_heard) in [(me(), true), (Uid(me().0 ^ 1), false)] {
            let (_dir, path, listener) = listener();
            let mut acceptor = Acceptor::new(listener, only).unwrap();
            let mut theirs = UnixStream::connect(&path).unwrap();
            let accepted = tokio::time::timeout(WATCHED, acceptor.accept()).await;
            assert_eq!(accepted.is_ok(), is_heard);
            drop(accepted);
            assert_eq!(theirs.read(&mut [0]).unwrap(), 0, "closed");
        }
    }

    #[test]
    fn who_connects_without_end_takes_little_of_the_daemons_time() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let [share, undefended] = [REST, Duration::ZERO].map(|rest| {
            let (_dir, path, listener) = listener();
            share_of_time_flooded(&path, || {
                runtime.block_on(async {
                    let mut acceptor = Acceptor::new(listener, Uid(me().0 ^ 1)).unwrap();
                    acceptor.rest = rest;
                    let accepted = tokio::time::timeout(WATCHED, acceptor.accept()).await;
                    assert!(accepted.is_err(), "nobody is let in");
                })
            })
        });
        println!("{share:.3} of its time; accepting all there is, {undefended:.3}");
        assert!(share < 0.15 && share * 2.0 < undefended);
    }
}
