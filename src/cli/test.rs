//! `imdsfw test`.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::json;

use super::inputs::{self, Inputs};
use super::{ConfigArg, Outcome, print};
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
    let proofs: Vec<_> = draft.proofs().collect();
    let failed = proofs.iter().filter(|(_, proof)| !proof.passed).count();
    if args.json {
        let result = json!({
            "passed": proofs.len() - failed,
            "failed": failed,
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
            .map(|(case, proof)| lines(case, proof))
            .collect();
        let passed = proofs.len() - failed;
        print(&format!("{lines}{passed} passed, {failed} failed\n"))?;
    }
    Ok(ExitCode::from(u8::from(failed > 0)))
}

fn lines(case: &Case, proof: &Proof) -> String {
    let request = plain_text(&case.request());
    let expect = word(case.expect);
    if proof.passed {
        return format!("ok    {expect:<5} {request}\n");
    }
    let place = plain_text(&case.place.to_string());
    let got = word(proof.got);
    let why = plain_text(&proof.why);
    format!("FAIL  {expect:<5} {request}\n      {place}: got {got} {why}\n")
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
