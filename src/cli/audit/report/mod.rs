//! `imdsfw audit report`: the log as one HTML file, for people.
//!
//! Everything is in the file, as text and tables; the script only narrows them
//! down. The page forbids itself the network, and any script and style but its
//! own, by their hashes: what a record says could not run even as HTML.

mod chart;
mod html;
mod notes;
mod tables;

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::io::{self, IsTerminal as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

use super::{LogArgs, Outcome};
use crate::audit::digest::Digest;
use crate::audit::reading::{Filter, Tally};
use crate::utc;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

/// Make a report of the log: one HTML file that needs nothing else.
///
/// When was what answered and refused, who asked for what, who was handed which
/// key, who still needs IMDSv1, which limits were hit, what changed, and what is
/// missing from the log. It names users and key ids: it is written for its
/// owner's eyes (0600).
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit report --since 24h -o report.html
  imdsfw audit report audit.jsonl.2.gz audit.jsonl.1 > report.html")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// Read records since then: a time (UTC), or how long ago
    #[arg(long, value_name = "TIME|24h", value_parser = super::moment)]
    since: Option<String>,
    /// Read records before then
    #[arg(long, value_name = "TIME|24h", value_parser = super::moment)]
    until: Option<String>,
    /// Write it there [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

pub(super) fn run(args: Args) -> Outcome {
    if args.output.is_none() && io::stdout().is_terminal() {
        return Err(
            "a report is an HTML file, and nothing to be read on a terminal: add \
             `-o report.html`, and open that in a browser"
                .into(),
        );
    }
    let logs = args.logs.open()?;
    let filter = Filter {
        since: args.since,
        until: args.until,
        ..Filter::default()
    };
    let mut digest = Digest::default();
    let tally = super::read(logs, &filter, &mut |record, _| {
        digest.add(record);
        Ok(())
    })?
    .unwrap_or_default();
    super::say_passed_over(&tally);
    if digest.records == 0 {
        return Err("there is no record in this time: nothing to report of".into());
    }
    let page = page(&digest, &tally, &utc::rfc3339_seconds(SystemTime::now()))?;
    match args.output {
        None => crate::cli::print(&page)?,
        Some(path) => {
            write(&path, page.as_bytes())
                .map_err(|error| format!("{} cannot be written: {error}", path.display()))?;
            eprintln!("{}: {} records", path.display(), digest.records);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Whole or not at all, and never through a link that somebody left there.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // A pipe, or a device.
    if fs::metadata(path).is_ok_and(|meta| !meta.is_file()) {
        return File::options().write(true).open(path)?.write_all(bytes);
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&new)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&new, path));
    if written.is_err() {
        let _ = fs::remove_file(&new);
    }
    written
}

fn page(digest: &Digest, tally: &Tally, now: &str) -> Result<String, fmt::Error> {
    let mut out = String::new();
    let hash = |text: &str| format!("'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
    write!(
        out,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src {}; script-src {}; base-uri 'none'; form-action 'none'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta name=\"referrer\" content=\"no-referrer\">\n\
         <meta name=\"robots\" content=\"noindex\">\n<title>",
        hash(STYLE),
        hash(SCRIPT)
    )?;
    let hosts = notes::hosts(digest);
    write!(
        out,
        "imdsfw report: {hosts}</title>\n<style>{STYLE}</style>"
    )?;
    out.push_str("</head>\n<body>\n<a class=\"skip\" href=\"#main\">To the report</a>\n");
    notes::header(&mut out, digest, tally, &hosts)?;
    out.push_str("<main id=\"main\">\n");
    notes::notes(&mut out, digest)?;
    chart::timeline(&mut out, digest)?;
    tables::filters(&mut out, digest)?;
    tables::matrix(&mut out, digest)?;
    tables::hand_outs(&mut out, digest)?;
    tables::kinds(&mut out, digest)?;
    tables::programs(&mut out, digest)?;
    tables::v1(&mut out, digest)?;
    tables::limits(&mut out, digest)?;
    tables::events(&mut out, digest)?;
    tables::losses(&mut out, digest, tally)?;
    out.push_str("</main>\n");
    writeln!(
        out,
        "<footer><p>Made by imdsfw {} on {now}. Times are UTC. What the log cannot say, such as \
         who used a key after it was handed out, is not in here either.</p></footer>\n\
         <script>{SCRIPT}</script>\n</body></html>",
        env!("CARGO_PKG_VERSION")
    )?;
    Ok(out)
}
