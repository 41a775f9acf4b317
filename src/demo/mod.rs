//! The firewall at work, in namespaces of its own: simulated service, kernel
//! rules, daemon and a few people, then the scenes they play.
//!
//! Everything stands behind a private process, mount and network namespace:
//! nothing on the host is changed, and the end of the demo, however it comes,
//! is the end of everything it made.

mod error;
mod outside;
mod scenes;
mod script;
mod show;
mod stage;

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

pub use error::DemoError;
pub use outside::run;

use show::Show;
use stage::Stage;

/// Set for the process that plays the scenes, which is the first of its
/// process namespace.
const INSIDE: &str = "IMDSFW_DEMO_INSIDE";
/// This very program, also where its file is hidden or replaced.
const SELF: &str = "/proc/self/exe";

/// What to do besides the scenes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// End.
    Leave,
    /// Open a shell inside as root first.
    Shell,
}

/// Whether all came as stated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every scene ended as it should.
    AsStated,
    /// At least one did not.
    Otherwise,
}

/// Inside: builds the stage, plays, and with `then` opens the shell.
fn play(then: Then) -> Result<Verdict, DemoError> {
    // The scenes end with their audience.
    let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
    let stage = Stage::build()?;
    let show = Show::new();
    show.opening(&stage);
    let verdict = scenes::play(&stage, &show)?;
    if then == Then::Shell {
        show.shell_hint(&stage);
        shell(&stage)?;
    }
    Ok(verdict)
}

fn shell(stage: &Stage) -> Result<(), DemoError> {
    let shell = std::env::var_os("SHELL").map_or_else(|| "/bin/sh".into(), PathBuf::from);
    let path = std::env::var("PATH").unwrap_or_default();
    Command::new(shell)
        .env_remove(INSIDE)
        .env("PS1", "(imdsfw demo) \\u# ")
        .env(
            "PATH",
            format!("{}:{path}:/usr/sbin:/sbin", stage.programs().display()),
        )
        .current_dir(stage.directory())
        .arg0("sh")
        .status()
        .map_err(|error| DemoError::Run("the shell", error))?;
    Ok(())
}
