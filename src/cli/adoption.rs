//! `imdsfw enable`, `confirm`, `enforce` and `disable`, and what they start.

use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::Duration;

use super::{ConfigArg, Outcome, doctor, fold, print};
use crate::adoption::session::ToldBy;
use crate::adoption::{self, AdoptionError, Done};
use crate::config::Mode;
use crate::doctor::State;

/// The longest time that makes sense to wait for a yes.
const CONFIRM_MAX: Duration = Duration::from_secs(24 * 3600);

/// Turn the firewall on: checks, kernel rules, daemon.
///
/// With --confirm, all of it is undone by itself, and by a boot, unless
/// `imdsfw confirm` comes in time from a new login: SSM and EC2 Instance
/// Connect need the metadata service, and a mistake could lock the only door.
/// What fails is undone at once.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw enable --observe --confirm 10m")]
pub(super) struct Enable {
    /// Answer everyone as the service would, and record the verdicts
    #[arg(long)]
    observe: bool,
    #[command(flatten)]
    confirm: ConfirmArg,
    #[command(flatten)]
    config: ConfigArg,
}

/// Have the policy's denials bind, after `imdsfw enable --observe`.
///
/// With --confirm, the mode is observe again, by itself or by a boot, unless
/// `imdsfw confirm` comes in time from a new login.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw enforce --confirm 10m")]
pub(super) struct Enforce {
    #[command(flatten)]
    confirm: ConfirmArg,
    #[command(flatten)]
    config: ConfigArg,
}

/// Say yes to `imdsfw enable` or `enforce`, from a new login.
///
/// New is a login with another audit session (/proc/self/sessionid) than the
/// one that asked; sudo, su, screen and tmux keep it. Where the kernel gives
/// none, with another SSH connection; where there is none, with another
/// terminal session, which proves little, and that is said.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw confirm")]
pub(super) struct Confirm {
    #[command(flatten)]
    config: ConfigArg,
}

/// Turn the firewall off: every user reaches the service directly again.
///
/// Ends what `imdsfw enable` started, takes the kernel rules out, and removes
/// the mode that it set. Config, policy and log stay.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw disable")]
pub(super) struct Disable {
    #[command(flatten)]
    config: ConfigArg,
}

#[derive(clap::Args, Debug)]
struct ConfirmArg {
    /// Undo it unless `imdsfw confirm` comes within this time
    #[arg(long, value_name = "10m", value_parser = within)]
    confirm: Option<Duration>,
}

fn within(text: &str) -> Result<Duration, &'static str> {
    match humantime::parse_duration(text) {
        Ok(time) if (Duration::from_secs(1)..=CONFIRM_MAX).contains(&time) => Ok(time),
        _ => Err("expected a time from 1s to 24h, such as 10m"),
    }
}

pub(super) fn enable(args: Enable) -> Outcome {
    let Enable {
        observe,
        confirm,
        config,
    } = args;
    told(
        adoption::enable(&config.config, observe, confirm.confirm),
        "enabled",
    )
}

pub(super) fn enforce(args: Enforce) -> Outcome {
    told(
        adoption::enforce(&args.config.config, args.confirm.confirm),
        "changed",
    )
}

pub(super) fn confirm(args: Confirm) -> Outcome {
    let (done, told_by) = adoption::confirm(&args.config.config)?;
    let how = match told_by {
        ToldBy::AuditSession => "by its audit session",
        ToldBy::SshConnection => "by its SSH connection; there are no audit sessions here",
        ToldBy::Terminal => {
            "by its terminal alone, since there are neither audit sessions nor SSH here: a new \
             window looks the same, so try for yourself that people can log in"
        }
    };
    let mut text = format!("confirmed: it stays, in mode {}\n", word(done.mode));
    text += &fold(&format!("This login was taken for a new one {how}."));
    text.push('\n');
    if let Some(more) = done.more {
        text += &(fold(more) + "\n");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn disable(args: Disable) -> Outcome {
    adoption::disable(&args.config.config)?;
    print("disabled: every user reaches the metadata service directly\n")?;
    Ok(ExitCode::SUCCESS)
}

fn told(outcome: Result<Done, AdoptionError>, what: &str) -> Outcome {
    let done = match outcome {
        Ok(done) => done,
        Err(AdoptionError::EnforcedAlready) => {
            print("the mode is enforce already: nothing was changed\n")?;
            return Ok(ExitCode::SUCCESS);
        }
        Err(error) => {
            let found = error.findings().iter();
            let shown = found.filter(|it| it.state != State::Ok).map(doctor::shown);
            eprint!("{}", shown.collect::<String>());
            return Err(error.into());
        }
    };
    let (warnings, fine): (Vec<_>, Vec<_>) = done
        .findings
        .iter()
        .partition(|finding| finding.state != State::Ok);
    let mut text: String = warnings.into_iter().map(doctor::shown).collect();
    text += &format!(
        "{what}: mode {}, {} checks passed\n",
        word(done.mode),
        fine.len()
    );
    if let Some(until) = &done.until {
        let next = format!(
            "It is undone at {until}, unless you log in anew, in the way that has to work, and \
             run there:"
        );
        text += &format!("{}\n    imdsfw confirm\n", fold(&next));
    }
    if let Some(more) = done.more {
        text += &(fold(more) + "\n");
    }
    print(&text)?;
    Ok(ExitCode::SUCCESS)
}

fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => "observe",
        Mode::Enforce => "enforce",
    }
}

/// Undo what nobody confirmed; started by `imdsfw enable`.
#[derive(clap::Args, Debug)]
pub(super) struct Undo {
    /// Whether it is due already
    #[arg(long)]
    now: bool,
    /// What is remembered of it
    state: PathBuf,
    /// Which of them
    id: u64,
}

pub(super) fn undo(args: Undo) -> Outcome {
    adoption::undo_when_due(&args.state, args.id, args.now)?;
    Ok(ExitCode::SUCCESS)
}

/// Become another of these commands, in a session of its own.
#[derive(clap::Args, Debug)]
pub(super) struct Detach {
    /// The command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    words: Vec<OsString>,
}

pub(super) fn detach(args: Detach) -> Outcome {
    nix::unistd::setsid()?;
    let error = Command::new(std::env::current_exe()?)
        .args(args.words)
        .exec();
    Err(error.into())
}
