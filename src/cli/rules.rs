//! `imdsfw rules`.

use super::Outcome;

/// The kernel rules: redirect and guards.
#[derive(clap::Args, Debug)]
pub(super) struct Args {}

pub(super) fn run(_args: Args) -> Outcome {
    Err("not built yet".into())
}
