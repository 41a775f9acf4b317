//! `imdsfw demo`.

use std::process::ExitCode;

use super::Outcome;
use crate::demo::{self, Then, Verdict};

/// Show the firewall at work in a private network namespace.
///
/// A simulated service, the kernel rules, the daemon and a few users; each
/// request is shown with what was expected, what happened, and the audit
/// record behind it. Nothing on this host is changed and nothing is left.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw demo --shell")]
pub(super) struct Args {
    /// Open a shell inside as root when the scenes are over.
    #[arg(long)]
    shell: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    let then = if args.shell { Then::Shell } else { Then::Leave };
    Ok(match demo::run(then)? {
        Verdict::AsStated => ExitCode::SUCCESS,
        Verdict::Otherwise => ExitCode::FAILURE,
    })
}
