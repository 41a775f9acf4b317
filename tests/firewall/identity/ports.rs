//! The daemon finds a client's socket by the client's port. Here a user has
//! the kernel present a connection under a port that is another one's.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;

use super::*;
use crate::common::host::wait_for;
use crate::common::http::{connect_from, put, read_answer, reset, rest};
use crate::common::naive;
use crate::common::net::Net;
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::assert_refused;

const NOT_REDIRECTED: &str = "not redirected by us";
const PORT_CHANGED: &str = "its source port was changed";

/// Root's connections to the service from before the rules: as far as the
/// kernel knows, open, and their ports free to be given out by nat.
fn decoys(host: &Host, count: usize) -> Vec<TcpStream> {
    let [v4, _] = families();
    let mut decoys = Vec::new();
    while decoys.len() < count {
        decoys.extend((0..20).map(|_| ROOT.connect(v4.service).unwrap()));
        wait_for("the decoys to be accepted", || {
            (host.seen_by_service("connection").len() == decoys.len()).then_some(())
        });
    }
    decoys
}

/// From each port alice connects to the listener, if she can, holds that
/// connection, and asks for a token from the same port; all before the daemon
/// gets to close what it does not want. Gives back how many she got.
fn attack(host: &Host, ports: Range<u16>) -> usize {
    let [v4, _] = families();
    let mut asked = put(V4, 60);
    asked.insert_str(asked.len() - 2, "User-Agent: uid 4001\r\n");
    let attempts: Vec<_> = host.while_daemon_stands_still(|| {
        ports
            .map(|port| {
                let from = SocketAddr::new(v4.client.ip(), port);
                let held = ALICE.connect_from(from, v4.listener);
                let mut stream = connect_from(ALICE, from, v4.service);
                stream.write_all(asked.as_bytes()).unwrap();
                (held, stream)
            })
            .collect()
    });
    let answers = attempts
        .into_iter()
        .flat_map(|(_, mut stream)| rest(&mut stream));
    answers.filter(|it| it.status == 200).count()
}

/// Ports to attack from, so many at a time; those of the kernel's own choice
/// begin at 32768.
fn ports(tries: u16) -> impl Iterator<Item = Range<u16>> {
    (10_000..10_000 + tries)
        .step_by(500)
        .map(|first| first..first + 500)
}

fn port_of(record: &Value) -> u16 {
    let address: SocketAddr = record["caller"]["address"]
        .as_str()
        .unwrap()
        .parse()
        .unwrap();
    address.port()
}

/// Not by `apply`, which would end the decoys before the attack.
fn load_rules(host: &Host) {
    let shown = host.command("rules show").output().unwrap();
    nft::load(std::str::from_utf8(&shown.stdout).unwrap());
}

#[test]
fn a_changed_source_port_makes_nobody_root() {
    let served = in_network(tried_with_the_guards);
    let (tries, stolen) = in_network(tried_without);
    shown(
        "A user has nat present requests under the port of a connection of root's.",
        format!("the first step is refused; {served} of {served} requests recorded as uid 4001"),
        format!("both rules taken out: {stolen} of {tries} recorded as uid 0 and given its tokens"),
    );
}

fn tried_with_the_guards(net: &Net) -> usize {
    const TRIES: u16 = 5000;
    let mut host = Host::prepare(net, &Setup::default());
    let _decoys = decoys(&host, 60);
    load_rules(&host);
    host.start_daemon();
    let [v4, _] = families();
    assert_refused(ALICE.connect(v4.listener));
    let tokens = ports(TRIES).map(|ports| attack(&host, ports)).sum();
    assert_eq!(tokens, usize::from(TRIES), "she is served as alice");
    host.records(tokens);
    host.stop_daemon();
    let records = host.records(tokens);
    assert_eq!(records.len(), tokens);
    assert_eq!(misnamed(&records), Vec::<&Value>::new());
    assert!(records.iter().all(|it| it["caller"]["uid"] == ALICE.uid));
    let seen: BTreeSet<_> = records.iter().map(port_of).collect();
    assert_eq!(seen, ports(TRIES).flatten().collect());
    tokens
}

/// How often, and how often with success.
fn tried_without(net: &Net) -> (u16, usize) {
    const TRIES: u16 = 3000;
    let mut host = Host::prepare(net, &Setup::default());
    // More of them, for fewer tries.
    let _decoys = decoys(&host, 400);
    load_rules(&host);
    host.start_daemon();
    nft::delete_commented(NOT_REDIRECTED);
    nft::delete_commented(PORT_CHANGED);
    let tokens: usize = ports(TRIES).map(|ports| attack(&host, ports)).sum();
    host.stop_daemon();
    let mut records = host.records(0);
    records.retain(|it| it["event"] == "request");
    let stolen = misnamed(&records);
    assert!(!stolen.is_empty(), "the attack no longer works");
    assert!(tokens >= stolen.len(), "each a token of root's for alice");
    for record in &stolen {
        assert_eq!(record["caller"]["uid"], 0);
        assert_eq!(record["reason"], "allowed");
    }
    (TRIES, stolen.len())
}

