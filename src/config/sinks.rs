//! `[[audit.sink]]`: where else records go, and which of them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Action;
use crate::provider::Class;

/// One of any number of sinks beside the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SinkConfig {
    /// What events call it; a later file's sink of this name replaces it.
    pub name: String,
    /// Where records go.
    pub to: SinkTarget,
    /// In which form.
    pub format: Format,
    /// Events that it gets: names, or families such as `policy.*`; all where
    /// there are none.
    pub events: Vec<String>,
    /// Of requests, those for these classes; all where there are none.
    pub classes: Vec<Class>,
    /// Of requests, those with these outcomes; all where there are none.
    pub decisions: Vec<Action>,
    /// Allowed routine reads come as counts, so often.
    pub summarise: Option<Duration>,
    /// Bytes that may wait for it.
    pub queue: u64,
}

impl SinkConfig {
    /// Where every record can be followed, as it is in the log.
    pub fn whole_stream(&self) -> Option<&Path> {
        let is_whole = self.format == Format::Native
            && self.events.is_empty()
            && self.classes.is_empty()
            && self.decisions.is_empty()
            && self.summarise.is_none();
        match &self.to {
            SinkTarget::Stream(path) if is_whole => Some(path),
            _ => None,
        }
    }
}

/// Where a sink's records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkTarget {
    /// The daemon's standard output, a line each.
    Stdout,
    /// The journal's own protocol, to this socket.
    Journald(PathBuf),
    /// RFC 5424, to this socket.
    SyslogUnix(PathBuf),
    /// RFC 5424 with octet counting, over TCP.
    SyslogTcp(SocketAddr),
    /// Lines for whoever of root's connects to this socket.
    Stream(PathBuf),
}

/// In which form records leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// As in the log.
    Native,
    /// An event of OCSF.
    Ocsf,
}

/// The words for [`Format`].
pub const FORMATS: &[(&str, Format)] = &[("native", Format::Native), ("ocsf", Format::Ocsf)];

/// Kinds of sinks, as the config names them.
pub const KINDS: [&str; 4] = ["stdout", "journald", "syslog", "stream"];

/// Where followers connect, where the config says nothing.
pub const STREAM: &str = "/run/imdsfw/audit.sock";

/// What a sink's queue holds where the config says nothing: some 8,000 records.
pub const QUEUE: u64 = 8 << 20;

/// Families of events; `request` and `connection.refused` beside them.
const FAMILIES: [&str; 13] = [
    "daemon",
    "policy",
    "rules",
    "grant",
    "lockdown",
    "bypass",
    "control",
    "limit",
    "audit",
    "upstream",
    "credentials",
    "role",
    "connection",
];

/// Whether this can name events: `request`, `policy.loaded`, `policy.*`.
pub fn names_events(text: &str) -> bool {
    if text == "request" {
        return true;
    }
    let Some((family, event)) = text.split_once('.') else {
        return false;
    };
    let is_word = !event.is_empty()
        && event
            .bytes()
            .all(|it| it.is_ascii_lowercase() || it == b'_');
    FAMILIES.contains(&family) && (event == "*" || is_word)
}
