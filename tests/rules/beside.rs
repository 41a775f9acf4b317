//! Beside other people's rules, whichever came first: ours hold, and theirs
//! stay as they were.

use std::fmt::Write as _;
use std::net::SocketAddr;

use imdsfw::intercept::{self, Backend, DriftKind};

use crate::common::iptables;
use crate::common::net::{Net, families};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, DAEMON, ROOT, assert_refused, listen, listen_marked};
use crate::kernel::{Kernel, on_each, on_iptables};

/// Accepts whatever passes, ahead of everything else in the filter.
fn accept_all(kernel: Kernel) {
    for tool in iptables::tools(kernel.0) {
        iptables::run(&format!(
            "{tool} -I INPUT -i lo -j ACCEPT
             {tool} -I OUTPUT -j ACCEPT
             {tool} -I FORWARD -j ACCEPT"
        ));
    }
}

fn with_port(addr: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr.ip(), port)
}

/// The ways past the daemon, each with the guard that stands in it behind the
/// foreign rule.
#[test]
fn a_foreign_accept_ahead_of_ours_opens_nothing() {
    on_iptables(|net, kernel| {
        kernel.apply();
        accept_all(kernel);
        let _daemons = families().map(|family| listen_marked(family.listener));
        for (family, port) in families().iter().zip([40001, 40002]) {
            let other_port = with_port(family.service, 8080);
            let _other = net.service(|| listen(other_port));
            let direct = || ALICE.connect(family.listener);
            let elsewhere = || ALICE.connect(other_port);
            let contained = || net.container(|| ALICE.connect(other_port));
            for stopped in [direct(), elsewhere(), contained()] {
                kernel.assert_stopped(stopped);
            }
            kernel.without("not redirected by us");
            kernel.without("older connections, other ports");
            let from = with_port(family.client, port);
            let _direct = ALICE.connect_from(from, family.listener).unwrap();
            elsewhere().unwrap();
            contained().unwrap();
            // Under the port of the direct one, another is made up.
            kernel.assert_stopped(ALICE.connect_from(from, family.service));
            kernel.without("its source port was changed");
            ALICE.connect_from(from, family.service).unwrap();
            kernel.apply();
            accept_all(kernel);
        }
    });
    shown(
        "A foreign `-j ACCEPT` ahead of ours lets everything pass the filter.",
        "the listener, other ports and a changed source port stay closed, containers out",
        "the guards behind the filter taken out: each of them is connected",
    );
}

#[test]
fn everybody_is_served_behind_a_foreign_accept() {
    on_iptables(|net, kernel| {
        accept_all(kernel);
        kernel.apply();
        accept_all(kernel);
        assert_served(net);
    });
}

fn assert_served(net: &Net) {
    for family in families() {
        let daemon = listen_marked(family.listener);
        let service = net.service(|| listen(family.service));
        for user in [ROOT, ALICE] {
            let client = user.connect(family.service).unwrap();
            let (_, peer) = daemon.accept().unwrap();
            assert_eq!(peer, client.local_addr().unwrap());
        }
        DAEMON.connect(family.service).unwrap();
        service.accept().unwrap();
    }
}

