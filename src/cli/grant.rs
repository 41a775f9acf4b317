//! `imdsfw grant` and `imdsfw revoke`.

use std::process::ExitCode;
use std::time::Duration;

use super::orders::{OrderArgs, for_a_time, order};
use super::{Outcome, inputs};
use crate::control::Ask;
use crate::diagnose::plain_text;

/// Let somebody read something for a while.
///
/// A rule ahead of all others, which ends by itself. It survives a restart of
/// the daemon, not of the host. Its start, each request that it lets through
/// (as the rule "grant ID") and its end are in the audit log.
#[derive(clap::Args, Debug)]
#[command(override_usage = "\
imdsfw grant [OPTIONS] --user <NAME|UID> --path <PATH|@SET>
                    --for <TIME> --reason <TEXT>")]
#[command(after_help = "\
Examples:
  imdsfw grant --user alice --path @role --for 1h --reason \"ticket 4711\"
  imdsfw revoke 01M8083Y356JM42EG000000004")]
pub(super) struct Args {
    /// Who; may be given again
    #[arg(long, value_name = "NAME|UID", required = true)]
    user: Vec<String>,
    /// What, as in `paths` of a rule; may be given again
    #[arg(long, value_name = "PATH|@SET", required = true)]
    path: Vec<String>,
    /// For how long, at most seven days
    #[arg(long = "for", value_name = "TIME", value_parser = for_a_time)]
    time: Duration,
    /// Why, for the log
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn run(args: Args) -> Outcome {
    let mut who = Vec::new();
    for user in &args.user {
        if user.parse::<u32>().is_ok() {
            who.push(format!("uid:{user}"));
            continue;
        }
        if inputs::uid_of(user)?.is_none() {
            let name = plain_text(user);
            eprintln!("imdsfw: no account is called {name}; give its uid, or another name");
            return Ok(ExitCode::from(2));
        }
        who.push(format!("user:{user}"));
    }
    let ask = Ask::Grant {
        who,
        paths: args.path,
        seconds: args.time.as_secs(),
        reason: args.reason,
    };
    order(&args.order, ask)
}

/// End a grant before its time.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw revoke 01M8083Y356JM42EG000000004")]
pub(super) struct RevokeArgs {
    /// As `grant` and `status` show it
    id: String,
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn revoke(args: RevokeArgs) -> Outcome {
    order(&args.order, Ask::Revoke { id: args.id })
}
