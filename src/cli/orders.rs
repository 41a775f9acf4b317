//! What the commands that speak with the running daemon have in common.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{ConfigArg, Outcome, fold, print};
use crate::config::{Action, Config};
use crate::control::{self, Ask, Done, Reply};
use crate::diagnose::plain_text;

/// Which daemon, and how its answer is shown.
#[derive(clap::Args, Debug)]
pub(super) struct OrderArgs {
    /// Print the answer as one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) config: ConfigArg,
}

impl ConfigArg {
    /// Where the daemon is asked. A config that cannot be read is no reason
    /// to leave a host as it is: then it is looked for where it is by default.
    pub(super) fn control_socket(&self) -> PathBuf {
        match Config::load(&self.config) {
            Ok(config) => config.control_socket,
            Err(_) => {
                let socket = Config::default().control_socket;
                let said = format!(
                    "imdsfw: the config is refused (see `imdsfw check`); asking at {}",
                    socket.display()
                );
                eprintln!("{}", fold(&said));
                socket
            }
        }
    }
}

/// Has the daemon do it, and shows what came of it.
pub(super) fn order(args: &OrderArgs, ask: Ask) -> Outcome {
    let done = match control::ask(&args.config.control_socket(), ask)? {
        Reply::Done(done) => done,
        _ => return Err("the daemon answered something else; restart it after an upgrade".into()),
    };
    show(&done, args.json)?;
    Ok(ExitCode::SUCCESS)
}

/// What the daemon says of whoever asks: exits as `explain` does.
pub(super) fn own_verdict(config: &ConfigArg, path: String, json: bool) -> Outcome {
    let judged = match control::ask(&config.control_socket(), Ask::Verdict { path })? {
        Reply::Verdict(judged) => judged,
        _ => return Err("the daemon answered something else; restart it after an upgrade".into()),
    };
    let allowed = judged.verdict == Action::Allow;
    if json {
        print(&format!("{}\n", serde_json::to_string(&judged)?))?;
    } else {
        let word = if allowed { "ALLOW" } else { "DENY" };
        let rule = judged.rule.as_deref();
        let by = rule.map_or(String::new(), |rule| format!(", by \"{rule}\""));
        let said = format!(
            "{word}, now and by the running daemon: {}{by}",
            judged.reason
        );
        print(&format!("{}\n", fold(&plain_text(&said))))?;
    }
    Ok(ExitCode::from(u8::from(!allowed)))
}

pub(super) fn show(done: &Done, json: bool) -> std::io::Result<()> {
    if json {
        return print(&format!("{}\n", serde_json::to_string(done)?));
    }
    print(&format!("{}\n", fold(&done.said)))?;
    for warning in &done.warnings {
        eprintln!("{}", fold(&format!("imdsfw: {warning}")));
    }
    Ok(())
}

/// `30m`, `1h`, `2s`, `1h 30m`.
pub(super) fn for_a_time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if time >= Duration::from_secs(1) => Ok(time),
        Ok(_) => Err("expected at least a second".into()),
        Err(_) => Err("expected a time with its unit, such as 30m or 1h".into()),
    }
}
