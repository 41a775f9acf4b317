//! Syslog, RFC 5424: to a local socket, or over TCP with octet counting
//! (RFC 6587).

mod local;
mod tcp;

use std::time::Duration;

pub(super) use local::Local;
pub(super) use tcp::Tcp;

use super::super::reading::Record;
use super::journald::severity;
use super::render::render;
use crate::config::sinks::Format;

/// A receiver that takes nothing for so long is failing.
const PATIENCE: Duration = Duration::from_secs(5);
/// authpriv, times 8.
const FACILITY: u8 = 80;
/// The number for examples: nobody's (RFC 5612).
const SD_ID: &str = "imdsfw@32473";

fn counted(message: &[u8]) -> Vec<u8> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message);
    frame
}

fn message(line: &[u8], format: Format) -> Vec<u8> {
    let Some((record, _)) = Record::parse(line) else {
        return render(line, format).into_owned();
    };
    let mut message = head(&record, &[]).into_bytes();
    message.extend_from_slice(&render(line, format));
    message
}

/// In place of a message of that length: says which record it is, and not what
/// is in it.
fn shortened(line: &[u8], len: usize) -> Vec<u8> {
    let record = Record::parse(line).map(|(record, _)| record);
    let record = record.unwrap_or_default();
    let id = record.id.as_deref().unwrap_or("-");
    let mut message = head(&record, &[("id", id), ("cut", "1")]);
    message.push_str(&format!(
        "shortened: {len} bytes are too many for this socket"
    ));
    message.into_bytes()
}

/// All that comes before the record itself.
fn head(record: &Record<'_>, more: &[(&str, &str)]) -> String {
    let pid = std::process::id();
    let host = header(record.host.name.as_deref().unwrap_or("-"), 255);
    let mut head = format!(
        "<{}>1 {} {host} imdsfw {pid} {} [{SD_ID}",
        FACILITY + severity(record),
        header(&record.time, 32),
        header(&record.event, 32),
    );
    let seq = record.seq.map(|it| it.to_string());
    let uid = record.caller.uid.map(|it| it.to_string());
    let fields = [
        ("seq", seq.as_deref()),
        ("decision", record.decision.as_deref()),
        ("reason", record.reason.as_deref()),
        ("uid", uid.as_deref()),
        ("user", record.caller.user.as_deref()),
        ("class", record.request.class.as_deref()),
    ];
    let more = more.iter().map(|(name, value)| (*name, Some(*value)));
    for (name, value) in fields.into_iter().chain(more) {
        if let Some(value) = value {
            head.push_str(&format!(" {name}=\"{}\"", parameter(value)));
        }
    }
    head.push_str("] ");
    head
}

/// PRINTUSASCII, and something.
fn header(text: &str, max: usize) -> String {
    let plain: String = text
        .chars()
        .filter(char::is_ascii_graphic)
        .take(max)
        .collect();
    match plain.is_empty() {
        true => "-".into(),
        false => plain,
    }
}

/// PARAM-VALUE: what would end it is escaped, what no reader of lines expects
/// is left out.
fn parameter(text: &str) -> String {
    let mut out = String::new();
    for char in crate::diagnose::plain_text(text).chars() {
        if matches!(char, '"' | '\\' | ']') {
            out.push('\\');
        }
        out.push(char);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_message_whatever_is_in_it() {
        let record = serde_json::json!({ "time": "2026-11-21T21:40:00.123456Z",
            "event": "request", "seq": 7, "decision": "deny", "reason": "policy",
            "host": { "name": "log in\n1" },
            "caller": { "uid": 4001, "user": "x\n<0>1 \"]\\" } });
        let line = record.to_string();
        let sent = message(line.as_bytes(), Format::Native);
        let text = String::from_utf8(sent).unwrap();
        let pid = std::process::id();
        let head = format!(
            "<84>1 2026-11-21T21:40:00.123456Z login1 imdsfw {pid} request [imdsfw@32473 seq=\"7\" \
             decision=\"deny\" reason=\"policy\" uid=\"4001\" user=\"x <0>1 \\\"\\]\\\\\"] {{"
        );
        assert!(text.starts_with(&head), "{text}");
        assert!(!text.contains('\n') && text.ends_with(&line));
        assert!(counted(b"abc") == b"3 abc");
    }
}
