//! The scenes on paper: 80 columns, colour on a terminal.

use std::io::IsTerminal as _;

use serde_json::Value;

use super::Verdict;
use super::script::{Ending, Expected, Scene, Token};
use super::stage::Stage;

const WIDTH: usize = 79;

pub(super) struct Show {
    colour: bool,
}

impl Show {
    pub(super) fn new() -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colour: wanted && std::io::stdout().is_terminal(),
        }
    }

    pub(super) fn opening(&self, stage: &Stage) {
        println!("{}", self.bold("imdsfw demo"));
        println!(
            "In a network namespace of its own: a simulated EC2 metadata service, the\n\
             kernel rules, the daemon, and two people: root and alice (uid 4001, gid 4100).\n\
             Policy: policies/multi-user.toml. Audit log: {}.\n",
            stage.audit_log().display()
        );
    }

    pub(super) fn scene(&self, number: usize, scene: &Scene, ending: &Ending, as_stated: bool) {
        println!("{}", self.bold(&format!("{number}. {}", scene.title)));
        let token = match scene.token {
            Token::Own => ", own token",
            Token::Roots => ", root's token",
            Token::None => ", no token",
        };
        let target = format!("http://{}{}", scene.address, scene.path);
        line("asks", &format!("{}{token}: GET {target}", scene.who.name));
        let expected = match scene.expected {
            Expected::Answer(status, reason) => format!("{status}, recorded as `{reason}`"),
            Expected::Refused => "no connection".into(),
        };
        line("expected", &expected);
        let status = ending
            .status
            .map_or("no answer".into(), |status| status.to_string());
        line("got", &format!("{status}: {}", ending.said));
        if let Some(record) = &ending.record {
            line("audit", &summary(record));
        }
        let mark = if as_stated {
            self.green("as stated")
        } else {
            self.red("NOT AS STATED")
        };
        println!("   {mark}\n");
    }

    pub(super) fn closing(&self, scenes: usize, credentials_requests: usize, verdict: Verdict) {
        println!(
            "The service itself was asked for credentials {credentials_requests} time(s): \
             root's, in scene 1."
        );
        match verdict {
            Verdict::AsStated => {
                println!(
                    "{}",
                    self.green(&format!("All {scenes} scenes ended as stated."))
                );
            }
            Verdict::Otherwise => println!("{}", self.red("Not every scene ended as stated.")),
        }
    }

    pub(super) fn shell_hint(&self, stage: &Stage) {
        println!(
            "\n{}\n\
             You are root inside; `exit` ends it and leaves nothing behind. Try:\n\n  \
             as alice curl -i http://169.254.169.254/latest/meta-data/\n  \
             tail -n 1 {log}\n  \
             imdsfw explain --config {config} --user alice /latest/user-data\n  \
             imdsfw rules verify --config {config}\n  \
             nft list table inet imdsfw\n\n\
             The people are root, alice and bob; the policy is in {policy}.\n",
            self.bold("A shell on the demo's host"),
            log = stage.audit_log().display(),
            config = stage.config().display(),
            policy = stage.directory().join("policy.d").display(),
        );
    }

    fn bold(&self, text: &str) -> String {
        self.styled("1", text)
    }

    fn green(&self, text: &str) -> String {
        self.styled("32", text)
    }

    fn red(&self, text: &str) -> String {
        self.styled("1;31", text)
    }

    fn styled(&self, style: &str, text: &str) -> String {
        if self.colour {
            format!("\x1b[{style}m{text}\x1b[0m")
        } else {
            text.to_owned()
        }
    }
}

/// One word and what belongs to it, wrapped beside it.
fn line(word: &str, text: &str) {
    const INDENT: usize = 13;
    let mut width = INDENT;
    print!("   {word:<10}");
    for (at, piece) in text.split(' ').enumerate() {
        if at > 0 && width + 1 + piece.chars().count() > WIDTH {
            print!("\n{:INDENT$}", "");
            width = INDENT;
        } else if at > 0 {
            print!(" ");
            width += 1;
        }
        print!("{piece}");
        width += piece.chars().count();
    }
    println!();
}

/// What an admin would look for in a record.
fn summary(record: &Value) -> String {
    let detail = match record.pointer("/detail").and_then(Value::as_str) {
        Some(detail) => format!(" detail={detail}"),
        None => String::new(),
    };
    let text = |pointer: &str| match record.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "-".into(),
        Some(other) => other.to_string(),
    };
    let what = match record.pointer("/request/path").and_then(Value::as_str) {
        Some(path) => path.to_owned(),
        None => text("/request/raw"),
    };
    format!(
        "#{} {} {} user={} uid={} gid={} {what} class={} imds={} rule={}{detail}",
        text("/seq"),
        text("/decision"),
        text("/reason"),
        text("/caller/user"),
        text("/caller/uid"),
        text("/caller/gid"),
        text("/request/class"),
        text("/request/imds"),
        match record.pointer("/rule").and_then(Value::as_str) {
            Some(rule) => format!("\"{rule}\""),
            None => "-".into(),
        },
    )
}
