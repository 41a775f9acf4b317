//! The witness's own process: takes questions, looks once for all that wait,
//! answers.

use std::fmt;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::prctl;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{MsgFlags, SockType, getsockopt, recv, send, sockopt};
use nix::sys::time::TimeSpec;

use super::budget::Budget;
use super::confine::{ConfineError, give_up, restrict_calls};
use super::dial::dial;
use super::pass::{Effort, Passes};
use super::scan::Abandoned;
use super::{Answer, QUESTION_LEN, Question, READY, Reply, RunAs, Urgency};
use crate::ids::Uid;

/// A pass that takes longer is given up. On a host of two thousand processes
/// and forty thousand descriptors one takes about a tenth of this.
const PASS_MAX: Duration = Duration::from_millis(700);
/// From the start of one pass to the start of the next, where nobody is in a
/// hurry, and where a client waits.
const PASS_EVERY: Duration = Duration::from_millis(5);
const URGENT_PASS_EVERY: Duration = Duration::from_millis(1);
/// What waits beyond this waits in the socket.
const WAITING_MAX: usize = 1024;
/// For a daemon to take an answer.
const SEND_MAX: Duration = Duration::from_millis(50);

/// Where questions come from. The witness ends with whoever asks.
#[derive(Debug)]
pub enum Ends {
    /// The daemon that started this process, on standard input.
    Parent,
    /// A daemon that runs as this uid, or root for it, listening at this path.
    Dial(PathBuf, Uid),
}

/// Why the witness does not begin, or ended early.
#[derive(Debug)]
pub enum ServeError {
    /// Standard input is no socket of the right kind.
    NotASocket,
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
                 by itself; to run one apart, name the daemon's socket with `--connect`",
            ),
            Self::Confine(error) => error.fmt(f),
            Self::Poll(errno) => write!(f, "cannot wait for questions: {}", errno.desc()),
        }
    }
}

impl std::error::Error for ServeError {}

impl From<ConfineError> for ServeError {
    fn from(error: ConfineError) -> Self {
        Self::Confine(error)
    }
}

/// Serves until the last question that can come has come.
///
/// # Errors
/// [`ServeError`], before the first question was read.
pub fn serve(ends: Ends, run_as: Option<RunAs>) -> Result<(), ServeError> {
    let _ = prctl::set_name(c"imdsfw-witness");
    // The helper's thread begins with what is left by then.
    let prepare = || give_up(run_as).map(|()| Passes::new());
    let (daemon, passes) = match ends {
        Ends::Parent => {
            let daemon = parent()?;
            let passes = prepare()?;
            restrict_calls()?;
            reply(&daemon, READY);
            (daemon, passes)
        }
        Ends::Dial(path, daemon) => {
            let passes = prepare()?;
            let daemon = dial(&path, daemon);
            restrict_calls()?;
            (daemon, passes)
        }
    };
    Serving {
        daemon,
        is_there: true,
        waiting: Vec::new(),
        passes,
        budget: Budget::new(Instant::now()),
        last_pass: None,
    }
    .run()
}

fn parent() -> Result<OwnedFd, ServeError> {
    let parent = io::stdin().as_fd().try_clone_to_owned();
    let parent = parent.map_err(|_| ServeError::NotASocket)?;
    if getsockopt(&parent, sockopt::SockType) != Ok(SockType::SeqPacket) {
        return Err(ServeError::NotASocket);
    }
    // The daemon finishes what is under way when it is told to end, as by
    // Ctrl-C; until then it may ask.
    let told: SigSet = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]
        .into_iter()
        .collect();
    let _ = told.thread_block();
    Ok(parent)
}

struct Serving {
    daemon: OwnedFd,
    is_there: bool,
    waiting: Vec<Question>,
    passes: Passes,
    budget: Budget,
    last_pass: Option<LastPass>,
}

#[derive(Clone, Copy)]
struct LastPass {
    start: Instant,
    took: Duration,
}

impl Serving {
    fn run(&mut self) -> Result<(), ServeError> {
        while self.is_there {
            self.wait()?;
            self.receive();
            if !self.waiting.is_empty() && self.until_due().is_zero() {
                self.pass();
            }
        }
        Ok(())
    }

    fn until_due(&self) -> Duration {
        let every = match self.is_urgent() {
            true => URGENT_PASS_EVERY,
            false => PASS_EVERY,
        };
        let since = self.last_pass.map(|pass| pass.start.elapsed());
        since.map_or(Duration::ZERO, |since| every.saturating_sub(since))
    }

    fn is_urgent(&self) -> bool {
        self.waiting.iter().any(|it| it.urgency == Urgency::Now)
    }

    /// For a question, or for the time of the next pass.
    fn wait(&self) -> Result<(), ServeError> {
        let mut ends = [PollFd::new(self.daemon.as_fd(), PollFlags::POLLIN)];
        let timeout = (!self.waiting.is_empty()).then(|| TimeSpec::from(self.until_due()));
        match ppoll(&mut ends, timeout, None) {
            Ok(_) | Err(Errno::EINTR) => Ok(()),
            Err(errno) => Err(ServeError::Poll(errno)),
        }
    }

    fn receive(&mut self) {
        while self.waiting.len() < WAITING_MAX {
            let mut bytes = [0; QUESTION_LEN + 1];
            match recv(self.daemon.as_raw_fd(), &mut bytes, MsgFlags::MSG_DONTWAIT) {
                Ok(len) => match bytes.get(..len).and_then(Question::parse) {
                    Some(question) => self.waiting.push(question),
                    // Its end, or not our daemon's language.
                    None => return self.is_there = false,
                },
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return self.is_there = false,
            }
        }
        // A pass that is made anyway answers everybody.
        if !self.is_urgent() && !self.waiting.is_empty() && !self.budget.affords_one(Instant::now())
        {
            for question in std::mem::take(&mut self.waiting) {
                self.answer(question.id, Answer::Busy);
            }
        }
    }

    /// One urgent question after a rest is a client that waits on a quiet host;
    /// several, or one right after the other, are a crowd that needs the other
    /// processors itself.
    fn effort(&self) -> Effort {
        let rested = |pass: LastPass| pass.start.elapsed() >= pass.took * 3 / 2;
        let is_alone = self.waiting.len() == 1 && self.is_urgent();
        match is_alone && self.last_pass.is_none_or(rested) {
            true => Effort::Helped,
            false => Effort::Alone,
        }
    }

    fn pass(&mut self) {
        let effort = self.effort();
        let waiting = std::mem::take(&mut self.waiting);
        let inodes: Vec<u32> = waiting.iter().map(|question| question.inode).collect();
        let start = Instant::now();
        let until = start + PASS_MAX;
        let mut done = self.passes.pass(&inodes, effort, until);
        if matches!(done, Err(Abandoned::Unreadable)) {
            // As while a process ends or becomes another: once more, anew.
            done = self.passes.pass(&inodes, effort, until);
        }
        let took = start.elapsed();
        self.last_pass = Some(LastPass { start, took });
        self.budget.spend(start, took);
        for question in waiting {
            let answer = match &done {
                Ok(found) => found
                    .of(question.inode)
                    .map_or(Answer::TooMany, Answer::Seen),
                Err(_) => Answer::Incomplete,
            };
            self.answer(question.id, answer);
        }
    }

    fn answer(&self, id: u64, answer: Answer) {
        // Numbers and text cannot fail to serialize.
        let bytes = serde_json::to_vec(&Reply { id, answer }).unwrap_or_default();
        reply(&self.daemon, &bytes);
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
