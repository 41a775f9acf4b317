//! Ways to the service that the redirect does not see: what is no new TCP
//! connection to its port, or what somebody else's rules take first.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;

use nix::sys::socket::{MsgFlags, SockProtocol, SockType, SockaddrStorage, connect, recv, send};

use imdsfw::ids::Uid;
use imdsfw::intercept::{RuleSet, render};

use crate::common::again::again;
use crate::common::net::{Net, families, sysctl};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, DAEMON, ROOT, User, assert_refused, listen};
use crate::kernel::on_each;

const RESIDUE: &str = "older connections, other ports";
const TAKEN_ELSEWHERE: &str = "opened to the metadata service, but";

/// What any other firewall does: connections are tracked before our rules.
pub(crate) const TRACKING: &str = "table inet foreign { chain output {
    type filter hook output priority 0; policy accept; ct state new accept
 }; }";

fn other_port(service: SocketAddr) -> SocketAddr {
    SocketAddr::new(service.ip(), 8080)
}

/// Sends one datagram of a protocol to the service: an error if it is refused,
/// be that at once or by the answer that the kernel gives.
fn datagram(user: User, to: SocketAddr, protocol: Option<SockProtocol>) -> io::Result<usize> {
    let fd = user.socket(to, SockType::Datagram, protocol);
    let echo_request = match to {
        SocketAddr::V4(_) => [8, 0, 0, 0, 0, 0, 0, 1],
        SocketAddr::V6(_) => [128, 0, 0, 0, 0, 0, 0, 1],
    };
    connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    send(fd.as_raw_fd(), &echo_request, MsgFlags::empty())?;
    again(|| Ok(recv(fd.as_raw_fd(), &mut [0; 64], MsgFlags::empty())?))
}

fn echo(service: SocketAddr) -> SockProtocol {
    match service {
        SocketAddr::V4(_) => SockProtocol::Icmp,
        SocketAddr::V6(_) => SockProtocol::IcmpV6,
    }
}

/// Connections of `users` to the service, each with its other end. One
/// listener for all: a child that another test is just starting may hold a
/// closed one for a moment.
pub(crate) fn connected<const N: usize>(
    net: &Net,
    users: [User; N],
    service: SocketAddr,
) -> [(TcpStream, TcpStream); N] {
    let listener = net.service(|| listen(service));
    users.map(|user| {
        let client = user.connect(service).unwrap();
        let (server, _) = listener.accept().unwrap();
        (client, server)
    })
}

#[test]
fn other_ports_are_refused_at_once_also_to_the_daemon() {
    on_each(|net, kernel| {
        kernel.apply();
        for family in families() {
            for user in [ROOT, ALICE, DAEMON] {
                assert_refused(user.connect(other_port(family.service)));
            }
        }
        assert_eq!(net.packets_at_service(), 0);
        kernel.without(RESIDUE);
        for family in families() {
            let _listener = net.service(|| listen(other_port(family.service)));
            for user in [ALICE, DAEMON] {
                let before = net.packets_at_service();
                user.connect(other_port(family.service)).unwrap();
                assert!(net.packets_at_service() > before);
            }
        }
    });
    shown(
        "A user connects to another port of the metadata address.",
        "root, a user and the daemon's account get a reset at once; no packet arrives",
        "that rule taken out: the user and the daemon's account are connected",
    );
}

#[test]
fn udp_and_icmp_are_refused_at_once_also_to_the_daemon() {
    on_each(|net, kernel| {
        sysctl("net/ipv4/ping_group_range", "0 2147483647");
        kernel.apply();
        let send_all = || -> Vec<_> {
            families()
                .iter()
                .flat_map(|family| {
                    [ALICE, DAEMON].into_iter().flat_map(|user| {
                        [None, Some(echo(family.service))]
                            .map(|protocol| datagram(user, family.service, protocol))
                    })
                })
                .collect()
        };
        for outcome in send_all() {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::PermissionDenied);
        }
        assert_eq!(net.packets_at_service(), 0);
        kernel.without(RESIDUE);
        // Whatever the service's own kernel answered.
        let sent = send_all().len();
        assert_eq!(net.packets_at_service(), sent as u64);
    });
    shown(
        "A user sends the metadata address UDP, and ICMP echo requests.",
        "EACCES at once, for the daemon's account too; no packet arrives",
        "that rule taken out: every one of the 8 packets arrives",
    );
}

