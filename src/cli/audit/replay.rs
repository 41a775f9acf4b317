//! `imdsfw audit replay`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::json;

use super::{LogArgs, Outcome};
use crate::adoption::grouped;
use crate::adoption::recorded::NotJudged;
use crate::adoption::replay::{Change, Found, Replay};
use crate::audit::reading::Filter;
use crate::cli::{inputs, print};
use crate::config::{Config, read_policy, read_policy_files, trusted};
use crate::diagnose::{Diagnostics, Source, plain_text};
use crate::ids::Gid;
use crate::policy::{Draft, Name, Policy};

/// Say which recorded decisions a policy would change.
///
/// Judges each recorded request again, by the functions that the daemon judges
/// by, as if the policy were enforced, and counts what clients would get that
/// they did not get then. Exits 0 when nothing would change, 1 when something
/// would.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw audit replay --policy ./draft.toml
  imdsfw audit replay --policy ./policy.d --json audit.jsonl.1 audit.jsonl")]
pub(super) struct Args {
    #[command(flatten)]
    logs: LogArgs,
    /// A policy file, or a directory of them; may be given again [default: the
    /// configured directories]
    #[arg(long, value_name = "DIR|FILE")]
    policy: Vec<PathBuf>,
    /// Judge records since then: a time (UTC), or how long ago
    #[arg(long, value_name = "TIME|7d", value_parser = super::moment)]
    since: Option<String>,
    /// Judge records before then
    #[arg(long, value_name = "TIME|7d", value_parser = super::moment)]
    until: Option<String>,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: Args) -> Outcome {
    let mut found = Diagnostics::new();
    let Some(candidate) = Candidate::load(&args, &mut found) else {
        inputs::show(&found);
        return Err(
            "the policy is refused, because of the errors above; nothing was judged".into(),
        );
    };
    let logs = args.logs.open()?;
    let filter = Filter {
        since: args.since,
        until: args.until,
        events: vec!["request".into()],
        ..Filter::default()
    };
    let provider = candidate.config.provider;
    let mut replay = Replay::new(&candidate.policy, candidate.gids, provider);
    let tally = super::read(logs, &filter, &mut |record, _| {
        replay.add(record);
        Ok(())
    })?;
    if let Some(tally) = &tally {
        super::say_passed_over(tally);
    }
    let outcome = &replay.found;
    if outcome.judged + outcome.tokens == 0 && outcome.not_judged.is_empty() {
        return Err("there is no request in the log: nothing was judged".into());
    }
    let text = match args.json {
        true => {
            crate::audit::harmless(&as_json(outcome, &candidate.policy).to_string()).into_owned()
                + "\n"
        }
        false => as_text(outcome, &candidate.policy),
    };
    print(&text)?;
    Ok(ExitCode::from(u8::from(!outcome.changed.is_empty())))
}

struct Candidate {
    config: Config,
    policy: Policy,
    gids: Vec<Gid>,
}

impl Candidate {
    /// The config says what holds where no rule matches, unless it is not to
    /// be read.
    fn load(args: &Args, found: &mut Diagnostics) -> Option<Self> {
        let config = match args.logs.files.is_empty() || args.policy.is_empty() {
            true => Config::load_with(&args.logs.config.config, &[], found)?,
            false => Config::default(),
        };
        let sources = match args.policy.is_empty() {
            true => read_policy(&config, &[], found),
            false => layered(&args.policy, found),
        };
        let draft = Draft::parse(&sources, config.provider, config.policy.default, found)?;
        let gid = |name: &Name| match name {
            Name::Gid(gid) => Some(*gid),
            _ => None,
        };
        let gids = draft.mentions().filter_map(|(name, _)| gid(name)).collect();
        Some(Self {
            gids,
            policy: draft.prove(found)?,
            config,
        })
    }
}

