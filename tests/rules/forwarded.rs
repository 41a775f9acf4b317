//! Traffic of containers and other hosts: it has no socket here, so its user
//! cannot be known, and it must not pass for a user of this host.

use crate::common::net::{families, ip, sysctl};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, ROOT, assert_refused, listen, listen_marked};
use crate::kernel::on_each;

const FROM_OUTSIDE: &str = "from a container or another host: not";
const REWRITTEN: &str = "from a container or another host, with";
const RESIDUE: &str = "older connections, other ports";
const HOST_ALONE: &str = "the daemon serves this host alone";

/// A nat chain for what arrives from the container.
fn dnat(from: &str, to: &str) {
    nft::load(&format!(
        "table inet foreign {{ chain prerouting {{
            type nat hook prerouting priority -100; policy accept;
            iifname ctr0 {from} dnat {to}
         }}; }}"
    ));
}

#[test]
fn containers_do_not_reach_the_service() {
    on_each(|net, kernel| {
        kernel.apply();
        let services = families().map(|family| net.service(|| listen(family.service)));
        // Also under an address that nobody gave it.
        net.container(|| ip("addr add 10.88.0.99/24 dev eth0"));
        let forged = || {
            let from = "10.88.0.99:0".parse().unwrap();
            net.container(|| ROOT.connect_from(from, families()[0].service))
        };
        assert_refused(forged());
        for family in families() {
            for user in [ROOT, ALICE] {
                assert_refused(net.container(|| user.connect(family.service)));
            }
        }
        // Two rules stop it; the second must hold without the first.
        kernel.without(FROM_OUTSIDE);
        for family in families() {
            assert_refused(net.container(|| ALICE.connect(family.service)));
        }
        assert_eq!(net.packets_at_service(), 0);
        kernel.without(REWRITTEN);
        if !kernel.is_nft() {
            // There the guards behind filter hold for forwarded packets too.
            kernel.without(RESIDUE);
        }
        for (family, service) in families().iter().zip(&services) {
            net.container(|| ALICE.connect(family.service)).unwrap();
            service.accept().unwrap();
        }
        forged().unwrap();
    });
    shown(
        "A container's root connects to the service, also under a forged source address.",
        "a reset at once, by a second rule too where the first is taken out; no packet arrives",
        "both rules taken out: connected to the service, under the forged address too",
    );
}

#[test]
fn containers_are_not_redirected_to_a_process_of_the_host() {
    on_each(|net, kernel| {
        kernel.apply();
        let others = families().map(|family| listen(family.bridge));
        for family in families() {
            let from = format!("{} daddr {}", family.ip, family.service.ip());
            dnat(&from, &format!("{} to {}", family.ip, family.bridge.ip()));
        }
        for family in families() {
            kernel.assert_stopped(net.container(|| ALICE.connect(family.service)));
        }
        kernel.without(FROM_OUTSIDE);
        for (family, other) in families().iter().zip(&others) {
            net.container(|| ALICE.connect(family.service)).unwrap();
            other.accept().unwrap();
        }
    });
    shown(
        "A container's connections to the service are led to a process of the host.",
        "stopped where they come in",
        "that rule taken out: the process accepts them",
    );
}

#[test]
fn containers_do_not_reach_the_service_under_another_address() {
    on_each(|net, kernel| {
        kernel.apply();
        let services = families().map(|family| net.service(|| listen(family.service)));
        for family in families() {
            let from = format!("{} daddr {}", family.ip, family.bridge.ip());
            dnat(&from, &format!("{} to {}", family.ip, family.service.ip()));
        }
        for family in families() {
            assert_refused(net.container(|| ALICE.connect(family.bridge)));
        }
        assert_eq!(net.packets_at_service(), 0);
        kernel.without(REWRITTEN);
        if !kernel.is_nft() {
            // There the guards behind filter hold for forwarded packets too.
            kernel.without(RESIDUE);
        }
        for (family, service) in families().iter().zip(&services) {
            net.container(|| ALICE.connect(family.bridge)).unwrap();
            service.accept().unwrap();
        }
    });
    shown(
        "A container reaches for the service under another address, by DNAT.",
        "a reset at once; no packet arrives",
        "that rule taken out: it is connected to the service",
    );
}

/// As on hosts of Kubernetes, where loopback is reachable through nat; v4
/// alone, since no setting makes the kernel deliver `::1` from a device.
#[test]
fn containers_do_not_reach_the_listener() {
    on_each(|net, kernel| {
        sysctl("net/ipv4/conf/all/route_localnet", "1");
        kernel.apply();
        let [family, _] = families();
        let daemon = listen_marked(family.listener);
        let from = format!("ip daddr {} tcp dport 80", family.bridge.ip());
        dnat(&from, &format!("ip to {}", family.listener));
        kernel.assert_stopped(net.container(|| ALICE.connect(family.bridge)));
        kernel.without(HOST_ALONE);
        net.container(|| ALICE.connect(family.bridge)).unwrap();
        daemon.accept().unwrap();
    });
    shown(
        "A container is led to the daemon's listener on loopback, by DNAT and route_localnet.",
        "stopped where it comes in",
        "that rule taken out: the daemon's listener accepts it",
    );
}

/// Packets of the host itself pass the same hooks on loopback.
#[test]
fn containers_reach_the_host_and_what_is_behind_it_as_before() {
    on_each(|net, kernel| {
        kernel.apply();
        for family in families() {
            let host = listen(family.bridge);
            net.container(|| ALICE.connect(family.bridge)).unwrap();
            host.accept().unwrap();
            let beyond = net.service(|| listen(family.elsewhere));
            net.container(|| ALICE.connect(family.elsewhere)).unwrap();
            beyond.accept().unwrap();
        }
    });
}
