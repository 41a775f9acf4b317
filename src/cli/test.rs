//! `imdsfw test`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use serde_json::json;

use super::inputs::{self, Inputs};
use super::{ConfigArg, Outcome, paragraph, print};
use crate::config::Action;
use crate::diagnose::{Diagnostics, plain_text};
use crate::policy::{Case, Proof};

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
    let Some(draft) = inputs.load(&mut found).draft else {
        if args.json {
            let result = json!({ "passed": 0, "failed": 0, "tests": [], "diagnostics": found });
            print(&format!("{result}\n"))?;
        } else {
            inputs::show(&found);
            eprintln!("\nimdsfw: no test was run, because of the errors above");
        }
        return Ok(ExitCode::FAILURE);
    };
    let start = Instant::now();
    let proofs: Vec<_> = draft.proofs().collect();
    let took = start.elapsed();
    let failed = proofs.iter().filter(|(_, proof)| !proof.passed).count();
    if args.json {
        let result = json!({
            "passed": proofs.len() - failed,
            "failed": failed,
            "seconds": took.as_secs_f64(),
            "tests": proofs.iter().map(|(case, proof)| one(case, proof)).collect::<Vec<_>>(),
            "diagnostics": found,
        });
        print(&format!("{result}\n"))?;
    } else {
        if proofs.is_empty() {
            eprintln!("imdsfw: there are no [[test]] tables; a policy without any is unproven");
        }
        let lines: String = proofs
            .iter()
            .map(|(case, proof)| line(case, proof))
            .collect();
        let failures: String = proofs
            .iter()
            .filter(|(_, proof)| !proof.passed)
            .map(|(case, proof)| failure(case, proof))
            .collect();
        let passed = proofs.len() - failed;
        let count = proofs.len();
        print(&format!(
            "{lines}{failures}\nran {count} in {took:.1?}\n{passed} passed, {failed} failed\n"
        ))?;
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn line(case: &Case, proof: &Proof) -> String {
    let mark = if proof.passed { "ok" } else { "FAIL" };
    let line = format!("{mark:<5} {:<5} {}", word(case.expect), case.request());
    plain_text(&line) + "\n"
}

/// Again, where nobody has to look for it among the others.
fn failure(case: &Case, proof: &Proof) -> String {
    let got = format!("{}: got {} {}", case.place, word(proof.got), proof.why);
    let expected = format!("expected {}: {}", word(case.expect), case.request());
    format!("\n{}{}", paragraph("", &got), paragraph("  ", &expected))
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
