//! `imdsfw rules`.

use std::process::ExitCode;

use clap::Subcommand;

use super::{ConfigArg, Outcome, fold};
use crate::config::{BACKENDS, Backend};
use crate::doctor;
use crate::intercept::{self, Ended, RuleSet};
use crate::watch;

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
    /// Load the rules, and restore them whenever they change.
    ///
    /// Stays in the foreground and tells the daemon twice a second how the
    /// rules stand. Once heard, it is relied on: when it reports rules that
    /// cannot be restored, or falls silent, the daemon stops serving. The rules
    /// stay when it ends; stop it before `imdsfw rules remove`.
    #[command(after_help = "Example: imdsfw rules watch")]
    Watch {
        #[command(flatten)]
        config: ConfigArg,
        #[command(flatten)]
        backend: BackendArg,
    },
    /// Take the rules out; every user then reaches the service directly.
    ///
    /// Refused while `imdsfw rules watch` runs, which would restore them.
    #[command(after_help = "Example: imdsfw rules remove")]
    Remove {
        #[command(flatten)]
        backend: BackendArg,
    },
}

#[derive(clap::Args, Debug)]
struct BackendArg {
    /// Which of the kernel's rule languages to use; without it, what `backend`
    /// under [rules] says, else nft, else iptables.
    #[arg(long, value_parser = backend)]
    backend: Option<Backend>,
}

fn backend(word: &str) -> Result<Backend, String> {
    BACKENDS
        .iter()
        .find(|(name, _)| *name == word)
        .map(|(_, backend)| *backend)
        .ok_or_else(|| format!("expected {}", BACKENDS.map(|(name, _)| name).join(" or ")))
}

pub(super) fn run(args: Args) -> Outcome {
    match args.action {
        Action::Show { config, backend } => {
            print!("{}", intercept::render(&rule_set(&config, &backend)?));
            Ok(ExitCode::SUCCESS)
        }
        Action::Apply { config, backend } => {
            let rules = rule_set(&config, &backend)?;
            let applied = intercept::apply(&rules)?;
            let said = format!("loaded {}: {rules}", applied.backend.place());
            println!("{}", fold(&said));
            match applied.ended {
                Some(ended @ Ended::Impossible { .. }) => {
                    eprintln!("{}", fold(&format!("imdsfw: {ended}")));
                }
                Some(ended @ Ended::Destroyed(1..)) => println!("{ended}"),
                Some(Ended::Destroyed(0)) | None => {}
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Verify {
            config,
            backend,
            json,
        } => verify(&rule_set(&config, &backend)?, json),
        Action::Watch { config, backend } => {
            super::log_to_stderr();
            let config = config.load()?;
            let rules = through(RuleSet::from_config(&config)?, &backend);
            watch::run(&config, rules)?;
            Ok(ExitCode::SUCCESS)
        }
        Action::Remove { backend } => {
            if let Some(pid) = doctor::watcher() {
                return Err(format!(
                    "nothing was removed: process {pid}, `imdsfw rules watch`, would restore the \
                     rules at once. Stop it first: `systemctl stop imdsfw-rules` where that runs \
                     it, else `kill {pid}`"
                )
                .into());
            }
            let removed = intercept::remove(backend.backend)?;
            for backend in &removed {
                println!("removed {}", backend.place());
            }
            if removed.is_empty() {
                println!("no rules were loaded: nothing to remove");
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
        let said = format!("the rules are loaded as expected: {rules}");
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

fn rule_set(
    config: &ConfigArg,
    backend: &BackendArg,
) -> Result<RuleSet, Box<dyn std::error::Error>> {
    Ok(through(RuleSet::from_config(&config.load()?)?, backend))
}

fn through(rules: RuleSet, asked: &BackendArg) -> RuleSet {
    let backend = asked.backend.or(rules.backend());
    rules.through(backend)
}
