//! Ways to the daemon's listener other than our redirect. The daemon finds
//! out whose socket a peer is by the peer's port, so no connection may arrive
//! under a port that is not its own.

use std::net::SocketAddr;

use crate::common::net::families;
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, DAEMON, ROOT, assert_refused, listen_marked};
use crate::kernel::on_each;

const NOT_REDIRECTED: &str = "not redirected by us";
const PORT_CHANGED: &str = "its source port was changed";

fn with_port(addr: SocketAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr.ip(), port)
}

#[test]
fn nobody_connects_directly() {
    on_each(|_, kernel| {
        kernel.apply();
        let daemons = families().map(|family| listen_marked(family.listener));
        for family in families() {
            for user in [ROOT, ALICE, DAEMON] {
                assert_refused(user.connect(family.listener));
            }
        }
        kernel.without(NOT_REDIRECTED);
        for (family, daemon) in families().iter().zip(&daemons) {
            ALICE.connect(family.listener).unwrap();
            daemon.accept().unwrap();
        }
    });
    shown(
        "A user connects straight to the daemon's port.",
        "a reset at once, for root and the daemon's account too",
        "that rule taken out: the daemon's listener accepts it",
    );
}

#[test]
fn nobody_connects_directly_by_switching_tracking_off() {
    on_each(|_, kernel| {
        kernel.apply();
        nft::load(
            "table inet foreign { chain raw {
                type filter hook output priority -300; policy accept; notrack
             }; }",
        );
        let _daemons = families().map(|family| listen_marked(family.listener));
        for family in families() {
            assert_refused(ALICE.connect(family.listener));
        }
        kernel.without(NOT_REDIRECTED);
        for family in families() {
            ALICE.connect(family.listener).unwrap();
        }
    });
}

#[test]
fn a_foreign_nat_rule_does_not_lead_to_the_listener() {
    on_each(|_, kernel| {
        kernel.apply();
        for family in families() {
            let (ip, elsewhere) = (family.ip, family.elsewhere);
            nft::load(&format!(
                "table {ip} foreign {{ chain output {{
                    type nat hook output priority -100; policy accept;
                    {ip} daddr {} tcp dport {} redirect to :253
                 }}; }}",
                elsewhere.ip(),
                elsewhere.port()
            ));
        }
        let daemons = families().map(|family| listen_marked(family.listener));
        for family in families() {
            assert_refused(ALICE.connect(family.elsewhere));
        }
        kernel.without(NOT_REDIRECTED);
        for (family, daemon) in families().iter().zip(&daemons) {
            ALICE.connect(family.elsewhere).unwrap();
            daemon.accept().unwrap();
        }
    });
    shown(
        "A foreign redirect of other connections leads to the daemon's port.",
        "a reset at once",
        "that rule taken out: the daemon's listener accepts it",
    );
}

/// A direct connection from a port makes nat give the next connection from
/// that port to the service another one: that of whoever holds it.
#[test]
fn a_connection_under_a_changed_port_is_refused() {
    on_each(|_, kernel| {
        for (family, port) in families().iter().zip([40001, 40002]) {
            kernel.apply();
            // What stops the attack at its first step; the second must hold alone.
            kernel.without(NOT_REDIRECTED);
            let from = with_port(family.client, port);
            let daemon = listen_marked(family.listener);
            let _direct = ALICE.connect_from(from, family.listener).unwrap();
            let (_held, peer) = daemon.accept().unwrap();
            assert_eq!(peer, from);

            kernel.assert_stopped(ALICE.connect_from(from, family.service));
            kernel.without(PORT_CHANGED);
            let _redirected = ALICE.connect_from(from, family.service).unwrap();
            let (_stream, peer) = daemon.accept().unwrap();
            assert_eq!(peer.ip(), from.ip());
            assert_ne!(peer.port(), port, "the attack no longer changes the port");
        }
    });
    shown(
        "A user holds a port by a connection to the listener, so that nat gives the next one \
         from it the port of somebody else.",
        "refused where it comes in, even with the rule against the first connection taken out",
        "both rules taken out: it is accepted under another source port",
    );
}

#[test]
fn a_refused_direct_connection_does_not_cost_the_next_client_its_port() {
    on_each(|_, kernel| {
        kernel.apply();
        for (family, port) in families().iter().zip([40001, 40002]) {
            let from = with_port(family.client, port);
            let daemon = listen_marked(family.listener);
            assert_refused(ALICE.connect_from(from, family.listener));
            let _honest = ROOT.connect_from(from, family.service).unwrap();
            let (_stream, peer) = daemon.accept().unwrap();
            assert_eq!(peer, from);
        }
    });
}
