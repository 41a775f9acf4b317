//! `imdsfw bypass`.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::Subcommand;
use nix::fcntl::Flock;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

use super::orders::{OrderArgs, for_a_time, order, show};
use super::{ConfigArg, Outcome};
use crate::control::{self, Ask, AskError, Done, Reply};
use crate::watch::{self, HardBypass, proclaim};
use crate::{doctor, intercept};

/// A watcher looks twice a second.
const HEEDED_WITHIN: Duration = Duration::from_secs(4);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Nobody turns it off for longer.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Turn the policy off for a while, when it is in the way.
///
/// Everybody is answered as the service would, and what the policy would have
/// denied is recorded (reason `bypassed`). It ends by itself, and with the
/// boot. A lockdown holds all the same.
///
/// With `--hard`, the rules are out of the kernel for that time: every user
/// reaches the service directly, unrecorded. That needs no daemon, no config
/// and no log. `imdsfw rules watch` heeds it; where that does not run, a
/// process `imdsfw-bypass` stays and puts the rules back, and where that is
/// killed, a second one, `imdsfw-standby`. Either is also in the kernel log
/// (`dmesg`).
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw bypass on --for 30m --reason \"ticket 4711\"")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// The policy is off.
    #[command(after_help = "\
Examples:
  imdsfw bypass on --for 30m --reason \"ticket 4711\"
  imdsfw bypass on --hard --for 30m --reason \"the daemon hangs\"")]
    On {
        /// For how long, at most seven days
        #[arg(long = "for", value_name = "TIME", value_parser = for_a_time)]
        time: Duration,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Take the rules out of the kernel
        #[arg(long)]
        hard: bool,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// The policy, and the rules, are in force again.
    #[command(after_help = "Example: imdsfw bypass off")]
    Off {
        #[command(flatten)]
        order: OrderArgs,
    },
    /// Stay, and put the rules back at the end of a hard bypass.
    #[command(
        hide = true,
        after_help = "Started by `imdsfw bypass on --hard`. Example: none"
    )]
    Hold {
        #[command(flatten)]
        config: ConfigArg,
    },
    /// Do so where the process that was to do it is killed.
    #[command(
        hide = true,
        after_help = "Started by `imdsfw bypass hold`. Example: none"
    )]
    StandBy {
        #[command(flatten)]
        config: ConfigArg,
    },
}

pub(super) fn run(args: Args) -> Outcome {
    match args.action {
        Action::On {
            time,
            reason,
            hard: true,
            order,
        } => hard(time, &reason, &order),
        Action::On {
            time,
            reason,
            hard: false,
            order: args,
        } => {
            let what = format!(
                "bypass ordered: the policy off for {} s, by uid {}: {reason}",
                time.as_secs(),
                nix::unistd::getuid()
            );
            let ask = Ask::Bypass {
                on: true,
                seconds: time.as_secs(),
                reason,
            };
            let outcome = order(&args, ask)?;
            proclaim(&what);
            Ok(outcome)
        }
        Action::Off { order } => off(&order),
        Action::Hold { config } => {
            let mut second = Command::new("/proc/self/exe");
            second.args(["bypass", "stand-by", "--config"]);
            second.arg(&config.config);
            watch::hold(post(&config), second)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::StandBy { config } => {
            watch::stand_by(post(&config))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Where the daemon hears of it.
fn post(config: &ConfigArg) -> PathBuf {
    config.control_socket().with_file_name("watch.sock")
}

/// So that of two at once one comes after the other.
fn order_alone() -> Result<Flock<File>, String> {
    let failed = |error| format!("nothing was changed: /run cannot be written: {error}");
    let order = watch::order().map_err(failed)?;
    order.ok_or_else(|| {
        "nothing was changed: another `imdsfw bypass` is under way, and does not end".to_owned()
    })
}

fn hard(time: Duration, reason: &str, args: &OrderArgs) -> Outcome {
    if !geteuid().is_root() {
        return Err("only root takes the rules out (try `sudo imdsfw bypass on --hard …`)".into());
    }
    if time > LONGEST || reason.trim().is_empty() {
        return Err("expected a reason, and a time of at most seven days".into());
    }
    let _alone = order_alone()?;
    let bypass = HardBypass::new(time.as_secs(), reason.to_owned())?;
    let failed = |error| format!("nothing was changed: /run cannot be written: {error}");
    bypass.write().map_err(failed)?;
    proclaim(&format!(
        "HARD BYPASS until {}: the rules are out of the kernel, by uid {}: {reason}",
        bypass.until,
        nix::unistd::getuid()
    ));
    let mut done = Done {
        said: format!(
            "the rules are out of the kernel until {}: every user reaches the service directly, \
             and unrecorded",
            bypass.until
        ),
        changed: true,
        ..Done::default()
    };
    if let Some(pid) = doctor::watcher() {
        if heeded(false) {
            show(&done, args.json)?;
            return Ok(ExitCode::SUCCESS);
        }
        // It would have the rules back, or hold its own.
        let killed = i32::try_from(pid).map(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL));
        done.warnings.push(format!(
            "process {pid}, `imdsfw rules watch`, did not react, and was ended ({killed:?})"
        ));
    }
    if let Err(why) = hand_over(args) {
        let _ = HardBypass::lift();
        proclaim(&format!("the hard bypass did not begin: {why}"));
        return Err(why.into());
    }
    show(&done, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// Starts the process that takes the rules out and puts them back, and waits
/// until they are out.
fn hand_over(args: &OrderArgs) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("nobody can put the rules back: {error}");
    let mut holder = Command::new("/proc/self/exe")
        .args(["bypass", "hold", "--config"])
        .arg(&args.config.config)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let mut said = String::new();
    if let Some(stdout) = holder.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut said)
            .map_err(failed)?;
    }
    if said.trim_end() == watch::OUT {
        return Ok(());
    }
    let output = holder.wait_with_output().map_err(failed)?;
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// Whether there come to be rules, or none, in time.
fn heeded(loaded: bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < HEEDED_WITHIN {
        if intercept::are_loaded().is_ok_and(|are| are == loaded) {
            return true;
        }
        std::thread::sleep(LOOK_EVERY);
    }
    false
}

fn off(args: &OrderArgs) -> Outcome {
    let is_root = geteuid().is_root();
    let _alone = is_root.then(order_alone).transpose()?;
    let was_hard = is_root && HardBypass::lift()?;
    if was_hard && !heeded(true) {
        return Err(
            "the hard bypass is off, and nobody has put the rules back; do so now with \
             `imdsfw rules apply`, or `systemctl restart imdsfw-rules`"
                .into(),
        );
    }
    let ask = Ask::Bypass {
        on: false,
        seconds: 0,
        reason: String::new(),
    };
    let answer = match control::ask(&args.config.control_socket(), ask) {
        // It goes without a daemon, as it came.
        Err(AskError::NoDaemon(..)) if was_hard => Done::default(),
        Ok(Reply::Done(done)) => done,
        Ok(_) => return Err("the daemon answered something else".into()),
        Err(error) => return Err(error.into()),
    };
    let mut done = answer;
    if done.changed {
        proclaim("the bypass was ended: the policy is in force again");
    }
    if was_hard {
        done.said = "the rules are in force again".into();
        done.changed = true;
    }
    show(&done, args.json)?;
    Ok(ExitCode::SUCCESS)
}
