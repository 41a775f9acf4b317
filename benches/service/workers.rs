//! Clients that are processes, each of its own user, as programs are: who
//! holds a connection is looked for among all processes. They are this very
//! program, started with [`WORK`] set.

use std::io::{BufRead as _, BufReader, PipeWriter, Read as _, stdin};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use nix::unistd::{getegid, geteuid};
use serde_json::{Value, json};

use crate::client::{CREDENTIALS, Client, Failure, resolve};
use crate::common::user::User;

/// What to do, in the environment of a worker.
pub(crate) const WORK: &str = "IMDSFW_BENCH_WORK";

#[derive(Clone, Copy, Debug)]
pub(crate) enum Work {
    /// Once; says `{"ns": …}` or `{"failure": …}`.
    Resolve,
    /// Asks for credentials for so many seconds; says `{"asked": …, "got": …,
    /// "ends": …}` for each answer (nanoseconds of the monotonic clock, and
    /// the end of the credentials) or `{"failure": …}`.
    Credentials(u64),
}

/// All are ready, and wait.
pub(crate) struct Workers {
    children: Vec<(Child, BufReader<ChildStdout>)>,
    go: PipeWriter,
}

impl Workers {
    pub(crate) fn new(users: impl Iterator<Item = User>, work: Work) -> Self {
        let (waiting, go) = std::io::pipe().unwrap();
        let work = match work {
            Work::Resolve => "resolve".into(),
            Work::Credentials(seconds) => seconds.to_string(),
        };
        let start = |user: User| {
            let mut child = Command::new("/proc/self/exe")
                .env(WORK, &work)
                .uid(user.uid)
                .gid(user.gid)
                .stdin(waiting.try_clone().unwrap())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let said = BufReader::new(child.stdout.take().unwrap());
            (child, said)
        };
        let mut children: Vec<_> = users.map(start).collect();
        for (_, said) in &mut children {
            said.read_line(&mut String::new()).unwrap();
        }
        Self { children, go }
    }

    /// All begin at once; returns what they said.
    pub(crate) fn go(self) -> Vec<Value> {
        drop(self.go);
        let mut all = Vec::new();
        for (mut child, said) in self.children {
            let lines = said.lines().map(|line| line.unwrap());
            all.extend(lines.map(|line| serde_json::from_str::<Value>(&line).unwrap()));
            assert!(child.wait().unwrap().success());
        }
        all
    }
}

/// In a worker.
pub(crate) fn work(work: &str) {
    let user = User {
        uid: geteuid().as_raw(),
        gid: getegid().as_raw(),
    };
    println!("ready");
    stdin().read_to_end(&mut Vec::new()).unwrap();
    match work {
        "resolve" => {
            let start = Instant::now();
            let outcome = resolve(user);
            let ns = start.elapsed().as_nanos() as u64;
            say(&outcome.map_or_else(failed, |_| json!({ "ns": ns })));
        }
        seconds => {
            let over = now() + Duration::from_secs(seconds.parse().unwrap());
            while now() < over {
                if let Err(failure) = ask_until(over, user) {
                    say(&failed(failure));
                }
            }
        }
    }
}

fn ask_until(over: Duration, user: User) -> Result<(), Failure> {
    let mut client = Client::connect(user)?;
    let token = client.token()?;
    while now() < over {
        let asked = now();
        let body = client.get(CREDENTIALS, &token)?.body;
        let got = now();
        let set: Value = serde_json::from_str(&body).unwrap();
        say(&json!({
            "asked": asked.as_nanos() as u64,
            "got": got.as_nanos() as u64,
            "ends": set["Expiration"],
        }));
    }
    Ok(())
}

fn failed(failure: Failure) -> Value {
    json!({ "failure": failure.name() })
}

fn say(what: &Value) {
    println!("{what}");
}

/// The same for all processes.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap().into()
}
