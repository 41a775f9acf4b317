//! What monitoring sees: the page of metrics as Prometheus's own tools read it,
//! the alerts and the dashboard that are made for it, and the credentials' life
//! as events.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation
)]

#[path = "../common/mod.rs"]
mod common;
mod life;
mod page;
mod tools;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;

use common::host::{BINARY, Setup};
use common::user::User;

const AT: &str = "127.0.0.1:9253";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const ROLE: &str = "/latest/meta-data/iam/security-credentials/";
const AMI: &str = "/latest/meta-data/ami-id";

fn setup(config: &str) -> Setup {
    Setup {
        config: format!("metrics.listen = \"{AT}\"\n{config}"),
        ..Setup::default()
    }
}

/// Status line, headers and body of `METHOD PATH`, as one text.
fn fetch(user: User, method: &str, path: &str) -> String {
    let at = AT.parse().unwrap();
    let stream = user.client(at).connect(at).unwrap();
    ask(stream, method, path)
}

fn ask(mut stream: TcpStream, method: &str, path: &str) -> String {
    write!(stream, "{method} {path} HTTP/1.1\r\nHost: {AT}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// The page of metrics as any user may read it.
fn page(user: User) -> String {
    let answer = fetch(user, "GET", "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

/// The value of a series, by its whole name.
fn value(page: &str, series: &str) -> f64 {
    let mut lines = page.lines();
    let line = lines.find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let line = line.unwrap_or_else(|| panic!("no {series} in\n{page}"));
    line.parse().unwrap()
}

/// Where `.ci/setup tests` puts it.
fn promtool() -> PathBuf {
    let target = PathBuf::from(BINARY);
    let target = target.ancestors().nth(2).unwrap();
    target.join("clients/debian/usr/bin/promtool")
}
