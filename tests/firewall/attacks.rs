//! What a user tries to be taken for somebody else, or to leave a record that
//! is not true.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpStream};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};
use serde_json::Value;

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT, User};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
/// Below those that the kernel gives out, which others may have had just now.
const PORTS: u16 = 20_001;

/// While the daemon is busy, alice sends a request, resets the connection and
/// leaves its port to root. What she sent can still be read then, and the
/// socket at the other end of its addresses is root's.
#[test]
fn a_request_is_never_judged_as_that_of_the_next_user_of_its_port() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let roots = token(ROOT, V4, 60);
        let whole = request("GET", V4, CREDENTIALS, Some(&roots), "close");
        let forwarded = whole.replace("Connection: close", "Via: x");
        let part = whole.trim_end();
        let alices_own = token(ALICE, V4, 60);
        host.records(2);
        let first = request("GET", V4, AMI, Some(&alices_own), "keep-alive");
        let ways = [&*whole, &forwarded, part].map(|sent| [(sent, false), (sent, true)]);
        for ((sent, is_accepted), port) in ways.into_iter().flatten().zip(PORTS..) {
            let mut before = host.records(0).len();
            let alices = if is_accepted {
                let mut alices = from_port(ALICE, port);
                alices.write_all(first.as_bytes()).unwrap();
                assert_eq!(read_answer(&mut alices).unwrap().status, 200);
                before = host.records(before + 1).len();
                Some(alices)
            } else {
                None
            };
            kill(host.daemon_pid(), Signal::SIGSTOP).unwrap();
            let mut alices = alices.unwrap_or_else(|| from_port(ALICE, port));
            alices.write_all(sent.as_bytes()).unwrap();
            reset(alices);
            let mut roots_own = from_port(ROOT, port);
            kill(host.daemon_pid(), Signal::SIGCONT).unwrap();
            before += 1;
            let record = host.records(before).pop().unwrap();
            let uid = &record["caller"]["uid"];
            assert!(uid.is_null() || *uid == ALICE.uid, "{record}");
            assert_ne!(record["decision"], "allow", "{record}");
            // The honest one is served, and is root.
            let asked = request("GET", V4, AMI, Some(&roots), "close");
            roots_own.write_all(asked.as_bytes()).unwrap();
            assert_eq!(read_answer(&mut roots_own).unwrap().status, 200);
            let record = host.records(before + 1).pop().unwrap();
            assert_eq!(record["caller"]["uid"], 0, "{record}");
        }
        let seen = host.seen_by_service("request");
        assert!(seen.iter().all(|it| it["path"] != CREDENTIALS), "{seen:?}");
    });
}

/// The end of the client's side is there before its request was looked at.
#[test]
fn a_request_with_the_end_right_behind_it_is_recorded_as_what_it_is() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        kill(host.daemon_pid(), Signal::SIGSTOP).unwrap();
        let mut stream = from_port(ALICE, 0);
        let asked = request("GET", V4, CREDENTIALS, Some(&token), "close");
        stream.write_all(asked.as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        kill(host.daemon_pid(), Signal::SIGCONT).unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 0);
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["request"]["path"], CREDENTIALS, "{record}");
        assert_eq!(record["reason"], "caller_unknown", "{record}");
        assert_eq!(record["status"], Value::Null, "{record}");
    });
}

fn from_port(user: User, port: u16) -> TcpStream {
    let from = SocketAddr::from(([10, 77, 0, 2], port));
    let stream = user.connect_from(from, V4.parse().unwrap()).unwrap();
    let patience = std::time::Duration::from_secs(10);
    stream.set_read_timeout(Some(patience)).unwrap();
    stream
}

/// Ends a connection with an RST.
fn reset(stream: TcpStream) {
    let at_once = nix::libc::linger {
        l_onoff: 1,
        l_linger: 0,
    };
    setsockopt(&stream, sockopt::Linger, &at_once).unwrap();
}
