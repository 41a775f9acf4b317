//! What the rules are for: everybody meets the daemon, and the daemon alone
//! meets the service.

use std::io::{ErrorKind, Read as _, Write as _};
use std::thread;
use std::time::Duration;

use crate::common::net::{families, ip};
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, ROOT, assert_refused, listen, listen_marked};
use crate::kernel::on_each;

#[test]
fn root_and_users_alike_meet_the_daemon_under_their_own_port() {
    on_each(|net, kernel| {
        kernel.apply();
        for family in families() {
            let daemon = listen_marked(family.listener);
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
    on_each(|net, kernel| {
        kernel.apply();
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
    on_each(|net, kernel| {
        kernel.apply();
        let [_, family] = families();
        let _service = net.service(|| listen(family.service));
        let connect = || {
            net.service(|| ip("neigh flush dev eth0"));
            DAEMON.connect(family.service)
        };
        connect().unwrap();
        kernel.without("neighbour discovery");
        assert_eq!(connect().unwrap_err().kind(), ErrorKind::TimedOut);
    });
}

#[test]
fn without_the_daemon_nobody_gets_through() {
    on_each(|net, kernel| {
        kernel.apply();
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
    on_each(|net, kernel| {
        kernel.apply();
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
    on_each(|net, kernel| {
        kernel.apply();
        for family in families() {
            let (family_ip, elsewhere) = (family.ip, family.elsewhere.ip());
            nft::load(&format!(
                "table {family_ip} foreign {{ chain output {{
                    type nat hook output priority -99; policy accept;
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

/// At once with nft. The guards of iptables that know the device come where
/// nothing can be answered; there it is the second SYN that is refused, which
/// follows the first after a second.
#[test]
fn a_client_bound_to_a_device_is_refused_and_does_not_hang() {
    on_each(|_, kernel| {
        kernel.apply();
        let connect = |seconds| {
            families()
                .map(|family| {
                    // Both wait at once; a thread inherits the namespace.
                    thread::spawn(move || {
                        let client = ALICE.client(family.service).bound_to_device("eth0");
                        client
                            .patient(Duration::from_secs(seconds))
                            .connect(family.service)
                    })
                })
                .map(|connecting| connecting.join().unwrap())
        };
        // With iptables the second attempt is refused, after a second; on a
        // busy machine later.
        connect(20).into_iter().for_each(assert_refused);
        kernel.without("a client bound to a device");
        for outcome in connect(if kernel.is_nft() { 1 } else { 2 }) {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::TimedOut);
        }
    });
}

#[test]
fn the_mark_leaves_other_bits_alone() {
    on_each(|net, kernel| {
        kernel.apply();
        nft::load(
            "table inet foreign {
                counter kept { }
                chain before {
                    type filter hook output priority -150; policy accept;
                    ct state new ct mark set 0xab000001
                }
                chain after {
                    type filter hook postrouting priority 100; policy accept;
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
