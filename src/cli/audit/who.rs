//! `imdsfw audit who`.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde_json::json;

use super::{LogArgs, Outcome};
use crate::audit::reading::{Filter, Record};
use crate::cli::print;
use crate::diagnose::{plain_text, wrap};

/// How often each of these was seen.
type Counts = BTreeMap<String, u64>;

/// Say which local users were handed an access key.
///
/// CloudTrail names the key behind an API call; this names who received it
/// here, when, and through which program and session. They are recipients: it
/// cannot be known from this who used the key, or to whom it was given on.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit who --access-key ASIAIOSFODNN7EXAMPLE
  imdsfw audit who --access-key ASIAIOSFODNN7EXAMPLE --json audit.jsonl*")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// The key's id, as CloudTrail has it
    #[arg(long, value_name = "ASIA…", value_parser = key_id)]
    access_key: String,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
}

fn key_id(text: &str) -> Result<String, &'static str> {
    let is_id = (16..=128).contains(&text.len())
        && (text.bytes()).all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit());
    match is_id {
        true => Ok(text.to_owned()),
        false => Err("expected the id of an access key, such as ASIAIOSFODNN7EXAMPLE"),
    }
}

pub(super) fn run(args: Args) -> Outcome {
    let logs = args.logs.open()?;
    let filter = Filter {
        access_key: Some(args.access_key.clone()),
        ..Filter::default()
    };
    let mut found = Found::default();
    let tally = super::read(logs, &filter, &mut |record, _| {
        found.add(record);
        Ok(())
    })?;
    let text = match args.json {
        true => {
            crate::audit::harmless(&found.json(&args.access_key).to_string()).into_owned() + "\n"
        }
        false => found.text(&args.access_key),
    };
    print(&text)?;
    if let Some(tally) = tally {
        super::say_passed_over(&tally);
    }
    Ok(ExitCode::SUCCESS)
}

#[derive(Default)]
struct Found {
    role: Option<String>,
    expiration: Option<String>,
    recipients: BTreeMap<(Option<u32>, Option<String>), Recipient>,
}

#[derive(Default)]
struct Recipient {
    count: u64,
    first: String,
    last: String,
    exes: Counts,
    sessions: Counts,
    hosts: Counts,
}

impl Found {
    fn add(&mut self, record: &Record<'_>) {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        if let Some(credential) = &record.credential {
            self.role = owned(credential.role.as_deref()).or(self.role.take());
            self.expiration = owned(credential.expiration.as_deref()).or(self.expiration.take());
        }
        let caller = &record.caller;
        let who = (caller.uid, owned(caller.user.as_deref()));
        let it = self.recipients.entry(who).or_default();
        it.count += 1;
        let time = record.time.to_string();
        if it.first.is_empty() || time < it.first {
            it.first.clone_from(&time);
        }
        if time > it.last {
            it.last = time;
        }
        let unknown = || "unknown".to_owned();
        let exe = owned(caller.exe.as_deref()).unwrap_or_else(unknown);
        *it.exes.entry(exe).or_default() += 1;
        let set = |name: &str, number: Option<i64>| match number {
            None => format!("{name} unknown"),
            Some(-1) => format!("no {name}"),
            Some(number) => format!("{name} {number}"),
        };
        let session = format!(
            "{}, {}, {}",
            owned(caller.unit.as_deref()).unwrap_or_else(|| "unit unknown".into()),
            set("login uid", caller.loginuid),
            set("session", caller.ses),
        );
        *it.sessions.entry(session).or_default() += 1;
        let host = owned(
            record
                .host
                .instance_id
                .as_deref()
                .or(record.host.name.as_deref()),
        );
        *it.hosts.entry(host.unwrap_or_else(unknown)).or_default() += 1;
    }

    fn json(&self, key: &str) -> serde_json::Value {
        let recipients = self.recipients.iter().map(|((uid, user), it)| {
            let list = |counts: &Counts, name: &str| {
                let one = |(what, count): (&String, &u64)| json!({ name: what, "count": count });
                counts.iter().map(one).collect::<Vec<_>>()
            };
            json!({
                "uid": uid,
                "user": user,
                "count": it.count,
                "first": it.first,
                "last": it.last,
                "exes": list(&it.exes, "exe"),
                "sessions": list(&it.sessions, "session"),
                "hosts": list(&it.hosts, "host"),
            })
        });
        let recipients = recipients.collect::<Vec<_>>();
        json!({
            "access_key_id": key,
            "role": self.role,
            "expiration": self.expiration,
            "recipients": recipients,
            "meaning": "received the key; not necessarily used it",
        })
    }

    fn text(&self, key: &str) -> String {
        if self.recipients.is_empty() {
            let text = format!(
                "{key}: handed to nobody in these logs. It may be older than they are, of \
                 another host, or no key of a role."
            );
            return wrap(&text, 80) + "\n";
        }
        let word = |text: &Option<String>| plain_text(text.as_deref().unwrap_or("unknown"));
        let users = match self.recipients.len() {
            1 => "1 local user".to_owned(),
            many => format!("{many} local users"),
        };
        let mut out = format!("{key}, role {}\n", word(&self.role));
        out += &format!("expires {}, handed to {users}\n", word(&self.expiration));
        for ((uid, user), it) in &self.recipients {
            let uid = uid.map_or_else(|| "unknown".to_owned(), |uid| uid.to_string());
            out += &format!("\n{} (uid {uid}): {}\n", word(user), times(it.count));
            let (first, last) = (plain_text(&it.first), plain_text(&it.last));
            out += &format!("  first  {first}\n  last   {last}\n");
            for (name, counts) in [("by", &it.exes), ("in", &it.sessions), ("on", &it.hosts)] {
                for (what, count) in counts {
                    out += &format!("  {name:5}  {} ({})\n", plain_text(what), times(*count));
                }
            }
        }
        out += "\n";
        out += &wrap(
            "These received the key. Who used it, the log cannot say: whoever can act as one \
             of them, or was given the key by one, could have.",
            80,
        );
        out + "\n"
    }
}

fn times(count: u64) -> String {
    match count {
        1 => "once".to_owned(),
        many => format!("{many} times"),
    }
}
