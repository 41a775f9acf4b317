//! `imdsfw reload` and `imdsfw rollback`.

use super::Outcome;
use super::orders::{OrderArgs, order};
use crate::control::Ask;

/// Have the running daemon take what the policy files say now.
///
/// Whole or not at all, the files' own tests included: a policy with an error
/// is refused, shown here and recorded, and the one that runs stays. Requests
/// under way finish under the policy they began with. Of the config, `mode` and
/// `default` under [policy] are taken too; the rest is in force when the daemon
/// is started again. Exits 1 where it is refused.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw check && imdsfw reload")]
pub(super) struct Args {
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn run(args: Args) -> Outcome {
    order(&args.order, Ask::Reload)
}

/// Have the running daemon go back to the policy before the last one.
///
/// The files stay as they are. What they say comes into force again with the
/// next `reload`, changed file (`watch = true`) or restart: set them right
/// before that. A second `rollback` undoes the first.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw rollback && imdsfw status")]
pub(super) struct RollbackArgs {
    #[command(flatten)]
    order: OrderArgs,
}

pub(super) fn rollback(args: RollbackArgs) -> Outcome {
    order(&args.order, Ask::Rollback)
}
