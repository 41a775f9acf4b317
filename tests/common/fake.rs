//! A metadata service that says what the test scripts, byte by byte: all
//! that a real one would never say.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use super::again::again;
use super::http::V4;
use super::net::Net;

/// A request as the service received it.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    /// Connections and the requests on each count from 0.
    pub(crate) connection: usize,
    pub(crate) number: usize,
    /// Request line and headers, without the empty line.
    pub(crate) head: String,
}

impl Asked {
    pub(crate) fn is_put(&self) -> bool {
        self.head.starts_with("PUT ")
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (sent, value) = line.split_once(": ")?;
            sent.eq_ignore_ascii_case(name).then_some(value)
        })
    }
}

/// What the service does then.
pub(crate) enum Act {
    /// Sends this and goes on.
    Answer(Vec<u8>),
    /// Sends this and closes the connection.
    Close(Vec<u8>),
    /// Keeps the connection open and says nothing.
    Silence,
}

impl Act {
    /// 200 with this body.
    pub(crate) fn ok(body: &str) -> Self {
        let length = body.len();
        Self::Answer(
            format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes(),
        )
    }

    /// An empty answer of this status.
    pub(crate) fn status(status: u16) -> Self {
        Self::Answer(format!("HTTP/1.1 {status} x\r\nContent-Length: 0\r\n\r\n").into_bytes())
    }

    /// A token good for so many seconds.
    pub(crate) fn token(token: &str, ttl: u32) -> Self {
        let length = token.len();
        Self::Answer(
            format!(
                "HTTP/1.1 200 OK\r\nX-Aws-Ec2-Metadata-Token-Ttl-Seconds: {ttl}\r\n\
                 Content-Length: {length}\r\n\r\n{token}"
            )
            .into_bytes(),
        )
    }
}

/// Listens on a metadata address until dropped.
pub(crate) struct Fake {
    listener: TcpListener,
    asked: Arc<Mutex<Vec<Asked>>>,
    accepting: Option<JoinHandle<()>>,
}

impl Fake {
    /// On the v4 address.
    pub(crate) fn start(net: &Net, script: impl Fn(&Asked) -> Act + Send + Sync + 'static) -> Self {
        Self::start_at(net, V4, script)
    }

    pub(crate) fn start_at(
        net: &Net,
        address: &str,
        script: impl Fn(&Asked) -> Act + Send + Sync + 'static,
    ) -> Self {
        let listener = net.service(|| TcpListener::bind(address).unwrap());
        let asked = Arc::new(Mutex::new(Vec::new()));
        let accepting = {
            let listener = listener.try_clone().unwrap();
            let asked = Arc::clone(&asked);
            thread::spawn(move || accept(&listener, &Arc::new(script), &asked))
        };
        Self {
            listener,
            asked,
            accepting: Some(accepting),
        }
    }

    /// Every request received so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        // Wakes the thread in accept().
        let how = nix::sys::socket::Shutdown::Both;
        nix::sys::socket::shutdown(self.listener.as_raw_fd(), how).unwrap();
        self.accepting.take().unwrap().join().unwrap();
    }
}

fn accept<S>(listener: &TcpListener, script: &Arc<S>, asked: &Arc<Mutex<Vec<Asked>>>)
where
    S: Fn(&Asked) -> Act + Send + Sync + 'static,
{
    let mut conversations = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        let held = stream.try_clone().unwrap();
        let connection = conversations.len();
        let (script, asked) = (Arc::clone(script), Arc::clone(asked));
        let thread = thread::spawn(move || converse(stream, connection, &*script, &asked));
        conversations.push((held, thread));
    }
    for (stream, thread) in conversations {
        let _ = stream.shutdown(Shutdown::Both);
        thread.join().unwrap();
    }
}

fn converse(
    mut stream: TcpStream,
    connection: usize,
    script: &dyn Fn(&Asked) -> Act,
    asked: &Mutex<Vec<Asked>>,
) {
    for number in 0.. {
        let Some(head) = read_head(&mut stream) else {
            return;
        };
        let request = Asked {
            connection,
            number,
            head,
        };
        asked.lock().unwrap().push(request.clone());
        let sent = match script(&request) {
            Act::Answer(bytes) => stream.write_all(&bytes),
            Act::Close(bytes) => {
                let _ = stream.write_all(&bytes);
                let _ = stream.shutdown(Shutdown::Both);
                return;
            }
            Act::Silence => Ok(()),
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The firewall's requests have no body.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        match again(|| stream.read(&mut byte)) {
            Ok(1) => head.push(byte[0]),
            _ => return None,
        }
    }
    head.truncate(head.len() - 4);
    Some(String::from_utf8(head).unwrap())
}
