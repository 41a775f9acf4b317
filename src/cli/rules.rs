//! `imdsfw rules`.

use std::process::ExitCode;

use clap::{Subcommand, ValueEnum};

use super::{ConfigArg, Outcome, fold};
use crate::intercept::{self, Removal, RuleSet, TABLE};

/// The kernel rules: redirect and guards.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw rules show | less; imdsfw rules apply")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    /// Print what `apply` would load.
    #[command(after_help = "Example: imdsfw rules show")]
    Show {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        backend: BackendArg,
    },
    /// Load the rules, replacing those of an earlier run.
    #[command(after_help = "Example: imdsfw rules apply --config ./imdsfw.toml")]
    Apply {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        backend: BackendArg,
    },
    /// Name every difference between the rules loaded and those expected;
    /// exit 1 if there is one.
    #[command(after_help = "Example: imdsfw rules verify --json")]
    Verify {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        backend: BackendArg,
        /// Print one JSON object: {"ok":BOOL,"drift":[{"kind","place","line"}]}.
        #[arg(long)]
        json: bool,
    },
    /// Take the rules out; every user then reaches the service directly.
    #[command(after_help = "Example: imdsfw rules remove")]
    Remove {
        #[command(flatten)]
        backend: BackendArg,
    },
}

#[derive(clap::Args, Debug)]
struct BackendArg {
    /// Which of the kernel's rule languages to use.
    #[arg(long, value_enum, default_value_t = Backend::Nft)]
    backend: Backend,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Backend {
    Nft,
    Iptables,
}

pub(super) fn run(args: Args) -> Outcome {
    match args.action {
        Action::Show { config, backend } => {
            backend.check()?;
            print!("{}", intercept::render(&rule_set(&config)?));
            Ok(ExitCode::SUCCESS)
        }
        Action::Apply { config, backend } => {
            backend.check()?;
            let rules = rule_set(&config)?;
            intercept::apply(&rules)?;
            println!("{}", fold(&format!("loaded table inet {TABLE}: {rules}")));
            Ok(ExitCode::SUCCESS)
        }
        Action::Verify {
            config,
            backend,
            json,
        } => {
            backend.check()?;
            verify(&rule_set(&config)?, json)
        }
        Action::Remove { backend } => {
            backend.check()?;
            match intercept::remove()? {
                Removal::Removed => println!("removed table inet {TABLE}"),
                Removal::Absent => println!("table inet {TABLE} was not loaded: nothing to remove"),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn verify(rules: &RuleSet, json: bool) -> Outcome {
    let drift = intercept::verify(rules)?;
    let ok = drift.is_empty();
    if json {
        println!("{}", serde_json::json!({ "ok": ok, "drift": drift }));
    } else if ok {
        let said = format!("table inet {TABLE} is loaded as expected: {rules}");
        println!("{}", fold(&said));
    } else {
        for difference in &drift {
            println!("{difference}");
        }
        eprintln!(
            "imdsfw: the rules differ from those expected; `imdsfw rules apply` restores\n  them"
        );
    }
    Ok(if ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

impl BackendArg {
    fn check(&self) -> Result<(), String> {
        match self.backend {
            Backend::Nft => Ok(()),
            Backend::Iptables => Err(
                "the iptables backend is not available in this version; use `--backend nft`, \
                 which needs Linux 5.9 or later and the package nftables"
                    .into(),
            ),
        }
    }
}

fn rule_set(config: &ConfigArg) -> Result<RuleSet, Box<dyn std::error::Error>> {
    Ok(RuleSet::from_config(&config.load()?)?)
}
