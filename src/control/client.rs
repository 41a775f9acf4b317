//! The asker's end of the control socket.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::geteuid;

use super::protocol::{
    ANSWER_MAX, Answer, Ask, Question, Refused, Reply, VERSION, Why, framed, length,
};

/// A daemon that takes longer to load a policy stands still.
const PATIENCE: Duration = Duration::from_secs(20);
/// How often one that has no place is asked again.
const AGAIN: Duration = Duration::from_millis(100);
const AGAIN_FOR: Duration = Duration::from_secs(5);

/// Why there is no answer.
#[derive(Debug)]
pub enum AskError {
    /// Nobody listens there.
    NoDaemon(PathBuf, io::Error),
    /// It could not be asked, or did not answer.
    Failed(PathBuf, io::Error),
    /// It answers something else.
    NoAnswer(PathBuf),
    /// It does not do it.
    Refused(Refused),
}

/// Asks the daemon that listens at `socket`.
///
/// # Errors
/// [`AskError`]; whether anything has changed is then known only where the
/// daemon has refused, or nobody was there.
pub fn ask(socket: &Path, ask: Ask) -> Result<Reply, AskError> {
    let question = Question {
        v: VERSION,
        login: login(),
        ask,
    };
    let frame = framed(&question).map_err(|error| AskError::Failed(socket.into(), error))?;
    let started = Instant::now();
    loop {
        let reply = match ask_once(socket, &frame) {
            // It was not read: too many ask at once.
            Err(AskError::Failed(_, error))
                if error.kind() == io::ErrorKind::ConnectionReset
                    && started.elapsed() < AGAIN_FOR =>
            {
                std::thread::sleep(AGAIN);
                continue;
            }
            reply => reply?,
        };
        match reply {
            Reply::Refused(Refused { why: Why::Busy, .. }) if started.elapsed() < AGAIN_FOR => {
                std::thread::sleep(AGAIN);
            }
            Reply::Refused(refused) => return Err(AskError::Refused(refused)),
            reply => return Ok(reply),
        }
    }
}

/// Where root alone can connect, beside the socket of everybody: nobody else
/// can be in front of it there.
pub fn root_socket(socket: &Path) -> PathBuf {
    socket.with_file_name("root.sock")
}

/// A daemon may have none for root alone, as from a service manager that knows
/// of none.
fn connect(socket: &Path) -> io::Result<UnixStream> {
    if geteuid().is_root()
        && let Ok(stream) = UnixStream::connect(root_socket(socket))
    {
        return Ok(stream);
    }
    UnixStream::connect(socket)
}

fn ask_once(socket: &Path, frame: &[u8]) -> Result<Reply, AskError> {
    let failed = |error| AskError::Failed(socket.into(), error);
    let mut stream = connect(socket).map_err(|error| AskError::NoDaemon(socket.into(), error))?;
    stream.set_read_timeout(Some(PATIENCE)).map_err(failed)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(failed)?;
    // Refused before it was heard, it has its answer all the same.
    let sent = stream.write_all(frame);
    let mut head = [0; 4];
    if let Err(error) = stream.read_exact(&mut head) {
        return Err(failed(sent.err().unwrap_or(error)));
    }
    let no_answer = || AskError::NoAnswer(socket.into());
    let mut body = vec![0; length(head, ANSWER_MAX).ok_or_else(no_answer)?];
    stream.read_exact(&mut body).map_err(failed)?;
    match serde_json::from_slice(&body) {
        Ok(Answer { v: VERSION, reply }) => Ok(reply),
        _ => Err(no_answer()),
    }
}

/// Who logged in to be root; -1 for nobody.
pub(crate) fn login() -> Option<i64> {
    let uid = std::fs::read_to_string("/proc/self/loginuid").ok()?;
    let uid: u32 = uid.trim().parse().ok()?;
    Some(if uid == u32::MAX { -1 } else { uid.into() })
}

impl fmt::Display for AskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDaemon(socket, error) => write!(
                f,
                "no daemon can be asked at {}: {error}; is it running? See `systemctl status \
                 imdsfw`, and `socket` under [control]",
                socket.display()
            ),
            Self::Failed(socket, error) => write!(
                f,
                "the daemon at {} did not answer: {error}; see its log, and `imdsfw status`",
                socket.display()
            ),
            Self::NoAnswer(socket) => write!(
                f,
                "what answers at {} is no daemon of this version; restart it after an upgrade",
                socket.display()
            ),
            Self::Refused(refused) => f.write_str(&refused.message),
        }
    }
}

impl std::error::Error for AskError {}
