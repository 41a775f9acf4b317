//! `imdsfw demo`.

use super::Outcome;

/// Show the firewall at work in a private network namespace.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
