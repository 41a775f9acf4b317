//! `imdsfw audit tail`.

use std::io::{self, IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::{FilterArgs, Outcome};
use crate::audit::reading::{Filter, Follow, Followed, Record, one_line};
use crate::cli::ConfigArg;

/// How often it is looked for more.
const EVERY: Duration = Duration::from_millis(100);

/// Show records as they come.
///
/// Follows the log across rotation, by rename and by copytruncate, until it is
/// ended. Records that came and went between two looks are counted.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit tail --decision deny
  imdsfw audit tail --class credentials --json")]
pub(super) struct Args {
    /// Follow this log, and read no config [default: the configured one]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// Begin with so many records that are there already
    #[arg(short = 'n', long, value_name = "N", default_value_t = 10)]
    lines: usize,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print the records as they are, one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: Args) -> Outcome {
    let file = match args.file {
        Some(file) => file,
        None => args.config.load()?.audit.file,
    };
    let refused = |error| format!("{} cannot be read: {error}", file.display());
    let mut follow = Follow::open(&file, args.lines).map_err(refused)?;
    let mut shown = Shown {
        filter: Filter::from(args.filter),
        json: args.json,
        coloured: !args.json
            && io::stdout().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()),
        seq: None,
    };
    loop {
        let mut out = super::output();
        let mut written = Ok(());
        let followed = follow
            .poll(&mut |line| {
                if written.is_ok() {
                    written = shown.line(line, &mut out);
                }
            })
            .map_err(refused)?;
        match written.and_then(|()| out.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error.into()),
        }
        drop(out);
        if followed == Followed::On {
            std::thread::sleep(EVERY);
        }
    }
}

struct Shown {
    filter: Filter,
    json: bool,
    coloured: bool,
    /// Of the last record.
    seq: Option<u64>,
}

impl Shown {
    fn line(&mut self, line: &[u8], out: &mut impl Write) -> io::Result<()> {
        let Some((record, line)) = Record::parse(line) else {
            if !line.is_empty() {
                eprintln!("imdsfw: a line that is no record was passed over");
            }
            return Ok(());
        };
        if let (Some(before), Some(seq)) = (self.seq, record.seq)
            && seq > before + 1
        {
            let missed = seq - before - 1;
            eprintln!("imdsfw: not seen before #{seq}: {missed}; see `imdsfw audit query`");
        }
        self.seq = record.seq.or(self.seq);
        if !self.filter.lets_through(&record) {
            return Ok(());
        }
        if self.json {
            return writeln!(out, "{}", crate::audit::harmless(line));
        }
        let text = one_line(&record);
        match colour(&record).filter(|_| self.coloured) {
            Some(colour) => writeln!(out, "\x1b[{colour}m{text}\x1b[0m"),
            None => writeln!(out, "{text}"),
        }
    }
}

/// Red what was refused, yellow what would have been, bold what a key left by.
fn colour(record: &Record<'_>) -> Option<&'static str> {
    match (record.decision.as_deref(), record.reason.as_deref()) {
        (Some("deny"), _) => Some("31"),
        (_, Some("observed" | "bypassed")) => Some("33"),
        _ if record.credential.is_some() => Some("1"),
        (None, _) => Some("36"),
        _ => None,
    }
}
