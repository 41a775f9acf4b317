//! Over TCP, which says nothing of what its receiver did with what it took. So
//! what was sent within the last seconds is kept, and sent again over the next
//! connection: nothing is lost with a receiver that is stopped and started, and
//! records may come twice, which their numbers tell.
//!
//! Who ends each connection soon (a receiver that is broken; a proxy whose
//! receiver is away) must cost neither memory nor the network without end: it
//! counts as failing, is tried ever more rarely, and gets the same only so many
//! times. What it does not keep a connection for by then counts as lost.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::super::super::lines::Lines;
use super::super::deliver::Output;
use super::{PATIENCE, counted, message};
use crate::config::sinks::Format;

/// What was sent so long ago over a connection that stands has arrived; one
/// that ended sooner has failed.
const ARRIVED: Duration = Duration::from_secs(5);
/// Of what was sent, so many bytes are kept.
const SENT_MAX: usize = 8 << 20;
/// So often the same is sent again: with the rests between them, for longer
/// than a receiver takes to be started again behind a proxy.
const AGAIN_MAX: u8 = 5;
/// After a connection that ended soon; doubled with each.
const REST: Duration = Duration::from_secs(1);
const REST_MAX: Duration = Duration::from_secs(8);
/// Of what the receiver says, so many times a buffer is read at once.
const READS_MAX: u32 = 8;

pub(in super::super) struct Tcp {
    address: SocketAddr,
    format: Format,
    open: Option<Open>,
    sent: VecDeque<Sent>,
    sent_bytes: usize,
    /// None is opened before.
    not_before: Option<Instant>,
    rest: Duration,
    lost: u64,
}

struct Open {
    stream: TcpStream,
    since: Instant,
}

struct Sent {
    /// For the first time.
    at: Instant,
    frames: Vec<u8>,
    again: u8,
    stand_for: u64,
}

impl Tcp {
    pub(in super::super) fn new(address: SocketAddr, format: Format) -> Self {
        Self {
            address,
            format,
            open: None,
            sent: VecDeque::new(),
            sent_bytes: 0,
            not_before: None,
            rest: REST,
            lost: 0,
        }
    }

    /// The connection, if it is open as far as one can tell.
    fn standing(&mut self) -> io::Result<Option<Open>> {
        let Some(open) = self.open.take() else {
            return Ok(None);
        };
        let stands = open.since.elapsed() > ARRIVED;
        if stands {
            self.rest = REST;
        }
        if !is_closed(&open.stream)? {
            if stands {
                self.forget_arrived();
            }
            return Ok(Some(open));
        }
        if !stands {
            self.rest();
            return Err(ended_soon());
        }
        Ok(None)
    }

    fn rest(&mut self) {
        self.not_before = Some(Instant::now() + self.rest);
        self.rest = (self.rest * 2).min(REST_MAX);
    }

    /// One that fails while it is written to is no more open.
    fn written(&mut self, open: &Open, written: io::Result<()>) -> io::Result<()> {
        if written.is_err() && open.since.elapsed() <= ARRIVED {
            self.rest();
        }
        written
    }

    /// A new one, over which goes first what may not have arrived.
    fn reopen(&mut self) -> io::Result<Open> {
        if self.not_before.is_some_and(|at| at > Instant::now()) {
            return Err(ended_soon());
        }
        let socket = Socket::new(Domain::for_address(self.address), Type::STREAM, None)?;
        // Also of connecting.
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.connect(&self.address.into())?;
        socket.set_tcp_nodelay(true)?;
        let mut open = Open {
            stream: socket.into(),
            since: Instant::now(),
        };
        while let Some(sent) = self.sent.front()
            && sent.again >= AGAIN_MAX
        {
            self.lost += sent.stand_for;
            self.forget_first();
        }
        let written = self.sent.iter_mut().try_for_each(|sent| {
            sent.again += 1;
            open.stream.write_all(&sent.frames)
        });
        self.written(&open, written)?;
        Ok(open)
    }

    fn forget_arrived(&mut self) {
        while let Some(sent) = self.sent.front()
            && sent.at.elapsed() > ARRIVED
        {
            self.forget_first();
        }
    }

    fn forget_first(&mut self) {
        let first = self.sent.pop_front();
        self.sent_bytes -= first.map_or(0, |sent| sent.frames.len());
    }

    fn keep(&mut self, frames: Vec<u8>, stand_for: u64) {
        self.sent_bytes += frames.len();
        self.sent.push_back(Sent {
            at: Instant::now(),
            frames,
            again: 0,
            stand_for,
        });
        // One that is longer than that stays alone.
        while self.sent_bytes > SENT_MAX && self.sent.len() > 1 {
            self.forget_first();
        }
    }
}

impl Output for Tcp {
    fn send(&mut self, lines: &Arc<Lines>, done: &mut usize) -> io::Result<()> {
        let mut open = match self.standing()? {
            Some(open) => open,
            None => self.reopen()?,
        };
        let mut frames = Vec::with_capacity(lines.bytes().len() * 5 / 4);
        for line in lines.iter() {
            frames.extend(counted(&message(line.bytes, self.format)));
        }
        // Cut short, the connection ends with half a message, which is none.
        let written = open.stream.write_all(&frames);
        self.written(&open, written)?;
        self.open = Some(open);
        self.keep(frames, lines.stand_for());
        *done = lines.len();
        Ok(())
    }

    /// What a receiver took with it when it ended is not to wait for the next
    /// record; but without a record it is sent again only once.
    fn idle(&mut self) -> io::Result<()> {
        if self.sent.is_empty() {
            return Ok(());
        }
        self.open = Some(match self.standing()? {
            Some(open) => open,
            None if self.sent.iter().any(|sent| sent.again == 0) => self.reopen()?,
            None => return Err(ended_soon()),
        });
        Ok(())
    }

    fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }
}

fn ended_soon() -> io::Error {
    let what = "the receiver ends each connection soon";
    io::Error::new(io::ErrorKind::ConnectionAborted, what)
}

/// Whether the other end has closed it. What it says is read over, as far as
/// it does not talk without end.
fn is_closed(stream: &TcpStream) -> io::Result<bool> {
    stream.set_nonblocking(true)?;
    let mut reader = stream;
    let mut closed = false;
    for _ in 0..READS_MAX {
        match reader.read(&mut [0; 4096]) {
            Ok(0) => closed = true,
            Ok(_) => continue,
            Err(error) => closed = error.kind() != io::ErrorKind::WouldBlock,
        }
        break;
    }
    stream.set_nonblocking(false)?;
    Ok(closed)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::super::super::super::lines::tests::lines;
    use super::*;

    fn batch(len: usize) -> Arc<Lines> {
        let record = serde_json::json!({ "time": "2026-11-21T21:40:00.123456Z",
            "event": "request", "rule": "x".repeat(len) });
        Arc::new(lines(&[&record]))
    }

    fn send(tcp: &mut Tcp, lines: &Arc<Lines>) -> io::Result<()> {
        tcp.send(lines, &mut 0)
    }

    /// As if it were time again.
    fn rested(tcp: &mut Tcp) {
        tcp.not_before = None;
    }

    /// Takes one connection after the other, reads what is said until it has
    /// so many bytes, closes it, and tells how many there were.
    fn reads_and_closes(listener: TcpListener, least: usize) -> mpsc::Receiver<usize> {
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut taken) = (stream.unwrap(), 0);
                let mut bytes = vec![0; 1 << 16];
                while taken < least {
                    taken += stream.read(&mut bytes).unwrap();
                }
                drop(stream);
                if tell.send(taken).is_err() {
                    return;
                }
            }
        });
        told
    }

    #[test]
    fn who_reads_and_closes_gets_the_same_so_many_times_and_is_failing() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = Tcp::new(listener.local_addr().unwrap(), Format::Native);
        // All of it, whatever was sent again.
        let read_and_close = |tcp: &Tcp| {
            let (mut stream, _) = listener.accept().unwrap();
            stream.read_exact(&mut vec![0; tcp.sent_bytes]).unwrap();
        };
        let nobody = || {
            listener.set_nonblocking(true).unwrap();
            let accepted = listener.accept().map(drop).map_err(|it| it.kind());
            assert_eq!(accepted, Err(io::ErrorKind::WouldBlock));
            listener.set_nonblocking(false).unwrap();
        };
        let once = batch(1000);
        send(&mut tcp, &once).unwrap();
        read_and_close(&tcp);
        assert!(tcp.idle().is_err(), "it ended soon");
        assert!(tcp.idle().is_err(), "and rests");
        nobody();
        rested(&mut tcp);
        tcp.idle().unwrap();
        read_and_close(&tcp);
        for _ in 0..4 {
            rested(&mut tcp);
            assert!(tcp.idle().is_err(), "not again for nothing");
        }
        nobody();
        // New records take the old with them, so many times.
        for _ in 0..20 {
            rested(&mut tcp);
            send(&mut tcp, &once).unwrap();
            read_and_close(&tcp);
            assert!(tcp.standing().is_err());
            assert!(tcp.sent.len() <= usize::from(AGAIN_MAX) + 1);
        }
        assert_eq!(tcp.take_lost(), 21 - u64::from(AGAIN_MAX) - 1);
        assert_eq!(tcp.rest, REST_MAX);
    }

    #[test]
    fn what_is_kept_is_bounded_also_where_nothing_arrives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = Tcp::new(listener.local_addr().unwrap(), Format::Native);
        let large = batch(3 << 20);
        let told = reads_and_closes(listener, 3 << 20);
        for _ in 0..8 {
            // Closed in the middle of it, or after it.
            let _ = send(&mut tcp, &large);
            assert!(tcp.sent_bytes <= SENT_MAX);
            told.recv().unwrap();
            let _ = tcp.standing();
            rested(&mut tcp);
        }
        assert_eq!(
            tcp.sent.iter().map(|it| it.frames.len()).sum::<usize>(),
            tcp.sent_bytes
        );
    }

    #[test]
    fn who_comes_back_gets_what_it_may_have_lost() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut tcp = Tcp::new(address, Format::Native);
        send(&mut tcp, &batch(1000)).unwrap();
        // Long ago, and gone with who should have read it.
        let long_ago = Instant::now().checked_sub(ARRIVED * 3).unwrap();
        tcp.open.as_mut().unwrap().since = long_ago;
        tcp.sent[0].at = long_ago;
        drop(listener);
        assert!(tcp.idle().is_err());
        let listener = TcpListener::bind(address).unwrap();
        tcp.idle().unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut bytes = vec![0; 1000];
        stream.read_exact(&mut bytes).unwrap();
        // It stands: by then it has arrived.
        tcp.open.as_mut().unwrap().since = long_ago;
        tcp.idle().unwrap();
        assert!(tcp.sent.is_empty() && tcp.sent_bytes == 0);
    }

    #[test]
    fn who_talks_without_end_does_not_hold_it_up() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut tcp = Tcp::new(listener.local_addr().unwrap(), Format::Native);
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            while stream.write_all(&[0; 1 << 16]).is_ok() {}
        });
        let (tell, told) = mpsc::channel();
        std::thread::spawn(move || {
            for _ in 0..200 {
                send(&mut tcp, &batch(100)).unwrap();
            }
            tell.send(()).unwrap();
        });
        told.recv_timeout(Duration::from_secs(20)).unwrap();
    }
}
