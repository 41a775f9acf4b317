//! `imdsfw explain`.

use std::process::ExitCode;
use std::sync::Arc;

use nix::unistd;
use serde_json::json;

use super::inputs;
use super::{ConfigArg, Outcome, print};
use crate::audit::{Decision, Reason};
use crate::authorize::{TokenState, judge};
use crate::caller::accounts;
use crate::config::{Action, Config, Mode, load_policy};
use crate::control::{self, Store};
use crate::diagnose::{Diagnostics, plain_text, wrap};
use crate::ids::Uid;
use crate::intercept::daemon_uid;
use crate::policy::{Account, Policy, Step, Subject, Verdict, Why};
use crate::request::{CanonicalPath, ReadMethod, TOKEN_PATH, path_of_url};

/// Runs of rules about other paths longer than this are only counted.
const SHOWN_IN_A_ROW: usize = 4;
/// Paths of one rule; the rest is only counted.
const SHOWN_PATHS: usize = 8;

/// Explain the verdict on one request, by the files as they stand.
///
/// Says which rule decides and why the earlier ones did not match. Exits 0 for
/// allow, 1 for deny, 3 when there is no policy to judge by.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  imdsfw explain /latest/meta-data/iam/security-credentials/web
  imdsfw explain --user alice --json /latest/user-data")]
pub(super) struct Args {
    /// The path or URL, as a client sends it or without its version
    #[arg(value_parser = path_or_url)]
    path: String,
    /// Who asks [default: you]
    #[arg(long, value_name = "NAME|UID")]
    user: Option<String>,
    /// How it is asked
    #[arg(long, value_name = "M", default_value = "GET")]
    method: String,
    /// Ask without a token (IMDSv1)
    #[arg(long)]
    v1: bool,
    /// Ask the running daemon what you would get now, with grants, lockdown
    /// and bypass counted in; `[control] own_verdict` lets others than root
    #[arg(long, conflicts_with_all = ["user", "method", "v1"])]
    live: bool,
    /// Print the answer as one JSON object
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

fn path_or_url(text: &str) -> Result<String, &'static str> {
    let path = path_of_url(text).unwrap_or(text);
    match path.starts_with('/') {
        true => Ok(path.to_owned()),
        false => Err("expected a path such as /latest/user-data, or its http:// URL"),
    }
}

pub(super) fn run(args: Args) -> Outcome {
    if args.live {
        return super::orders::own_verdict(&args.config, args.path, args.json);
    }
    let Some(uid) = uid_of(args.user.as_deref())? else {
        let name = plain_text(args.user.as_deref().unwrap_or_default());
        eprintln!("imdsfw: no account is called {name}; give its uid, or another name");
        return Ok(ExitCode::from(2));
    };
    let mut found = Diagnostics::new();
    let config = Config::load_with(&args.config.config, &[], &mut found);
    let loaded = config.and_then(|config| {
        let loaded = load_policy(&config, &mut found)?;
        // For who may read them; the others are answered by the files alone.
        let owner = daemon_uid(&config.user).unwrap_or(Uid::ROOT);
        let store = Store::new(config.state_directory.clone(), owner);
        let policy = control::ahead_of(loaded, &config, &store);
        Some((config, policy))
    });
    let Some((config, policy)) = loaded else {
        if args.json {
            let answer = json!({ "verdict": null, "diagnostics": found });
            print(&format!("{answer}\n"))?;
        } else {
            inputs::show(&found);
            eprintln!("\nimdsfw: there is no policy to judge by, because of the errors above");
        }
        return Ok(ExitCode::from(3));
    };
    let subject = Subject {
        uid,
        account: accounts::lookup(uid),
    };
    let answer = Answer::new(&args, &subject, &config, &policy);
    if args.json {
        let answer = answer.json(&args, &subject, &config, &policy);
        print(&format!("{answer}\n"))?;
    } else {
        print(&answer.text(&args, &subject, &config))?;
    }
    Ok(ExitCode::from(u8::from(!answer.allowed)))
}

