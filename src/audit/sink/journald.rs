//! The journal's own protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL): one
//! datagram a record, its fields searchable beside a line for people.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::super::lines::{Line, Lines};
use super::super::reading::{Record, one_line};
use super::deliver::Output;
use super::render::render;
use crate::config::sinks::Format;

/// A journal that takes nothing for so long is failing.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) struct Journal {
    path: PathBuf,
    format: Format,
    socket: Option<UnixDatagram>,
    lost: u64,
}

impl Journal {
    pub(super) fn new(path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format,
            socket: None,
            lost: 0,
        }
    }

    fn socket(&mut self) -> io::Result<&UnixDatagram> {
        let socket = match self.socket.take() {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.set_write_timeout(Some(PATIENCE))?;
                socket.connect(&self.path)?;
                socket
            }
        };
        Ok(self.socket.insert(socket))
    }

    fn send_one(&mut self, line: &Line<'_>) -> io::Result<()> {
        let (line, stands_for) = (line.bytes, line.stands_for);
        let whole = entry(line, &render(line, self.format), true);
        match self.socket()?.send(&whole) {
            // Longer than a datagram may be: then without the record itself.
            Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                let short = entry(line, &[], false);
                match self.socket()?.send(&short) {
                    // It would hold up all that come after it.
                    Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => {
                        self.lost += stands_for;
                    }
                    sent => drop(sent?),
                }
                Ok(())
            }
            sent => sent.map(drop),
        }
    }
}

impl Output for Journal {
    fn send(&mut self, lines: &Arc<Lines>, done: &mut usize) -> io::Result<()> {
        for line in lines.iter().skip(*done) {
            if let Err(error) = self.send_one(&line) {
                // Started again, it listens on another socket.
                self.socket = None;
                return Err(error);
            }
            *done += 1;
        }
        Ok(())
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

fn entry(line: &[u8], rendered: &[u8], whole: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(line.len() * 2);
    let mut put = |name: &str, value: &[u8]| {
        out.extend_from_slice(name.as_bytes());
        if value.contains(&b'\n') {
            out.push(b'\n');
            let len = u64::try_from(value.len()).unwrap_or(0);
            out.extend(len.to_le_bytes());
        } else {
            out.push(b'=');
        }
        out.extend_from_slice(value);
        out.push(b'\n');
    };
    put("SYSLOG_IDENTIFIER", b"imdsfw");
    // authpriv
    put("SYSLOG_FACILITY", b"10");
    let Some((record, _)) = Record::parse(line) else {
        put("MESSAGE", rendered);
        return out;
    };
    put("MESSAGE", one_line(&record).as_bytes());
    put("PRIORITY", severity(&record).to_string().as_bytes());
    let (caller, request) = (&record.caller, &record.request);
    let credential = record.credential.as_ref();
    let texts = [
        ("EVENT", Some(&record.event)),
        ("TIME", Some(&record.time)),
        ("ID", record.id.as_ref()),
        ("VERDICT", record.verdict.as_ref()),
        ("DECISION", record.decision.as_ref()),
        ("REASON", record.reason.as_ref()),
        ("RULE", record.rule.as_ref()),
        ("POLICY", record.policy.as_ref()),
        ("MODE", record.mode.as_ref()),
        ("USER", caller.user.as_ref()),
        ("EXE", caller.exe.as_ref()),
        ("COMM", caller.comm.as_ref()),
        ("UNIT", caller.unit.as_ref()),
        ("ADDRESS", caller.address.as_ref()),
        ("METHOD", request.method.as_ref()),
        ("PATH", request.path.as_ref().or(request.raw.as_ref())),
        ("CLASS", request.class.as_ref()),
        ("IMDS", request.imds.as_ref()),
        ("USER_AGENT", request.user_agent.as_ref()),
        (
            "ACCESS_KEY_ID",
            credential.and_then(|it| it.access_key_id.as_ref()),
        ),
        ("ROLE", credential.and_then(|it| it.role.as_ref())),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            put(&format!("IMDSFW_{name}"), text.as_bytes());
        }
    }
    let numbers = [
        ("SEQ", record.seq.map(|it| it.to_string())),
        ("UID", caller.uid.map(|it| it.to_string())),
        ("GID", caller.gid.map(|it| it.to_string())),
        ("PID", caller.pid.map(|it| it.to_string())),
        ("LOGINUID", caller.loginuid.map(|it| it.to_string())),
        ("SES", caller.ses.map(|it| it.to_string())),
        ("STATUS", record.status.map(|it| it.to_string())),
        ("LATENCY_US", record.latency_us.map(|it| it.to_string())),
        ("DETAIL", record.detail.map(|it| it.get().to_owned())),
    ];
    for (name, number) in numbers {
        // An object of details may be as long as the record.
        if let Some(number) = number.filter(|_| whole) {
            put(&format!("IMDSFW_{name}"), number.as_bytes());
        }
    }
    match whole {
        true => put("IMDSFW_RECORD", rendered),
        false => put("IMDSFW_CUT", b"1"),
    }
    out
}

/// As syslog(3) counts them.
pub(super) fn severity(record: &Record<'_>) -> u8 {
    let event: &str = &record.event;
    match (record.decision.as_deref(), event) {
        (Some("deny"), _) => 4,
        (Some(_), _) if record.credential.is_some() => 5,
        (Some(_), _) => 6,
        (None, "audit.failing" | "audit.lost" | "audit.altered" | "rules.unguarded") => 3,
        (None, "rules.drift" | "policy.rejected" | "bypass.started" | "lockdown.started") => 4,
        (None, _) => 5,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_can_pass_for_another_field() {
        let record = serde_json::json!({ "time": "2026-11-21T21:40:00.123456Z", "event": "request",
            "decision": "deny", "caller": { "uid": 4001, "user": "x\nIMDSFW_UID=0" } });
        let line = record.to_string();
        let sent = entry(line.as_bytes(), line.as_bytes(), true);
        let text = String::from_utf8_lossy(&sent);
        assert!(text.contains("\nIMDSFW_UID=4001\n"), "{text}");
        // Behind a length, it is a value.
        let mut value = b"IMDSFW_USER\n\x0e\0\0\0\0\0\0\0x\nIMDSFW_UID=0\n".to_vec();
        assert!(sent.windows(value.len()).any(|it| it == value));
        value.clear();
        let message = text.lines().find(|it| it.starts_with("MESSAGE=")).unwrap();
        assert!(message.contains("deny"), "{message}");
    }
}
