//! `imdsfw run`.

use std::process::ExitCode;

use super::{ConfigArg, Outcome};
use crate::daemon;

/// Run the daemon in the foreground.
///
/// Verifies the kernel rules, binds, drops to its own user and serves until
/// SIGTERM. SIGHUP opens the audit log again and takes what the policy files
/// say, as `imdsfw reload` does. A changed config, but for `mode` and `default`
/// of the policy, is in force when the daemon is started again.
///
/// Listeners that a service manager hands over (LISTEN_FDS) are taken instead
/// of bound. The daemon may then be started as its own user, and tries for
/// itself whether the rules are in force.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw rules apply && imdsfw run")]
pub(super) struct Args {
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: Args) -> Outcome {
    super::log_to_stderr();
    daemon::run(&args.config.load()?, &args.config.config)?;
    Ok(ExitCode::SUCCESS)
}
