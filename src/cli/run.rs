//! `imdsfw run`.

use super::Outcome;

/// Run the daemon in the foreground.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