/// From the port of a connection that root had before the rules.
#[test]
fn a_direct_connection_is_not_taken_for_the_one_under_its_port() {
    let named = in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let froms = families().map(|family| SocketAddr::new(family.client.ip(), 20_001));
        let _roots: Vec<_> = (families().iter().zip(froms))
            .map(|(family, from)| connect_from(ROOT, from, family.service))
            .collect();
        load_rules(&host);
        host.start_daemon();
        nft::delete_commented(NOT_REDIRECTED);
        let mut named = Vec::new();
        for (family, from) in families().iter().zip(froms) {
            let mut stream = connect_from(ALICE, from, family.listener);
            named.push(naive::owner(from, family.service));
            // It may be closed by then.
            let _ = stream.write_all(put(V4, 60).as_bytes());
            assert_eq!(rest(&mut stream), []);
        }
        host.stop_daemon();
        let records = host.records(2);
        assert_eq!(records.len(), 2);
        for (record, from) in records.iter().zip(froms) {
            assert_eq!(record["event"], "connection.refused");
            assert_eq!(record["reason"], "not_redirected");
            assert_eq!(record["caller"]["uid"], Value::Null);
            assert_eq!(port_of(record), from.port());
        }
        named
    });
    assert_eq!(named, [Some(0); 2]);
    shown(
        "With the rule against it taken out, a user connects straight to the daemon's port, from \
         a port of root's.",
        "closed as `not_redirected`, and nobody is named",
        "the peer looked up as if it had been redirected: uid 0, whose connection has that port",
    );
}

#[test]
fn a_connection_straight_to_the_listener_is_closed() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        nft::delete_commented(NOT_REDIRECTED);
        for family in families() {
            for user in [ALICE, ROOT] {
                let mut stream = user.connect(family.listener).unwrap();
                let asked = signed(user, "GET", V4, AMI, None);
                // It may be closed by then.
                let _ = stream.write_all(asked.as_bytes());
                assert_eq!(rest(&mut stream), []);
            }
        }
        host.stop_daemon();
        let records = host.records(4);
        assert_eq!(records.len(), 4);
        for record in records {
            assert_eq!(record["event"], "connection.refused");
            assert_eq!(record["decision"], "deny");
            assert_eq!(record["reason"], "not_redirected");
            assert_eq!(record["caller"]["uid"], Value::Null);
            assert_eq!(record["status"], Value::Null);
        }
        assert_eq!(net.packets_at_service(), 0);
    });
}

/// One sends a request and resets the connection; before the daemon comes to
/// read it, another one has connected from the same port.
#[test]
fn a_port_used_again_does_not_make_its_new_owner_the_caller() {
    let named = in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let mut named = Vec::new();
        let mut expected = 0;
        for (family, to) in families().iter().zip([V4, V6]) {
            for (first, second, port) in [(ALICE, ROOT, 20_001), (ROOT, ALICE, 20_002)] {
                let from = SocketAddr::new(family.client.ip(), port);
                let tokens = [first, second].map(|user| token(user, to, 60));
                let mut stream = host.while_daemon_stands_still(|| {
                    for (method, path) in [("GET", CREDENTIALS), ("PUT", "/latest/api/token")] {
                        let mut stream = connect_from(first, from, family.service);
                        let ttl = "\r\nX-aws-ec2-metadata-token-ttl-seconds: 60\r\n";
                        let asked = signed(first, method, to, path, Some(&tokens[0]))
                            .replacen("\r\n", ttl, 1);
                        stream.write_all(asked.as_bytes()).unwrap();
                        reset(stream);
                    }
                    connect_from(second, from, family.service)
                });
                // Looked up by the port alone, now; and what a lookup of the
                // first's would have left in a cache.
                named.push((first.uid, naive::owner(from, family.service)));
                expected += 4;
                host.records(expected);
                let asked = signed(second, "GET", to, AMI, Some(&tokens[1]));
                stream.write_all(asked.as_bytes()).unwrap();
                assert_eq!(read_answer(&mut stream).unwrap().status, 200);
                expected += 1;
                let records = host.records(expected).split_off(expected - 3);
                assert_eq!(misnamed(&records), Vec::<&Value>::new());
                for record in &records[..2] {
                    assert!(signed_by(record, first));
                    assert_eq!(record["reason"], "caller_unknown", "{record}");
                    assert_eq!(record["caller"]["uid"], Value::Null);
                }
                assert!(signed_by(&records[2], second));
                assert_eq!(records[2]["caller"]["uid"], second.uid);
                assert_eq!(port_of(&records[2]), port);
            }
        }
        let seen = host.seen_by_service("request");
        assert!(seen.iter().all(|it| it["path"] != CREDENTIALS));
        host.stop_daemon();
        assert_eq!(host.records(expected).len(), expected);
        named
    });
    let swapped = [(ALICE.uid, Some(0)), (0, Some(ALICE.uid))];
    assert_eq!(named, [swapped, swapped].concat());
    shown(
        "A user sends a request, resets the connection, and root connects from the same port; \
         and the other way round.",
        "8 requests `caller_unknown`, nobody named; the new owner is served as itself",
        "looked up by addresses alone: the new owner, uid 0, for the user's requests; from a \
         cache by port: root for the user's new connection",
    );
}
