//! A service that says what it was given, without a network.

use std::collections::VecDeque;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::super::Answer;
use super::{After, Connection, Expects, Failed};

/// One part for each read, then the end.
struct Scripted(VecDeque<Bytes>);

pub(super) fn exchange(parts: Vec<Bytes>, expects: Expects) -> Result<(Answer, After), Failed> {
    let mut connection = Connection {
        stream: Scripted(parts.into()),
        buffer: BytesMut::new(),
    };
    let exchange = pin!(connection.exchange(b"GET / HTTP/1.1\r\n\r\n", expects));
    match exchange.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => unreachable!("it has nothing to wait for"),
    }
}

impl AsyncRead for Scripted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(part) = self.0.front_mut() {
            buffer.put_slice(&part.split_to(part.len().min(buffer.remaining())));
        }
        while self.0.front().is_some_and(Bytes::is_empty) {
            self.0.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Scripted {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
