//! Clients as programs are: one connection of one user, and requests one after
//! the other on it.

use std::io::{ErrorKind, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use crate::common::http::{Answer, V4, read_answer};
use crate::common::user::User;

/// The one role of the simulated instance.
pub(crate) const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const ROLES: &str = "/latest/meta-data/iam/security-credentials/";

/// To connect, and for each read: what botocore waits, and it tries once.
const PATIENCE: Duration = Duration::from_secs(1);

/// What botocore sends besides.
const HEADERS: &str = "Host: 169.254.169.254\r\nAccept-Encoding: identity\r\n\
    User-Agent: Botocore/1.34.0 md/Botocore#1.34.0 ua/2.0 os/linux lang/python#3.11.2\r\n";

pub(crate) struct Client(TcpStream);

/// Why a client gave up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Failure {
    /// No connection, or it was closed in the middle.
    Connection,
    Timeout,
    Status(u16),
}

impl Failure {
    pub(crate) fn name(self) -> String {
        match self {
            Self::Connection => "connection".into(),
            Self::Timeout => "timeout".into(),
            Self::Status(status) => status.to_string(),
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            ErrorKind::TimedOut | ErrorKind::WouldBlock => Self::Timeout,
            _ => Self::Connection,
        }
    }
}

impl Client {
    pub(crate) fn connect(user: User) -> Result<Self, Failure> {
        let to = V4.parse().unwrap();
        let stream = user.client(to).patient(PATIENCE).connect(to)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    pub(crate) fn token(&mut self) -> Result<String, Failure> {
        let asked = format!(
            "PUT /latest/api/token HTTP/1.1\r\n{HEADERS}\
             x-aws-ec2-metadata-token-ttl-seconds: 21600\r\nContent-Length: 0\r\n\r\n"
        );
        Ok(self.ask(&asked)?.body)
    }

    pub(crate) fn get(&mut self, path: &str, token: &str) -> Result<Answer, Failure> {
        self.ask(&get(path, token))
    }

    /// Sends one request, and reads the answer, which must be 200.
    pub(crate) fn ask(&mut self, request: &str) -> Result<Answer, Failure> {
        self.0.write_all(request.as_bytes())?;
        let answer = read_answer(&mut self.0)?;
        match answer.status {
            200 => Ok(answer),
            0 => Err(Failure::Connection),
            status => Err(Failure::Status(status)),
        }
    }
}

/// A GET as [`Client::ask`] takes it.
pub(crate) fn get(path: &str, token: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{HEADERS}X-aws-ec2-metadata-token: {token}\r\n\r\n")
}

/// What a program does for its first call to AWS: a token, the role, its
/// credentials, on one connection.
pub(crate) fn resolve(user: User) -> Result<Answer, Failure> {
    let mut client = Client::connect(user)?;
    let token = client.token()?;
    let role = client.get(ROLES, &token)?.body;
    client.get(&format!("{ROLES}{role}"), &token)
}
