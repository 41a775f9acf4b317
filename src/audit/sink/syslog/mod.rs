//! Syslog, RFC 5424: to a local socket, or over TCP with octet counting
//! (RFC 6587).
//!
//! TCP says nothing of what its receiver did with what it took. So what was
//! sent within the last seconds is sent again over the next connection: nothing
//! is lost with a receiver that is stopped and started, and records may come
//! twice, which their numbers tell.

use std::collections::VecDeque;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::super::lines::Lines;
use super::super::reading::Record;
use super::deliver::Output;
use super::journald::severity;
use super::render::render;
use crate::config::sinks::Format;

/// A receiver that takes nothing for so long is failing.
const PATIENCE: Duration = Duration::from_secs(5);
/// What was sent so long ago has arrived.
const ARRIVED: Duration = Duration::from_secs(5);
/// Of what was sent, so many bytes are kept.
const SENT_MAX: usize = 8 << 20;
/// authpriv, times 8.
const FACILITY: u8 = 80;
/// The number for examples: nobody's (RFC 5612).
const SD_ID: &str = "imdsfw@32473";

/// A socket of this host's.
pub(super) struct Local {
    path: PathBuf,
    format: Format,
    socket: Option<Socketed>,
}

enum Socketed {
    Datagrams(UnixDatagram),
    Stream(UnixStream),
}

impl Local {
    pub(super) fn new(path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format,
            socket: None,
        }
    }

    fn connect(&self) -> io::Result<Socketed> {
        let datagrams = UnixDatagram::unbound()?;
        datagrams.set_write_timeout(Some(PATIENCE))?;
        match datagrams.connect(&self.path) {
            Ok(()) => Ok(Socketed::Datagrams(datagrams)),
            Err(error) if error.raw_os_error() == Some(libc::EPROTOTYPE) => {
                let stream = UnixStream::connect(&self.path)?;
                stream.set_write_timeout(Some(PATIENCE))?;
                Ok(Socketed::Stream(stream))
            }
            Err(error) => Err(error),
        }
    }
}

impl Output for Local {
    fn send(&mut self, lines: &Arc<Lines>, done: &mut usize) -> io::Result<()> {
        for line in lines.iter().skip(*done) {
            let message = message(line.bytes, self.format);
            let mut socket = match self.socket.take() {
                Some(socket) => socket,
                None => self.connect()?,
            };
            // Failing, it is dropped, and there will be another.
            match &mut socket {
                Socketed::Datagrams(socket) => socket.send(&message).map(drop)?,
                Socketed::Stream(socket) => socket.write_all(&counted(&message))?,
            }
            self.socket = Some(socket);
            *done += 1;
        }
        Ok(())
    }
}

/// A receiver elsewhere.
pub(super) struct Tcp {
    address: SocketAddr,
    format: Format,
    stream: Option<TcpStream>,
    sent: VecDeque<(Instant, Vec<u8>)>,
    sent_bytes: usize,
}

impl Tcp {
    pub(super) fn new(address: SocketAddr, format: Format) -> Self {
        Self {
            address,
            format,
            stream: None,
            sent: VecDeque::new(),
            sent_bytes: 0,
        }
    }

    /// A connection that is open as far as one can tell.
    fn stream(&mut self) -> io::Result<TcpStream> {
        if let Some(stream) = self.stream.take()
            && !is_closed(&stream)?
        {
            self.forget_arrived();
            return Ok(stream);
        }
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        // Also of connecting.
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.address.into())?;
        socket.set_tcp_nodelay(true)?;
        let mut stream = TcpStream::from(socket);
        for (at, frames) in &mut self.sent {
            stream.write_all(frames)?;
            *at = Instant::now();
        }
        Ok(stream)
    }

    fn forget_arrived(&mut self) {
        while let Some((at, _)) = self.sent.front()
            && (at.elapsed() > ARRIVED || self.sent_bytes > SENT_MAX)
        {
            let frames = self.sent.pop_front().map_or(0, |(_, frames)| frames.len());
            self.sent_bytes -= frames;
        }
    }
}

impl Output for Tcp {
    fn send(&mut self, lines: &Arc<Lines>, done: &mut usize) -> io::Result<()> {
        let mut stream = self.stream()?;
        let mut frames = Vec::with_capacity(lines.bytes().len() * 5 / 4);
        for line in lines.iter() {
            frames.extend(counted(&message(line.bytes, self.format)));
        }
        // Cut short, the connection ends with half a message, which is none.
        stream.write_all(&frames)?;
        self.sent_bytes += frames.len();
        self.sent.push_back((Instant::now(), frames));
        self.stream = Some(stream);
        *done = lines.len();
        Ok(())
    }

    /// What a receiver took with it when it ended is not to wait for the next
    /// record.
    fn idle(&mut self) -> io::Result<()> {
        if !self.sent.is_empty() {
            let stream = self.stream()?;
            self.stream = Some(stream);
        }
        Ok(())
    }
}

/// Whether the other end has closed it; what it says is read over.
fn is_closed(stream: &TcpStream) -> io::Result<bool> {
    use std::io::Read as _;
    stream.set_nonblocking(true)?;
    let mut reader = stream;
    let closed = loop {
        match reader.read(&mut [0; 256]) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
        }
    };
    stream.set_nonblocking(false)?;
    Ok(closed)
}

fn counted(message: &[u8]) -> Vec<u8> {
    let mut frame = format!("{} ", message.len()).into_bytes();
    frame.extend_from_slice(message);
    frame
}

fn message(line: &[u8], format: Format) -> Vec<u8> {
    let pid = std::process::id();
    let Some((record, _)) = Record::parse(line) else {
        return render(line, format).into_owned();
    };
    let host = header(record.host.name.as_deref().unwrap_or("-"), 255);
    let mut head = format!(
        "<{}>1 {} {host} imdsfw {pid} {} [{SD_ID}",
        FACILITY + severity(&record),
        header(&record.time, 32),
        header(&record.event, 32),
    );
    let fields = [
        ("seq", record.seq.map(|it| it.to_string())),
        ("decision", record.decision.map(|it| it.to_string())),
        ("reason", record.reason.map(|it| it.to_string())),
        ("uid", record.caller.uid.map(|it| it.to_string())),
        ("user", record.caller.user.map(|it| it.to_string())),
        ("class", record.request.class.map(|it| it.to_string())),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            head.push_str(&format!(" {name}=\"{}\"", parameter(&value)));
        }
    }
    head.push_str("] ");
    let mut message = head.into_bytes();
    message.extend_from_slice(&render(line, format));
    message
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
