//! `imdsfw audit`: reads the audit log back.

mod export;
mod learn;
mod query;
mod replay;
mod report;
mod tail;
mod verify;
mod who;

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use clap::Subcommand;

use super::{ConfigArg, Outcome};
use crate::audit::reading::{Filter, Logs, Progress, ReadingError, Record, Tally};
use crate::policy::PathFilter;
use crate::provider::{Class, Provider};
use crate::utc;

/// Files shorter than this are read before anybody has looked at a clock.
const WORTH_TELLING: u64 = 64 << 20;
const TELL_EVERY: Duration = Duration::from_millis(200);

/// Read the audit log: who asked for what, and what became of it.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw audit query --decision deny --since 2h")]
pub(super) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand, Debug)]
enum Action {
    Query(query::Args),
    Tail(tail::Args),
    Who(who::Args),
    Export(export::Args),
    Learn(learn::Args),
    Replay(replay::Args),
    Report(report::Args),
    Verify(verify::Args),
}

pub(super) fn run(args: Args) -> Outcome {
    match args.action {
        Action::Query(args) => query::run(args),
        Action::Tail(args) => tail::run(args),
        Action::Who(args) => who::run(args),
        Action::Export(args) => export::run(args),
        Action::Learn(args) => learn::run(args),
        Action::Replay(args) => replay::run(args),
        Action::Report(args) => report::run(args),
        Action::Verify(args) => verify::run(args),
    }
}

/// Which logs.
#[derive(clap::Args, Debug)]
struct LogArgs {
    /// Read these logs, plain or compressed, and no config; `-` is standard
    /// input [default: the configured one, and what was rotated away]
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    #[command(flatten)]
    config: ConfigArg,
}

impl LogArgs {
    fn open(&self) -> Result<Logs, Box<dyn std::error::Error>> {
        if !self.files.is_empty() {
            return Ok(Logs::named(&self.files)?);
        }
        let file = self.config.load()?.audit.file;
        let logs = Logs::with_rotated(&file)?;
        if logs.is_empty() {
            return Err(format!("there is no log yet: {} is not there", file.display()).into());
        }
        Ok(logs)
    }
}

/// Which records.
#[derive(clap::Args, Debug)]
struct FilterArgs {
    /// Of this account; every filter may be given again, for any of them
    #[arg(long, value_name = "NAME")]
    user: Vec<String>,
    /// Of this uid
    #[arg(long, value_name = "N")]
    uid: Vec<u32>,
    /// For a path, as a policy has it: '/meta-data/tags/**', @role
    #[arg(long, value_name = "PATTERN", value_parser = path)]
    path: Vec<PathFilter>,
    /// For paths of this class
    #[arg(long, value_name = "CLASS", value_parser = class)]
    class: Vec<String>,
    /// With this outcome
    #[arg(long, value_name = "allow|deny", value_parser = ["allow", "deny"])]
    decision: Option<String>,
    /// For this reason, such as policy, token_missing, observed
    #[arg(long, value_name = "REASON")]
    reason: Vec<String>,
    /// From then on: a time (UTC), or how long ago
    #[arg(long, value_name = "TIME|2h", value_parser = moment)]
    since: Option<String>,
    /// Before then
    #[arg(long, value_name = "TIME|2h", value_parser = moment)]
    until: Option<String>,
    /// By this program: its path, or the name of its file
    #[arg(long, value_name = "PROGRAM")]
    exe: Vec<String>,
    /// From this unit, with or without its suffix
    #[arg(long, value_name = "UNIT")]
    unit: Vec<String>,
    /// Of this kind, such as request or rules.drift
    #[arg(long, value_name = "EVENT")]
    event: Vec<String>,
}

impl From<FilterArgs> for Filter {
    fn from(args: FilterArgs) -> Self {
        Self {
            users: args.user,
            uids: args.uid,
            paths: args.path,
            classes: args.class,
            decision: args.decision,
            reasons: args.reason,
            events: args.event,
            exes: args.exe,
            units: args.unit,
            since: args.since,
            until: args.until,
            ..Self::default()
        }
    }
}

fn path(text: &str) -> Result<PathFilter, String> {
    PathFilter::parse(Provider::Aws, text)
}