fn uid_of(user: Option<&str>) -> Result<Option<Uid>, String> {
    let Some(user) = user else {
        return Ok(Some(Uid(unistd::getuid().as_raw())));
    };
    inputs::uid_of(user)
}

/// What the client would get, and why.
struct Answer {
    allowed: bool,
    /// As in audit records.
    reason: &'static str,
    /// The same for people.
    because: String,
    rule: Option<Arc<str>>,
    place: Option<String>,
    enforce: bool,
    path: Option<CanonicalPath>,
    steps: Vec<Step>,
}

impl Answer {
    fn new(args: &Args, subject: &Subject, config: &Config, policy: &Policy) -> Self {
        let path = match CanonicalPath::parse(config.provider, args.path.as_bytes()) {
            Ok(path) => path,
            Err(reason) => {
                return Self::before_policy(false, "malformed", reason.to_string(), None);
            }
        };
        let before = |allowed, reason, because: &str| {
            Self::before_policy(allowed, reason, because.to_owned(), Some(path.clone()))
        };
        let at_token_path = path.as_str() == TOKEN_PATH;
        let method = match args.method.as_str() {
            "PUT" if at_token_path => {
                return before(true, "allowed", "every caller may have a token");
            }
            "PUT" => return before(false, "malformed", "only the token path takes a PUT"),
            "GET" | "HEAD" if at_token_path => {
                return before(false, "malformed", "the token path takes only a PUT");
            }
            "GET" => ReadMethod::Get,
            "HEAD" => ReadMethod::Head,
            _ => {
                return before(
                    false,
                    "malformed",
                    "only GET, HEAD and PUT are methods here",
                );
            }
        };
        let verdict = policy.decide(subject, &path);
        let enforce = matches!(verdict, Verdict::Deny { enforce: true, .. });
        let rule = verdict.rule().cloned();
        let place = rule.as_deref().and_then(|rule| policy.place_of(rule));
        let place = place.map(crate::diagnose::Place::file_and_line);
        let by_rule = match (&rule, &place) {
            (Some(rule), Some(place)) => format!("rule \"{rule}\" at {place}"),
            _ => "no rule matches, and the default holds".to_owned(),
        };
        // As enforced; what the mode makes of it is said beside it.
        let token = if args.v1 {
            TokenState::Missing
        } else {
            TokenState::Good(1)
        };
        let allowed_with_token = verdict.action() == Action::Allow;
        let judged = judge(verdict, method, token, Mode::Enforce);
        let because = match judged.reason {
            Reason::TokenMissing if allowed_with_token => {
                format!("a token is wanted; with one, {by_rule} allows it")
            }
            Reason::TokenMissing => "a token is wanted; with one, it is denied too".to_owned(),
            Reason::AccountUnknown => format!(
                "no account or groups are known for uid {}, and the rules marked ? \
                 hang on them",
                subject.uid
            ),
            _ => by_rule,
        };
        let (allowed, reason) = (judged.verdict == Decision::Allow, judged.reason.as_str());
        Self {
            allowed,
            reason,
            because,
            rule,
            place,
            enforce,
            steps: policy.trace(subject, &path),
            path: Some(path),
        }
    }

    fn before_policy(
        allowed: bool,
        reason: &'static str,
        because: String,
        path: Option<CanonicalPath>,
    ) -> Self {
        Self {
            allowed,
            reason,
            because,
            rule: None,
            place: None,
            enforce: false,
            path,
            steps: Vec::new(),
        }
    }

