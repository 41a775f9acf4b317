//! A record in words, for people: one line, and nothing in it that could steer
//! a terminal.

use super::record::Record;
use crate::diagnose::plain_text;

/// One line for a record.
pub fn one_line(record: &Record<'_>) -> String {
    let text = |text: Option<&str>| text.map(plain_text);
    let time = plain_text(&record.time);
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time);
    let time: String = time.chars().take(12).collect();
    let Some(decision) = text(record.decision.as_deref()) else {
        let detail = record.detail.map_or("", |it| it.get());
        return format!(
            "{time} {} {}",
            plain_text(&record.event),
            plain_text(detail)
        );
    };
    let mut reason = text(record.reason.as_deref()).unwrap_or_default();
    if let Some(detail) = record.detail_word() {
        reason = format!("{reason}({})", plain_text(&detail));
    }
    let mut parts = vec![time, decision, reason, account(record), what(record)];
    let (caller, request) = (&record.caller, &record.request);
    parts.extend(text(request.class.as_deref()));
    parts.extend(text(request.imds.as_deref()));
    parts.extend(record.status.map(|status| status.to_string()));
    if let Some(exe) = text(caller.exe.as_deref()) {
        let pid = caller.pid.map(|pid| format!("[{pid}]")).unwrap_or_default();
        parts.push(format!("{exe}{pid}"));
    }
    parts.extend(text(caller.unit.as_deref()));
    if let Some(credential) = &record.credential {
        parts.extend(text(credential.access_key_id.as_deref()));
    }
    parts.join(" ")
}

/// The account, as people call it.
pub fn account(record: &Record<'_>) -> String {
    let caller = &record.caller;
    match (&caller.user, caller.uid) {
        (Some(user), _) => plain_text(user),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "-".to_owned(),
    }
}

/// What was asked for, without the version where there is a path; of another
/// event its name and what it says.
pub fn what(record: &Record<'_>) -> String {
    let request = &record.request;
    match (&request.path, &request.raw) {
        (Some(path), _) => {
            let mut path = plain_text(path);
            if let Some(rest) = path.strip_prefix("/latest/") {
                path = format!("/{rest}");
            }
            match request.method.as_deref() {
                None | Some("GET") => path,
                Some(method) => format!("{} {path}", plain_text(method)),
            }
        }
        (None, Some(raw)) => plain_text(raw),
        (None, None) => plain_text(&record.event),
    }
}
