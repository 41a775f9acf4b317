//! `imdsfw lockdown`.

use clap::Subcommand;

use super::Outcome;
use super::orders::{OrderArgs, order};
use crate::control::Ask;

/// At once no credentials for anyone, for the hour when a key leaked.
///
/// Nor from memory, nor for a request under way; and tokens minted before are
/// void. It holds until it is lifted, also when the daemon or the host is
/// started again.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw lockdown on --except user:root")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// No credentials leave.
    #[command(after_help = "Example: imdsfw lockdown on --except user:root --except group:ops")]
    On {
        /// Who still gets what the policy allows them, as in `who` of a rule;
        /// may be given again. Not for requests that were under way before
        #[arg(long, value_name = "PRINCIPAL")]
        except: Vec<String>,
        /// Why, for the log
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        order: OrderArgs,
    },
    /// The policy decides again.
    #[command(after_help = "Example: imdsfw lockdown off")]
    Off {
        #[command(flatten)]
        order: OrderArgs,
    },
}

pub(super) fn run(args: Args) -> Outcome {
    match args.action {
        Action::On {
            except,
            reason,
            order: args,
        } => {
            let ask = Ask::Lockdown {
                on: true,
                except,
                reason,
            };
            order(&args, ask)
        }
        Action::Off { order: args } => {
            let ask = Ask::Lockdown {
                on: false,
                except: Vec::new(),
                reason: None,
            };
            order(&args, ask)
        }
    }
}
