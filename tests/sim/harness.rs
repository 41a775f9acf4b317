//! A running simulation, and a client that keeps every byte of an answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Sim {
    pub(crate) child: Child,
    pub(crate) addresses: Vec<SocketAddr>,
}

impl Sim {
    /// Starts one on a free port of 127.0.0.1 and waits until it says it is
    /// ready.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::listening(&["127.0.0.1:0"], args)
    }

    pub(crate) fn listening(addresses: &[&str], args: &[&str]) -> Self {
        let child = imdsfw_sim(addresses, args)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self::ready(child, addresses.len())
    }

    /// Waits until one that was just started says it is ready.
    pub(crate) fn ready(mut child: Child, addresses: usize) -> Self {
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let addresses = (0..addresses)
            .map(|_| {
                let line = lines.next().expect("ended before it was ready").unwrap();
                let address = line.strip_prefix("listening on ").expect(&line);
                address.parse().unwrap()
            })
            .collect();
        Self { child, addresses }
    }

    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.addresses[0]).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// One request on a connection of its own, which the service must close.
    /// `head` is request line and headers, without the final empty line.
    pub(crate) fn ask(&self, head: &str) -> Answer {
        self.ask_raw(
            format!("{head}\r\nHost: 169.254.169.254\r\nConnection: close\r\n\r\n").as_bytes(),
        )
    }

    pub(crate) fn ask_raw(&self, request: &[u8]) -> Answer {
        let mut stream = self.connect();
        stream.write_all(request).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        Answer::parse(&bytes)
    }

    pub(crate) fn put(&self, ttl: u32) -> Answer {
        self.ask(&format!(
            "PUT /latest/api/token HTTP/1.1\r\nX-aws-ec2-metadata-token-ttl-seconds: {ttl}"
        ))
    }

    pub(crate) fn token(&self) -> String {
        let answer = self.put(21_600);
        assert_eq!(answer.status, 200);
        answer.text()
    }

    pub(crate) fn get_with(&self, token: &str, path: &str) -> Answer {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nX-aws-ec2-metadata-token: {token}"
        ))
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        self.get_with(&self.token(), path)
    }

    /// The text of an item that must be there.
    pub(crate) fn read(&self, path: &str) -> String {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{path}");
        answer.text()
    }
}

impl Drop for Sim {
    fn drop(&mut self) {
        // It may have ended already; either way it is gone after this.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn imdsfw_sim(addresses: &[&str], args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imdsfw"));
    command
        .arg("sim")
        .args(args)
        .arg("--listen")
        .args(addresses);
    command
}

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status_line: String,
    pub(crate) status: u16,
    /// As sent: order and case kept.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let end = bytes
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .unwrap_or_else(|| panic!("no whole head: {:?}", String::from_utf8_lossy(bytes)));
        let head = std::str::from_utf8(&bytes[..end]).unwrap();
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap().to_owned();
        Self {
            status: status_line.split(' ').nth(1).unwrap().parse().unwrap(),
            status_line,
            headers: lines
                .map(|line| line.split_once(": ").expect(line))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
            body: bytes[end + 4..].to_vec(),
        }
    }

    /// Reads one answer off a connection that stays open.
    pub(crate) fn read_from(stream: &mut BufReader<TcpStream>) -> Self {
        let mut bytes = Vec::new();
        while !bytes.ends_with(b"\r\n\r\n") {
            assert_ne!(stream.read_until(b'\n', &mut bytes).unwrap(), 0, "closed");
        }
        let mut answer = Self::parse(&bytes);
        answer.body = vec![0; answer.header("Content-Length").unwrap().parse().unwrap()];
        stream.read_exact(&mut answer.body).unwrap();
        answer
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// By its name in the service's own case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(sent, _)| sent == name)
            .map(|(_, value)| value.as_str())
    }

    /// Seconds left to the token.
    pub(crate) fn ttl(&self) -> Option<u32> {
        self.header("X-Aws-Ec2-Metadata-Token-Ttl-Seconds")
            .map(|seconds| seconds.parse().unwrap())
    }

    /// The head as sent, with dates replaced by `DATE` where they have their
    /// form.
    pub(crate) fn head(&self) -> String {
        let mut head = self.status_line.clone();
        for (name, value) in &self.headers {
            let dated = matches!(name.as_str(), "Date" | "Last-Modified");
            let value = match dated && is_http_date(value) {
                true => "DATE",
                false => value,
            };
            head += &format!("\n{name}: {value}");
        }
        head
    }
}

fn is_http_date(text: &str) -> bool {
    httpdate::parse_http_date(text).is_ok() && text.len() == 29 && text.ends_with(" GMT")
}

/// Asks again until `done`, for what only time brings.
pub(crate) fn until<T>(mut ask: impl FnMut() -> T, done: impl Fn(&T) -> bool) -> T {
    let start = Instant::now();
    loop {
        let seen = ask();
        if done(&seen) {
            return seen;
        }
        assert!(start.elapsed() < PATIENCE, "it never came");
    }
}
