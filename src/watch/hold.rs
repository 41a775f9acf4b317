//! Where nothing watches the rules, a hard bypass has a process of its own: it
//! takes them out, and puts them back as they were, from what the kernel held
//! and nothing else, when the time is over, the file is gone, or anybody asks
//! it to end. It must never end on its own before they are back.
//!
//! A second process stands by, with what the kernel held as well, and does the
//! same where the first one is killed.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use super::bypass::{HardBypass, hold_rules, proclaim};
use super::link::Link;
use super::report::{HEARTBEAT, Lifted, Report};
use crate::intercept::{self, Saved};

/// How soon it is noticed that it is over.
const LOOK_EVERY: u16 = 100;
/// How often it is tried again to load what cannot be loaded.
const AGAIN: Duration = Duration::from_secs(1);
/// For a daemon to come that records what has happened.
const TELLS_FOR: Duration = Duration::from_secs(600);

/// What it says to who started it, once the rules are out.
pub const OUT: &str = "out";
/// What the second process says to the first, once it knows the rules.
const KNOWN: &str = "known";

/// Takes the rules out, says so on standard output, and returns when they are
/// back. `daemon` is where a daemon hears of it; `second` becomes
/// [`stand_by`].
///
/// # Errors
/// In words, and then the rules are as they were.
pub fn hold(daemon: PathBuf, second: Command) -> Result<(), String> {
    let _ = nix::sys::prctl::set_name(c"imdsfw-bypass");
    // Not to end with the terminal, or the login, of who asked for it.
    let _ = nix::unistd::setsid();
    let end = end_signals().map_err(|errno| errno.desc().to_owned())?;
    let bypass = HardBypass::standing().ok_or("there is no bypass")?;
    // An earlier one ends with this, and puts back what it took out.
    let held = hold_rules().map_err(|error| error.to_string())?;
    let held = held.ok_or("the rules are out already, and whoever took them out does not react")?;
    let saved = intercept::save().map_err(|error| error.to_string())?;
    if saved.is_empty() {
        return Err("no rules are loaded: there is nothing to take out".into());
    }
    // Without one, this is the night in which nothing else helps.
    let second = Second::start(second)
        .inspect_err(|why| proclaim(&format!("nobody stands by, should this be killed: {why}")));
    intercept::remove(None).map_err(|error| error.to_string())?;
    say(OUT);
    let mut link = Link::new(daemon);
    link.tell(Report::BypassStarted(bypass.clone()));
    let why = wait(&bypass, &end, &mut link);
    put_back(&saved);
    if let Ok(second) = second {
        second.dismiss();
    }
    drop(held);
    tell_end(why, &mut link);
    Ok(())
}

/// Waits until the process that has taken the rules out is done, and where it
/// ends without a word, does what is left: standard input comes from there.
///
/// # Errors
/// In words, and then there is nothing that could be put back.
pub fn stand_by(daemon: PathBuf) -> Result<(), String> {
    let _ = nix::sys::prctl::set_name(c"imdsfw-standby");
    let end = end_signals().map_err(|errno| errno.desc().to_owned())?;
    let bypass = HardBypass::standing().ok_or("there is no bypass")?;
    let saved = intercept::save().map_err(|error| error.to_string())?;
    say(KNOWN);
    if io::stdin().read_exact(&mut [0]).is_ok() {
        return Ok(());
    }
    proclaim("who was to end the hard bypass was killed: it ends all the same");
    let mut link = Link::new(daemon);
    let why = wait(&bypass, &end, &mut link);
    // Whoever does not let go of them must not keep them out.
    let held = hold_rules();
    put_back(&saved);
    drop(held);
    tell_end(why, &mut link);
    Ok(())
}

/// The process that stands by.
struct Second {
    process: Child,
    word: ChildStdin,
}

impl Second {
    fn start(mut command: Command) -> Result<Self, String> {
        let mut process = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // Whoever started this one waits for the end of its own.
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| error.to_string())?;
        let (Some(word), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
            return Err("it has no pipes".into());
        };
        let mut said = String::new();
        let _ = BufReader::new(stdout).read_line(&mut said);
        match said.trim_end() == KNOWN {
            true => Ok(Self { process, word }),
            false => Err("it does not know the rules".into()),
        }
    }

    /// There is nothing left to do.
    fn dismiss(mut self) {
        let _ = self.word.write_all(b"\n");
        let _ = self.process.wait();
    }
}

fn tell_end(why: &str, link: &mut Link) {
    let said = format!("the hard bypass has ended ({why}): the rules are in force again");
    proclaim(&said);
    link.tell(Report::BypassEnded(Lifted { why: why.into() }));
    let start = Instant::now();
    while !link.has_told_all() && start.elapsed() < TELLS_FOR {
        std::thread::sleep(AGAIN);
        link.try_again();
    }
}

fn end_signals() -> Result<SignalFd, Errno> {
    let signals = SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP]);
    signals.thread_block()?;
    SignalFd::with_flags(&signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

/// Who waits for it goes its way then.
fn say(word: &str) {
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "{word}").and_then(|()| out.flush());
    drop(out);
    if let Ok(null) = std::fs::File::options().write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdout(&null);
        let _ = nix::unistd::dup2_stderr(&null);
    }
}

fn wait(bypass: &HardBypass, end: &SignalFd, link: &mut Link) -> &'static str {
    let mut beat = Instant::now();
    loop {
        let mut fds = [PollFd::new(end.as_fd(), PollFlags::POLLIN)];
        let _ = poll(&mut fds, PollTimeout::from(LOOK_EVERY));
        if matches!(end.read_signal(), Ok(Some(_))) {
            return "signal";
        }
        match HardBypass::standing() {
            Some(standing) if standing == *bypass => {}
            // Another one has a process of its own.
            _ if bypass.left().is_zero() => return "expired",
            _ => return "revoked",
        }
        if beat.elapsed() >= HEARTBEAT {
            beat = Instant::now();
            let until = bypass.until.clone();
            link.tell(Report::Bypassed { until });
        }
    }
}

/// However long it takes.
fn put_back(saved: &[Saved]) {
    let mut is_told = false;
    loop {
        let failed = saved.iter().find_map(|saved| saved.load().err());
        let Some(error) = failed else { return };
        if !is_told {
            proclaim(&format!("THE RULES CANNOT BE PUT BACK, trying on: {error}"));
            is_told = true;
        }
        std::thread::sleep(AGAIN);
    }
}
