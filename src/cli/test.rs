//! `imdsfw test`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::inputs::{self, Inputs};
use super::{ConfigArg, Outcome};
use crate::config::Action;
use crate::diagnose::{Diagnostics, plain_text};
use crate::policy::{Case, Draft, Proof};

/// Run the policy's own tests, its [[test]] tables.
///
/// Exits 0 when all pass, 1 when one fails or the policy has an error.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw test
  imdsfw test ./20-site.toml")]
pub(super) struct Args {
    /// Test these policy files alone, whatever their names
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// Print the results as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: Args) -> Outcome {
    let inputs = Inputs {
        config: args.config.config,
        files: args.files,
        ..Inputs::default()
    };
    let mut found = Diagnostics::new();
    let draft = inputs.load(&mut found).and_then(|loaded| loaded.draft);
    let Some(draft) = draft else {
        if args.json {
            println!(
                "{}",
                json!({ "passed": 0, "failed": 0, "tests": [], "diagnostics": found })
            );
        } else {
            inputs::show(&found);
            eprintln!("imdsfw: no test was run, because of the errors above");
        }
        return Ok(ExitCode::FAILURE);
    };
    let failed = draft.proofs().filter(|(_, proof)| !proof.passed).count();
    if args.json {
        print_json(&draft, &found);
    } else {
        print_lines(&draft);
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn print_lines(draft: &Draft) {
    let (mut passed, mut failed) = (0, 0);
    for (case, proof) in draft.proofs() {
        if proof.passed {
            passed += 1;
            println!(
                "ok    {:<5} {}",
                word(case.expect),
                plain_text(&case.request())
            );
        } else {
            failed += 1;
            println!(
                "FAIL  {:<5} {}",
                word(case.expect),
                plain_text(&case.request())
            );
            println!(
                "      {}: got {} {}",
                case.place,
                word(proof.got),
                plain_text(&proof.why)
            );
        }
    }
    if passed + failed == 0 {
        eprintln!("imdsfw: there are no [[test]] tables; a policy without any is unproven");
    }
    println!("{passed} passed, {failed} failed");
}

fn print_json(draft: &Draft, found: &Diagnostics) {
    let tests: Vec<_> = draft
        .proofs()
        .map(|(case, proof)| one(case, &proof))
        .collect();
    let failed = draft.proofs().filter(|(_, proof)| !proof.passed).count();
    let result = json!({
        "passed": tests.len() - failed,
        "failed": failed,
        "tests": tests,
        "diagnostics": found,
    });
    println!("{result}");
}

fn one(case: &Case, proof: &Proof) -> serde_json::Value {
    let (line, col) = case.place.line_and_column();
    json!({
        "file": case.place.source.name(),
        "line": line,
        "col": col,
        "request": case.request(),
        "expect": case.expect,
        "got": proof.got,
        "passed": proof.passed,
        "why": proof.why,
    })
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    }
}
