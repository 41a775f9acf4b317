//! What the service received, one JSON object per line, so that a test can
//! assert that it saw a request, or that it saw nothing.
//!
//! Must never hold a token: only whether one was presented.

use std::borrow::Cow;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::path::Path;
use std::time::SystemTime;

use serde::Serialize;

use crate::utc;

/// A line of the log, without the time it is written at.
#[derive(Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event<'a> {
    /// A connection was accepted.
    Connection { peer: SocketAddr },
    /// A request was received, and will be answered with `status`.
    Request {
        peer: SocketAddr,
        method: &'a str,
        /// The target as sent, less a fragment.
        path: String,
        /// Whether a token was presented, good or bad.
        token: bool,
        user_agent: Option<Cow<'a, str>>,
        status: u16,
    },
}

pub(super) struct RequestLog(File);

impl RequestLog {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        Ok(Self(file))
    }

    /// Appends one line in one write, so that a reader who has the answer
    /// finds the line and lines never mix.
    pub(super) fn append(&self, event: &Event<'_>) -> io::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            time: String,
            #[serde(flatten)]
            event: &'a Event<'a>,
        }
        let mut line = serde_json::to_vec(&Line {
            time: utc::rfc3339_micros(SystemTime::now()),
            event,
        })?;
        line.push(b'\n');
        (&self.0).write_all(&line)
    }
}
