//! A record as the Open Cybersecurity Schema Framework has it, version 1.8.0.
//!
//! Pure: a line of the log in, an OCSF event out. A field goes where OCSF has
//! a place of just that meaning, and what is left stands whole under
//! `unmapped`: nothing that a record says may get lost, and nothing may be
//! said that it does not. The profiles are host, cloud, security_control and
//! linux_users, which has a place for the login uid.

mod class;
mod event;
mod native;
mod request;
#[cfg(test)]
mod tests;

use std::time::UNIX_EPOCH;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::record::Event;
use class::{Action, Activity, Class, Disposition, Outcome, Severity};
use native::{Native, object};

/// The version of the schema that events are valid by.
pub const VERSION: &str = "1.8.0";
const PROFILES: [&str; 4] = ["cloud", "host", "linux/linux_users", "security_control"];

/// The event that a line of the log says; `None` where it is no record.
pub fn from_native(line: &str) -> Option<String> {
    let mut native = Native::parse(line)?;
    let time = native.take_text("time")?;
    let millis = millis(&time)?;
    let word = native.take_text("event")?;
    let place = Place::take(&mut native);
    let kind = Event::deserialize(Value::from(word.as_str())).ok();
    let said = match kind {
        Some(kind) => event::said(kind, &mut native, &place),
        None => Said::unknown(&word),
    };
    let Said {
        class,
        activity,
        severity,
        outcome,
        message,
        fields,
    } = said;
    let mut out: Map<String, Value> = fields.into_iter().collect();
    let mut put = |key: &str, value: Value| out.insert(key.to_owned(), value);
    put("category_uid", class.category().into());
    put("category_name", class.category_name().into());
    put("class_uid", class.uid().into());
    put("class_name", class.name().into());
    put("activity_id", activity.id.into());
    put("activity_name", activity.name.into());
    put("type_uid", (class.uid() * 100 + activity.id).into());
    put(
        "type_name",
        format!("{}: {}", class.name(), activity.caption()).into(),
    );
    put("severity_id", severity.id().into());
    put("severity", severity.name().into());
    if let Some(outcome) = outcome {
        put("status_id", outcome.id().into());
        put("status", outcome.name().into());
    }
    put("time", millis.into());
    put("message", message.into());
    put("metadata", metadata(&mut native, &word, &time));
    put("device", place.device);
    put("cloud", place.cloud);
    if let Some(left) = native.left() {
        put("unmapped", left);
    }
    serde_json::to_string(&out).ok()
}

/// What an event says beside what all say.
struct Said {
    class: Class,
    activity: Activity,
    severity: Severity,
    outcome: Option<Outcome>,
    message: String,
    fields: Vec<(String, Value)>,
}

impl Said {
    fn new(class: Class, activity: Activity, severity: Severity, message: String) -> Self {
        Self {
            class,
            activity,
            severity,
            outcome: None,
            message,
            fields: Vec::new(),
        }
    }

    /// Of a later version of this program.
    fn unknown(word: &str) -> Self {
        let message = format!("{word}, an event of a later version");
        Self::new(Class::Base, Activity::UNKNOWN, Severity::Unknown, message)
    }

    fn ended(mut self, outcome: Outcome) -> Self {
        self.outcome = Some(outcome);
        self
    }

    /// What became of it, by what was done.
    fn judged(self, action: Action, disposition: Disposition) -> Self {
        self.with("action_id", Value::from(action.id()))
            .with("action", Value::from(action.name()))
            .with("disposition_id", Value::from(disposition.id()))
            .with("disposition", Value::from(disposition.name()))
    }

    fn with(mut self, key: &str, value: impl Into<Option<Value>>) -> Self {
        if let Some(value) = value.into() {
            self.fields.push((key.to_owned(), value));
        }
        self
    }
}

/// Where it was.
struct Place {
    device: Value,
    cloud: Value,
    /// As an endpoint, for what came from this machine itself.
    endpoint: Value,
}

impl Place {
    fn take(native: &mut Native) -> Self {
        let name = native.take("host.name").unwrap_or_else(|| "unknown".into());
        let region = native.take("host.region");
        let instance = native.take("host.instance_id");
        let account = native.take("host.account");
        let account = account.map(|uid| json!({ "uid": uid, "type_id": 10 }));
        let endpoint = object([
            ("hostname", Some(name.clone())),
            ("instance_uid", instance.clone()),
        ]);
        let device = object([
            ("hostname", Some(name)),
            ("type_id", Some(1.into())),
            ("type", Some("Server".into())),
            ("os", Some(json!({ "name": "Linux", "type_id": 200 }))),
            ("uid", native.take("host.machine_id")),
            ("boot_uid", native.take("host.boot_id")),
            ("instance_uid", instance),
            ("region", region.clone()),
        ]);
        // The one provider whose records there are.
        let cloud = object([
            ("provider", Some("AWS".into())),
            ("region", region),
            ("account", account),
        ]);
        Self {
            device: device.unwrap_or_default(),
            cloud: cloud.unwrap_or_default(),
            endpoint: endpoint.unwrap_or_default(),
        }
    }
}

fn metadata(native: &mut Native, event: &str, time: &str) -> Value {
    let product = object([
        ("name", Some("imdsfw".into())),
        ("vendor_name", Some("imdsfw".into())),
        ("version", native.take("version")),
    ]);
    let metadata = object([
        ("version", Some(VERSION.into())),
        ("profiles", Some(PROFILES.as_slice().into())),
        ("product", product),
        ("event_code", Some(event.into())),
        ("log_name", Some("imdsfw audit".into())),
        ("log_version", native.take_text("schema").map(Value::from)),
        ("original_time", Some(time.into())),
        ("sequence", native.take("seq")),
        ("uid", native.take("id")),
    ]);
    metadata.unwrap_or_default()
}

/// OCSF counts milliseconds; the record's own text is kept beside them.
fn millis(time: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(time).ok()?;
    let since = time.duration_since(UNIX_EPOCH).ok()?;
    u64::try_from(since.as_millis()).ok()
}
