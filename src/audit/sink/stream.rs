//! Lines for whoever of root's follows, from the moment at which they connect.
//! Each follower has a queue and a thread of its own; one that is slow misses
//! records, and is told how many in a line of its own (`audit.lost`).

use std::io::{self, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde_json::json;

use super::super::lines::Lines;
use super::super::log::Log;
use super::super::record::{Body as _, Event, EventBody};
use super::deliver::Output;
use super::queue::{Next, Queue};
use super::render::render;
use crate::config::sinks::Format;

/// Who follows at once, at most.
const FOLLOWERS_MAX: usize = 16;
/// After an accept that failed, as without a descriptor left.
const REST: Duration = Duration::from_millis(100);
const IDLE: Duration = Duration::from_secs(60);

type Followers = Arc<Mutex<Vec<Arc<Queue>>>>;

pub(super) struct Hub(Followers);

/// What holds for every follower of a sink.
#[derive(Clone)]
pub(super) struct Terms {
    /// Renders what is for the follower alone.
    pub(super) log: Log,
    /// The sink's.
    pub(super) name: String,
    pub(super) format: Format,
    /// Bytes that may wait for one.
    pub(super) max: usize,
}

impl Hub {
    pub(super) fn open(listener: UnixListener, terms: Terms) -> io::Result<Self> {
        listener.set_nonblocking(false)?;
        let followers = Followers::default();
        let accepting = Arc::clone(&followers);
        std::thread::Builder::new()
            .name("imdsfw-stream".into())
            .spawn(move || {
                loop {
                    match listener.accept() {
                        Ok((stream, _)) => admit(stream, &accepting, &terms),
                        Err(_) => std::thread::sleep(REST),
                    }
                }
            })?;
        Ok(Self(followers))
    }
}

impl Output for Hub {
    fn send(&mut self, lines: &Arc<Lines>, _: &mut usize) -> io::Result<()> {
        for follower in locked(&self.0).iter() {
            follower.push(Arc::clone(lines));
        }
        Ok(())
    }
}

fn locked(followers: &Followers) -> MutexGuard<'_, Vec<Arc<Queue>>> {
    followers.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Root alone; the file's mode says so too.
fn admit(stream: UnixStream, followers: &Followers, terms: &Terms) {
    let is_root = getsockopt(&stream, PeerCredentials).is_ok_and(|peer| peer.uid() == 0);
    if !is_root || locked(followers).len() >= FOLLOWERS_MAX {
        return;
    }
    let queue = Arc::new(Queue::new(terms.max));
    locked(followers).push(Arc::clone(&queue));
    let others = Arc::clone(followers);
    let own = Arc::clone(&queue);
    let terms = terms.clone();
    let started = std::thread::Builder::new()
        .name("imdsfw-follow".into())
        .spawn(move || {
            // Gone, it needs no farewell.
            let _ = follow(stream, &own, &terms);
            locked(&others).retain(|it| !Arc::ptr_eq(it, &own));
        });
    if started.is_err() {
        locked(followers).retain(|it| !Arc::ptr_eq(it, &queue));
    }
}

fn follow(mut stream: UnixStream, queue: &Queue, terms: &Terms) -> io::Result<()> {
    loop {
        match queue.next(IDLE) {
            Next::End => return Ok(()),
            Next::Idle => {
                // Whoever has gone meanwhile is let go.
                if is_closed(&stream)? {
                    return Ok(());
                }
            }
            Next::Lines(lines) => {
                send(&mut stream, &lines, terms.format)?;
                queue.done();
                let lost = queue.take_lost();
                if lost > 0 {
                    let body = EventBody {
                        event: Event::AuditLost,
                        detail: &json!({ "sink": terms.name, "records": lost }),
                    };
                    let mut aside = Lines::default();
                    aside.add_aside(&terms.log.render(&body), body.traits(), 1);
                    send(&mut stream, &aside, terms.format)?;
                }
            }
        }
    }
}

fn send(stream: &mut UnixStream, lines: &Lines, format: Format) -> io::Result<()> {
    let mut out = Vec::with_capacity(lines.bytes().len());
    for line in lines.iter() {
        out.extend_from_slice(&render(line.bytes, format));
        out.push(b'\n');
    }
    stream.write_all(&out)
}

/// A follower has nothing to say: what comes is read over, and its end is one.
fn is_closed(stream: &UnixStream) -> io::Result<bool> {
    use std::io::Read as _;
    stream.set_nonblocking(true)?;
    let mut stream = stream;
    let closed = match stream.read(&mut [0; 64]) {
        Ok(len) => len == 0,
        Err(error) => error.kind() != io::ErrorKind::WouldBlock,
    };
    stream.set_nonblocking(false)?;
    Ok(closed)
}
