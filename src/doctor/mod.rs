//! Whether the firewall on this host does what its config and policy say:
//! every part looked at, then read through as the given users would.
//!
//! Changes nothing. No token and no answer of the service may get into a
//! finding: of answers, only status and date are kept.

mod daemon;
mod host;
mod http;
mod reads;
mod sockets;

pub(crate) use host::{running_as, watcher};

use std::path::Path;

use nix::unistd::geteuid;
use serde::Serialize;

use crate::config::{Config, load_policy};
use crate::diagnose::{Diagnostics, Severity, Style};
use crate::ids::Uid;
use crate::intercept::{self, RuleSet};
use crate::policy::Policy;

/// By which records know its own requests. What anybody can claim to be: nobody
/// may gain by it.
pub const USER_AGENT: &str = "imdsfw-doctor";

/// How one thing stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// As it must be.
    Ok,
    /// It works, and could be safer, or could not be told.
    Warning,
    /// Somebody gets what they should not, or does not get what they should.
    Failure,
}

/// What was found of one thing.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// One word for what was looked at; scripts rely on it.
    pub check: &'static str,
    /// How it stands.
    pub state: State,
    /// What was seen.
    pub what: String,
    /// What to do about it.
    pub mend: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, what: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Ok,
            what: what.into(),
            mend: None,
        }
    }

    fn warning(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            check,
            state: State::Warning,
            what: what.into(),
            mend: Some(mend.into()),
        }
    }

    fn failure(check: &'static str, what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            state: State::Failure,
            ..Self::warning(check, what, mend)
        }
    }
}

/// Looks at everything, and reads as each of `users`.
pub fn examine(config: &Path, users: &[Uid]) -> Vec<Finding> {
    let (config, rules) = match ground(config) {
        Ok(ground) => ground,
        Err(failure) => return vec![failure],
    };
    let is_watched = watcher().is_some();
    let mut found = vec![kernel_rules(&rules), watched(is_watched)];
    found.extend(surroundings(&config, &rules, is_watched));
    let listeners = rules
        .destinations()
        .iter()
        .map(|destination| daemon::listener(&rules, *destination));
    found.extend(listeners);
    let policy = match policy(&config) {
        Ok((policy, finding)) => {
            found.push(finding);
            policy
        }
        Err(failure) => {
            found.push(failure);
            return found;
        }
    };
    let size = daemon::log_size(&config);
    let read = reads::as_users(&config, &policy, rules.destinations(), users);
    found.extend(read.findings);
    found.push(host::clock(read.date));
    found.push(daemon::log_grows(&config, rules.daemon_uid(), size));
    found
}

/// Looks at what must be well before rules and daemon are there.
pub fn before(config: &Path) -> Vec<Finding> {
    let (config, rules) = match ground(config) {
        Ok(ground) => ground,
        Err(failure) => return vec![failure],
    };
    // Once it is enabled, there is a watcher.
    let mut found = surroundings(&config, &rules, true);
    found.push(match policy(&config) {
        Ok((_, finding)) | Err(finding) => finding,
    });
    found
}

/// Without which nothing else can be looked at.
fn ground(config: &Path) -> Result<(Config, RuleSet), Finding> {
    if !geteuid().is_root() {
        let what = "only root sees the kernel rules and can ask as other users";
        return Err(Finding::failure("root", what, "sudo imdsfw doctor"));
    }
    let config = Config::load(config).map_err(|found| {
        let what = format!("the config is refused: {}", first_error(&found));
        Finding::failure("config", what, "imdsfw check")
    })?;
    let rules = RuleSet::from_config(&config).map_err(|error| {
        let mend = "imdsfw check, once that is set right";
        Finding::failure("account", error.to_string(), mend)
    })?;
    Ok((config, rules))
}

/// What the firewall stands in.
fn surroundings(config: &Config, rules: &RuleSet, is_watched: bool) -> Vec<Finding> {
    let mut found = host::rule_managers(is_watched);
    found.extend(host::socket_load_balancer());
    found.push(host::kernel());
    found.extend(host::syn_cookies());
    found.extend(rules.destinations().iter().map(|it| host::route(*it)));
    found.extend(daemon::account(config, rules.daemon_uid()));
    found.push(daemon::processes(rules.daemon_uid()));
    found
}

fn policy(config: &Config) -> Result<(Policy, Finding), Finding> {
    let mut diagnostics = Diagnostics::new();
    let Some(loaded) = load_policy(config, &mut diagnostics) else {
        let what = format!("the policy is refused: {}", first_error(&diagnostics));
        return Err(Finding::failure("policy", what, "imdsfw check"));
    };
    let policy = loaded.policy;
    // As much of the hash as people compare.
    let hash: String = policy.hash().chars().take(19).collect();
    let what = format!("{} rules, {hash}…", policy.len());
    Ok((policy, Finding::ok("policy", what)))
}

fn kernel_rules(rules: &RuleSet) -> Finding {
    match intercept::verify(rules) {
        Ok(drift) => {
            let (mut open, mut shadowed) = (0, 0);
            for difference in &drift {
                *(if difference.is_open() {
                    &mut open
                } else {
                    &mut shadowed
                }) += 1;
            }
            let first = drift.iter().find(|it| it.is_open()).or(drift.first());
            match (first, open) {
                (None, _) => Finding::ok("rules", format!("loaded as they must be: {rules}")),
                (Some(first), 0) => {
                    let what = format!("{first} ({shadowed} such in all)");
                    Finding::warning("rules", what, "imdsfw rules apply")
                }
                (Some(first), _) => {
                    let what = format!("not as they must be: {first} ({open} in all)");
                    Finding::failure("rules", what, "imdsfw rules apply")
                }
            }
        }
        Err(error) => Finding::failure("rules", error.to_string(), "imdsfw rules verify"),
    }
}

fn watched(is_watched: bool) -> Finding {
    if is_watched {
        let what = "imdsfw rules watch restores what another program changes";
        return Finding::ok("watcher", what);
    }
    Finding::warning(
        "watcher",
        "nothing watches the kernel rules: what another program takes out stays out",
        "systemctl start imdsfw-rules (or: imdsfw rules watch)",
    )
}

fn first_error(found: &Diagnostics) -> String {
    let error = found.iter().find(|it| it.severity == Severity::Error);
    error.map_or_else(|| found.render(Style::Plain), |error| error.message.clone())
}