/// By file name, a later one of the same name in place of the earlier, as in
/// the configured directories.
fn layered(places: &[PathBuf], found: &mut Diagnostics) -> Vec<Arc<Source>> {
    let mut layered = BTreeMap::new();
    for place in places {
        if place.is_dir() {
            layered.extend(trusted::read_directory(place, &[], found));
        } else {
            let name = place.file_name().unwrap_or_default().to_string_lossy();
            let read = read_policy_files(std::slice::from_ref(place), found);
            layered.extend(read.into_iter().map(|it| (name.clone().into_owned(), it)));
        }
    }
    layered.into_values().collect()
}

fn as_json(found: &Found, policy: &Policy) -> serde_json::Value {
    let changed: Vec<_> = found
        .changed
        .iter()
        .map(|(change, count)| {
            let word = |allow| if allow { "allow" } else { "deny" };
            json!({
                "user": change.user,
                "uid": change.uid,
                "method": change.method,
                "path": change.path,
                "class": change.class,
                "imds": if change.v1 { "v1" } else { "v2" },
                "from": word(!change.to_allow),
                "to": word(change.to_allow),
                "reason_was": change.reason_was,
                "reason": change.reason,
                "rule": change.rule,
                "count": count,
            })
        })
        .collect();
    let not_judged = |why| found.not_judged.get(&why).copied().unwrap_or(0);
    json!({
        "policy": &**policy.hash(),
        "rules": policy.len(),
        "first": found.when.first,
        "last": found.when.last,
        "judged": found.judged,
        "tokens": found.tokens,
        "as_recorded": found.judged - found.otherwise(),
        "otherwise": found.otherwise(),
        "not_judged": {
            "account_unknown": not_judged(NotJudged::AccountUnknown),
            "malformed": not_judged(NotJudged::Malformed),
            "other_reason": not_judged(NotJudged::OtherReason),
            "doctor": not_judged(NotJudged::Doctor),
        },
        "changed": changed,
    })
}

fn as_text(found: &Found, policy: &Policy) -> String {
    let time = |time: &str| {
        let time: String = plain_text(time).chars().take(16).collect();
        time.replace('T', " ")
    };
    let hash: String = policy.hash().chars().take(19).collect();
    let mut out = format!(
        "policy  {} rules, {hash}…\nlog     {} to {} (UTC)\n\n",
        policy.len(),
        time(&found.when.first),
        time(&found.when.last)
    );
    let same = found.judged - found.otherwise();
    let mut count = |count: u64, what: &str| out += &format!("{:>9}  {what}\n", grouped(count));
    count(found.tokens, "tokens, which any caller may have");
    count(same, "decisions as recorded");
    count(found.otherwise(), "decisions otherwise");
    for (why, many) in &found.not_judged {
        count(
            *many,
            match why {
                NotJudged::Malformed => "not judged: malformed",
                NotJudged::AccountUnknown => "not judged: account or groups not known",
                NotJudged::OtherReason => "not judged: refused for another reason than policy",
                NotJudged::Doctor => "not judged: looks of `imdsfw doctor`",
                NotJudged::NoRead => continue,
            },
        );
    }
    for (to_allow, heading) in [
        (false, "would be refused, and were not"),
        (true, "would be allowed, and were refused"),
    ] {
        let rows: Vec<_> = found
            .changed
            .iter()
            .filter(|(change, _)| change.to_allow == to_allow)
            .collect();
        if rows.is_empty() {
            continue;
        }
        out += &format!("\n{heading}\n");
        for (change, count) in rows {
            out += &row(change, *count);
        }
    }
    out
}

fn row(change: &Change, count: u64) -> String {
    let account = match &change.user {
        Some(user) => plain_text(user),
        None => format!("uid {}", change.uid),
    };
    let mut path = plain_text(&change.path);
    if change.method != "GET" {
        path = format!("{} {path}", change.method);
    }
    format!(
        "{:>9}  {:14} {:13} {}\n",
        grouped(count),
        super::begin_of(&account, 14),
        change.reason,
        super::end_of(&path, 40),
    )
}
