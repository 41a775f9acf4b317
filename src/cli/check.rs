//! `imdsfw check`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd;
use serde_json::json;

use super::inputs::{self, Inputs};
use super::{ConfigArg, Outcome, print};
use crate::config::trusted::Replacement;
use crate::diagnose::{Diagnostics, Severity, Source};
use crate::policy::{Name, Policy};

/// Check the config, the policy and its tests.
///
/// Shows every error and warning at once and changes nothing. Exits 0 when the
/// files would be taken, 1 when not.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw check
  imdsfw check --strict ./20-site.toml
  imdsfw check --replace /etc/imdsfw/policy.d/20-site.toml=./new.toml")]
pub(super) struct Args {
    /// Check these policy files alone, whatever their names
    #[arg(value_name = "FILE", conflicts_with = "replace")]
    files: Vec<PathBuf>,
    /// Read CANDIDATE as if it stood at INSTALLED
    #[arg(long, value_name = "INSTALLED=CANDIDATE", value_parser = replacement)]
    replace: Vec<Replacement>,
    /// Make every warning an error
    #[arg(long)]
    strict: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

fn replacement(text: &str) -> Result<Replacement, &'static str> {
    match text.split_once('=') {
        Some((installed, candidate)) if !installed.is_empty() && !candidate.is_empty() => {
            Ok(Replacement {
                installed: installed.into(),
                candidate: candidate.into(),
            })
        }
        _ => Err("expected INSTALLED=CANDIDATE, two paths"),
    }
}

pub(super) fn run(args: Args) -> Outcome {
    let inputs = Inputs {
        config: args.config.config,
        files: args.files,
        replacements: args.replace,
    };
    let mut found = Diagnostics::new();
    let loaded = inputs.load(&mut found);
    let files = loaded.sources;
    let mut tests = 0;
    let mut policy = None;
    if let Some(draft) = loaded.draft {
        tests = draft.proofs().count();
        policy = draft.prove(&mut found);
    }
    if let Some(policy) = &policy {
        warn_of_strangers(policy, &mut found);
    }
    if args.strict {
        found.deny_warnings();
    }
    let ok = !found.has_errors();
    let rules = policy.as_ref().map_or(0, Policy::len);
    if args.json {
        let result = json!({
            "ok": ok,
            "policy": policy.as_ref().map(|policy| &**policy.hash()),
            "files": files.iter().map(|source| source.name()).collect::<Vec<_>>(),
            "rules": rules,
            "tests": tests,
            "diagnostics": found,
        });
        print(&format!("{result}\n"))?;
    } else {
        inputs::show(&found);
        match &policy {
            Some(policy) if ok => print(&report(policy, &files, tests))?,
            _ => eprintln!("\nimdsfw: {}", count(&found)),
        }
    }
    Ok(ExitCode::from(u8::from(!ok)))
}

fn report(policy: &Policy, files: &[Arc<Source>], tests: usize) -> String {
    let none = match files {
        [] => "there are no policy files: the default alone decides\n",
        _ => "",
    };
    format!(
        "ok: {}, {}, {} passed\n{}\n{none}",
        plural(files.len(), "policy file"),
        plural(policy.len(), "rule"),
        plural(tests, "test"),
        policy.hash()
    )
}

fn count(found: &Diagnostics) -> String {
    let errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    let warnings = found.iter().count() - errors;
    format!(
        "{}, {}: refused as a whole",
        plural(errors, "error"),
        plural(warnings, "warning")
    )
}

fn plural(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// A name that no account has may be a slip of the pen, or may come later.
fn warn_of_strangers(policy: &Policy, found: &mut Diagnostics) {
    for (name, place) in policy.mentions() {
        let known = match name {
            Name::User(user) => unistd::User::from_name(user).map(|user| user.is_some()),
            Name::Group(group) => unistd::Group::from_name(group).map(|group| group.is_some()),
            Name::Gid(_) => continue,
        };
        let kind = if matches!(name, Name::User(_)) {
            "account"
        } else {
            "group"
        };
        match known {
            Ok(true) => {}
            Ok(false) => {
                found.warning(
                    place.clone(),
                    format!("no {kind} has the name in `{name}`"),
                    "matches nobody until there is one",
                );
            }
            Err(error) => {
                found.warning(
                    place.clone(),
                    format!("`{name}` could not be looked up: {}", error.desc()),
                    "expected an answer from the name service (NSS)",
                );
            }
        }
    }
}