/// Cut off whether they were tracked before or not, the daemon's own too:
/// only what begins under the rules is known to be what it seems.
#[test]
fn connections_older_than_the_rules_are_cut_off() {
    cut_off();
    go_on_without_the_guard();
    shown(
        "A user goes on talking over a connection older than the rules.",
        "the rules alone answer what is sent with a reset, tracked before or not, the daemon's \
         own too; no packet arrives",
        "that rule taken out: what is sent arrives at the service",
    );
}

fn cut_off() {
    for tracked in [false, true] {
        on_each(move |net, kernel| {
            if tracked {
                nft::load(TRACKING);
            }
            let older: Vec<_> = families()
                .iter()
                .flat_map(|family| connected(net, [ALICE, DAEMON], family.service))
                .collect();
            kernel.load();
            let before = net.packets_at_service();
            for (mut client, _server) in older {
                client.write_all(b"still here?").unwrap();
                let error = again(|| client.read(&mut [0; 1])).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
            }
            assert_eq!(net.packets_at_service(), before);
        });
    }
}

fn go_on_without_the_guard() {
    on_each(|net, kernel| {
        nft::load(TRACKING);
        let older = families().map(|family| connected(net, [ALICE], family.service));
        kernel.load();
        kernel.without(RESIDUE);
        for [(mut client, mut server)] in older {
            client.write_all(b"still").unwrap();
            let mut received = [0; 5];
            server.read_exact(&mut received).unwrap();
            assert_eq!(&received, b"still");
        }
    });
}

/// Data queued on a closed socket has no owner to match.
#[test]
fn data_queued_on_a_closed_socket_stays_unsent() {
    for guarded in [true, false] {
        on_each(move |net, kernel| {
            nft::load(TRACKING);
            let queued = families().map(|family| {
                let [(mut client, server)] = connected(net, [ALICE], family.service);
                client.set_nonblocking(true).unwrap();
                let mut written = 0;
                while let Ok(count) = client.write(&[7; 65536]) {
                    written += count;
                }
                (written, server)
            });
            // Not by apply, which ends the connections themselves; nor for a
            // moment with the guard, where it must not have been.
            if guarded {
                kernel.load();
            } else {
                kernel.load_without(RESIDUE);
            }
            let before = net.packets_at_service();
            for (written, mut server) in queued {
                let received = drain(&mut server);
                if guarded {
                    assert!(received < written, "{received} of {written} bytes");
                } else {
                    assert_eq!(received, written);
                }
            }
            if guarded {
                assert_eq!(net.packets_at_service(), before);
            }
        });
    }
    shown(
        "A user queues data on a connection older than the rules, and leaves the rest to the \
         kernel.",
        "not one more packet arrives once the rules are loaded",
        "loaded without that rule: every byte arrives",
    );
}

/// Reads until the end or until nothing more comes.
pub(crate) fn drain(stream: &mut TcpStream) -> usize {
    let patience = std::time::Duration::from_millis(300);
    stream.set_read_timeout(Some(patience)).unwrap();
    let mut buffer = vec![0; 1 << 20];
    let mut total = 0;
    while let Ok(count) = again(|| stream.read(&mut buffer)) {
        if count == 0 {
            break;
        }
        total += count;
    }
    total
}

#[test]
fn switching_tracking_off_leads_nowhere() {
    on_each(|net, kernel| {
        kernel.apply();
        nft::load(
            "table inet foreign { chain raw {
                type filter hook output priority -300; policy accept; notrack
             }; }",
        );
        let _services = families().map(|family| net.service(|| listen(family.service)));
        for family in families() {
            for user in [ALICE, DAEMON] {
                assert_refused(user.connect(family.service));
            }
        }
        assert_eq!(net.packets_at_service(), 0);
        kernel.without(RESIDUE);
        for family in families() {
            ALICE.connect(family.service).unwrap();
        }
    });
    shown(
        "Connection tracking is switched off by a foreign `notrack`, so that nothing is \
         redirected.",
        "a reset at once, for the daemon's account too; no packet arrives",
        "that rule taken out: the user is connected to the service",
    );
}

