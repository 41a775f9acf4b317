//! `imdsfw audit verify`.

use std::error::Error;
use std::io;
use std::process::ExitCode;
use std::time::Duration;

use super::{LogArgs, Outcome};
use crate::audit::reading::{Logs, Verified};
use crate::audit::{Head, read_head};

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

/// A log that is being copied, cut or compressed is not whole for a moment.
const LOOKS: u32 = 3;
const BETWEEN: Duration = Duration::from_secs(2);
const STILL: Duration = Duration::from_secs(30);

pub(super) fn run(args: Args) -> Outcome {
    let mut looks = 0;
    let verified = loop {
        looks += 1;
        let (logs, head) = open(&args)?;
        let is_still = logs.is_untouched_for(STILL);
        let verified = super::with_progress(|progress| logs.verify(head, progress))?;
        let is_named = !args.logs.files.is_empty();
        if verified.is_whole() || is_still || is_named || looks == LOOKS {
            break verified;
        }
        std::thread::sleep(BETWEEN);
    };
    let mut out = super::output();
    match args.json {
        true => print_json(&verified, &mut out)?,
        false => print(&verified, args.logs.files.is_empty(), &mut out)?,
    }
    super::finish(out)?;
    Ok(match verified.is_whole() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

fn open(args: &Args) -> Result<(Logs, Option<Head>), Box<dyn Error>> {
    if !args.logs.files.is_empty() {
        return Ok((args.logs.open()?, None));
    }
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
            Some(head) => {
                format!(
                    "there is no log: {file}, of which #{} is known",
                    head.link.seq
                )
            }
            None => format!("there is no log yet: {file} is not there"),
        }
        .into());
    }
    Ok((logs, head))
}

fn print_json(verified: &Verified, out: &mut impl io::Write) -> io::Result<()> {
    let mut whole = serde_json::to_value(verified)?;
    if let Some(fields) = whole.as_object_mut() {
        fields.insert("whole".into(), verified.is_whole().into());
    }
    writeln!(out, "{whole}")
}

fn print(verified: &Verified, is_configured: bool, out: &mut impl io::Write) -> io::Result<()> {
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
    if verified.is_whole() && is_configured {
        said += &match (verified.head, verified.behind) {
            (Some(_), 0) => ", up to the head of the chain".to_owned(),
            (Some(_), behind) => {
                format!(", up to the head of the chain and {behind} behind it")
            }
            (None, _) => "; no head of the chain is kept".to_owned(),
        };
    }
    if verified.unchained > 0 {
        let unchained = plural(verified.unchained, "record");
        said += &format!("; the first {unchained} are of before there was a chain");
    }
    writeln!(out, "{said}")
}
