//! One client's connection: heads in, each read strictly and served before
//! the next, answers out.
//!
//! Nothing but a whole head that passed our own reading, and that hyper's
//! parser reads the same, becomes a request. What of a head arrived is
//! recorded, however the connection ends. Between requests a connection holds
//! no buffer, so that thousands of idle ones cost little.

use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::Proxy;
use super::accept::stopped;
use super::answer::Form;
use super::stream::Stream;
use crate::caller::Peer;
use crate::request::{
    CanonicalRequest, HEADERS_MAX, HttpVersion, Malformed, Persistence, REQUEST_LINE_MAX, Rejected,
    Scan, Service, parsers_agree, scan,
};
use crate::sys::listener::DEFERRED;

/// For a head to arrive whole, in all, from its first byte on, or from when its
/// connection was made if none comes.
const HEAD_DEADLINE: Duration = Duration::from_secs(5);
/// Between two requests on one connection.
const IDLE_DEADLINE: Duration = Duration::from_secs(60);
/// For the client to take anything at all of an answer that waits for it.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a request is in service before anybody looks whether its client
/// has left: for most there is an answer by then.
const UNWATCHED: Duration = Duration::from_millis(5);
/// How long after it was told to stop the daemon waits for the first request
/// of a connection that it has accepted: its client has asked, as far as that
/// client knows, and no other daemon can answer it.
const FIRST_REQUEST: Duration = Duration::from_millis(500);
/// More than any head that is not refused yet: one that is, is refused by the
/// time this much of it has come.
const BUFFER_MAX: usize = REQUEST_LINE_MAX + HEADERS_MAX + 64;
/// What an idle connection may keep, in bytes; a usual head fits.
const BUFFER_KEPT: usize = 512;

/// A request as our own reading found it.
pub(super) type Arrived = Result<CanonicalRequest, Rejected>;

pub(super) struct Connection {
    stream: Stream,
    buffer: Vec<u8>,
    timer: Timer,
    /// How many requests have come on it.
    requests: u32,
    /// When bytes last came.
    read_at: std::time::Instant,
}

/// What comes next on a connection.
enum Next {
    Request(Box<Arrived>, Form),
    /// Nothing any more, or only part of a head.
    End {
        cut_off: bool,
    },
}

/// What is heard first while a client is waited for.
enum Heard {
    Bytes,
    Left,
    TooLate,
    Stop,
}

impl Proxy {
    /// Serves a connection until its client, a deadline or the daemon ends it.
    pub(super) async fn serve_connection(
        &self,
        mut connection: Connection,
        peer: Peer,
        mut stop: watch::Receiver<bool>,
    ) {
        let cut_off = loop {
            let (arrived, mut form) = match connection.next(&self.service, &mut stop).await {
                Next::Request(arrived, form) => (*arrived, form),
                Next::End { cut_off } => break cut_off,
            };
            self.in_service.fetch_add(1, Ordering::Relaxed);
            let served = {
                let whole_since = connection.read_at;
                // Boxed: between requests no connection has room for one.
                let serving = Box::pin(self.serve_or_500(peer, arrived, whole_since));
                tokio::select! {
                    biased;
                    served = serving => Some(served),
                    // It is dropped then, and the record says so.
                    () = connection.left() => None,
                }
            };
            if let Some(Ok(reply)) = &served
                && reply.may_wait()
                && form.persistence == Persistence::KeepAlive
            {
                self.take_turns().await;
            }
            self.in_service.fetch_sub(1, Ordering::Relaxed);
            let Some(Ok(reply)) = served else { return };
            if *stop.borrow() {
                form.persistence = Persistence::Close;
            }
            let sent = connection.send(&reply.to_bytes(form)).await;
            if sent.is_err() || form.persistence == Persistence::Close {
                break false;
            }
        };
        if let Some(part) = connection.left_over() {
            // Boxed, so that not every connection has room for the rare case.
            Box::pin(self.abandoned(peer, part, cut_off)).await;
        }
    }

    /// While others are served as well, their part of the work comes first:
    /// answers that leave one right after the other wake a client, or the
    /// service, once. Where the connection ends, its client has another to
    /// make, and the sooner that begins the better.
    async fn take_turns(&self) {
        if self.in_service.load(Ordering::Relaxed) > 1 {
            tokio::task::yield_now().await;
        }
    }
}

impl Connection {
    /// `early` has come already, by `read_at`.
    pub(super) fn new(stream: TcpStream, early: Vec<u8>, read_at: std::time::Instant) -> Self {
        let waited = match early.is_empty() {
            true => DEFERRED,
            false => Duration::ZERO,
        };
        Self {
            stream: Stream::new(stream),
            buffer: early,
            timer: Timer::new(Instant::from_std(read_at) + HEAD_DEADLINE - waited),
            requests: 0,
            read_at,
        }
    }

    fn take_in(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.read_at = std::time::Instant::now();
    }

