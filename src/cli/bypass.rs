//! `imdsfw bypass`.

use std::time::Duration;

use clap::Subcommand;

use super::Outcome;
use super::orders::{OrderArgs, for_a_time, order};
use crate::control::Ask;

/// Turn the policy off for a while, when it is in the way.
///
/// Everybody is answered as the service would, and what the policy would have
/// denied is recorded (reason `bypassed`). It ends by itself, and with the
/// boot. A lockdown holds all the same.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw bypass on --for 30m --reason \"ticket 4711\"")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// The policy is off.
    #[command(after_help = "Example: imdsfw bypass on --for 30m --reason \"ticket 4711\"")]
    On {
        /// For how long, at most seven days
        #[arg(long = "for", value_name = "TIME", value_parser = for_a_time)]
        time: Duration,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// The policy is in force again.
    #[command(after_help = "Example: imdsfw bypass off")]
    Off {
        #[command(flatten)]
        order: OrderArgs,
    },
}

pub(super) fn run(args: Args) -> Outcome {
    match args.action {
        Action::On {
            time,
            reason,
            order: args,
        } => {
            let ask = Ask::Bypass {
                on: true,
                seconds: time.as_secs(),
                reason,
            };
            order(&args, ask)
        }
        Action::Off { order: args } => {
            let ask = Ask::Bypass {
                on: false,
                seconds: 0,
                reason: String::new(),
            };
            order(&args, ask)
        }
    }
}
