//! `imdsfw check`.

use super::Outcome;

/// Check the config, the policy and its tests.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
