//! `imdsfw audit verify`.

use std::io;
use std::process::ExitCode;

use super::{LogArgs, Outcome};
use crate::audit::read_head;
use crate::audit::reading::{Logs, Verified};

/// Check that the log is as it was written.
///
/// Every record carries the hash of the line before it, across rotation and
/// restarts. What was altered, is missing, moved or half written is named with
/// its file and line. The configured log is also held against the head of the
/// chain in `[state] directory`, so that its end cannot be cut unseen; files
/// that you name are not, and may begin and end anywhere.
///
/// A chain proves nothing against who can write both log and head, as root
/// can: to know what root did, send records to another machine.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit verify
  imdsfw audit verify --json audit.jsonl.2.gz audit.jsonl.1

Exit codes: 0 all is as it was written, 1 it is not, or cannot be read")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    let (logs, head) = if args.logs.files.is_empty() {
        let config = args.logs.config.load()?;
        // First the head, which is never ahead of the log.
        let head = read_head(&config.state_directory).map_err(|error| {
            let directory = config.state_directory.display();
            format!("{directory}: the head of the chain cannot be read: {error}")
        })?;
        let logs = Logs::with_rotated(&config.audit.file)?;
        if logs.is_empty() {
            let file = config.audit.file.display();
            return Err(match head {
                Some(head) => format!("there is no log: {file}, of which #{} is known", head.seq),
                None => format!("there is no log yet: {file} is not there"),
            }
            .into());
        }
        (logs, head)
    } else {
        (args.logs.open()?, None)
    };
    let verified = super::with_progress(|progress| logs.verify(head, progress))?;
    let mut out = super::output();
    match args.json {
        true => print_json(&verified, &mut out)?,
        false => print(&verified, &mut out)?,
    }
    super::finish(out)?;
    Ok(match verified.is_whole() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn print_json(verified: &Verified, out: &mut impl io::Write) -> io::Result<()> {
    let mut whole = serde_json::to_value(verified)?;
    if let Some(fields) = whole.as_object_mut() {
        fields.insert("whole".into(), verified.is_whole().into());
    }
    writeln!(out, "{whole}")
}

fn print(verified: &Verified, out: &mut impl io::Write) -> io::Result<()> {
    for problem in &verified.problems {
        writeln!(out, "{problem}")?;
    }
    if verified.more > 0 {
        writeln!(out, "and {} problems more", verified.more)?;
    }
    let plural = |count: u64, word: &str| match count {
        1 => format!("1 {word}"),
        _ => format!("{count} {word}s"),
    };
    let files = u64::try_from(verified.files).unwrap_or(u64::MAX);
    let mut said = plural(verified.records, "record");
    if let (Some(first), Some(last)) = (verified.first, verified.last) {
        said += &format!(", #{first} to #{}", last.seq);
    }
    said += &format!(", in {}: ", plural(files, "file"));
    match verified.is_whole() {
        true => said += "as they were written",
        false => {
            let problems = u64::try_from(verified.problems.len()).unwrap_or(u64::MAX);
            said += &plural(problems + verified.more, "problem");
        }
    }
    if verified.is_whole() && verified.head.is_some() {
        said += ", up to the head of the chain";
    }
    writeln!(out, "{said}")
}
