//! `imdsfw top`: who asks for what right now.

mod keys;
mod screen;
mod terminal;

use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;

use super::{ConfigArg, Outcome, print};
use crate::audit::reading::{Follow, Record, Stream};
use crate::audit::window::{SECONDS, Window};
use crate::config::sinks::SinkConfig;
use crate::utc;
use screen::{Reaction, Screen};
use terminal::{Terminal, Woken};

/// Lines of the log that are read to begin with: more than a minute has.
const BEGIN_WITH: usize = 20_000;
/// How often the screen is drawn, at most, and a log looked at.
const EVERY: Duration = Duration::from_millis(250);
/// The clock goes on also when nothing comes.
const TICK: Duration = Duration::from_secs(1);

/// Watch who asks for what right now, refusals first.
///
/// The last minute of records, from the daemon's stream where it has one, else
/// from the log. Keys: / filters by text, p pauses, s sorts otherwise, the
/// arrows select, Enter shows the last record of a row whole, q ends.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw top
  imdsfw top --once --json")]
pub(super) struct Args {
    /// Follow this log, and read no config [default: the stream, else the
    /// configured log]
    #[arg(value_name = "FILE")]
    file: Option<PathBuf>,
    /// The daemon's stream [default: the configured one that gets everything]
    #[arg(long, value_name = "PATH", conflicts_with = "file")]
    socket: Option<PathBuf>,
    /// Print the last minute of the log once; of a FILE, the minute before its
    /// last record
    #[arg(long)]
    once: bool,
    /// Print it as one JSON object
    #[arg(long, requires = "once")]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

pub(super) fn run(args: Args) -> Outcome {
    let is_named = args.file.is_some();
    let (file, configured) = match args.file {
        Some(file) => (file, None),
        None => {
            let audit = args.config.load()?.audit;
            let stream = audit.sinks.iter().find_map(SinkConfig::whole_stream);
            (audit.file, stream.map(Path::to_path_buf))
        }
    };
    let refused = |error| format!("{} cannot be read: {error}", file.display());
    let is_seen = io::stdin().is_terminal() && io::stdout().is_terminal();
    if !(args.once || is_seen) {
        return Err("this is no terminal; `imdsfw top --once` prints one look at it".into());
    }
    // Before the log is read: what comes meanwhile comes twice, and counts once.
    let socket = args.socket.or(configured).filter(|_| !args.once);
    let stream = socket.and_then(|socket| Stream::connect(&socket).ok());
    let mut window = Window::default();
    let mut source = Source::File(Follow::open(&file, BEGIN_WITH).map_err(refused)?);
    source.poll(&mut window).map_err(refused)?;
    if args.once {
        match is_named {
            true => window.forget(),
            false => window.turn(SystemTime::now()),
        }
        let text = match args.json {
            true => crate::audit::harmless(&as_json(&window).to_string()).into_owned() + "\n",
            false => screen::once(&window),
        };
        print(&text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if let Some(stream) = stream {
        source = Source::Stream(stream);
    }
    let follow = || Follow::open(&file, BEGIN_WITH);
    watch(window, source, &follow).map_err(refused)?;
    Ok(ExitCode::SUCCESS)
}

/// Where records come from.
enum Source {
    Stream(Stream),
    File(Follow),
}

impl Source {
    /// Reads what there is; false once no more can come.
    fn poll(&mut self, window: &mut Window) -> io::Result<bool> {
        let mut each = |line: &[u8]| {
            if let Some((record, line)) = Record::parse(line) {
                window.add(&record, line);
            }
        };
        match self {
            Self::Stream(stream) => stream.poll(&mut each),
            Self::File(follow) => follow.poll(&mut each).map(|_| true),
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Stream(_) => "stream",
            Self::File(_) => "log",
        }
    }
}

fn watch(
    mut window: Window,
    mut source: Source,
    follow: &dyn Fn() -> io::Result<Follow>,
) -> io::Result<()> {
    let mut terminal = Terminal::enter()?;
    let mut screen = Screen::default();
    let mut drawn: Option<Instant> = None;
    let mut is_due = true;
    loop {
        let since = drawn.map_or(TICK, |at| at.elapsed());
        if since >= TICK || (is_due && since >= EVERY) {
            window.turn(SystemTime::now());
            terminal.show(&screen.draw(&window, source.name(), terminal.size()))?;
            (drawn, is_due) = (Some(Instant::now()), false);
        }
        let stream = match &source {
            Source::Stream(stream) => Some(stream),
            Source::File(_) => None,
        };
        // What is due is drawn in its time, and no sooner.
        let left = EVERY.saturating_sub(drawn.map_or(EVERY, |at| at.elapsed()));
        let wait = match (is_due, stream.is_some()) {
            (true, true) => left,
            (_, false) => left.max(Duration::from_millis(20)),
            (false, true) => TICK,
        };
        match terminal.wait(stream, wait)? {
            Woken::End => return Ok(()),
            Woken::Resized => drawn = None,
            Woken::Keys(keys) => {
                for key in keys {
                    if screen.press(key, &window) == Reaction::End {
                        return Ok(());
                    }
                }
                // A key is answered at once.
                drawn = None;
            }
            Woken::Records => {}
        }
        let before = window.seen();
        if !source.poll(&mut window)? {
            source = Source::File(follow()?);
        }
        is_due |= window.seen() != before;
    }
}

fn as_json(window: &Window) -> serde_json::Value {
    let at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(window.now()));
    let counts = window.counts();
    let rows: Vec<_> = screen::sorted(window, screen::Sort::Refused)
        .iter()
        .map(|view| {
            json!({
                "user": view.key.user, "uid": view.key.uid, "exe": view.key.exe,
                "class": view.key.class, "path": view.key.path, "reason": view.row.reason,
                "last": view.row.time, "answered": view.counts.allowed,
                "against_policy": view.counts.observed, "refused": view.counts.denied,
            })
        })
        .collect();
    json!({
        "host": window.host,
        "until": utc::rfc3339_seconds(at.unwrap_or(SystemTime::UNIX_EPOCH)),
        "seconds": SECONDS,
        "answered": counts.allowed,
        "against_policy": counts.observed,
        "refused": counts.denied,
        "rows": rows,
        "event": window.event.as_ref().map(|it| json!({
            "time": it.time, "event": it.event, "detail": it.detail,
        })),
    })
}
