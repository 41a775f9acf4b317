//! The verdict on one request and why, as text and as JSON.

use std::sync::Arc;

use serde_json::json;

use super::Asked;
use crate::audit::{Decision, Reason};
use crate::authorize::{TokenState, judge};
use crate::cli::paragraph;
use crate::config::{Action, Mode};
use crate::ids::Borrower;
use crate::policy::{Account, Policy, Query, Step, Verdict, Why};
use crate::provider::Provider;
use crate::request::{CanonicalPath, ReadMethod, TOKEN_PATH};

/// Runs of rules about other paths longer than this are only counted.
const SHOWN_IN_A_ROW: usize = 4;
/// Paths of one rule; the rest is only counted.
const SHOWN_PATHS: usize = 8;

/// What the client would get, and why.
pub(super) struct Answer {
    pub(super) allowed: bool,
    /// As in audit records.
    pub(super) reason: &'static str,
    /// The same for people.
    because: String,
    pub(super) rule: Option<Arc<str>>,
    place: Option<String>,
    enforce: bool,
    path: Option<CanonicalPath>,
    steps: Vec<Step>,
}

impl Answer {
    /// Asks the rules what they would say to the daemon.
    pub(super) fn new(asked: &Asked, provider: Provider, policy: &Policy) -> Self {
        let path = match CanonicalPath::parse(provider, asked.path.as_bytes()) {
            Ok(path) => path,
            Err(reason) => {
                return Self::before_policy(false, "malformed", reason.to_string(), None);
            }
        };
        let before = |allowed, reason, because: &str| {
            Self::before_policy(allowed, reason, because.to_owned(), Some(path.clone()))
        };
        let at_token_path = path.as_str() == TOKEN_PATH;
        let method = match asked.method.as_str() {
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
        let query = Query {
            subject: &asked.subject,
            origin: &asked.origin,
            method,
            path: &path,
        };
        let steps = policy.trace(&query);
        let verdict = policy.decide(&query);
        let unknown = verdict.unknown().copied();
        let enforce = matches!(verdict, Verdict::Deny { enforce: true, .. });
        let rule = verdict.rule().cloned();
        let place = rule.as_deref().and_then(|rule| policy.place_of(rule));
        let place = place.map(crate::diagnose::Place::file_and_line);
        let by_rule = match (&rule, &place) {
            (Some(rule), Some(place)) => format!("rule \"{rule}\" at {place}"),
            _ => "no rule matches, and the default holds".to_owned(),
        };
        // As enforced; what the mode makes of it is said beside it.
        let token = if asked.v1 {
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
            _ if unknown.is_some_and(|it| it.account) => format!(
                "no account or groups are known for uid {}, and the rules marked ? \
                 hang on them",
                asked.subject.uid
            ),
            _ if unknown.is_some() => format!(
                "the rules marked ? hang on {}, which is not known here; say it with --unit, \
                 --exe or --loginuid",
                unknown.map(|it| it.what()).unwrap_or_default()
            ),
            _ => by_rule,
        };
        // As in the record: who is refused at the gate was not refused by a rule.
        let (rule, place) = match judged.rule {
            Some(_) => (rule, place),
            None => (None, None),
        };
        let (allowed, reason) = (judged.verdict == Decision::Allow, judged.reason.as_str());
        Self {
            allowed,
            reason,
            because,
            rule,
            place,
            enforce,
            steps,
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

    pub(super) fn json(&self, asked: &Asked, mode: Mode, policy: &Policy) -> serde_json::Value {
        let facts = asked.subject.account.facts();
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
            "mode": mode,
            "policy": &**policy.hash(),
            "caller": {
                "uid": asked.subject.uid,
                "user": facts.map(|facts| &facts.user),
                "groups": groups,
                "unit": asked.unit(),
                "exe": asked.program().and_then(|it| it.exe.as_deref()),
                "loginuid": asked.loginuid(),
            },
            "request": {
                "method": asked.method,
                "path": self.path.as_ref().map(CanonicalPath::as_str),
                "class": self.path.as_ref().map(CanonicalPath::class),
                "imds": if asked.v1 { "v1" } else { "v2" },
            },
            "steps": self.steps,
        })
    }

    pub(super) fn text(&self, asked: &Asked, mode: Mode) -> String {
        let path = self
            .path
            .as_ref()
            .map_or(asked.path.as_str(), CanonicalPath::as_str);
        let mut out = headline(self.allowed, asked, path);
        out += &paragraph("  ", &format!("because {}", self.because));
        if let Some(path) = &self.path {
            out += &paragraph(
                "  ",
                &format!("the path is of class {}", path.class().as_str()),
            );
        }
        if !self.allowed && mode == Mode::Observe && !self.enforce {
            out += "  the mode is observe: what the policy denies is recorded, not refused\n";
        }
        let is_narrowed = |step: &Step| {
            matches!(
                step.why,
                Why::Unit(_) | Why::Exe(_) | Why::Loginuid(_) | Why::Undecidable(_)
            )
        };
        let origin = asked.origin.to_string();
        if !origin.is_empty() && self.steps.iter().any(is_narrowed) {
            out += &paragraph("  ", &format!("it comes from {origin}"));
        }
        out + &self.rules()
    }

    /// What each rule said, up to the one that decides.
    pub(super) fn rules(&self) -> String {
        let mut out = String::new();
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
        Why::Method(methods) => ("  -  ", format!("is about other methods: {methods}")),
        Why::Unit(units) => ("  -  ", format!("is about other units: {units}")),
        Why::Exe(programs) => ("  -  ", format!("is about other programs: {programs}")),
        Why::Loginuid(logins) => ("  -  ", format!("is about other logins: {logins}")),
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

/// `ALLOW  alice (uid 4001) GET /latest/user-data`.
pub(super) fn headline(allowed: bool, asked: &Asked, path: &str) -> String {
    let uid = asked.subject.uid;
    let caller = match &asked.subject.account {
        Account::Known(facts) => format!("{} (uid {uid})", facts.user),
        Account::Undecidable => format!("uid {uid} (account unknown)"),
        Account::Subordinate(owners) => match owners.as_slice() {
            [Borrower::Uid(owner)] => format!("uid {uid} (subordinate of uid {owner})"),
            _ => format!("uid {uid} (a subordinate uid)"),
        },
    };
    let token = if asked.v1 { " without token" } else { "" };
    let mark = if allowed { "ALLOW  " } else { "DENY  " };
    paragraph(mark, &format!("{caller} {} {path}{token}", asked.method))
}