    async fn next(&mut self, service: &Arc<Service>, stop: &mut watch::Receiver<bool>) -> Next {
        let mut stopping = false;
        if self.requests > 0 {
            let within = match self.buffer.is_empty() {
                true => IDLE_DEADLINE,
                false => HEAD_DEADLINE,
            };
            self.timer.set(Instant::now() + within);
        }
        loop {
            if let Some((arrived, form)) = self.request(service) {
                return Next::Request(Box::new(arrived), form);
            }
            let began = self.buffer.is_empty();
            let heard = tokio::select! {
                biased;
                heard = poll_fn(|cx| self.poll_heard(cx)) => heard,
                () = stopped(stop), if !stopping => Heard::Stop,
            };
            match heard {
                Heard::Bytes if began && self.requests > 0 => {
                    self.timer.set(Instant::now() + HEAD_DEADLINE);
                }
                Heard::Bytes => {}
                Heard::Left => return Next::End { cut_off: false },
                Heard::TooLate if stopping || self.buffer.is_empty() => {
                    return Next::End { cut_off: stopping };
                }
                Heard::TooLate => {
                    let late = Rejected::of_bytes(Malformed::HeadTimeout, &self.buffer);
                    let form = Form::of_refusal(&late);
                    self.buffer.clear();
                    return Next::Request(Box::new(Err(late)), form);
                }
                Heard::Stop if self.requests > 0 => return Next::End { cut_off: true },
                Heard::Stop => {
                    stopping = true;
                    self.timer.set(Instant::now() + FIRST_REQUEST);
                }
            }
        }
    }

    /// Takes a request from the buffer, if one is there.
    fn request(&mut self, service: &Arc<Service>) -> Option<(Arrived, Form)> {
        if self.buffer.is_empty() {
            return None;
        }
        let (arrived, form, len) = match scan(&self.buffer) {
            Scan::Partial => return None,
            Scan::Refused(malformed) => {
                let rejected = Rejected::of_bytes(malformed, &self.buffer);
                let form = Form::of_refusal(&rejected);
                (Err(rejected), form, self.buffer.len())
            }
            Scan::Whole { head, len } => {
                let arrived = match CanonicalRequest::parse(service, &head) {
                    Ok(_) if !parsers_agree(&self.buffer, &head, len) => {
                        let cause = Malformed::ParserDisagrees;
                        Err(Rejected::of_bytes(cause, &self.buffer))
                    }
                    arrived => arrived,
                };
                let mut form = Form {
                    version: head.version,
                    without_body: head.method == b"HEAD",
                    persistence: head.persistence(),
                };
                if arrived.is_err() {
                    form.persistence = Persistence::Close;
                }
                (arrived, form, len)
            }
        };
        if self.requests == 1 {
            // An answer is one write; waiting to fill a segment only delays
            // it, from the second one on.
            let _ = self.stream.set_nodelay();
        }
        self.requests = self.requests.saturating_add(1);
        self.buffer.drain(..len.min(self.buffer.len()));
        if self.buffer.is_empty() && self.buffer.capacity() > BUFFER_KEPT {
            self.buffer = Vec::new();
        }
        Some((arrived, form))
    }

    /// At the end of a connection: the head that had begun.
    fn left_over(&self) -> Option<Rejected> {
        let begun = !self.buffer.is_empty() && scan(&self.buffer) == Scan::Partial;
        begun.then(|| Rejected::of_bytes(Malformed::RequestLine, &self.buffer))
    }

    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        match self.poll_fill(cx) {
            Poll::Ready(Ok(0) | Err(_)) => Poll::Ready(Heard::Left),
            Poll::Ready(Ok(_)) => Poll::Ready(Heard::Bytes),
            Poll::Pending => self.timer.poll(cx).map(|()| Heard::TooLate),
        }
    }

    /// While a request is in service, only the client's leaving is of
    /// interest; what else it sends waits for its turn.
    async fn left(&mut self) {
        if !self.stream.is_watched() {
            self.timer.set(Instant::now() + UNWATCHED);
        }
        poll_fn(|cx| {
            if !self.stream.is_watched() {
                ready!(self.timer.poll(cx));
            }
            while self.buffer.len() < BUFFER_MAX {
                if let Ok(0) | Err(_) = ready!(self.poll_fill(cx)) {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// Reads from the socket into the buffer; 0 is the end.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [MaybeUninit::uninit(); 4096];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(self.stream.poll_read(cx, &mut read))?;
        self.take_in(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    /// A client that does not read may not keep its connection for ever.
    async fn send(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        let mut waits = false;
        poll_fn(|cx| {
            while !bytes.is_empty() {
                match self.stream.poll_write(cx, bytes) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(taken)) => {
                        bytes = bytes.get(taken..).unwrap_or_default();
                        waits = false;
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        if !std::mem::replace(&mut waits, true) {
                            self.timer.set(Instant::now() + WRITE_DEADLINE);
                        }
                        ready!(self.timer.poll(cx));
                        return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
                    }
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }
}

impl Form {
    /// Of the answer to what is no request: it ends the connection.
    fn of_refusal(rejected: &Rejected) -> Self {
        Self {
            version: HttpVersion::Http11,
            without_body: rejected.method.as_deref() == Some("HEAD"),
            persistence: Persistence::Close,
        }
    }
}

/// Until when something must have happened. Most often it happens, and the
/// next deadline is later: so the runtime's timer is made only when there is
/// something to wait for, and is moved only when it goes off too early.
struct Timer {
    deadline: Instant,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Timer {
    fn new(deadline: Instant) -> Self {
        Self {
            deadline,
            sleep: None,
        }
    }

    fn set(&mut self, deadline: Instant) {
        self.deadline = deadline;
        if let Some(sleep) = &mut self.sleep
            && sleep.deadline() > deadline
        {
            sleep.as_mut().reset(deadline);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(sleep_until(self.deadline)));
        loop {
            ready!(sleep.as_mut().poll(cx));
            if Instant::now() >= self.deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(self.deadline);
        }
    }
}
