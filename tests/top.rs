//! `imdsfw top` at a terminal, and as a script asks for it.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

#[path = "common/own_log.rs"]
mod own_log;

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Output};
use std::time::{Duration, Instant, SystemTime};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{Termios, tcgetattr};
use nix::unistd::Pid;
use own_log::{HOSTILE, Log};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_imdsfw");
const PATIENCE: Duration = Duration::from_secs(20);

fn record(seq: u64, user: &str, path: &str, decision: &str) -> Value {
    json!({
        "schema": 1, "seq": seq, "event": "request", "decision": decision,
        "time": humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
        "reason": if decision == "deny" { "default" } else { "allowed" },
        "host": { "name": "login-1" },
        "caller": { "uid": 4001, "user": user, "exe": "/usr/bin/curl" },
        "request": { "method": "GET", "path": path, "class": "secrets", "imds": "v2" },
        "status": 403,
    })
}

fn hostile(seq: u64) -> Value {
    let mut hostile = record(seq, HOSTILE, HOSTILE, "deny");
    hostile["reason"] = HOSTILE.into();
    hostile["caller"]["exe"] = HOSTILE.into();
    hostile["request"]["class"] = HOSTILE.into();
    hostile["host"]["name"] = HOSTILE.into();
    hostile["extra"] = HOSTILE.into();
    hostile
}

impl Log {
    fn once(&self, words: &[&str]) -> Output {
        self.ask(&["top", "--once"], words)
    }
}

#[test]
fn one_look_counts_the_last_minute_refusals_first() {
    let mut old = record(1, "alice", "/latest/user-data", "deny");
    old["time"] = "2026-01-01T00:00:00Z".into();
    let mut summary = record(6, "", "", "deny");
    summary["event"] = "limit.denials_summarised".into();
    summary["detail"] = json!({ "of": "request", "uid": 4002, "reason": "limit", "count": 500 });
    let mut drift = record(7, "", "", "");
    drift["event"] = "rules.drift".into();
    let log = Log::new(&[
        old,
        record(2, "alice", "/latest/meta-data/mac", "allow"),
        record(3, "alice", "/latest/meta-data/mac", "allow"),
        record(4, "bob", "/latest/user-data", "deny"),
        record(
            5,
            "alice",
            &format!("/latest/{}/end", "x".repeat(200)),
            "allow",
        ),
        summary,
        drift,
    ]);
    let text = String::from_utf8(log.once(&[]).stdout).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(
        lines.iter().all(|line| line.chars().count() <= 80),
        "{text}"
    );
    assert!(
        lines[0].contains("login-1") && lines[0].contains("501 refused, 3 answered"),
        "{text}"
    );
    assert!(lines[1].contains("rules.drift"), "{text}");
    assert!(
        lines[3].contains("500") && lines[3].contains("limit"),
        "{text}"
    );
    assert!(
        lines[4].contains("bob") && lines[4].ends_with("/user-data"),
        "{text}"
    );
    assert!(text.contains("/end\n"), "{text}");
    let output = log.once(&["--json"]);
    let value: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&value["refused"], &value["answered"]),
        (&json!(501), &json!(3))
    );
    assert_eq!(value["rows"][1]["user"], "bob");
    assert_eq!(value["rows"].as_array().unwrap().len(), 4);
}

#[test]
fn nothing_that_a_record_says_steers_the_terminal() {
    let mut event = hostile(2);
    event["event"] = HOSTILE.into();
    event["detail"] = json!({ HOSTILE: HOSTILE });
    let log = Log::new(&[hostile(1), event]);
    let mut bytes = fs::read(log.path()).unwrap();
    bytes.extend_from_slice(b"{\"time\":\"\xff\xfe\x1b[2J\",\"event\":\"x\"}\n");
    fs::write(log.path(), bytes).unwrap();
    for words in [&[][..], &["--json"]] {
        let output = log.once(words);
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        let steers = |it: char| it != '\n' && (it.is_control() || it == '\u{202e}');
        assert!(
            text.contains("script") && !text.contains(steers),
            "{text:?}"
        );
    }
    let mut top = Top::new(&[log.path().to_str().unwrap()]);
    top.sees("script");
    top.press("\r");
    top.sees("\"extra\":");
    top.press("q");
    top.sees("q: end");
    top.press("q");
    top.ends();
    // Of all it was sent, the terminal obeys only what is ours.
    let mut rest = String::from_utf8(top.seen.clone()).unwrap();
    for ours in [
        "[H", "[K", "[J", "[0m", "[1m", "[2m", "[7m", "[31m", "[33m", "[36m", "[?1049h", "[?1049l",
        "[?25h", "[?25l", "[?7h", "[?7l",
    ] {
        // What a record says of colours has lost its escape.
        rest = rest.replace(&format!("\u{1b}{ours}"), "");
    }
    let steers = |it: char| !matches!(it, '\r' | '\n') && (it.is_control() || it == '\u{202e}');
    assert!(!rest.contains(steers), "{rest:?}");
}

