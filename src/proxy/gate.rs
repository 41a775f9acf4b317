//! What stands between the socket and hyper's parser: bytes reach hyper only
//! as whole heads that passed our own strict reading, and the request found
//! there is left for the pipeline, which serves that and nothing of hyper's.
//!
//! For a head that is refused, hyper is given an empty request of our own in
//! its place: so refusals take the same way to the client and into the audit
//! log as everything else. Client bytes that failed the check must never
//! reach hyper.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::io::{AsyncRead as _, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::request::{
    CanonicalRequest, HEADERS_MAX, Malformed, REQUEST_LINE_MAX, Rejected, Scan, Service, scan,
};

/// For a head to arrive whole, in all.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Between two requests on one connection.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// For the client to take anything at all of an answer that waits for it.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// More than any head that is not refused yet: one that is, is refused by the
/// time this much of it has come.
const BUFFER_MAX: usize = REQUEST_LINE_MAX + HEADERS_MAX + 64;

/// Stand for a refused request; the first also for HEAD, whose answer has no body.
const STAND_IN_HEAD: &[u8] = b"HEAD / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A request as our own reading found it.
pub(super) type Arrived = Result<CanonicalRequest, Rejected>;

/// Where the gate leaves a request for the pipeline.
#[derive(Default)]
pub(super) struct Inbox(Mutex<State>);

#[derive(Default)]
struct State {
    slot: Slot,
    /// Whom to wake when the slot is free.
    waiting: Option<Waker>,
}

#[derive(Default)]
enum Slot {
    /// The next head may be read.
    #[default]
    Free,
    /// Read, and not yet taken.
    Arrived(Box<Arrived>),
    /// Taken, and not yet answered.
    InService,
    /// The connection ended inside this head.
    Abandoned(Box<Rejected>),
}

impl Inbox {
    /// Takes the request that hyper has just announced.
    pub(super) fn take(&self) -> Option<Arrived> {
        match self.replace(Slot::InService) {
            Slot::Arrived(arrived) => Some(*arrived),
            _ => None,
        }
    }

    /// The next head may be read.
    pub(super) fn answered(&self) {
        let waiting = {
            let mut state = self.lock();
            state.slot = Slot::Free;
            state.waiting.take()
        };
        if let Some(waker) = waiting {
            waker.wake();
        }
    }

    /// At the end of a connection: what nobody took.
    pub(super) fn left_over(&self) -> Option<LeftOver> {
        match self.replace(Slot::Free) {
            Slot::Arrived(arrived) => Some(LeftOver::Refused(*arrived)),
            Slot::Abandoned(rejected) => Some(LeftOver::Abandoned(*rejected)),
            Slot::Free | Slot::InService => None,
        }
    }

    fn is_free(&self) -> bool {
        matches!(self.lock().slot, Slot::Free)
    }

    fn is_untaken(&self) -> bool {
        matches!(self.lock().slot, Slot::Arrived(_))
    }

    fn wake_when_free(&self, waker: &Waker) {
        self.lock().waiting = Some(waker.clone());
    }