/// What Docker with a published port, kube-proxy, ufw and firewalld load,
/// shortened to what touches packets of the host itself.
fn load_others(tools: [&str; 2]) {
    let [v4, v6] = tools;
    for (tool, bridge, cluster, loopback) in [
        (v4, "172.17.0", "10.96.0.1/32", "127.0.0.0/8"),
        (v6, "fd17:", "fd96::1/128", "::1/128"),
    ] {
        let container = if tool == v4 {
            format!("{bridge}.2")
        } else {
            format!("{bridge}:2")
        };
        let network = if tool == v4 {
            format!("{bridge}.0/16")
        } else {
            format!("{bridge}:/64")
        };
        let to = if tool == v4 {
            format!("{container}:80")
        } else {
            format!("[{container}]:80")
        };
        iptables::run(&format!(
            "{tool} -t nat -N DOCKER
             {tool} -t nat -A PREROUTING -m addrtype --dst-type LOCAL -j DOCKER
             {tool} -t nat -A OUTPUT ! -d {loopback} -m addrtype --dst-type LOCAL -j DOCKER
             {tool} -t nat -A POSTROUTING -s {network} ! -o docker0 -j MASQUERADE
             {tool} -t nat -A DOCKER ! -i docker0 -p tcp --dport 80 -j DNAT --to-destination {to}
             {tool} -N DOCKER-USER
             {tool} -I FORWARD -j DOCKER-USER
             {tool} -A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             {tool} -t nat -N KUBE-SERVICES
             {tool} -t nat -N KUBE-MARK-MASQ
             {tool} -t nat -N KUBE-POSTROUTING
             {tool} -t nat -A KUBE-MARK-MASQ -j MARK --or-mark 0x4000
             {tool} -t nat -A KUBE-SERVICES -d {cluster} -p tcp --dport 443 -j KUBE-MARK-MASQ
             {tool} -t nat -A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
             {tool} -t nat -A KUBE-POSTROUTING -j MASQUERADE
             {tool} -t nat -I OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
             {tool} -t nat -I PREROUTING -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES
             {tool} -t nat -I POSTROUTING -j KUBE-POSTROUTING
             {tool} -N KUBE-FIREWALL
             {tool} -A KUBE-FIREWALL -m mark --mark 0x8000/0x8000 -j DROP
             {tool} -I OUTPUT -j KUBE-FIREWALL
             {tool} -N ufw-before-output
             {tool} -A OUTPUT -j ufw-before-output
             {tool} -A ufw-before-output -o lo -j ACCEPT
             {tool} -A ufw-before-output -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
             {tool} -A INPUT -m conntrack --ctstate INVALID -j DROP
             {tool} -A INPUT -i lo -j ACCEPT
             {tool} -t mangle -A FORWARD -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu"
        ));
    }
    nft::load(
        "table inet firewalld {
            chain nat_OUTPUT { type nat hook output priority -90; policy accept; }
            chain filter_INPUT {
                type filter hook input priority 10; policy accept;
                ct state established,related accept
                iifname lo accept
                icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept
                reject with icmpx type admin-prohibited
            }
            chain filter_OUTPUT {
                type filter hook output priority 10; policy accept;
                ct state established,related accept
                oifname lo accept
            }
        }",
    );
}

#[test]
fn beside_docker_kube_proxy_ufw_and_firewalld_whichever_came_first() {
    on_each(|net, kernel| {
        for theirs in [Backend::Iptables, Backend::IptablesLegacy] {
            for ours_first in [false, true] {
                if ours_first {
                    kernel.apply();
                }
                load_others(iptables::tools(theirs));
                if !ours_first {
                    kernel.apply();
                }
                assert_eq!(kernel.drift_lines(), [""; 0], "{theirs:?} {ours_first}");
                assert_served(net);
                for family in families() {
                    assert_refused(ALICE.connect(with_port(family.service, 8080)));
                }
                intercept::remove(None).unwrap();
                nft::load("flush ruleset");
                for tool in iptables::tools(theirs) {
                    for table in ["nat", "filter", "mangle"] {
                        iptables::run(&format!("{tool} -t {table} -F"));
                        iptables::run(&format!("{tool} -t {table} -X"));
                    }
                }
            }
        }
    });
}

/// Two hundred of them, in every table that we use.
fn load_two_hundred() {
    let mut text = String::from(
        "table inet foreign {\n chain output {\n type filter hook output priority 0;\n",
    );
    for number in 1..=100 {
        writeln!(
            text,
            "tcp dport {number} counter drop comment \"their {number}\""
        )
        .unwrap();
    }
    nft::load(&(text + " }\n}\n"));
    for backend in [Backend::Iptables, Backend::IptablesLegacy] {
        for tool in iptables::tools(backend) {
            let mut text = String::new();
            for (table, chain, target) in [
                ("mangle", "OUTPUT", "MARK --set-xmark 0x100/0x100"),
                ("filter", "INPUT", "DROP"),
                ("nat", "OUTPUT", "REDIRECT --to-ports 9"),
            ] {
                writeln!(text, "*{table}\n:THEIRS - [0:0]\n-A {chain} -j THEIRS").unwrap();
                for number in 1..=17 {
                    let comment = format!("-m comment --comment \"IMDSFW's {number}\"");
                    writeln!(
                        text,
                        "-A THEIRS -p tcp --dport {number} {comment} -j {target}"
                    )
                    .unwrap();
                }
                writeln!(text, "COMMIT").unwrap();
            }
            iptables::restore(tool, &text);
        }
    }
}

