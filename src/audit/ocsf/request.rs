//! Requests, and connections that never became one: API Activity, the class
//! that CloudTrail's records are of.

use std::net::SocketAddr;

use serde::Deserialize;
use serde_json::{Value, json};

use super::class::{Action, Activity, Class, Disposition, Outcome, Severity};
use super::native::{Native, object};
use super::{Place, Said};
use crate::audit::record::Reason;
use crate::provider::Class as PathClass;

/// Who is there when nobody could be named; a class needs somebody.
const NOBODY: &str = "Unknown";
/// What was asked.
pub(super) const SERVICE: &str = "instance metadata service";
/// The methods that OCSF has a word for.
const METHODS: [&str; 9] = [
    "CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE",
];

pub(super) fn request(native: &mut Native, place: &Place) -> Said {
    let activity = match native.text("request.method") {
        Some("GET" | "HEAD") => Activity::new(2, "Read"),
        // The one PUT there is makes a token.
        Some("PUT") => Activity::new(1, "Create"),
        Some(_) => Activity::other("Another method"),
        None => Activity::UNKNOWN,
    };
    said(native, place, activity)
}

pub(super) fn connection(native: &mut Native, place: &Place) -> Said {
    said(native, place, Activity::other("Connect"))
}

fn said(native: &mut Native, place: &Place, activity: Activity) -> Said {
    let message = message(native);
    let decision = native.take_text("decision");
    let word = native.take_text("reason");
    let is_allowed = decision.as_deref() == Some("allow");
    let detail = native.take_text("detail");
    let reason = word
        .as_deref()
        .and_then(|word| Reason::deserialize(Value::from(word)).ok());
    let (action, disposition, severity) = match reason {
        Some(reason) => met(reason, detail.as_deref(), native.text("request.class")),
        None if is_allowed => (Action::Allowed, Disposition::Allowed, Severity::Unknown),
        None => (Action::Denied, Disposition::Blocked, Severity::Unknown),
    };
    let outcome = match is_allowed {
        true => Outcome::Success,
        false => Outcome::Failure,
    };
    let applied = !matches!(reason, Some(Reason::Observed | Reason::Bypassed));
    let policy = native.take("policy");
    let policy = policy.map(|uid| json!({ "uid": uid, "is_applied": applied }));
    let rule = native.take("rule").map(|name| json!({ "name": name }));
    let api = api(native, word.as_deref(), is_allowed);
    Said::new(Class::ApiActivity, activity, severity, message)
        .ended(outcome)
        .with("status_code", word.map(Value::from))
        .with("status_detail", detail.map(Value::from))
        .judged(action, disposition)
        .with("policy", policy)
        .with("firewall_rule", rule)
        .with("actor", actor(native))
        .with("src_endpoint", source(native, place))
        .with("api", api)
        .with("resources", resources(native))
        .with("http_request", http_request(native))
        .with("http_response", http_response(native))
}

/// What came of it, and how much that matters by itself.
fn met(
    reason: Reason,
    detail: Option<&str>,
    class: Option<&str>,
) -> (Action, Disposition, Severity) {
    let is_precious = [PathClass::Credentials, PathClass::Secrets]
        .iter()
        .any(|it| class == Some(it.as_str()));
    let of_policy = match is_precious {
        true => Severity::Medium,
        false => Severity::Low,
    };
    let of_token = match detail {
        // Most likely stolen.
        Some("other_uid") => Severity::High,
        _ => Severity::Low,
    };
    let denied = |disposition, severity| (Action::Denied, disposition, severity);
    match reason {
        Reason::Allowed => (
            Action::Allowed,
            Disposition::Allowed,
            Severity::Informational,
        ),
        Reason::Observed => (Action::Observed, Disposition::Logged, Severity::Low),
        Reason::Bypassed => (Action::Observed, Disposition::NoAction, Severity::Medium),
        Reason::Malformed | Reason::ForwardedHeader => denied(Disposition::Blocked, Severity::Low),
        Reason::TokenMissing => denied(Disposition::Unauthorized, Severity::Low),
        Reason::TokenInvalid => denied(Disposition::Unauthorized, of_token),
        Reason::Policy | Reason::Default | Reason::AccountUnknown | Reason::Holders => {
            denied(Disposition::Blocked, of_policy)
        }
        Reason::WitnessGone | Reason::Lockdown => denied(Disposition::Blocked, Severity::Medium),
        Reason::Limit | Reason::HostBudget => denied(Disposition::Rejected, Severity::Low),
        Reason::AuditUnwritable => denied(Disposition::Rejected, Severity::High),
        Reason::UpstreamUnreachable | Reason::UpstreamInvalid | Reason::UpstreamTimeout => {
            denied(Disposition::Error, Severity::Medium)
        }
        Reason::CallerUnknown | Reason::NotRedirected => {
            denied(Disposition::Dropped, Severity::Medium)
        }
        Reason::GuardsGone => denied(Disposition::Dropped, Severity::High),
        Reason::ClientGone => denied(Disposition::NoAction, Severity::Informational),
        Reason::Internal => denied(Disposition::Error, Severity::High),
    }
}

