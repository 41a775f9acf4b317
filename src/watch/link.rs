//! The watcher's end of the socket to the daemon.
//!
//! Must never wait for the daemon: a daemon that stands still may not keep the
//! rules from being restored. What it has not taken yet waits here, and the
//! oldest is given up first.

use std::collections::VecDeque;
use std::io::{ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};

use super::report::Report;
use crate::ids::Uid;

/// Reports that may wait for a daemon: more drifts than it will ever miss.
const WAITING_MAX: usize = 256;

pub(super) struct Link {
    path: PathBuf,
    stream: Option<UnixStream>,
    waiting: VecDeque<Line>,
    /// Bytes of the first one that the daemon has taken.
    sent: usize,
}

struct Line {
    bytes: Vec<u8>,
    /// Whether the next daemon is to hear it too.
    keep: bool,
}

impl Link {
    pub(super) fn new(path: PathBuf) -> Self {
        Self {
            path,
            stream: None,
            waiting: VecDeque::new(),
            sent: 0,
        }
    }

    /// Whether the daemon is there to be told, and not only a socket that is
    /// held for the first one to come: the kernel says who listened last.
    pub(super) fn reaches(&mut self, daemon: Uid) -> bool {
        self.connect();
        let listened = (self.stream.as_ref())
            .and_then(|stream| getsockopt(stream, sockopt::PeerCredentials).ok());
        listened.is_some_and(|it| it.uid() == daemon.0)
    }

    /// Whether what is told will be read.
    fn connect(&mut self) -> bool {
        if self.stream.is_none() {
            self.stream = self.open().ok();
            self.sent = 0;
        }
        self.stream.is_some()
    }

    fn open(&self) -> Result<UnixStream, Errno> {
        let fd = socket(
            AddressFamily::Unix,
            SockType::Stream,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            None,
        )?;
        connect(fd.as_raw_fd(), &UnixAddr::new(&self.path)?)?;
        Ok(UnixStream::from(fd))
    }

    /// What happened is kept until it is told; how things stand is told now
    /// or not at all, and behind all that waits.
    pub(super) fn tell(&mut self, report: Report) {
        let keep = matches!(
            report,
            Report::Drift(_)
                | Report::Restored(_)
                | Report::BypassStarted(_)
                | Report::BypassEnded(_)
        );
        let is_there = self.connect();
        self.send();
        let is_heard = is_there && self.waiting.is_empty();
        if !keep && !is_heard {
            return;
        }
        if self.waiting.len() == WAITING_MAX {
            // The first one may be half sent.
            self.waiting.remove(1);
        }
        // These types have string keys only and cannot fail.
        let mut bytes = serde_json::to_vec(&report).unwrap_or_default();
        bytes.push(b'\n');
        self.waiting.push_back(Line { bytes, keep });
        self.send();
    }

    /// Whether nothing waits to be told.
    pub(super) fn has_told_all(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Tells what waits, if somebody is there.
    pub(super) fn try_again(&mut self) {
        self.connect();
        self.send();
    }

    fn send(&mut self) {
        while let (Some(stream), Some(line)) = (&mut self.stream, self.waiting.front()) {
            match stream.write(line.bytes.get(self.sent..).unwrap_or_default()) {
                Ok(len) => {
                    self.sent += len;
                    if self.sent >= line.bytes.len() {
                        self.waiting.pop_front();
                        self.sent = 0;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => {
                    self.stream = None;
                    self.waiting.retain(|line| line.keep);
                }
            }
        }
    }
}
