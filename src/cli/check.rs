//! `imdsfw check`.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd;
use serde_json::json;

use super::inputs::{self, Inputs};
use super::{ConfigArg, Outcome, print};
use crate::config::Mode;
use crate::config::trusted::Replacement;
use crate::diagnose::{Diagnostics, Place, Severity, Source, plain_text};
use crate::policy::{Draft, Name, Policy};

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
    let is_installed = inputs.files.is_empty() && inputs.replacements.is_empty();
    let mut found = Diagnostics::new();
    let loaded = inputs.load(&mut found);
    let mode = loaded.mode;
    let files = loaded.sources;
    let mut tests = 0;
    let mut policy = None;
    if let Some(draft) = loaded.draft {
        tests = draft.proofs().count();
        warn_of_strangers(&draft, &mut found);
        policy = draft.prove(&mut found);
    }
    if args.strict {
        found.deny_warnings();
    }
    let ok = !found.has_errors();
    let rules = policy.as_ref().map_or(0, Policy::len);
    if args.json {
        let result = json!({
            "ok": ok,
            "mode": mode,
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
            Some(policy) if ok => {
                let (warnings, _) = counts(&found);
                print(&report(policy, &files, tests, warnings, mode))?;
                print(match is_installed {
                    true => "restart the daemon to put this in force\n",
                    false => "put this in its place and restart the daemon to put it in force\n",
                })?;
            }
            _ => {
                let (warnings, errors) = counts(&found);
                eprintln!(
                    "\nimdsfw: {}, {}: refused as a whole",
                    plural(errors, "error"),
                    plural(warnings, "warning")
                );
            }
        }
    }
    Ok(ExitCode::from(u8::from(!ok)))
}

fn report(
    policy: &Policy,
    files: &[Arc<Source>],
    tests: usize,
    warnings: usize,
    mode: Mode,
) -> String {
    let ok = match warnings {
        0 => "ok".to_owned(),
        warnings => format!("ok, {}", plural(warnings, "warning")),
    };
    let names: String = files
        .iter()
        .map(|source| format!("read    {}\n", plain_text(source.name())))
        .collect();
    let mode = match mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "observe: denials are only recorded, but for rules with `enforce`",
    };
    format!(
        "{ok}: {}, {}, {} passed\n{names}mode    {mode}\npolicy  {}\n",
        plural(files.len(), "policy file"),
        plural(policy.len(), "rule"),
        plural(tests, "test"),
        policy.hash()
    )
}

/// Warnings and errors.
fn counts(found: &Diagnostics) -> (usize, usize) {
    let errors = found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .count();
    (found.iter().count() - errors, errors)
}

fn plural(count: usize, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{count} {what}{s}")
}

/// A name that no account has may be a slip of the pen, or may come later.
fn warn_of_strangers(draft: &Draft, found: &mut Diagnostics) {
    for (name, place) in draft.mentions() {
        let (kind, known) = match name {
            Name::User(user) => (
                "account",
                unistd::User::from_name(user).map(|user| user.is_some()),
            ),
            Name::Group(group) => (
                "group",
                unistd::Group::from_name(group).map(|group| group.is_some()),
            ),
            Name::Login(login) => match login.strip_prefix("user:") {
                Some("root") | None => continue,
                Some(user) => (
                    "account",
                    unistd::User::from_name(user).map(|user| user.is_some()),
                ),
            },
            Name::Exe(exe) => {
                warn_of_program(exe, place, found);
                continue;
            }
            Name::Gid(_) | Name::Unit(_) => continue,
        };
        match known {
            Ok(true) => {}
            Ok(false) => {
                found.warning(
                    place.clone(),
                    format!("no {kind} has the name in \"{name}\""),
                    match meant_number(name) {
                        Some(meant) => format!("did you mean \"{meant}\"?"),
                        None => "it matches nobody until there is one".to_owned(),
                    },
                );
            }
            Err(error) => {
                found.warning(
                    place.clone(),
                    format!("\"{name}\" could not be looked up"),
                    format!("the name service (NSS) says: {}", error.desc()),
                );
            }
        }
    }
}

/// /proc/PID/exe is the file itself, never a link that leads to it.
fn warn_of_program(exe: &str, place: &Place, found: &mut Diagnostics) {
    if exe.contains('*') {
        return;
    }
    match std::fs::canonicalize(exe) {
        Ok(file) if file == Path::new(exe) => {}
        Ok(file) => {
            found.warning(
                place.clone(),
                format!("\"{exe}\" is a link, and no process is known by it"),
                format!("did you mean \"{}\"?", file.display()),
            );
        }
        Err(_) => {
            found.warning(
                place.clone(),
                format!("there is no program \"{exe}\""),
                "it matches nothing until there is one",
            );
        }
    }
}

fn meant_number(name: &Name) -> Option<String> {
    let (kind, name) = match name {
        Name::User(name) => ("uid", name),
        Name::Group(name) => ("gid", name),
        _ => return None,
    };
    name.parse::<u32>().ok().map(|id| format!("{kind}:{id}"))
}
