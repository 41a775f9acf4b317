//! One HTTP exchange as another user: the kernel takes a socket to be of the
//! fsuid of the thread that makes it, so that thread asks and then ends.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use nix::unistd::{Gid, Uid, setfsgid, setfsuid};

use super::USER_AGENT;
use crate::ids;

/// To connect, which goes no further than loopback.
const CONNECTED_WITHIN: Duration = Duration::from_secs(2);
/// For each part of an answer: longer than the daemon's own deadline for the
/// service.
const PATIENCE: Duration = Duration::from_secs(10);
/// More than any answer.
const ANSWER_MAX: u64 = 2 * 1024 * 1024;

/// What is kept of an answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) date: Option<SystemTime>,
}

/// A token, which must not be shown.
pub(super) struct Token(String);

/// Asks for a token, for one minute.
pub(super) fn token(user: (ids::Uid, ids::Gid), to: SocketAddr) -> io::Result<(u16, Token)> {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 60";
    let (answer, body) = exchange(user, to, "PUT", crate::request::TOKEN_PATH, ttl)?;
    Ok((answer.status, Token(body)))
}

/// Reads a path.
pub(super) fn get(
    user: (ids::Uid, ids::Gid),
    to: SocketAddr,
    path: &str,
    token: Option<&Token>,
) -> io::Result<Answer> {
    let header = token.map(|token| format!("X-aws-ec2-metadata-token: {}", token.0));
    let header = header.unwrap_or_else(|| "Accept: */*".into());
    Ok(exchange(user, to, "GET", path, &header)?.0)
}

fn exchange(
    (uid, gid): (ids::Uid, ids::Gid),
    to: SocketAddr,
    method: &str,
    path: &str,
    header: &str,
) -> io::Result<(Answer, String)> {
    let host = match to {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: {USER_AGENT}\r\n\
         {header}\r\nConnection: close\r\n\r\n"
    );
    let asking = std::thread::Builder::new().spawn(move || {
        setfsgid(Gid::from_raw(gid.0));
        setfsuid(Uid::from_raw(uid.0));
        // The only way to learn whether the first call did anything.
        if setfsuid(Uid::from_raw(uid.0)).as_raw() != uid.0 {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied));
        }
        let mut stream = TcpStream::connect_timeout(&to, CONNECTED_WITHIN)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(request.as_bytes())?;
        let mut bytes = Vec::new();
        stream.take(ANSWER_MAX).read_to_end(&mut bytes)?;
        Ok(bytes)
    })?;
    let bytes = asking.join().map_err(|_| io::Error::other("a fault"))??;
    parse(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| io::Error::other("the connection was closed without an answer"))
}

fn parse(text: &str) -> Option<(Answer, String)> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let date = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let is_date = name.eq_ignore_ascii_case("date");
        is_date.then(|| httpdate::parse_http_date(value.trim()).ok())?
    });
    Some((Answer { status, date }, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_an_answer_status_date_and_body_are_found() {
        let text = "HTTP/1.1 200 OK\r\nDATE: Sat, 21 Nov 2026 21:40:00 GMT\r\n\r\nami-1";
        let (answer, body) = parse(text).unwrap();
        assert_eq!((answer.status, body.as_str()), (200, "ami-1"));
        let date = httpdate::fmt_http_date(answer.date.unwrap());
        assert_eq!(date, "Sat, 21 Nov 2026 21:40:00 GMT");
        assert!(parse("HTTP/1.1 200 OK\r\n").is_none());
    }
}
