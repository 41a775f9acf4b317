//! Records as the daemon hands them to who follows it: lines on a Unix stream.

use std::io::{self, Read as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use super::lines::{LINE_MAX, take_whole};

/// What is read at once.
const CHUNK: usize = 64 * 1024;
/// Chunks that are read before somebody else has a turn.
const CHUNKS_A_TURN: usize = 16;

/// The daemon's stream, as far as it was read.
#[derive(Debug)]
pub struct Stream {
    socket: UnixStream,
    /// A line whose end has not come yet.
    rest: Vec<u8>,
}

impl Stream {
    /// Connects to it.
    ///
    /// # Errors
    /// Nobody listens there, or not to us.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixStream::connect(path)?;
        socket.set_nonblocking(true)?;
        Ok(Self {
            socket,
            rest: Vec::new(),
        })
    }

    /// Hands on every whole line that came; false once no more can come.
    /// Never waits.
    ///
    /// # Errors
    /// As reading fails.
    pub fn poll(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let mut chunk = vec![0; CHUNK];
        for _ in 0..CHUNKS_A_TURN {
            match self.socket.read(&mut chunk) {
                Ok(0) => return Ok(false),
                Ok(len) => self.rest.extend(chunk.get(..len).unwrap_or_default()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            take_whole(&mut self.rest, each);
            if self.rest.len() > LINE_MAX {
                // No record; its end will be taken for a foreign line.
                self.rest.clear();
            }
        }
        Ok(true)
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