/// As one line, for who sees nothing else.
fn message(native: &Native) -> String {
    let word = |path| native.text(path).unwrap_or("unknown");
    let who = match (native.text("caller.user"), native.get("caller.uid")) {
        (Some(user), Some(uid)) => format!("{user} (uid {uid})"),
        (None, Some(uid)) => format!("uid {uid}"),
        _ => "an unknown caller".to_owned(),
    };
    let what = match native.text("request.path").or(native.text("request.raw")) {
        Some(path) => format!("{} {path}", word("request.method")),
        None => "a connection".to_owned(),
    };
    format!("{} ({}): {who}, {what}", word("decision"), word("reason"))
}

fn actor(native: &mut Native) -> Value {
    let uid = native.take_text("caller.uid");
    let groups = native.take("caller.groups");
    let mut groups: Vec<_> = match groups {
        Some(Value::Array(names)) => names.into_iter().map(|it| json!({ "name": it })).collect(),
        _ => Vec::new(),
    };
    if let Some(gid) = native.take_text("caller.gid") {
        groups.push(json!({ "uid": gid, "type": "primary" }));
    }
    let root = (uid.as_deref() == Some("0")).then(|| 2.into());
    let name = native.take("caller.user");
    let is_named = uid.is_some() || name.is_some();
    let user = object([
        ("uid", uid.map(Value::from)),
        ("name", name),
        ("type_id", root),
        ("groups", (!groups.is_empty()).then(|| groups.into())),
    ]);
    // Not set is -1, which is nobody's; it stays what it is, unmapped.
    let session = native.take_count("caller.ses");
    let session = session.map(|it| json!({ "uid": it.to_string() }));
    let process = native.take("caller.pid").and_then(|pid| {
        let exe = native.take_text("caller.exe").map(|exe| {
            let name = exe.rsplit('/').next().unwrap_or(&exe);
            json!({ "name": name, "path": exe, "type_id": 1 })
        });
        object([
            ("pid", Some(pid)),
            ("name", native.take("caller.comm")),
            ("file", exe),
            (
                "auid",
                native.take_count("caller.loginuid").map(Value::from),
            ),
        ])
    });
    object([
        ("user", user.filter(|_| is_named)),
        ("process", process),
        ("session", session),
        ("app_name", (!is_named).then(|| NOBODY.into())),
    ])
    .unwrap_or_default()
}

fn source(native: &mut Native, place: &Place) -> Value {
    let address = native.text("caller.address");
    let Some(address) = address.and_then(|it| it.parse::<SocketAddr>().ok()) else {
        return place.endpoint.clone();
    };
    native.take("caller.address");
    json!({ "ip": address.ip().to_string(), "port": address.port() })
}

fn api(native: &mut Native, reason: Option<&str>, is_allowed: bool) -> Value {
    let operation = native.text("request.method").unwrap_or(NOBODY).to_owned();
    let id = native.text("id").map(|id| json!({ "uid": id }));
    let imds = native.take("request.imds");
    let response = object([
        ("code", native.get("status").cloned()),
        ("error", reason.filter(|_| !is_allowed).map(Value::from)),
    ]);
    let service = json!({ "name": SERVICE });
    object([
        ("operation", Some(operation.into())),
        ("service", Some(service)),
        ("version", imds),
        ("request", id),
        ("response", response),
    ])
    .unwrap_or_default()
}

/// What was asked for, and the key that was handed out.
fn resources(native: &mut Native) -> Option<Value> {
    let mut resources = Vec::new();
    let class = native.get("request.class").cloned();
    if let Some(path) = native.get("request.path").cloned() {
        native.take("request.class");
        resources.extend(object([
            ("name", Some(path)),
            ("type", class),
            ("role_id", Some(1.into())),
            ("role", Some("Target".into())),
        ]));
    }
    let key = native.take("credential.access_key_id");
    let role = native.take("credential.role");
    if key.is_some() || role.is_some() {
        let end = native.take("credential.expiration");
        resources.extend(object([
            ("uid", key),
            ("name", role),
            ("type", Some("AccessKey".into())),
            ("data", end.map(|it| json!({ "expiration": it }))),
            ("role_id", Some(4.into())),
            ("role", Some("Related".into())),
        ]));
    }
    (!resources.is_empty()).then(|| resources.into())
}

fn http_request(native: &mut Native) -> Option<Value> {
    let method = native.text("request.method");
    let is_known = method.is_some_and(|it| METHODS.contains(&it));
    let method = is_known.then(|| native.take("request.method")).flatten();
    let path = native.take("request.path");
    let raw = native.take("request.raw");
    let url = (path.is_some() || raw.is_some()).then(|| {
        object([
            ("path", path),
            ("url_string", raw),
            ("scheme", Some("http".into())),
        ])
    });
    object([
        ("http_method", method),
        ("url", url.flatten()),
        ("user_agent", native.take("request.user_agent")),
    ])
}

fn http_response(native: &mut Native) -> Option<Value> {
    let code = native.take("status")?;
    let length = native.take("bytes");
    object([("code", Some(code)), ("body_length", length)])
}
