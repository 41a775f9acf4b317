//! `imdsfw sim`.

use super::Outcome;

/// Run a simulated metadata service.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