#[test]
fn keys_filter_pause_and_show_one_record_whole() {
    let log = Log::new(&[
        record(1, "alice", "/latest/meta-data/mac", "allow"),
        record(2, "bob", "/latest/user-data", "deny"),
    ]);
    let mut top = Top::new(&[log.path().to_str().unwrap()]);
    top.sees("alice");
    let frame = top.frame();
    assert!(
        frame.find("bob") < frame.find("alice"),
        "refusals first: {frame}"
    );
    top.press("/");
    top.sees("filter: _");
    top.press("bob q");
    top.sees("filter: bob q_");
    top.press("\x7f\x7f\r");
    top.sees("[bob]");
    assert!(!top.frame().contains("alice"), "{}", top.frame());
    // One that comes is shown by itself, and not while paused.
    log.append(&[record(3, "bobby", "/latest/user-data", "deny")]);
    top.sees("bobby");
    top.press("p");
    top.sees("PAUSED");
    log.append(&[record(4, "bobcat", "/latest/user-data", "deny")]);
    top.press("s");
    top.sees("by requests");
    assert!(!top.frame().contains("bobcat"));
    top.press("p");
    top.sees("bobcat");
    top.press("\x1b");
    top.sees("alice");
    top.press("\x1b[B\x1b[B\x1b[B\x1b[B\x1b[A\x1b[B\r");
    top.sees("the last record of this row");
    top.sees("\"reason\": \"");
    top.press("\x1b");
    top.sees("q: end");
    top.press("q");
    top.ends();
}

#[test]
fn the_terminal_is_given_back_whatever_ends_it() {
    let log = Log::new(&[record(1, "alice", "/latest/meta-data/mac", "allow")]);
    for end in [Signal::SIGTERM, Signal::SIGHUP, Signal::SIGINT] {
        let mut top = Top::new(&[log.path().to_str().unwrap()]);
        top.sees("alice");
        match end {
            // As a hand does it.
            Signal::SIGINT => top.press("\x03"),
            end => kill(top.pid(), end).unwrap(),
        }
        top.ends();
    }
    let output = Command::new(BINARY)
        .args(["top"])
        .arg(log.path())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("`imdsfw top --once`"), "{said}");
}

#[test]
fn the_stream_is_followed_and_where_it_ends_the_log() {
    let log = Log::new(&[record(1, "alice", "/latest/meta-data/mac", "allow")]);
    let config = log.dir.path().join("imdsfw.toml");
    let socket = log.dir.path().join("audit.sock");
    let sinks = format!(
        "[audit]\nfile = {:?}\n\
         [[audit.sink]]\nkind = \"stream\"\nname = \"some\"\nsummarise = \"60s\"\n\
         [[audit.sink]]\nkind = \"stream\"\npath = {socket:?}\n",
        log.path(),
    );
    fs::write(&config, sinks).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    let mut top = Top::new(&["--config", config.to_str().unwrap()]);
    let (mut stream, _): (UnixStream, _) = listener.accept().unwrap();
    top.sees("[stream]");
    top.sees("alice");
    // What the log had already comes again, and counts once.
    let again = fs::read_to_string(log.path()).unwrap();
    let next = record(2, "bob", "/latest/user-data", "deny");
    writeln!(stream, "{again}{next}").unwrap();
    top.sees("1 refused, 1 answered");
    drop((stream, listener));
    top.sees("[log]");
    log.append(&[next, record(3, "carol", "/latest/user-data", "deny")]);
    top.sees("2 refused, 1 answered");
    top.press("q");
    top.ends();
}

/// One at a terminal of 80 columns.
struct Top {
    child: Child,
    master: File,
    slave: File,
    before: Termios,
    seen: Vec<u8>,
    /// What was seen before the last key.
    read_to: usize,
}

impl Top {
    fn new(words: &[&str]) -> Self {
        let size = Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(Some(&size), None).unwrap();
        let (master, slave) = (File::from(pty.master), File::from(pty.slave));
        let before = tcgetattr(&slave).unwrap();
        let end = || slave.try_clone().unwrap();
        let child = Command::new("setsid")
            .args(["--ctty", BINARY, "top"])
            .args(words)
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .expect("setsid, of util-linux");
        Self {
            child,
            master,
            slave,
            before,
            seen: Vec::new(),
            read_to: 0,
        }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    fn press(&mut self, keys: &str) {
        self.read_to = self.seen.len();
        self.master.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen, drawn since the last key, has it.
    #[track_caller]
    fn sees(&mut self, text: &str) {
        let begun = Instant::now();
        while !self.frame().contains(text) {
            assert!(
                begun.elapsed() < PATIENCE,
                "{text:?} is not on:\n{}",
                self.frame()
            );
            self.read();
        }
        self.read_to = 0;
    }

    /// The last screen.
    fn frame(&self) -> String {
        let seen = String::from_utf8_lossy(&self.seen[self.read_to.min(self.seen.len())..]);
        seen.rsplit("\x1b[H").next().unwrap_or_default().to_owned()
    }

    fn read(&mut self) {
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(100_u8)).unwrap() > 0 {
            let mut chunk = [0; 16 * 1024];
            let len = match self.master.read(&mut chunk) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => 0,
                read => read.unwrap(),
            };
            self.seen.extend(&chunk[..len]);
        }
    }

    #[track_caller]
    fn ends(&mut self) {
        let begun = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                break status;
            }
            assert!(begun.elapsed() < PATIENCE);
            self.read();
        };
        self.read();
        assert_eq!(status.code(), Some(0));
        let seen = String::from_utf8_lossy(&self.seen);
        assert!(seen.ends_with("\x1b[?25h\x1b[?1049l"), "{seen:?}");
        assert_eq!(tcgetattr(&self.slave).unwrap(), self.before);
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
