//! A connection that changes hands between request and answer.

use std::io::Write as _;
use std::net::SocketAddr;

use super::*;
use crate::common::host::wait_for;
use crate::common::http::{connect_from, read_answer, reset};
use crate::common::nft;

/// alice's request is with the service when her socket goes, unnoticed by the
/// daemon, and one of bob's takes its port.
#[test]
fn the_answer_goes_to_nobody_else() {
    in_network(|net| {
        let mut host = Host::start(
            net,
            &Setup {
                sim: vec!["--latency", "300ms"],
                ..Setup::default()
            },
        );
        // The end of alice's connection does not reach the daemon.
        nft::load(
            "table inet unnoticed { chain input {
                type filter hook input priority -500; policy accept;
                tcp dport 253 tcp flags & rst == rst drop
             }; }",
        );
        let mut requests = 0;
        for (family, to) in families().iter().zip([V4, V6]) {
            let from = SocketAddr::new(family.client.ip(), 20_001);
            let token = token(ALICE, to, 60);
            let asked = signed(ALICE, "GET", to, AMI, Some(&token));
            let mut stream = connect_from(ALICE, from, family.service);
            // The daemon has its own token once this is answered.
            stream.write_all(asked.as_bytes()).unwrap();
            assert_eq!(read_answer(&mut stream).unwrap().status, 200);
            stream.write_all(asked.as_bytes()).unwrap();
            requests += 3;
            wait_for("the service to be asked again", || {
                (host.seen_by_service("request").len() == requests).then_some(())
            });
            reset(stream);
            let taken = BOB.connect_from(from, family.service);
            assert!(taken.is_err(), "the daemon still holds alice's connection");
        }
        host.stop_daemon();
        let records = host.records(6);
        assert_eq!(records.len(), 6);
        for record in [&records[2], &records[5]] {
            assert_eq!(record["reason"], "caller_unknown");
            assert_eq!(record["detail"], "no_socket");
            assert_eq!(record["decision"], "deny");
            assert_eq!(record["status"], Value::Null);
            assert_eq!(record["bytes"], 0);
            assert_eq!(record["caller"]["uid"], ALICE.uid, "who had asked");
        }
        assert!(records.iter().all(|it| it["caller"]["uid"] != BOB.uid));
    });
}
