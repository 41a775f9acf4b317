//! The witness's own process: takes questions, looks once for all that wait,
//! answers.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, Permissions};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, UnixAddr, bind, getsockopt, listen, recv,
    send, socket, sockopt,
};
use nix::sys::time::TimeSpec;

use super::budget::Budget;
use super::confine::{ConfineError, confine};
use super::scan::{Scanner, Wanted};
use super::{Answer, QUESTION_LEN, Question, READY, Reply, RunAs, Seen, Urgency};
use crate::ids::Uid;

/// A pass that takes longer is given up. On a host of two thousand processes
/// and forty thousand descriptors one takes about a tenth of this.
const PASS_MAX: Duration = Duration::from_millis(700);
/// From the start of one pass to the start of the next.
const PASS_EVERY: Duration = Duration::from_millis(5);
/// What waits beyond this waits in the sockets.
const WAITING_MAX: usize = 1024;
/// A daemon has one; two while one takes the place of another.
const CONNECTIONS_MAX: usize = 8;
/// For a daemon to take an answer.
const SEND_MAX: Duration = Duration::from_millis(50);

/// Where questions come from.
#[derive(Debug)]
pub enum Ends {
    /// The daemon that started this process, on standard input; ends with it.
    Parent,
    /// Daemons that run as this uid and connect to a socket at this path.
    Listen(PathBuf, Uid),
}

/// Why the witness does not begin, or ended early.
#[derive(Debug)]
pub enum ServeError {
    /// Standard input is no socket of the right kind.
    NotASocket,
    /// Cannot listen there.
    Listen(PathBuf, io::Error),
    /// Cannot be confined.
    Confine(ConfineError),
    /// Cannot wait for questions.
    Poll(Errno),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotASocket => f.write_str(
                "standard input is not a socket to be asked on: `imdsfw run` starts a witness \
                 by itself; to run one apart, name a socket with `--listen`",
            ),
            Self::Listen(path, error) => write!(
                f,
                "cannot listen on {}: {error}; its directory must exist and be writable to \
                 the witness",
                path.display()
            ),
            Self::Confine(error) => error.fmt(f),
            Self::Poll(errno) => write!(f, "cannot wait for questions: {}", errno.desc()),
        }
    }
}

impl std::error::Error for ServeError {}

/// Serves until the last question that can come has come.
///
/// # Errors
/// [`ServeError`], before the first question was read.
pub fn serve(ends: Ends, run_as: Option<RunAs>) -> Result<(), ServeError> {
    let _ = prctl::set_name(c"imdsfw-witness");
    let mut serving = Serving::new(ends)?;
    confine(run_as).map_err(ServeError::Confine)?;
    for parent in serving.connections.values() {
        reply(parent, READY);
    }
    serving.run()
}

struct Serving {
    listener: Option<(UnixListener, Uid)>,
    connections: BTreeMap<u64, OwnedFd>,
    accepted: u64,
    waiting: Vec<(u64, Question)>,
    scanner: Scanner,
    budget: Budget,
    last_pass: Option<Instant>,
}

impl Serving {
    fn new(ends: Ends) -> Result<Self, ServeError> {
        let mut serving = Self {
            listener: None,
            connections: BTreeMap::new(),
            accepted: 0,
            waiting: Vec::new(),
            scanner: Scanner::new(),
            budget: Budget::new(Instant::now()),
            last_pass: None,
        };
        match ends {
            Ends::Parent => {
                let parent = io::stdin().as_fd().try_clone_to_owned();
                let parent = parent.map_err(|_| ServeError::NotASocket)?;
                if getsockopt(&parent, sockopt::SockType) != Ok(SockType::SeqPacket) {
                    return Err(ServeError::NotASocket);
                }
                serving.connections.insert(0, parent);
                // The daemon finishes what is under way when it is told to
                // end, as by Ctrl-C; until then it may ask.
                let told: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
                    .into_iter()
                    .collect();
                let _ = told.thread_block();
            }
            Ends::Listen(path, daemon) => {
                let listener = listen_at(&path).map_err(|error| ServeError::Listen(path, error))?;
                serving.listener = Some((listener, daemon));
            }
        }
        Ok(serving)
    }

    fn run(&mut self) -> Result<(), ServeError> {
        while self.listener.is_some() || !self.connections.is_empty() {
            self.wait()?;
            self.accept();
            self.receive();
            if !self.waiting.is_empty() && self.until_due().is_zero() {
                self.pass();
            }
        }
        Ok(())
    }

