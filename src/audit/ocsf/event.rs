//! Which class each kind of event is of, and what of its `detail` has a place
//! there. Total over the list: a new kind does not compile until it has one.

use serde_json::{Value, json};

use super::class::{Action, Activity, Class, Disposition, Outcome, Severity};
use super::native::{Native, object};
use super::{Place, Said, millis, request};
use crate::audit::record::Event;

const AT_RISK: Level = Level(2, "At Risk");
const SECURE: Level = Level(1, "Secure");

/// How well the machine is protected.
#[derive(Clone, Copy)]
struct Level(u32, &'static str);

/// What is wrong with it.
type State = (u32, &'static str);
const MISMATCH: State = (2, "Policy mismatch");
const OFF: State = (4, "Protection off");
const MALFUNCTION: State = (5, "Protection malfunction");

pub(super) fn said(kind: Event, native: &mut Native, place: &Place) -> Said {
    match kind {
        Event::Request => request::request(native, place),
        Event::ConnectionRefused => request::connection(native, place),
        Event::DenialsSummarised => summary(native, place),
        Event::CredentialsWithheld => withheld(native, place),
        Event::ControlRefused => control(native, place),

        Event::DaemonStarted => life(native, "imdsfw", true, "the daemon serves"),
        Event::DaemonStopped => life(native, "imdsfw", false, "the daemon has ended"),
        Event::WitnessGone => life(native, "imdsfw-witness", false, "there is no witness"),
        Event::WitnessBack => life(native, "imdsfw-witness", true, "there is a witness again"),
        Event::DaemonOverloaded => overloaded(native),

        Event::RulesDrift => protection(
            native,
            (SECURE, AT_RISK, Some(MISMATCH)),
            "the kernel rules had been changed",
        ),
        Event::RulesRestored => protection(
            native,
            (AT_RISK, SECURE, None),
            "the kernel rules are as they must be again",
        ),
        Event::RulesUnguarded => protection(
            native,
            (SECURE, AT_RISK, Some(MALFUNCTION)),
            "the kernel rules are not guarded: nobody is served",
        ),
        Event::RulesGuarded => protection(
            native,
            (AT_RISK, SECURE, None),
            "the kernel rules are guarded: serving again",
        ),
        Event::BypassStarted => {
            let what = "the firewall is bypassed";
            let said = protection(native, (SECURE, AT_RISK, Some(OFF)), what);
            said.with("state_id", json!(1))
                .with("state", json!("Disabled"))
        }
        Event::BypassEnded => {
            let what = "the firewall is in force again";
            let said = protection(native, (AT_RISK, SECURE, None), what);
            said.with("state_id", json!(2))
                .with("state", json!("Enabled"))
        }

        Event::CredentialsRotated => credentials(
            native,
            (Activity::new(3, "Update"), Severity::Informational),
            "the service gives out a newer set of credentials",
        ),
        Event::CredentialsStale => credentials(
            native,
            (Activity::other("Stale"), Severity::Medium),
            "the service gives out credentials that it should have replaced",
        ),
        Event::CredentialsExpiring => credentials(
            native,
            (Activity::other("Expiring"), Severity::Low),
            "credentials with little time left were handed out",
        ),
        Event::RoleChanged => role(native),

        Event::PolicyLoaded => policy(native, Outcome::Success, "a policy is in force"),
        Event::PolicyRejected => policy(native, Outcome::Failure, "a policy was refused"),
        Event::GrantStarted => grant(native, Activity::new(1, "Create"), "a grant begins"),
        Event::GrantEnded => grant(native, Activity::new(4, "Delete"), "a grant has ended"),
        Event::LockdownStarted => lockdown(
            native,
            Activity::new(8, "Enable"),
            Severity::High,
            "locked down: no credentials for anyone",
        ),
        Event::LockdownEnded => lockdown(
            native,
            Activity::new(9, "Disable"),
            Severity::Medium,
            "the lockdown is lifted",
        ),

        Event::AuditReopened => log(
            native,
            (Activity::new(5, "Rotate"), Severity::Informational),
            Outcome::Success,
            "the audit log was opened again",
        ),
        Event::AuditFailing => log(
            native,
            (Activity::new(7, "Stop"), Severity::High),
            Outcome::Failure,
            "the audit log cannot be written",
        ),
        Event::AuditLost => log(
            native,
            (Activity::other("Lose"), Severity::High),
            Outcome::Failure,
            "records were lost",
        ),
        Event::AuditRecovered => log(
            native,
            (Activity::new(8, "Restart"), Severity::Medium),
            Outcome::Success,
            "the audit log is written again",
        ),
        Event::AuditAltered => log(
            native,
            (Activity::other("Alter"), Severity::High),
            Outcome::Failure,
            "the audit log is not as it was left",
        ),
        Event::AuditSummary => routine(native, place),
    }
}

fn life(native: &mut Native, name: &str, starts: bool, what: &str) -> Said {
    let is_witness = name != "imdsfw";
    // A daemon that nobody told to end, and a witness that is missed.
    let is_bad = !starts && (is_witness || native.get("detail.signal").is_none());
    let activity = match starts {
        true => Activity::new(3, "Start"),
        false => Activity::new(4, "Stop"),
    };
    let (severity, outcome) = match is_bad {
        true => (Severity::High, Outcome::Failure),
        false => (Severity::Informational, Outcome::Success),
    };
    let version = native.get("version").cloned();
    let app = object([
        ("name", Some(name.into())),
        ("vendor_name", Some("imdsfw".into())),
        ("version", version),
    ]);
    Said::new(Class::ApplicationLifecycle, activity, severity, what.into())
        .ended(outcome)
        .with("app", app)
}

fn overloaded(native: &mut Native) -> Said {
    let activity = Activity::new(1, "General Error");
    let message = "accepting pauses: no descriptor is left".to_owned();
    let class = Class::ApplicationError;
    Said::new(class, activity, Severity::High, message)
        .ended(Outcome::Failure)
        .with("status_detail", native.take("detail.error"))
}

/// From one level to another, by whoever is named.
fn protection(
    native: &mut Native,
    (from, to, state): (Level, Level, Option<State>),
    what: &str,
) -> Said {
    let severity = match state {
        Some(_) => Severity::High,
        None => Severity::Informational,
    };
    let class = Class::DeviceConfigStateChange;
    let states = state.map(|(id, name)| json!([{ "state_id": id, "state": name }]));
    Said::new(class, Activity::new(1, "Log"), severity, what.into())
        .with("prev_security_level_id", json!(from.0))
        .with("prev_security_level", json!(from.1))
        .with("security_level_id", json!(to.0))
        .with("security_level", json!(to.1))
        .with("security_states", states)
        .with("status_detail", native.take("detail.why"))
        .with("actor", by(native))
}

fn policy(native: &mut Native, outcome: Outcome, what: &str) -> Said {
    let hash = |uid: Option<Value>| {
        object([
            ("type_id", Some(json!(5))),
            ("type", Some(json!("Policy"))),
            ("name", Some(json!("policy"))),
            ("uid", uid),
        ])
    };
    let (before, after) = match outcome {
        Outcome::Success => (native.take("detail.before"), native.take("detail.policy")),
        Outcome::Failure => (native.take("detail.running"), None),
    };
    let severity = match outcome {
        Outcome::Success => Severity::Informational,
        Outcome::Failure => Severity::Medium,
    };
    let result = after.and_then(|uid| hash(Some(uid)));
    let class = Class::EntityManagement;
    Said::new(class, Activity::new(3, "Update"), severity, what.into())
        .ended(outcome)
        .with("entity", hash(before))
        .with("entity_result", result)
        .with("actor", by(native))
}

/// A rule for a while. Its principals are users, groups, ranges of uids or
/// anybody, so it is none of the classes that speak of one user or group.
fn grant(native: &mut Native, activity: Activity, what: &str) -> Said {
    let data = object([
        ("who", native.take("detail.who")),
        ("paths", native.take("detail.paths")),
    ]);
    let entity = object([
        ("type_id", Some(json!(99))),
        ("type", Some(json!("Grant"))),
        ("name", Some(json!("grant"))),
        ("uid", native.take("detail.id")),
        ("data", data),
    ]);
    let class = Class::EntityManagement;
    Said::new(class, activity, Severity::Medium, what.into())
        .ended(Outcome::Success)
        .with("entity", entity)
        .with("comment", native.take("detail.reason"))
        .with("status_detail", native.take("detail.why"))
        .with("actor", by(native))
}

fn lockdown(native: &mut Native, activity: Activity, severity: Severity, what: &str) -> Said {
    let entity = json!({ "type_id": 99, "type": "Lockdown", "name": "lockdown" });
    Said::new(Class::EntityManagement, activity, severity, what.into())
        .ended(Outcome::Success)
        .with("entity", entity)
        .with("comment", native.take("detail.reason"))
        .with("actor", by(native))
}

/// What the service gives out, which nobody here has done.
fn credentials(
    native: &mut Native,
    (activity, severity): (Activity, Severity),
    what: &str,
) -> Said {
    let set = |native: &mut Native, id: &str| {
        let id = native.take(id)?;
        object([
            ("type_id", Some(json!(99))),
            ("type", Some(json!("Credentials"))),
            ("name", Some(json!("access key"))),
            ("uid", Some(id)),
        ])
    };
    let rotated = set(native, "detail.new");
    let before = match rotated {
        Some(_) => set(native, "detail.old"),
        None => set(native, "detail.access_key_id"),
    };
    // A set that is stale by its role alone is named by that.
    let entity = before.or_else(|| role_of(native, "detail.role"));
    Said::new(Class::EntityManagement, activity, severity, what.into())
        .with("entity", entity)
        .with("entity_result", rotated)
        .with("status_detail", native.take("detail.why"))
}

fn role(native: &mut Native) -> Said {
    let none = || json!({ "type_id": 99, "type": "Role", "name": "none" });
    let before = role_of(native, "detail.old").unwrap_or_else(none);
    let after = role_of(native, "detail.new").unwrap_or_else(none);
    let what = "the instance has another role".to_owned();
    let (class, activity) = (Class::EntityManagement, Activity::new(3, "Update"));
    Said::new(class, activity, Severity::Medium, what)
        .with("entity", before)
        .with("entity_result", after)
}

fn role_of(native: &mut Native, at: &str) -> Option<Value> {
    let name = native.take_text(at)?;
    Some(json!({ "type_id": 99, "type": "Role", "name": name }))
}

fn log(
    native: &mut Native,
    (activity, severity): (Activity, Severity),
    outcome: Outcome,
    what: &str,
) -> Said {
    let file = native.take_text("detail.file").map(|path| {
        let name = path.rsplit('/').next().unwrap_or(&path);
        json!({ "name": name, "path": path, "type_id": 1 })
    });
    let lost = native.get("detail.records").or(native.get("detail.lost"));
    let message = match lost {
        Some(lost) => format!("{what}; records lost: {lost}"),
        None => what.to_owned(),
    };
    Said::new(Class::EventLogActivity, activity, severity, message)
        .ended(outcome)
        .with("log_name", json!("imdsfw audit"))
        .with("log_type_id", json!(2))
        .with("log_type", json!("Application"))
        .with("file", file)
        .with("status_detail", native.take("detail.error"))
}

/// Denials that were counted instead of recorded.
fn summary(native: &mut Native, place: &Place) -> Said {
    let mut moment = |path| {
        let time = native.text(path).and_then(millis)?;
        native.take(path);
        Some(Value::from(time))
    };
    let (first, last) = (moment("detail.first"), moment("detail.last"));
    let count = native.take_count("detail.count");
    let message = format!("{} denials more", count.unwrap_or_default());
    let api = json!({ "operation": "Unknown", "service": { "name": request::SERVICE } });
    denied(native, place, message, api)
        .with("count", count.map(Value::from))
        .with("start_time", first)
        .with("end_time", last)
}

/// Allowed routine reads that came as counts.
fn routine(native: &mut Native, place: &Place) -> Said {
    let count = native.take_count("detail.records");
    let message = format!("{} routine reads were allowed", count.unwrap_or_default());
    let api = json!({ "operation": "Unknown", "service": { "name": request::SERVICE } });
    let activity = Activity::new(2, "Read");
    Said::new(
        Class::ApiActivity,
        activity,
        Severity::Informational,
        message,
    )
    .ended(Outcome::Success)
    .judged(Action::Allowed, Disposition::Allowed)
    .with("api", api)
    .with("actor", json!({ "app_name": "Unknown" }))
    .with("count", count.map(Value::from))
    .with("duration", native.take("detail.ms"))
    .with("src_endpoint", place.endpoint.clone())
}

/// An answer kept back when its record was already written.
fn withheld(native: &mut Native, place: &Place) -> Said {
    let message = "credentials were kept back whose record says they left".to_owned();
    let id = native.take("detail.id").map(|id| json!({ "uid": id }));
    let api = object([
        ("operation", Some("GET".into())),
        ("service", Some(json!({ "name": request::SERVICE }))),
        ("request", id),
    ]);
    let mut said = denied(native, place, message, api.unwrap_or_default());
    said.activity = Activity::new(2, "Read");
    said
}

fn control(native: &mut Native, place: &Place) -> Said {
    let count = native.take_count("detail.count");
    let reason = native.take("detail.why");
    let message = "an order on the control socket was refused".to_owned();
    let api = json!({ "operation": "control", "service": { "name": "imdsfw control socket" } });
    denied(native, place, message, api)
        .with("count", count.map(Value::from))
        .with("status_code", reason)
}

fn denied(native: &mut Native, place: &Place, message: String, api: Value) -> Said {
    let (class, severity) = (Class::ApiActivity, Severity::Medium);
    let asked = person(native, "detail").unwrap_or_else(|| json!({ "app_name": "Unknown" }));
    Said::new(class, Activity::UNKNOWN, severity, message)
        .ended(Outcome::Failure)
        .with("status_code", native.take("detail.reason"))
        .judged(Action::Denied, Disposition::Blocked)
        .with("api", api)
        .with("actor", asked)
        .with("src_endpoint", place.endpoint.clone())
}

/// Who gave an order, or changed the rules: the first, where it was several.
fn by(native: &mut Native) -> Option<Value> {
    if let Some(Value::Array(changers)) = native.get("detail.by") {
        let first = changers.first()?.clone();
        if changers.len() == 1 {
            native.take("detail.by");
        }
        return Some(json!({ "process": first }));
    }
    person(native, "detail.by")
}

fn person(native: &mut Native, at: &str) -> Option<Value> {
    let uid = native.take_text(&format!("{at}.uid"));
    let user = uid.map(|uid| json!({ "uid": uid }));
    let process = native.take(&format!("{at}.pid")).and_then(|pid| {
        let login = native.take_count(&format!("{at}.login"));
        object([("pid", Some(pid)), ("auid", login.map(Value::from))])
    });
    object([("user", user), ("process", process)])
}
