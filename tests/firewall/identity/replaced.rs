//! A connection that changes hands between request and answer.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::{Mutex, mpsc};
use std::thread;

use super::*;
use crate::common::fake::{Act, Fake};
use crate::common::host::wait_for;
use crate::common::http::{connect_from, reset};
use crate::common::nft;

/// How the kernel shows a connection attempt (state 02) from 10.77.0.2:20001
/// to 169.254.169.254:80 in its table of sockets.
const ATTEMPT: &str = "02004D0A:4E21 FEA9FEA9:0050 02 ";

/// alice's request is with the service when her socket goes, unnoticed by the
/// daemon, and one of bob's takes its port.
#[test]
fn the_answer_goes_to_nobody_else() {
    in_network(|net| {
        let setup = Setup {
            service: false,
            ..Setup::default()
        };
        let mut host = Host::start(net, &setup);
        // The end of alice's connection does not reach the daemon.
        nft::load(
            "table inet unnoticed { chain input {
                type filter hook input priority -500; policy accept;
                tcp dport 253 tcp flags & rst == rst drop
             }; }",
        );
        let (asked, was_asked) = mpsc::channel();
        let (answer, may_answer) = mpsc::channel();
        let may_answer = Mutex::new(may_answer);
        let _service = Fake::start(net, move |request| {
            if request.is_put() {
                return Act::token("AAAA", 60);
            }
            asked.send(()).unwrap();
            may_answer.lock().unwrap().recv().unwrap();
            Act::ok("for alice")
        });
        let [v4, _] = families();
        let from = SocketAddr::new(v4.client.ip(), 20_001);
        let token = token(ALICE, V4, 60);
        let mut stream = connect_from(ALICE, from, v4.service);
        let request = signed(ALICE, "GET", V4, AMI, Some(&token));
        stream.write_all(request.as_bytes()).unwrap();
        was_asked.recv().unwrap();
        reset(stream);
        let bob = thread::scope(|scope| {
            let bob = scope.spawn(|| BOB.connect_from(from, v4.service));
            wait_for("bob to take the port", || {
                let sockets = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
                sockets.contains(ATTEMPT).then_some(())
            });
            answer.send(()).unwrap();
            host.records(2);
            bob.join().unwrap()
        });
        assert!(bob.is_err(), "the daemon still holds alice's connection");
        host.stop_daemon();
        let records = host.records(2);
        assert_eq!(records.len(), 2);
        let record = &records[1];
        assert_eq!(record["reason"], "caller_unknown", "{record}");
        assert_eq!(record["detail"], "no_socket");
        assert_eq!(record["decision"], "deny");
        assert_eq!(record["status"], Value::Null);
        assert_eq!(record["bytes"], 0);
        assert_eq!(record["caller"]["uid"], ALICE.uid, "who had asked");
    });
}
