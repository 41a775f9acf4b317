//! `imdsfw audit query`.

use std::borrow::Cow;
use std::io::{self, Write};
use std::process::ExitCode;

use super::{FilterArgs, LogArgs, Outcome};
use crate::audit::reading::{Filter, Record, account, what};
use crate::diagnose::plain_text;

/// The columns of `--csv`.
const COLUMNS: [&str; 17] = [
    "time", "seq", "event", "id", "user", "uid", "decision", "reason", "detail", "rule", "method",
    "path", "class", "imds", "status", "exe", "unit",
];

/// Show records, all or those asked for.
///
/// Filters of one kind are alternatives, those of several kinds must all hold.
/// The table cuts what is too long for 80 columns; --json and --csv do not.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit query --decision deny --since 2h
  imdsfw audit query --user alice --class credentials --json
  imdsfw audit query --path '@role' --csv audit.jsonl.2.gz audit.jsonl.1")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    #[command(flatten)]
    filter: FilterArgs,
    /// Print the records as they are, one JSON object a line
    #[arg(long, conflicts_with = "csv")]
    json: bool,
    /// Print comma-separated values, with a head
    #[arg(long)]
    csv: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    let logs = args.logs.open()?;
    let filter = Filter::from(args.filter);
    let mut out = super::output();
    let mut table = Table::default();
    if args.csv {
        writeln!(out, "{}", COLUMNS.join(","))?;
    }
    let tally = super::read(logs, &filter, &mut |record, line| {
        if args.json {
            writeln!(out, "{}", crate::audit::harmless(line))
        } else if args.csv {
            csv(record, &mut out)
        } else {
            table.row(record, &mut out)
        }
    })?;
    super::finish(out)?;
    if let Some(tally) = tally {
        if !args.json && !args.csv {
            eprintln!(
                "{} of {} records",
                tally.matched,
                tally.lines - tally.foreign
            );
        }
        super::say_passed_over(&tally);
    }
    Ok(ExitCode::SUCCESS)
}

/// Rows of 80 columns, and the day where it changes.
#[derive(Default)]
struct Table {
    day: String,
}

impl Table {
    fn row(&mut self, record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
        let time = plain_text(&record.time);
        let (day, time) = time.split_once('T').unwrap_or(("?", &time));
        if day != self.day {
            self.day = day.to_owned();
            writeln!(out, "{day} (UTC)")?;
        }
        let time: String = time.chars().take(8).collect();
        let word = |text: &Option<_>| text.as_deref().map_or_else(|| "-".into(), plain_text);
        let what = what(record);
        writeln!(
            out,
            "{time:8} {:10} {:5} {:14} {}",
            super::begin_of(&account(record), 10),
            word(&record.decision.as_deref()),
            super::begin_of(&word(&record.reason.as_deref()), 14),
            super::end_of(&what, 39),
        )
    }
}

fn csv(record: &Record<'_>, out: &mut impl Write) -> io::Result<()> {
    let (caller, request) = (&record.caller, &record.request);
    let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
    let number = |number: Option<u64>| number.map(|it| it.to_string()).unwrap_or_default();
    let detail = match record.detail_word() {
        Some(word) => word.into_owned(),
        None => record
            .detail
            .map(|it| it.get().to_owned())
            .unwrap_or_default(),
    };
    let fields = [
        record.time.to_string(),
        number(record.seq),
        record.event.to_string(),
        text(record.id.as_deref()),
        text(caller.user.as_deref()),
        number(caller.uid.map(u64::from)),
        text(record.decision.as_deref()),
        text(record.reason.as_deref()),
        detail,
        text(record.rule.as_deref()),
        text(request.method.as_deref()),
        text(request.path.as_deref().or(request.raw.as_deref())),
        text(request.class.as_deref()),
        text(request.imds.as_deref()),
        number(record.status.map(u64::from)),
        text(caller.exe.as_deref()),
        text(caller.unit.as_deref()),
    ];
    let fields: Vec<_> = fields.iter().map(|field| quoted(field)).collect();
    writeln!(out, "{}", fields.join(","))
}

/// As RFC 4180 has it; what a spreadsheet would take for a formula gets an
/// apostrophe before it.
fn quoted(field: &str) -> String {
    let mut field = Cow::from(plain_text(field));
    if field.starts_with(['=', '+', '-', '@']) {
        field = format!("'{field}").into();
    }
    match field.contains([',', '"']) {
        true => format!("\"{}\"", field.replace('"', "\"\"")),
        false => field.into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn fields_are_quoted_and_no_formulas() {
        for (field, expected) in [
            ("alice", "alice"),
            ("a,b", "\"a,b\""),
            ("say \"x\"", "\"say \"\"x\"\"\""),
            ("=1+1", "'=1+1"),
            ("a\nb", "a b"),
        ] {
            assert_eq!(quoted(field), expected);
        }
    }
}