    fn until_due(&self) -> Duration {
        let since = self.last_pass.map(|at| at.elapsed());
        since.map_or(Duration::ZERO, |since| PASS_EVERY.saturating_sub(since))
    }

    /// For a question, or for the time of the next pass.
    fn wait(&self) -> Result<(), ServeError> {
        let connections = self.connections.values().map(OwnedFd::as_fd);
        let listener = self.listener.iter().map(|(socket, _)| socket.as_fd());
        let mut ends: Vec<_> = connections
            .chain(listener)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let timeout = (!self.waiting.is_empty()).then(|| TimeSpec::from(self.until_due()));
        match ppoll(&mut ends, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(ServeError::Poll(errno)),
        }
    }

    /// Whoever is not the daemon is let go without a word.
    fn accept(&mut self) {
        let Some((listener, daemon)) = &self.listener else {
            return;
        };
        while let Ok((connection, _)) = listener.accept() {
            let connection = OwnedFd::from(connection);
            let peer = getsockopt(&connection, sockopt::PeerCredentials);
            let is_daemon = peer.is_ok_and(|peer| peer.uid() == daemon.0);
            if is_daemon && self.connections.len() < CONNECTIONS_MAX {
                self.accepted += 1;
                self.connections.insert(self.accepted, connection);
            }
        }
    }

    fn receive(&mut self) {
        let waiting = &mut self.waiting;
        self.connections.retain(|id, connection| {
            while waiting.len() < WAITING_MAX {
                let mut bytes = [0; QUESTION_LEN + 1];
                match recv(connection.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                    Ok(len) => match bytes.get(..len).and_then(Question::parse) {
                        Some(question) => waiting.push((*id, question)),
                        // Its end, or not our daemon's language.
                        None => return false,
                    },
                    Err(Errno::EAGAIN) => return true,
                    Err(Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
            true
        });
        // A pass that is made anyway answers everybody.
        let urgent = self
            .waiting
            .iter()
            .any(|(_, it)| it.urgency == Urgency::Now);
        if !urgent && !self.waiting.is_empty() && !self.budget.affords_one(Instant::now()) {
            for (id, question) in std::mem::take(&mut self.waiting) {
                self.answer(id, question.id, Answer::Busy);
            }
        }
    }

    fn pass(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        let mut wanted: Wanted = waiting
            .iter()
            .map(|(_, question)| (question.inode, Default::default()))
            .collect();
        let start = Instant::now();
        self.last_pass = Some(start);
        let done = self.scanner.pass(&mut wanted, start + PASS_MAX);
        self.budget.spend(start, start.elapsed());
        for (id, question) in waiting {
            let seen = wanted.get(&question.inode);
            let answer = match (&done, seen) {
                (Ok(_), Some(seen)) if seen.more => Answer::TooMany,
                (Ok(shielded), Some(seen)) => Answer::Seen(Seen {
                    holders: seen.holders.clone(),
                    shielded: shielded.clone(),
                }),
                _ => Answer::Incomplete,
            };
            self.answer(id, question.id, answer);
        }
    }

    fn answer(&self, connection: u64, id: u64, answer: Answer) {
        let Some(connection) = self.connections.get(&connection) else {
            return;
        };
        // Numbers and text cannot fail to serialize.
        let bytes = serde_json::to_vec(&Reply { id, answer }).unwrap_or_default();
        reply(connection, &bytes);
    }
}

/// A daemon that does not take its answer goes without: to it, that is a
/// witness too slow.
fn reply(to: &OwnedFd, bytes: &[u8]) {
    let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
    if send(to.as_raw_fd(), bytes, flags) == Err(Errno::EAGAIN) {
        let mut writable = [PollFd::new(to.as_fd(), PollFlags::POLLOUT)];
        let _ = ppoll(&mut writable, Some(SEND_MAX.into()), None);
        let _ = send(to.as_raw_fd(), bytes, flags);
    }
}

/// In place of a socket that an earlier witness left there.
fn listen_at(path: &Path) -> io::Result<UnixListener> {
    if fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
        fs::remove_file(path)?;
    }
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let socket = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    bind(socket.as_raw_fd(), &UnixAddr::new(path)?)?;
    // Whoever connects is asked who it is, not the file.
    fs::set_permissions(path, Permissions::from_mode(0o666))?;
    listen(&socket, Backlog::new(8)?)?;
    Ok(socket.into())
}
