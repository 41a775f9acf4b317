//! What the rules are for: everybody meets the daemon, and the daemon alone
//! meets the service.

use std::io::{ErrorKind, Read as _, Write as _};

use crate::apply;
use crate::common::net::{families, in_network, ip};
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, ROOT, assert_refused, listen};

#[test]
fn root_and_users_alike_meet_the_daemon_under_their_own_port() {
    in_network(|net| {
        apply();
        for family in families() {
            let daemon = listen(family.listener);
            for user in [ROOT, ALICE] {
                let client = user.connect(family.service).unwrap();
                let (_, peer) = daemon.accept().unwrap();
                assert_eq!(peer, client.local_addr().unwrap(), "{user:?}");
                assert_eq!(peer.ip(), family.client.ip(), "{user:?}");
            }
        }
        assert_eq!(net.packets_at_service(), 0);
    });
}

#[test]
fn the_daemon_meets_the_service() {
    in_network(|net| {
        apply();
        for family in families() {
            let service = net.service(|| listen(family.service));
            let mut client = DAEMON.connect(family.service).unwrap();
            let (mut server, _) = service.accept().unwrap();
            client.write_all(b"ping").unwrap();
            let mut received = [0; 4];
            server.read_exact(&mut received).unwrap();
            server.write_all(b"pong").unwrap();
            client.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"pong");
        }
    });
}

/// The service asks for the host's hardware address under its own address,
/// and the host answers to there.
#[test]
fn neighbour_discovery_goes_on() {
    in_network(|net| {
        apply();
        let [_, family] = families();
        let _service = net.service(|| listen(family.service));
        let connect = || {
            net.service(|| ip("neigh flush dev eth0"));
            DAEMON.connect(family.service)
        };
        connect().unwrap();
        nft::delete_commented("neighbour discovery");
        assert_eq!(connect().unwrap_err().kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn without_the_daemon_nobody_gets_through() {
    in_network(|net| {
        apply();
        for family in families() {
            let _service = net.service(|| listen(family.service));
            assert_refused(ROOT.connect(family.service));
            assert_refused(ALICE.connect(family.service));
        }
        assert_eq!(net.packets_at_service(), 0);
    });
}

#[test]
fn the_daemons_own_data_still_arrives_when_it_has_closed_its_socket() {
    in_network(|net| {
        apply();
        for family in families() {
            let service = net.service(|| listen(family.service));
            let mut client = DAEMON.connect(family.service).unwrap();
            let (mut server, _) = service.accept().unwrap();
            client.set_nonblocking(true).unwrap();
            let mut sent = 0;
            while let Ok(count) = client.write(&[7; 65536]) {
                sent += count;
            }
            drop(client);
            let mut received = Vec::new();
            server.read_to_end(&mut received).unwrap();
            assert_eq!(received.len(), sent);
        }
    });
}

#[test]
fn a_later_nat_rule_does_not_take_the_daemon_elsewhere() {
    in_network(|net| {
        apply();
        for family in families() {
            let (family_ip, elsewhere) = (family.ip, family.elsewhere.ip());
            nft::load(&format!(
                "table {family_ip} foreign {{ chain output {{
                    type nat hook output priority -100; policy accept;
                    {family_ip} daddr {} dnat to {elsewhere}
                 }}; }}",
                family.service.ip()
            ));
            let service = net.service(|| listen(family.service));
            DAEMON.connect(family.service).unwrap();
            service.accept().unwrap();
        }
    });
}

#[test]
fn a_client_bound_to_a_device_is_refused_at_once() {
    in_network(|_| {
        apply();
        let connect = || {
            families().map(|family| {
                let client = ALICE.client(family.service).bound_to_device("eth0");
                client.connect(family.service)
            })
        };
        connect().into_iter().for_each(assert_refused);
        nft::delete_commented("a client bound to a device");
        for outcome in connect() {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        }
    });
}

#[test]
fn the_mark_leaves_other_bits_alone() {
    in_network(|net| {
        apply();
        nft::load(
            "table inet foreign {
                counter kept { }
                chain before {
                    type filter hook output priority -150; policy accept;
                    ct state new ct mark set 0xab000001
                }
                chain after {
                    type filter hook output priority 100; policy accept;
                    meta skuid 64000 ct mark 0xab000060 counter name kept
                }
            }",
        );
        for family in families() {
            let _service = net.service(|| listen(family.service));
            DAEMON.connect(family.service).unwrap();
        }
        let kept = nft::output(&["list", "counter", "inet", "foreign", "kept"]);
        assert!(!kept.contains("packets 0 "), "{kept}");
    });
}