    fn json(
        &self,
        args: &Args,
        subject: &Subject,
        config: &Config,
        policy: &Policy,
    ) -> serde_json::Value {
        let facts = match &subject.account {
            Account::Known(facts) => Some(facts),
            Account::Undecidable => None,
        };
        let groups = facts.map(|facts| {
            let name = |group: &crate::policy::Group| match &group.name {
                Some(name) => name.clone(),
                None => group.gid.to_string(),
            };
            facts.groups.iter().map(name).collect::<Vec<_>>()
        });
        json!({
            "verdict": if self.allowed { "allow" } else { "deny" },
            "reason": self.reason,
            "because": self.because,
            "rule": self.rule.as_deref(),
            "place": self.place,
            "enforce": self.enforce,
            "mode": config.policy.mode,
            "policy": &**policy.hash(),
            "caller": {
                "uid": subject.uid,
                "user": facts.map(|facts| &facts.user),
                "groups": groups,
            },
            "request": {
                "method": args.method,
                "path": self.path.as_ref().map(CanonicalPath::as_str),
                "class": self.path.as_ref().map(CanonicalPath::class),
                "imds": if args.v1 { "v1" } else { "v2" },
            },
            "steps": self.steps,
        })
    }

    fn text(&self, args: &Args, subject: &Subject, config: &Config) -> String {
        let caller = match &subject.account {
            Account::Known(facts) => format!("{} (uid {})", facts.user, subject.uid),
            Account::Undecidable => format!("uid {} (account unknown)", subject.uid),
        };
        let path = self
            .path
            .as_ref()
            .map_or(args.path.as_str(), CanonicalPath::as_str);
        let token = if args.v1 { " without token" } else { "" };
        let mark = if self.allowed { "ALLOW  " } else { "DENY  " };
        let mut out = paragraph(mark, &format!("{caller} {} {path}{token}", args.method));
        out += &paragraph("  ", &format!("because {}", self.because));
        if let Some(path) = &self.path {
            out += &paragraph(
                "  ",
                &format!("the path is of class {}", path.class().as_str()),
            );
        }
        if !self.allowed && config.policy.mode == Mode::Observe && !self.enforce {
            out += "  the mode is observe: what the policy denies is recorded, not refused\n";
        }
        if !self.steps.is_empty() {
            out += "\nrules, in their order:\n";
        }
        let both_elsewhere = |a: &Step, b: &Step| a.why == Why::Path && b.why == Why::Path;
        for run in self.steps.chunk_by(both_elsewhere) {
            out += &match run {
                [first, .., last] if run.len() > SHOWN_IN_A_ROW => paragraph(
                    "  -  ",
                    &format!(
                        "{} rules about other paths, \"{}\" to \"{}\"",
                        run.len(),
                        first.rule,
                        last.rule
                    ),
                ),
                _ => run.iter().map(step_text).collect(),
            };
        }
        out
    }
}

fn step_text(step: &Step) -> String {
    let (mark, why) = match &step.why {
        Why::Decides => ("  =  ", "decides".to_owned()),
        Why::Path => ("  -  ", format!("is about other paths: {}", paths(step))),
        Why::Who(who) => ("  -  ", format!("is about other callers: {who}")),
        Why::Except(principal) => ("  -  ", format!("excepts the caller: {principal}")),
        Why::Undecidable(name) => ("  ?  ", format!("hangs on {name}, which is not known")),
    };
    let mut out = paragraph(mark, &format!("\"{}\" {why}", step.rule));
    if step.why != Why::Path {
        out += &paragraph("     ", &format!("its paths: {}", paths(step)));
    }
    out + &paragraph("     ", &step.place)
}

fn paths(step: &Step) -> String {
    let shown: Vec<_> = step
        .paths
        .iter()
        .take(SHOWN_PATHS)
        .map(String::as_str)
        .collect();
    let more = match step.paths.len().saturating_sub(SHOWN_PATHS) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}

/// Lines of at most 80 columns, the first of them behind `mark`.
fn paragraph(mark: &str, text: &str) -> String {
    let indent = " ".repeat(mark.len());
    let wrapped = wrap(&plain_text(text), 80 - mark.len());
    wrapped
        .lines()
        .enumerate()
        .map(|(at, line)| format!("{}{line}\n", if at == 0 { mark } else { &indent }))
        .collect()
}
