//! `imdsfw doctor`.

use std::io::IsTerminal as _;
use std::process::ExitCode;

use super::{ConfigArg, Outcome, inputs, print};
use crate::diagnose::{plain_text, wrap};
use crate::doctor::{self, Finding, State};
use crate::ids::Uid;

/// What is left of 80 columns beside the state, the check and `mend: `.
const WIDTH: usize = 54;
const INDENT: &str = "\n                    ";

/// Look at every part of the firewall, and read through it as users.
///
/// Says what to do about each failure and warning, and changes nothing. Exits
/// 0 when nothing failed, 1 otherwise. Its own requests are in the audit log.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw doctor
  imdsfw doctor --user alice --user 4002 --json")]
pub(super) struct Args {
    /// Read as this user; may be given again [default: root and nobody]
    #[arg(long, value_name = "NAME|UID")]
    user: Vec<String>,
    /// Print one JSON object: {"ok":BOOL,"findings":[{"check","state",...}]}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: Args) -> Outcome {
    let mut users = Vec::new();
    for user in &args.user {
        let Some(uid) = inputs::uid_of(user)? else {
            let name = plain_text(user);
            eprintln!("imdsfw: no account is called {name}; give its uid, or another name");
            return Ok(ExitCode::from(2));
        };
        users.push(uid);
    }
    if users.is_empty() {
        users.push(Uid::ROOT);
        users.extend(inputs::uid_of("nobody")?);
    }
    let found = doctor::examine(&args.config.config, &users);
    let ok = found.iter().all(|finding| finding.state != State::Failure);
    if args.json {
        let report = serde_json::json!({ "ok": ok, "findings": found });
        print(&format!("{report}\n"))?;
    } else {
        print(&found.iter().map(shown).collect::<String>())?;
    }
    Ok(ExitCode::from(u8::from(!ok)))
}

pub(super) fn shown(finding: &Finding) -> String {
    let (word, colour) = match finding.state {
        State::Ok => ("ok", "32"),
        State::Warning => ("warning", "33"),
        State::Failure => ("FAILURE", "31"),
    };
    let word = format!("{word:<8}");
    let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let word = if wanted && std::io::stdout().is_terminal() {
        format!("\x1b[{colour}m{word}\x1b[0m")
    } else {
        word
    };
    let mut text = format!("{word}{:<12}{}", finding.check, lines(&finding.what));
    if let Some(mend) = &finding.mend {
        text += &format!("{INDENT}mend: {}", lines(mend));
    }
    text + "\n"
}

fn lines(text: &str) -> String {
    wrap(&plain_text(text), WIDTH).replace('\n', INDENT)
}
