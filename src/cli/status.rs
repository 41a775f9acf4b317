//! `imdsfw status`.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{ConfigArg, Outcome, print};
use crate::audit::{Count, Counted};
use crate::config::{Backend, Config, Mode};
use crate::control::{self, Ask, From, OnDisk, Reply, Status};
use crate::diagnose::{plain_text, wrap};
use crate::intercept::{self, Drift, RuleSet};
use crate::watch::HardBypass;

/// Beside the names of what is shown; a hash just fits.
const WIDTH: usize = 71;
const INDENT: usize = 9;
/// Users that are shown one by one.
const USERS: usize = 8;

/// Show how the firewall stands.
///
/// Policy, kernel rules, grants, lockdown, bypass, the service, counts.
///
/// Asks the running daemon, and looks at the kernel rules. Exits 1 where the
/// daemon does not answer or the rules are not in force.
#[derive(clap::Args, Debug)]
#[command(after_help = "Example: imdsfw status --json")]
pub(super) struct Args {
    /// Print one JSON object: {"daemon":{...},"rules":{...}}
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    config: ConfigArg,
}

/// The kernel rules, as this process finds them.
struct Rules {
    backend: Option<Backend>,
    drift: Result<Vec<Drift>, String>,
}

pub(super) fn run(args: Args) -> Outcome {
    let answer = control::ask(&args.config.control_socket(), Ask::Status);
    let daemon = match answer {
        Ok(Reply::Status(status)) => Ok(status),
        Ok(_) => Err("the daemon answered something else".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let rules = Rules::look(&args.config);
    let well = daemon.is_ok() && rules.are_in_force();
    let text = match args.json {
        true => {
            let (status, error) = match &daemon {
                Ok(status) => (Some(status), None),
                Err(error) => (None, Some(error)),
            };
            let all = json!({ "ok": well, "daemon": status, "error": error,
                "rules": rules.json() });
            format!("{all}\n")
        }
        false => {
            let daemon = match &daemon {
                Ok(status) => shown(status),
                Err(error) => row("daemon", error),
            };
            daemon + &rules.text()
        }
    };
    print(&text)?;
    Ok(ExitCode::from(u8::from(!well)))
}

impl Rules {
    fn look(config: &ConfigArg) -> Self {
        let found = Config::load(&config.config)
            .map_err(|_| "the config is refused; see `imdsfw check`".to_owned())
            .and_then(|it| RuleSet::from_config(&it).map_err(|error| error.to_string()))
            .and_then(|rules| {
                let backend = intercept::in_use(&rules);
                let drift = intercept::verify(&rules);
                Ok((backend, drift.map_err(|error| error.to_string())?))
            });
        match found {
            Ok((backend, drift)) => Self {
                backend,
                drift: Ok(drift),
            },
            Err(error) => Self {
                backend: None,
                drift: Err(error),
            },
        }
    }

    fn are_in_force(&self) -> bool {
        let drift = self.drift.as_ref();
        drift.is_ok_and(|drift| !drift.iter().any(Drift::is_open))
    }

    fn json(&self) -> Value {
        json!({
            "hard_bypass": HardBypass::standing(),
            "backend": self.backend.map(Backend::place),
            "in_force": self.are_in_force(),
            "drift": self.drift.as_ref().ok(),
            "error": self.drift.as_ref().err(),
        })
    }

    fn text(&self) -> String {
        if let Some(bypass) = HardBypass::standing() {
            let said = format!(
                "OUT OF THE KERNEL until {} (hard bypass): {}",
                bypass.until, bypass.reason
            );
            return row("rules", &said);
        }
        let place = self.backend.map_or("none loaded", Backend::place);
        let said = match &self.drift {
            Ok(drift) if drift.is_empty() => format!("{place}: as they must be"),
            Ok(drift) => {
                let first = drift.iter().find(|it| it.is_open()).or(drift.first());
                let first = first.map(ToString::to_string).unwrap_or_default();
                let more = drift.len().saturating_sub(1);
                format!("{place}: NOT AS THEY MUST BE: {first} (and {more} more)")
            }
            Err(error) => format!("not known: {error}"),
        };
        row("rules", &said)
    }
}

fn shown(status: &Status) -> String {
    let policy = &status.policy;
    let mut out = row(
        "daemon",
        &format!(
            "imdsfw {}, process {}, up {}",
            status.version,
            status.pid,
            time(status.uptime_s)
        ),
    );
    let mode = match status.mode {
        Mode::Enforce => "enforce",
        Mode::Observe => "OBSERVE: what the policy denies is recorded, not refused",
    };
    out += &row("mode", mode);
    out += &row("policy", &policy.policy);
    let from = match policy.from {
        From::Start => "as the daemon started",
        From::Snapshot => "THE LAST GOOD ONE, because the files were refused at the start",
        From::Reload => "by `imdsfw reload`",
        From::Signal => "by SIGHUP",
        From::Watch => "from changed files",
        From::Rollback => "BY `imdsfw rollback`",
    };
    out += &row(
        "",
        &format!(
            "{} rules, in force for {} (since {}), {from}",
            policy.rules,
            time(policy.age_s),
            policy.since
        ),
    );
    out += &row("on disk", &on_disk(&policy.on_disk));
    if let Some(lockdown) = &status.lockdown {
        let except = match lockdown.except.as_slice() {
            [] => String::new(),
            except => format!(", except for {}", except.join(", ")),
        };
        let why = lockdown.reason.as_ref();
        let why = why.map_or(String::new(), |why| format!(": {why}"));
        let said = format!("ON since {}{except}{why}", lockdown.since);
        out += &row("lockdown", &said);
    } else {
        out += &row("lockdown", "off");
    }
    match &status.bypass {
        Some(bypass) => {
            let said = format!(
                "ON for {} more (until {}): {}",
                time(bypass.left_s),
                bypass.until,
                bypass.reason
            );
            out += &row("bypass", &said);
        }
        None => out += &row("bypass", "off"),
    }
    if let Some(until) = &status.watcher.hard_bypass_until {
        let said = format!("HARD, until {until}: the rules are out of the kernel");
        out += &row("", &said);
    }
    if status.grants.is_empty() {
        out += &row("grants", "none");
    }
    for (at, grant) in status.grants.iter().enumerate() {
        let said = format!(
            "{} for {} more: {} reads {}; used {} times; {}",
            grant.id,
            time(grant.left_s),
            grant.who.join(", "),
            grant.paths.join(", "),
            grant.uses,
            grant.reason
        );
        out += &row(if at == 0 { "grants" } else { "" }, &said);
    }
    out += &row("watcher", &watcher(status));
    let witness = match status.witness {
        true => "there",
        false => "GONE: no credentials are given out",
    };
    out += &row("witness", witness);
    if let Some(error) = &status.state {
        let said = format!("CANNOT BE KEPT, so orders do not outlive the daemon: {error}");
        out += &row("state", &said);
    }
    out + &counts(&status.counts)
}

fn on_disk(on_disk: &OnDisk) -> String {
    let also = |restart: &bool| match restart {
        true => "; the config has changes that only a restart takes",
        false => "",
    };
    match on_disk {
        OnDisk::Same { restart } => format!("what runs{}", also(restart)),
        OnDisk::Differs {
            policy,
            mode,
            restart,
        } => {
            let mode = match mode {
                Mode::Enforce => "enforce",
                Mode::Observe => "observe",
            };
            format!(
                "NOT WHAT RUNS: {policy}, mode {mode}; `imdsfw reload` takes it{}",
                also(restart)
            )
        }
        OnDisk::Refused { error } => {
            format!("REFUSED, and not what runs: {error}; see `imdsfw check`")
        }
    }
}

fn watcher(status: &Status) -> String {
    let watcher = &status.watcher;
    let mut said = match watcher.heard_ms {
        _ if watcher.unguarded => "NOBODY IS SERVED: the rules are broken, or it is silent".into(),
        Some(ms) => format!(
            "heard {:.1} s ago",
            f64::from(u32::try_from(ms).unwrap_or(u32::MAX)) / 1000.0
        ),
        None => "never heard: changed rules are not restored (`imdsfw rules watch`)".to_owned(),
    };
    if watcher.drifts > 0 {
        let last = watcher.last_drift.as_deref().unwrap_or("not told");
        said += &format!(
            "; found the rules changed {} times, last: {last}",
            watcher.drifts
        );
    }
    said
}

fn counts(counts: &Counted) -> String {
    let mut out = String::new();
    let answered = counts.answered.as_deref().unwrap_or("not asked yet");
    let service = match &counts.failed {
        Some(failed) if !failed.answered_since => format!(
            "FAILING: {} at {}, last answer: {answered}",
            failed.reason, failed.at
        ),
        Some(failed) => format!(
            "last answer {answered}; last failure {} at {}",
            failed.reason, failed.at
        ),
        None => format!("last answer {answered}"),
    };
    out += &row("service", &service);
    let role = match &counts.role {
        Some(role) => format!(
            "{}, until {} ({}), seen {}",
            role.name.as_deref().unwrap_or("unnamed"),
            role.expiration.as_deref().unwrap_or("unknown"),
            role.access_key_id.as_deref().unwrap_or("no key id"),
            role.seen
        ),
        None => "no credentials have passed by yet".to_owned(),
    };
    out += &row("role", &role);
    let all = counts
        .by_uid
        .iter()
        .map(|it| it.count)
        .chain([counts.others]);
    let all = all.fold(Count::default(), |sum, it| Count {
        allowed: sum.allowed + it.allowed,
        denied: sum.denied + it.denied,
    });
    let reasons = counts.by_reason.iter();
    let reasons: Vec<_> = reasons
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    out += &row(
        "requests",
        &format!("{} allowed, {} denied", all.allowed, all.denied),
    );
    if !reasons.is_empty() {
        out += &row("", &reasons.join(", "));
    }
    let mut users: Vec<_> = counts
        .by_uid
        .iter()
        .take(USERS)
        .map(|it| {
            let uid = it
                .uid
                .map_or("nobody known".to_owned(), |uid| uid.to_string());
            format!("{uid} {}/{}", it.count.allowed, it.count.denied)
        })
        .collect();
    if counts.by_uid.len() > USERS {
        users.push(format!("and {} more", counts.by_uid.len() - USERS));
    }
    if !users.is_empty() {
        let said = format!("by uid, allowed/denied: {}", users.join(", "));
        out += &row("", &said);
    }
    let limits = counts.limits.iter();
    let limits: Vec<_> = limits
        .map(|(limit, count)| format!("{limit} {count}"))
        .collect();
    let limits = match limits.is_empty() {
        true => "none hit".to_owned(),
        false => limits.join(", "),
    };
    out + &row("limits", &limits)
}

/// One thing, 80 columns wide.
fn row(name: &str, what: &str) -> String {
    let indent = format!("\n{}", " ".repeat(INDENT));
    let lines = wrap(&plain_text(what), WIDTH).replace('\n', &indent);
    format!("{name:<INDENT$}{}\n", lines.trim_end())
}

fn time(seconds: u64) -> String {
    humantime::format_duration(std::time::Duration::from_secs(seconds)).to_string()
}
