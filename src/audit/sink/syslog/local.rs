//! To a socket of this host's.

use std::io::{self, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;

use super::super::super::lines::Lines;
use super::super::deliver::Output;
use super::{PATIENCE, counted, message, shortened};
use crate::config::sinks::Format;

pub(in super::super) struct Local {
    path: PathBuf,
    format: Format,
    socket: Option<Socketed>,
    lost: u64,
}

enum Socketed {
    Datagrams(UnixDatagram),
    Stream(UnixStream),
}

impl Local {
    pub(in super::super) fn new(path: PathBuf, format: Format) -> Self {
        Self {
            path,
            format,
            socket: None,
            lost: 0,
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
                Socketed::Datagrams(socket) => {
                    let fits = fits(socket, &message)?
                        || fits(socket, &shortened(line.bytes, message.len()))?;
                    // It would hold up all that come after it.
                    if !fits {
                        self.lost += line.stands_for;
                    }
                }
                Socketed::Stream(socket) => socket.write_all(&counted(&message))?,
            }
            self.socket = Some(socket);
            *done += 1;
        }
        Ok(())
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

/// Sends it, unless it is longer than a datagram may be.
fn fits(socket: &UnixDatagram, message: &[u8]) -> io::Result<bool> {
    match socket.send(message) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EMSGSIZE) => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::super::super::lines::tests::lines;
    use super::*;

    #[test]
    fn a_record_too_long_for_a_datagram_holds_up_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        let receiver = UnixDatagram::bind(&path).unwrap();
        receiver
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let mut local = Local::new(path, Format::Native);
        let long = serde_json::json!({ "time": "2026-11-21T21:40:00.123456Z", "event": "request",
            "id": "01JX", "decision": "deny", "rule": "x".repeat(1 << 20) });
        // With a name like that, nothing of it fits.
        let longer = serde_json::json!({ "time": "2026-11-21T21:40:00.123456Z",
            "event": "request", "id": "x".repeat(1 << 20) });
        let short =
            serde_json::json!({ "time": "2026-11-21T21:40:00.123456Z", "event": "request" });
        let all = Arc::new(lines(&[&long, &longer, &short]));
        let mut done = 0;
        local.send(&all, &mut done).unwrap();
        assert_eq!((done, local.take_lost(), local.take_lost()), (3, 1, 0));
        let receive = || {
            let mut bytes = vec![0; 1 << 18];
            let len = receiver.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..len].to_vec()).unwrap()
        };
        let first = receive();
        assert!(first.contains(" request [imdsfw@32473 seq=\"1\" decision=\"deny\""));
        assert!(
            first.contains(" id=\"01JX\" cut=\"1\"] shortened: "),
            "{first}"
        );
        assert!(receive().contains(" seq=\"3\"] {"));
    }
}