fn class(text: &str) -> Result<String, String> {
    let name = text.strip_prefix('@').unwrap_or(text);
    let classes = Class::ALL.map(Class::as_str);
    match classes.contains(&name) {
        true => Ok(name.to_owned()),
        false => Err(format!("expected one of {}", classes.join(", "))),
    }
}

/// A time as records have it.
fn moment(text: &str) -> Result<String, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        let at = SystemTime::now().checked_sub(ago);
        return Ok(utc::rfc3339_micros(at.unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    let whole = match text.len() {
        10 => format!("{text} 00:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    humantime::parse_rfc3339_weak(&whole)
        .map(utc::rfc3339_micros)
        .map_err(|_| "expected 2h, 2026-11-21, 2026-11-21T21:40 or 2026-11-21T21:40:00Z".to_owned())
}

/// Reads, telling how far. `None`: nobody reads what comes of it
/// any more.
fn read(
    logs: Logs,
    filter: &Filter,
    each: &mut dyn FnMut(&Record<'_>, &str) -> io::Result<()>,
) -> Result<Option<Tally>, ReadingError> {
    match with_progress(|progress| logs.read(filter, progress, each)) {
        Ok(tally) => Ok(Some(tally)),
        Err(ReadingError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(None),
        Err(error) => Err(error),
    }
}

/// On a terminal, tells how far it is with long files.
fn with_progress<T>(read: impl FnOnce(&mut dyn FnMut(Progress)) -> T) -> T {
    let is_seen = io::stderr().is_terminal();
    let mut told = None;
    let begun = Instant::now();
    let mut progress = |Progress { done, total }: Progress| {
        let due = told.unwrap_or(begun).elapsed() >= TELL_EVERY;
        if is_seen && due && total >= WORTH_TELLING {
            told = Some(Instant::now());
            let percent = done.saturating_mul(100) / total;
            let (done, total) = (done >> 20, total >> 20);
            eprint!("\r{percent:3} % of the log read ({done} of {total} MiB)\x1b[K");
        }
    };
    let outcome = read(&mut progress);
    if told.is_some() {
        eprint!("\r\x1b[K");
    }
    outcome
}

/// On standard error: what was in the logs beside records.
fn say_passed_over(tally: &Tally) {
    if let Some(said) = tally.passed_over() {
        eprintln!("{}", super::fold(&format!("imdsfw: {said}")));
    }
}

/// Standard output, filled before it is written.
fn output() -> io::BufWriter<io::StdoutLock<'static>> {
    io::BufWriter::with_capacity(64 * 1024, io::stdout().lock())
}

/// Ends the output; a reader that has seen enough is no error.
fn finish(mut out: impl io::Write) -> io::Result<()> {
    match out.flush() {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

/// As much of the end of `text` as fits.
pub(super) fn end_of(text: &str, width: usize) -> String {
    let count = text.chars().count();
    if count <= width {
        return text.to_owned();
    }
    let rest = text.chars().skip(count + 1 - width);
    std::iter::once('…').chain(rest).collect()
}

/// As much of its beginning as fits.
pub(super) fn begin_of(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let begin = text.chars().take(width.saturating_sub(1));
    begin.chain(std::iter::once('…')).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        for (text, expected) in [
            ("2026-11-21", "2026-11-21T00:00:00.000000Z"),
            ("2026-11-21T21:40", "2026-11-21T21:40:00.000000Z"),
            ("2026-11-21 21:40:05", "2026-11-21T21:40:05.000000Z"),
            ("2026-11-21T21:40:05.5Z", "2026-11-21T21:40:05.500000Z"),
        ] {
            assert_eq!(moment(text).as_deref(), Ok(expected), "{text}");
        }
        assert!(moment("2h").unwrap() < moment("1h").unwrap());
        assert!(moment("yesterday").is_err());
    }

    #[test]
    fn a_line_stays_the_same_json_and_steers_no_terminal() {
        let line = "{\"a\":\"\u{9b}31m\u{202e}\u{7f} é\",\r\"b\":\"\\u001b\"}";
        let shown = crate::audit::harmless(line);
        assert!(shown.chars().all(|it| !it.is_control() && it != '\u{202e}'));
        let read = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        assert_eq!(read(&shown), read(line));
    }
}