    fn replace(&self, slot: Slot) -> Slot {
        std::mem::replace(&mut self.lock().slot, slot)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a connection ended with.
pub(super) enum LeftOver {
    /// A request that hyper's parser did not take.
    Refused(Arrived),
    /// Part of a head.
    Abandoned(Rejected),
}

/// The client's connection as hyper sees it.
pub(super) struct Gate {
    stream: TcpStream,
    service: Arc<Service>,
    inbox: Arc<Inbox>,
    buffer: BytesMut,
    /// How many bytes at the front of the buffer hyper may have.
    released: usize,
    refused: bool,
    /// How many have come on this connection.
    heads: u32,
    deadline: Deadline,
    /// Runs while the client takes nothing.
    stalled: Option<Pin<Box<Sleep>>>,
}

impl Gate {
    pub(super) fn new(stream: TcpStream, service: Arc<Service>, inbox: Arc<Inbox>) -> Self {
        Self {
            stream,
            service,
            inbox,
            buffer: BytesMut::new(),
            released: 0,
            refused: false,
            heads: 0,
            deadline: Deadline::in_(HEAD_DEADLINE),
            stalled: None,
        }
    }

    /// A client that does not read may not keep its connection for ever.
    fn written(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.stalled = None;
            return written;
        }
        let stalled = self
            .stalled
            .get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + WRITE_DEADLINE)));
        ready!(stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }

    /// Reads a head from the buffer, if one is there, and lets hyper have it.
    fn admit(&mut self) {
        let arrived = match scan(&self.buffer) {
            Scan::Partial => return,
            Scan::Refused(malformed) => Err(Rejected::of_bytes(malformed, &self.buffer)),
            Scan::Whole { head, len } => {
                if self.heads == 1 {
                    // An answer is one write; waiting to fill a segment only
                    // delays it, from the second one on.
                    let _ = self.stream.set_nodelay(true);
                }
                self.heads = self.heads.saturating_add(1);
                self.released = len;
                CanonicalRequest::parse(&self.service, &head)
            }
        };
        self.arrived(arrived);
    }

    fn arrived(&mut self, arrived: Arrived) {
        if let Err(rejected) = &arrived {
            let head = rejected.method.as_deref() == Some("HEAD");
            let stand_in = if head { STAND_IN_HEAD } else { STAND_IN };
            self.buffer.clear();
            self.buffer.extend_from_slice(stand_in);
            self.released = stand_in.len();
            self.refused = true;
        }
        self.inbox.replace(Slot::Arrived(Box::new(arrived)));
        self.deadline = Deadline::None;
    }

    /// Reads from the socket into the buffer; 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [std::mem::MaybeUninit::uninit(); 4096];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut read))?;
        self.buffer.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// Waits for a head; returns when there are released bytes, or at the end.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.buffer.is_empty() {
                self.admit();
                if self.released > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            match (&self.deadline, self.buffer.is_empty()) {
                (Deadline::None, true) => self.deadline = Deadline::in_(IDLE_DEADLINE).idle(),
                (Deadline::None | Deadline::Idle(..), false) => {
                    self.deadline = Deadline::in_(HEAD_DEADLINE);
                }
                _ => {}
            }
            match self.poll_fill(cx) {
                Poll::Ready(end @ (Ok(0) | Err(_))) => return Poll::Ready(end.map(drop)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => {
                    ready!(self.deadline.poll(cx));
                    if !self.buffer.is_empty() {
                        let late = Rejected::of_bytes(Malformed::HeadTimeout, &self.buffer);
                        self.arrived(Err(late));
                    }
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }

    /// While a request is in service, only the client's leaving is of
    /// interest; what else it sends waits for its turn.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.buffer.len() < BUFFER_MAX {
            match self.poll_fill(cx) {
                // Told of the end, hyper drops a request that it has not
                // handed on yet; so it is told when it asks again.
                Poll::Ready(Ok(0) | Err(_)) if self.inbox.is_untaken() => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending => break,
            }
        }
        // No news of the socket will come for what is here already.
        if !self.buffer.is_empty() {
            self.inbox.wake_when_free(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Gate {
    /// However the connection ended, a head that had begun is left behind.
    fn drop(&mut self) {
        let begun = !self.buffer.is_empty() && !self.refused && self.inbox.is_free();
        if begun && scan(&self.buffer) == Scan::Partial {
            let part = Rejected::of_bytes(Malformed::RequestLine, &self.buffer);
            self.inbox.replace(Slot::Abandoned(Box::new(part)));
        }
    }
}

impl Read for Gate {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut out: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        if self.released == 0 {
            if self.refused || !self.inbox.is_free() {
                return self.poll_gone(cx);
            }
            ready!(self.poll_head(cx))?;
        }
        let len = self.released.min(out.remaining());
        out.put_slice(self.buffer.get(..len).unwrap_or_default());
        self.buffer.advance(len);
        self.released -= len;
        Poll::Ready(Ok(()))
    }
}

impl Write for Gate {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.written(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.written(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    /// Dropped right behind this, the socket says goodbye by itself.
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Until when something must have arrived. The timer behind it is made only
/// when there is something to wait for.
enum Deadline {
    None,
    Idle(Instant, Option<Pin<Box<Sleep>>>),
    Head(Instant, Option<Pin<Box<Sleep>>>),
}

impl Deadline {
    fn in_(time: Duration) -> Self {
        Self::Head(Instant::now() + time, None)
    }

    fn idle(self) -> Self {
        match self {
            Self::Head(at, timer) => Self::Idle(at, timer),
            other => other,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::None => Poll::Pending,
            Self::Idle(at, timer) | Self::Head(at, timer) => timer
                .get_or_insert_with(|| Box::pin(sleep_until(*at)))
                .as_mut()
                .poll(cx),
        }
    }
}
