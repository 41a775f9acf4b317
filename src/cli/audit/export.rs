//! `imdsfw audit export`.

use std::io::Write as _;
use std::process::ExitCode;

use clap::ValueEnum;

use super::{FilterArgs, LogArgs, Outcome};
use crate::audit::ocsf;
use crate::audit::reading::Filter;

/// Print records in the form that another program wants, a JSON object a line.
///
/// Filters of one kind are alternatives, those of several kinds must all hold.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit export --format ocsf > events.jsonl
  imdsfw audit export --format ocsf --decision deny --since 1h
  imdsfw audit export --format native audit.jsonl.2.gz audit.jsonl.1")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// In which form
    #[arg(long, value_enum)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As in the log
    Native,
    /// The Open Cybersecurity Schema Framework, 1.8.0
    Ocsf,
}

pub(super) fn run(args: Args) -> Outcome {
    let logs = args.logs.open()?;
    let filter = Filter::from(args.filter);
    let mut out = super::output();
    let mut unmapped = 0_u64;
    let tally = super::read(logs, &filter, &mut |_, line| match args.format {
        Format::Native => writeln!(out, "{}", crate::audit::harmless(line)),
        Format::Ocsf => match ocsf::from_native(line) {
            Some(event) => writeln!(out, "{}", crate::audit::harmless(&event)),
            None => {
                unmapped += 1;
                Ok(())
            }
        },
    })?;
    super::finish(out)?;
    if let Some(tally) = tally {
        super::say_passed_over(&tally);
    }
    if unmapped > 0 {
        let said = format!("imdsfw: of {unmapped} records no event was made: their time is none");
        eprintln!("{}", crate::cli::fold(&said));
    }
    Ok(ExitCode::SUCCESS)
}
