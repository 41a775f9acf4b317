//! The client's end of a connection, which the runtime watches only once
//! something has to be waited for.
//!
//! A client that asks once has most often asked by the time it is accepted, and
//! its answer goes out at once: to have its socket watched and forgotten again
//! would be two system calls for nothing, and a third for news that is old.
//! Nothing may be lost meanwhile: what comes unwatched is read later.

use std::io::{self, Write as _};
use std::net::TcpStream as Plain;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::net::TcpStream;

/// Non-blocking.
pub(super) enum Stream {
    Unwatched(Plain),
    Watched(TcpStream),
    /// It could not be watched, and is closed.
    Lost,
}

impl Stream {
    pub(super) fn new(stream: Plain) -> Self {
        Self::Unwatched(stream)
    }

    pub(super) fn is_watched(&self) -> bool {
        !matches!(self, Self::Unwatched(_))
    }

    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self {
            Self::Unwatched(stream) => stream.set_nodelay(true),
            Self::Watched(stream) => stream.set_nodelay(true),
            Self::Lost => Err(lost()),
        }
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(self.watched()?).poll_read(cx, space)
    }

    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if let Self::Unwatched(stream) = self {
            match stream.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return Poll::Ready(written),
            }
        }
        Pin::new(self.watched()?).poll_write(cx, bytes)
    }

    /// What came or comes meanwhile is heard of, too: a socket that is ready
    /// when it begins to be watched is reported (epoll(7)).
    fn watched(&mut self) -> io::Result<&mut TcpStream> {
        if let Self::Unwatched(_) = self
            && let Self::Unwatched(stream) = std::mem::replace(self, Self::Lost)
        {
            let watched = TcpStream::from_std(stream).inspect_err(|error| {
                tracing::error!(%error, "a connection is lost: it cannot be watched");
            })?;
            *self = Self::Watched(watched);
        }
        match self {
            Self::Watched(stream) => Ok(stream),
            Self::Unwatched(_) | Self::Lost => Err(lost()),
        }
    }
}

fn lost() -> io::Error {
    io::ErrorKind::NotConnected.into()
}
