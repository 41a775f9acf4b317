//! `imdsfw test`.

use super::Outcome;

/// Run the policy's own tests.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