#[test]
fn applying_and_removing_leaves_two_hundred_foreign_rules_as_they_were() {
    on_each(|_, kernel| {
        load_two_hundred();
        let before = Kernel::everything();
        assert!(before.lines().count() > 300);
        kernel.apply();
        assert_ne!(Kernel::everything(), before);
        kernel.apply();
        assert_eq!(kernel.drift_lines(), [""; 0]);
        intercept::remove(None).unwrap();
        assert_eq!(Kernel::everything(), before);
    });
}

/// Legacy tables aside, which stay once they are there.
#[test]
fn removing_leaves_no_empty_table_or_chain_behind() {
    on_each(|_, kernel| {
        if kernel.0 == Backend::IptablesLegacy {
            for tool in iptables::tools(kernel.0) {
                for table in ["nat", "filter", "mangle"] {
                    iptables::run(&format!("{tool} -t {table} -S"));
                }
            }
        }
        iptables::run("iptables -A INPUT -p tcp --dport 1 -j DROP\niptables -N THEIRS");
        let before = Kernel::everything();
        kernel.apply();
        kernel.apply();
        intercept::remove(None).unwrap();
        assert_eq!(Kernel::everything(), before);
    });
}

#[test]
fn foreign_rules_that_decide_first_are_named_and_put_behind_ours() {
    on_iptables(|_, kernel| {
        kernel.apply();
        let [tool, _] = iptables::tools(kernel.0);
        iptables::run(&format!(
            "{tool} -I OUTPUT -o lo -j ACCEPT
             {tool} -t nat -I OUTPUT -p tcp --dport 80 -j REDIRECT --to-ports 8080
             {tool} -t nat -I OUTPUT -d 10.0.0.0/8 -j ACCEPT
             {tool} -t mangle -N THEIRS
             {tool} -t mangle -A THEIRS -p udp -j ACCEPT
             {tool} -t mangle -I POSTROUTING -j THEIRS"
        ));
        let drift = kernel.drift();
        let lines: Vec<_> = drift.iter().map(ToString::to_string).collect();
        assert_eq!(
            lines,
            [
                format!(
                    "accepted before ours by a foreign rule: {tool} mangle POSTROUTING: -j THEIRS"
                ),
                format!(
                    "shadowed by an earlier foreign rule: {tool} filter OUTPUT: -o lo -j ACCEPT"
                ),
                format!(
                    "shadowed by an earlier foreign rule: {tool} nat OUTPUT: \
                     -p tcp -m tcp --dport 80 -j REDIRECT --to-ports 8080"
                ),
            ]
        );
        let open: Vec<_> = drift.iter().filter(|it| it.is_open()).collect();
        assert_eq!(open.len(), 1);
        assert_eq!(open[0].kind, DriftKind::Accepted);
        kernel.apply();
        assert_eq!(kernel.drift_lines(), [""; 0]);
    });
}

/// A nat chain of nft before ours may take connections; the guards refuse them
/// then, and the daemon may serve.
#[test]
fn an_nft_chain_that_decides_first_is_named() {
    on_each(|_, kernel| {
        kernel.apply();
        nft::load(
            "table ip foreign {
                chain early { type nat hook output priority -199; policy accept; }
                chain late { type nat hook output priority -90; policy accept; }
                chain other { type nat hook prerouting priority -199; policy accept; }
            }",
        );
        let drift = kernel.drift();
        assert_eq!(drift.len(), 1, "{drift:?}");
        assert_eq!(drift[0].place, "table ip foreign chain early");
        assert_eq!(
            (drift[0].kind, drift[0].is_open()),
            (DriftKind::Shadowed, false)
        );
    });
}
