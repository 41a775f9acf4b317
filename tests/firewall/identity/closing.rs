//! Clients that close their socket before anyone has asked whose it was. The
//! kernel then names uid 0 as its owner.

use std::io::Write as _;
use std::net::{Shutdown, SocketAddr, TcpListener};
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::sched::{CloneFlags, unshare};

use super::*;
use crate::common::host::wait_for;
use crate::common::http::{connect, connect_from, reset, rest};
use crate::common::naive;
use crate::common::shown::shown;

#[test]
fn closing_at_once_makes_nobody_root() {
    const TRIES: usize = 5000;
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let alices = token(ALICE, V4, 600);
        let roots = token(ROOT, V4, 600);
        let reads = AtomicUsize::new(0);
        let apart = Barrier::new(2);
        thread::scope(|scope| {
            let alice = scope.spawn(|| {
                // Else it would be alice, too, who holds root's connections.
                unshare(CloneFlags::CLONE_FILES).unwrap();
                apart.wait();
                for batch in 1..=TRIES / 50 {
                    for to in [V4, V6].into_iter().cycle().take(50) {
                        let asked = signed(ALICE, "GET", to, CREDENTIALS, Some(&alices));
                        let mut stream = connect(ALICE, to);
                        stream.write_all(asked.as_bytes()).unwrap();
                    }
                    wait_for("root to have read meanwhile", || {
                        (reads.load(Ordering::Relaxed) >= batch).then_some(())
                    });
                }
            });
            apart.wait();
            while !alice.is_finished() {
                let asked = signed(ROOT, "GET", V4, CREDENTIALS, Some(&roots));
                let asked = asked.replacen("keep-alive", "close", 1);
                let answer = raw(ROOT, V4, asked.as_bytes());
                assert_eq!(answer.status, 200, "{answer:?}");
                reads.fetch_add(1, Ordering::Relaxed);
            }
        });
        let reads_by_root = reads.into_inner();
        let total = 2 + TRIES + reads_by_root;
        host.records(total);
        host.stop_daemon();
        let mut records = host.records(total).split_off(2);
        assert_eq!(records.len(), TRIES + reads_by_root, "one record for each");
        assert_eq!(misnamed(&records), Vec::<&Value>::new());
        records.retain(|it| signed_by(it, ALICE));
        assert_eq!(records.len(), TRIES);
        assert!(records.iter().all(|it| it["decision"] == "deny"));
        let nameless = records.iter().filter(|it| it["reason"] == "caller_unknown");
        let nameless = nameless.count();
        println!("{nameless} of {TRIES} had closed; root read {reads_by_root} times meanwhile");
        assert!(nameless > 0, "the attack no longer comes too early");
        let seen = host.seen_by_service("request");
        let reads = seen.iter().filter(|it| it["path"] == CREDENTIALS).count();
        assert_eq!(reads, reads_by_root);
    });
}

/// Closed, it has no owner any more; reset, a listener on its port is what the
/// kernel finds instead.
#[test]
fn a_socket_that_is_gone_is_nobodys() {
    let named = in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let mut named = Vec::new();
        let mut expected = 0;
        for (family, to) in families().iter().zip([V4, V6]) {
            let token = token(ALICE, to, 60);
            expected += 1;
            for (port, detail) in [(20_001, "not_established"), (20_002, "other_socket")] {
                let from = SocketAddr::new(family.client.ip(), port);
                let _roots = host.while_daemon_stands_still(|| {
                    let mut stream = connect_from(ALICE, from, family.service);
                    let asked = signed(ALICE, "GET", to, CREDENTIALS, Some(&token));
                    stream.write_all(asked.as_bytes()).unwrap();
                    assert_eq!(naive::owner(from, family.service), Some(ALICE.uid));
                    let roots = if detail == "other_socket" {
                        reset(stream);
                        Some(ROOT.run(|| TcpListener::bind(from).unwrap()))
                    } else {
                        drop(stream);
                        wait_for("its end to be acknowledged", || {
                            let named = naive::owner(from, family.service);
                            (named != Some(ALICE.uid)).then_some(())
                        });
                        None
                    };
                    named.push(naive::owner(from, family.service));
                    roots
                });
                expected += 1;
                let record = host.records(expected).pop().unwrap();
                assert!(signed_by(&record, ALICE), "{record}");
                assert_eq!(record["reason"], "caller_unknown");
                assert_eq!(record["detail"], detail);
                assert_eq!(record["caller"]["uid"], Value::Null);
                assert_eq!(record["status"], Value::Null);
            }
        }
        host.stop_daemon();
        assert_eq!(net.packets_at_service(), 0);
        named
    });
    assert_eq!(named, [Some(0); 4]);
    shown(
        "A user asks and closes, or asks, resets and leaves the port to a listener of root's.",
        "`caller_unknown` (`not_established`, `other_socket`): closed, nobody is named",
        "the kernel's answer taken as it is: uid 0 in each of the 4 cases",
    );
}

/// Half closed: the kernel still knows the owner, but no more whether it will
/// in a moment.
#[test]
fn a_client_that_shuts_down_its_side_gets_no_answer() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        for to in [V4, V6] {
            let token = token(ALICE, to, 60);
            let mut stream = connect(ALICE, to);
            let asked = signed(ALICE, "GET", to, AMI, Some(&token));
            host.while_daemon_stands_still(|| {
                stream.write_all(asked.as_bytes()).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            assert_eq!(rest(&mut stream), []);
        }
        host.stop_daemon();
        let records = host.records(4);
        assert_eq!(records.len(), 4);
        for record in records.iter().skip(1).step_by(2) {
            assert_eq!(record["reason"], "caller_unknown", "{record}");
            assert_eq!(record["detail"], "not_established");
            assert_eq!(record["status"], Value::Null);
            assert_eq!(record["caller"]["uid"], Value::Null);
            assert_eq!(record["request"]["path"], AMI);
        }
        assert_eq!(net.packets_at_service(), 0);
    });
}
