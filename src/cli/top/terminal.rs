//! The terminal: taken over, waited on, and given back as it was, whichever
//! way this ends.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};

use super::keys::{self, Key};
use crate::audit::reading::Stream;

/// The other screen, no cursor, no line that goes on on the next one.
const ENTER: &str = "\x1b[?1049h\x1b[?25l\x1b[?7l";
const LEAVE: &str = "\x1b[0m\x1b[?7h\x1b[?25h\x1b[?1049l";
/// What can be told apart of one burst of keys.
const KEYS_AT_ONCE: usize = 1024;

pub(super) struct Terminal {
    before: Termios,
    signals: SignalFd,
}

/// Why the waiting is over.
pub(super) enum Woken {
    Keys(Vec<Key>),
    Resized,
    /// Records have come, or it is time to look.
    Records,
    End,
}

impl Terminal {
    pub(super) fn enter() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut signals = SigSet::empty();
        for signal in [
            Signal::SIGINT,
            Signal::SIGTERM,
            Signal::SIGHUP,
            Signal::SIGQUIT,
            Signal::SIGWINCH,
            Signal::SIGTSTP,
        ] {
            signals.add(signal);
        }
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let terminal = Self {
            signals: SignalFd::with_flags(&signals, flags)?,
            before,
        };
        // A panic is told on the screen that stays.
        let (hook, before) = (std::panic::take_hook(), terminal.before.clone());
        std::panic::set_hook(Box::new(move |panic| {
            restore(&before);
            hook(panic);
        }));
        terminal.take()?;
        Ok(terminal)
    }

    fn take(&self) -> io::Result<()> {
        let mut raw = self.before.clone();
        // Ctrl-C and Ctrl-Z stay what they are.
        raw.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(io::stdin(), OptionalActions::Flush, &raw)?;
        let mut out = io::stdout().lock();
        out.write_all(ENTER.as_bytes())?;
        out.flush()
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        let size = tcgetwinsize(io::stdout()).ok();
        let size = size.map(|it| (usize::from(it.ws_col), usize::from(it.ws_row)));
        size.filter(|(columns, lines)| *columns > 0 && *lines > 0)
            .unwrap_or((80, 24))
    }

    pub(super) fn show(&self, frame: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        out.write_all(frame.as_bytes())?;
        out.flush()
    }

    pub(super) fn wait(&mut self, stream: Option<&Stream>, at_most: Duration) -> io::Result<Woken> {
        let stdin = io::stdin();
        let mut fds: Vec<BorrowedFd<'_>> = vec![stdin.as_fd(), self.signals.as_fd()];
        fds.extend(stream.map(|it| it.as_fd()));
        let mut polled: Vec<_> = (fds.iter())
            .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
            .collect();
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        match poll(&mut polled, timeout) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let is_ready = |at: usize| {
            let events = polled.get(at).and_then(PollFd::revents);
            events.is_some_and(|events| !events.is_empty())
        };
        let (keys, signals) = (is_ready(0), is_ready(1));
        if signals && let Some(signal) = self.signals.read_signal()? {
            let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
            return match Signal::try_from(number) {
                Ok(Signal::SIGWINCH) => Ok(Woken::Resized),
                Ok(Signal::SIGTSTP) => {
                    restore(&self.before);
                    nix::sys::signal::raise(Signal::SIGSTOP)?;
                    self.take()?;
                    Ok(Woken::Resized)
                }
                _ => Ok(Woken::End),
            };
        }
        if keys {
            let mut bytes = [0; KEYS_AT_ONCE];
            let len = rustix::io::read(&stdin, &mut bytes)?;
            let bytes = bytes.get(..len).unwrap_or_default();
            return Ok(match bytes {
                // The terminal is gone.
                [] => Woken::End,
                bytes => Woken::Keys(keys::parse(bytes)),
            });
        }
        Ok(Woken::Records)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        restore(&self.before);
    }
}

fn restore(before: &Termios) {
    let mut out = io::stdout().lock();
    // It may be gone: then there is nothing to give back.
    let _ = out.write_all(LEAVE.as_bytes()).and_then(|()| out.flush());
    let _ = tcsetattr(io::stdin(), OptionalActions::Flush, before);
}
