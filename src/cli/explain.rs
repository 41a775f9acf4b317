//! `imdsfw explain`.

use super::Outcome;

/// Explain the verdict on one request.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
