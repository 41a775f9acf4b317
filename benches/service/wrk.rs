//! The load: wrk, and what it says.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::common::user::ALICE;
use crate::contenders::{PATH, Running};

/// What becomes of a connection after an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Persistence {
    KeepAlive,
    Close,
}

impl Persistence {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::KeepAlive => "keep-alive",
            Self::Close => "close",
        }
    }
}

/// What one turn came to.
#[derive(Clone, Debug)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
}

/// Asks as alice for so long; every answer must be a good one.
pub(crate) fn load(
    running: &Running,
    connections: usize,
    persistence: Persistence,
    time: Duration,
) -> Load {
    let child = spawn(running, connections, persistence, time);
    let output = child.wait_with_output().unwrap();
    parse(&String::from_utf8(output.stdout).unwrap())
}

fn spawn(running: &Running, connections: usize, persistence: Persistence, time: Duration) -> Child {
    let mut command = Command::new("/usr/bin/wrk");
    // Whole seconds, and no less than one, are all that it takes.
    let seconds = time.as_secs().max(1);
    command
        .args(["-t1", "--latency"])
        .arg(format!("-c{connections}"))
        .arg(format!("-d{seconds}s"))
        .uid(ALICE.uid)
        .gid(ALICE.gid)
        .stdout(Stdio::piped());
    if persistence == Persistence::Close {
        command.args(["-H", "Connection: close"]);
    }
    if let Some(token) = &running.token {
        command
            .arg("-H")
            .arg(format!("X-aws-ec2-metadata-token: {token}"));
    }
    let url = format!("http://{}{PATH}", running.contender.address());
    command.arg(url).spawn().expect("wrk; run `.ci/bench`")
}

fn parse(said: &str) -> Load {
    for trouble in ["Socket errors", "Non-2xx"] {
        assert!(!said.contains(trouble), "{said}");
    }
    // At the beginning of a line: other figures are percentages too.
    let after = |word: &str| -> &str {
        let mut lines = said
            .lines()
            .filter_map(|line| line.trim().strip_prefix(word));
        let rest = lines.next().unwrap_or_else(|| panic!("{word}: {said}"));
        rest.trim()
    };
    let (before, _) = said.split_once(" requests in ").unwrap();
    Load {
        requests: before.split_whitespace().last().unwrap().parse().unwrap(),
        per_second: after("Requests/sec:").parse().unwrap(),
        p50: duration(after("50%")),
        p99: duration(after("99%")),
    }
}

/// `83.00us`, `1.20ms`, `1.00s`.
fn duration(text: &str) -> Duration {
    let unit = text.trim_start_matches(|it: char| it.is_ascii_digit() || it == '.');
    let number: f64 = text.trim_end_matches(unit).parse().unwrap();
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "s" => number,
        _ => panic!("{text}"),
    };
    Duration::from_secs_f64(seconds)
}
