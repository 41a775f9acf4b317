//! The part of the demo that stays on the host: becomes root if it must,
//! starts the inside in a process namespace, and takes that down on Ctrl-C.

use std::io;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::{geteuid, getpid};

use super::{DemoError, INSIDE, SELF, Then, Verdict, play};

/// Plays the demo, on the host or, called by itself, inside.
///
/// # Errors
/// [`DemoError`]: what is missing on this machine, and what brings it.
pub fn run(then: Then) -> Result<Verdict, DemoError> {
    // The first of its process namespace, or somebody typed the variable.
    if std::env::var_os(INSIDE).is_some() && getpid().as_raw() == 1 {
        return play(then);
    }
    if !geteuid().is_root() {
        return Err(through_sudo());
    }
    super::stage::check_tools()?;
    // Taken by sigwait below. The inside starts with an empty mask, as every
    // child that std starts.
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ] {
        signals.add(signal);
    }
    signals
        .thread_block()
        .map_err(|errno| DemoError::Run("signals", errno.into()))?;
    unshare(CloneFlags::CLONE_NEWPID)
        .map_err(|errno| DemoError::Namespace("process", "CONFIG_PID_NS", errno))?;
    let mut inside = Command::new(SELF)
        .args(std::env::args_os().skip(1))
        .env(INSIDE, "1")
        .spawn()
        .map_err(|error| DemoError::Run("itself", error))?;
    let status =
        wait(&mut inside, &signals, then).map_err(|error| DemoError::Run("itself", error))?;
    match status.code() {
        Some(0) => Ok(Verdict::AsStated),
        Some(_) => Ok(Verdict::Otherwise),
        None => Err(DemoError::Interrupted),
    }
}

/// Until the inside ends; it is ended on a signal, and everything in its
/// process namespace with it. In the shell, Ctrl-C is the shell's.
fn wait(inside: &mut Child, signals: &SigSet, then: Then) -> io::Result<ExitStatus> {
    loop {
        match signals.wait()? {
            Signal::SIGCHLD => {
                if let Some(status) = inside.try_wait()? {
                    return Ok(status);
                }
            }
            Signal::SIGINT if then == Then::Shell => {}
            _ => {
                inside.kill()?;
                return inside.wait();
            }
        }
    }
}

/// Replaces this process; returns only if that fails.
fn through_sudo() -> DemoError {
    eprintln!(
        "imdsfw: the demo makes a network namespace of its own, loads kernel rules there and\n\
         plays several users; that takes root. Trying sudo:"
    );
    let program = std::env::current_exe().unwrap_or_else(|_| "imdsfw".into());
    DemoError::NotRoot(
        Command::new("sudo")
            .arg("--")
            .arg(program)
            .args(std::env::args_os().skip(1))
            .exec(),
    )
}