#[test]
fn a_foreign_mark_opens_nothing() {
    // Ahead of us in every respect: keeps the destination, and sets our mark.
    const FOREIGN: &str = "table inet foreign {
        chain marking {
            type filter hook output priority -150; policy accept;
            ct mark set 0x60
        }
        chain ahead {
            type nat hook output priority -199; policy accept;
            ip daddr 169.254.169.254 dnat ip to 169.254.169.254
            ip6 daddr fd00:ec2::254 dnat ip6 to fd00:ec2::254
        }
    }
    ";
    on_each(|net, kernel| {
        let _services = families().map(|family| net.service(|| listen(family.service)));
        kernel.apply();
        nft::load(FOREIGN);
        for family in families() {
            assert_refused(ALICE.connect(family.service));
            DAEMON.connect(family.service).unwrap();
        }
        // Were the mark alone enough. Of two nat chains with one priority the
        // later one decides, so the foreign one is loaded again.
        let text = render(&kernel.rule_set())
            .replace("ct state established ct mark", "ct mark")
            .replace(
                "-m conntrack --ctstate ESTABLISHED -m connmark",
                "-m connmark",
            );
        kernel.load_text(&text);
        nft::load(&format!("delete table inet foreign\n{FOREIGN}"));
        for family in families() {
            ALICE.connect(family.service).unwrap();
        }
    });
    shown(
        "Somebody's rule puts the daemon's connection mark on a user's connection.",
        "a reset at once; the daemon itself gets through",
        "rules that go by the mark alone: the user is connected to the service",
    );
}

/// A nat chain ahead of ours that sends the service's connections elsewhere.
fn divert(statement: impl Fn(&crate::common::net::Family) -> String) {
    for family in families() {
        let ip = family.ip;
        nft::load(&format!(
            "table {ip} foreign {{ chain output {{
                type nat hook output priority -199; policy accept;
                {ip} daddr {} {}
             }}; }}",
            family.service.ip(),
            statement(&family)
        ));
    }
}

#[test]
fn a_nat_rule_ahead_of_ours_leads_nowhere_else() {
    on_each(|net, kernel| {
        kernel.apply();
        divert(|family| format!("dnat to {}", family.elsewhere.ip()));
        let others = families().map(|family| net.service(|| listen(family.elsewhere)));
        for family in families() {
            for user in [ALICE, DAEMON] {
                assert_refused(user.connect(family.service));
            }
        }
        kernel.without(TAKEN_ELSEWHERE);
        for (family, other) in families().iter().zip(&others) {
            ALICE.connect(family.service).unwrap();
            other.accept().unwrap();
        }
    });
    shown(
        "A foreign DNAT ahead of ours takes the service's connections to another host.",
        "a reset at once, for the daemon's account too",
        "that rule taken out: the user is connected to the other host",
    );
}

#[test]
fn a_nat_rule_ahead_of_ours_leads_to_no_other_process_of_the_host() {
    on_each(|_, kernel| {
        kernel.apply();
        divert(|_| "tcp dport 80 redirect to :999".into());
        let hijackers = families().map(|family| {
            let on = SocketAddr::new(family.listener.ip(), 999);
            listen(on)
        });
        for family in families() {
            assert_refused(ROOT.connect(family.service));
        }
        kernel.without(TAKEN_ELSEWHERE);
        for (family, hijacker) in families().iter().zip(&hijackers) {
            ROOT.connect(family.service).unwrap();
            hijacker.accept().unwrap();
        }
    });
    shown(
        "A foreign redirect ahead of ours takes root's request to another process of the host.",
        "a reset at once",
        "that rule taken out: the other process accepts root's connection",
    );
}

#[test]
fn an_address_that_the_config_leaves_out_is_closed() {
    on_each(|net, kernel| {
        let [v4, v6] = families();
        let _service = net.service(|| listen(v6.service));
        let only_v4 = RuleSet::new(&[v4.service], 253, Uid(DAEMON.uid)).unwrap();
        let only_v4 = only_v4.through(Some(kernel.0));
        imdsfw::intercept::apply(&only_v4).unwrap();
        assert!(
            ALICE.connect(v6.service).is_ok(),
            "not guarded, it is the way around"
        );

        let closed = only_v4.closing(&[v4.service, v6.service]);
        imdsfw::intercept::apply(&closed).unwrap();
        assert_eq!(imdsfw::intercept::verify(&closed).unwrap(), []);
        for user in [ALICE, ROOT, DAEMON] {
            assert_refused(user.connect(v6.service));
        }
        assert_refused(net.container(|| ALICE.connect(v6.service)));
    });
    shown(
        "A user takes the IPv6 address of the service, which the config leaves out.",
        "a reset at once, for root, the daemon's account and a container too",
        "rules that do not close it: the user is connected to the service",
    );
}
