//! HTTP by hand, so that a test sends exactly the bytes it means and sees
//! exactly the bytes that come back.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use super::again::again;
use super::user::User;

pub(crate) const V4: &str = "169.254.169.254:80";
pub(crate) const V6: &str = "[fd00:ec2::254]:80";

/// Longer than the daemon's longest deadline.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came back; `status` 0 where the connection was closed without an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Status line and headers as sent.
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (sent, value) = line.split_once(':')?;
            sent.eq_ignore_ascii_case(name).then_some(value.trim())
        })
    }
}

/// A connection of `user` to the service.
pub(crate) fn connect(user: User, to: &str) -> TcpStream {
    let to = to.parse().unwrap();
    patient(user.client(to).patient(PATIENCE).connect(to).unwrap())
}

/// A connection that the daemon has to deal with at once: where the client has
/// sent nothing, the kernel waits for that first.
pub(crate) fn hold(user: User) -> TcpStream {
    let mut stream = connect(user, V4);
    stream.write_all(BEGUN).unwrap();
    stream
}

/// Of a request.
pub(crate) const BEGUN: &[u8] = b"G";

/// From a given port, also one in use elsewhere.
pub(crate) fn connect_from(user: User, from: SocketAddr, to: SocketAddr) -> TcpStream {
    patient(user.connect_from(from, to).unwrap())
}

fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these bytes on a connection of their own; reads until its end.
pub(crate) fn raw(user: User, to: &str, bytes: &[u8]) -> Answer {
    let mut stream = connect(user, to);
    // Refused bytes may be met by a reset while they are sent.
    let _ = stream.write_all(bytes);
    read_answer(&mut stream).unwrap()
}

/// Sends these bytes on a connection of their own, and reads answers until
/// the other side ends it: one that leaves it open fails the test.
pub(crate) fn until_closed(user: User, to: &str, bytes: &[u8]) -> Vec<Answer> {
    let mut stream = connect(user, to);
    let _ = stream.write_all(bytes);
    rest(&mut stream)
}

/// All answers to come, until the other side ends the connection.
pub(crate) fn rest(stream: &mut TcpStream) -> Vec<Answer> {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(error) if error.kind() != io::ErrorKind::ConnectionReset => {
            panic!(
                "{error}: still open after {:?}",
                String::from_utf8_lossy(&bytes)
            )
        }
        _ => {}
    }
    let mut answers = Vec::new();
    let mut rest = bytes.as_slice();
    while let Some(answer) = whole(rest) {
        rest = &rest[answer.head.len() + 4 + answer.body.len()..];
        answers.push(answer);
    }
    assert!(rest.is_empty(), "{:?}", String::from_utf8_lossy(rest));
    answers
}

/// One GET on a connection of its own.
pub(crate) fn get(user: User, to: &str, path: &str, token: Option<&str>) -> Answer {
    raw(
        user,
        to,
        request("GET", to, path, token, "close").as_bytes(),
    )
}

/// A token for `user`, of `ttl` seconds.
pub(crate) fn token(user: User, to: &str, ttl: u32) -> String {
    let answer = raw(user, to, put(to, ttl).as_bytes());
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}

pub(crate) fn put(to: &str, ttl: u32) -> String {
    let host = to.strip_suffix(":80").unwrap();
    format!(
        "PUT /latest/api/token HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         X-aws-ec2-metadata-token-ttl-seconds: {ttl}\r\n\r\n"
    )
}

pub(crate) fn request(
    method: &str,
    to: &str,
    path: &str,
    token: Option<&str>,
    connection: &str,
) -> String {
    let host = to.strip_suffix(":80").unwrap();
    let token = token.map_or(String::new(), |it| {
        format!("X-aws-ec2-metadata-token: {it}\r\n")
    });
    format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\n{token}\r\n")
}

/// Ends a connection with an RST.
pub(crate) fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
}

/// Reads one answer: by its Content-Length, else to the end.
pub(crate) fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        if let Some(answer) = whole(&bytes) {
            return Ok(answer);
        }
        match again(|| stream.read(&mut chunk)) {
            Ok(0) => break,
            Ok(len) => bytes.extend(&chunk[..len]),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => break,
            Err(error) => return Err(error),
        }
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    Ok(Answer {
        status: status(head),
        head: head.into(),
        body: body.into(),
    })
}

fn whole(bytes: &[u8]) -> Option<Answer> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut answer = Answer {
        status: status(head),
        head: head.into(),
        body: String::new(),
    };
    let length: usize = answer.header("content-length")?.parse().ok()?;
    answer.body = body.get(..length)?.into();
    Some(answer)
}

fn status(head: &str) -> u16 {
    head.split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}
