//! No user takes the daemon from the others.

use std::io::ErrorKind;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use imdsfw::config::Config;
use imdsfw::config::Limits;
use imdsfw::intercept::{self, Shares};

use crate::common::net::{families, in_network};
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, ROOT, User, assert_refused, listen_marked};
use crate::kernel::{Kernel, NFT, on_each};

const AT_ONCE: &str = "too many connections of one user";
const ARRIVALS: &str = "too many new connections";
const ALL_USERS: &str = "all users together";

const WIDE: Shares = Shares {
    connections: 1_000_000,
    new_per_second: 1_000_000,
    burst: 1_000_000,
    users: 1_000_000,
};

fn apply(kernel: Kernel, shares: Shares) {
    intercept::apply(&kernel.rule_set().sharing(Some(shares))).unwrap();
    let found = intercept::verify(&kernel.rule_set().sharing(Some(shares))).unwrap();
    assert_eq!(found, []);
}

/// So many connections, held open.
fn hold(user: User, count: usize) -> Vec<TcpStream> {
    let service = families()[0].service;
    (0..count).map(|_| user.connect(service).unwrap()).collect()
}

#[test]
fn a_user_has_so_many_connections_and_no_more() {
    in_network(|_| {
        let shares = Shares {
            connections: 4,
            ..WIDE
        };
        apply(NFT, shares);
        let _daemons = families().map(|family| listen_marked(family.listener));
        let mut held = hold(ALICE, 4);
        for family in families() {
            assert_refused(ALICE.connect(family.service));
            for user in [BOB, ROOT] {
                user.connect(family.service).unwrap();
            }
        }
        assert_eq!(hold(ROOT, 8).len(), 8);
        // What the sets now hold is no drift.
        let found = intercept::verify(&NFT.rule_set().sharing(Some(shares))).unwrap();
        assert_eq!(found, []);
        NFT.without(AT_ONCE);
        held.extend(hold(ALICE, 8));
    });
    shown(
        "A user opens one connection more than its share.",
        "a reset at once; another user and root are connected",
        "that rule taken out: 8 more are made",
    );
}

#[test]
fn a_connection_that_has_ended_counts_no_more() {
    in_network(|_| {
        apply(
            NFT,
            Shares {
                connections: 4,
                ..WIDE
            },
        );
        let daemon = listen_marked(families()[0].listener);
        // The kernel looks for ended ones once a tick of its clock.
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut served = 0;
        while served < 20 {
            assert!(Instant::now() < deadline, "only {served}");
            if let Ok(client) = ALICE.connect(families()[0].service) {
                drop(daemon.accept().unwrap());
                drop(client);
                served += 1;
            }
        }
    });
}

#[test]
fn a_user_makes_so_many_new_connections_and_no_more() {
    in_network(|_| {
        apply(
            NFT,
            Shares {
                new_per_second: 1,
                burst: 10,
                ..WIDE
            },
        );
        let _daemon = listen_marked(families()[0].listener);
        let made = (0..30)
            .filter(|_| match ALICE.connect(families()[0].service) {
                Ok(_) => true,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
                    false
                }
            })
            .count();
        assert!((10..=12).contains(&made), "{made}");
        hold(BOB, 5);
        hold(ROOT, 20);
        NFT.without(ARRIVALS);
        hold(ALICE, 30);
    });
}

#[test]
fn root_keeps_a_reserve() {
    on_each(|_, kernel| {
        // iptables counts each family for itself, up to half of it.
        let users = if kernel.is_nft() { 4 } else { 8 };
        apply(kernel, Shares { users, ..WIDE });
        let _daemon = listen_marked(families()[0].listener);
        let _held = (hold(ALICE, 2), hold(BOB, 2));
        for user in [ALICE, BOB] {
            assert_refused(user.connect(families()[0].service));
        }
        hold(ROOT, 8);
        kernel.without(ALL_USERS);
        hold(BOB, 4);
    });
}

/// A daemon that has come to a halt: what one user piles up in its queue, the
/// others wait behind.
#[test]
fn thousands_of_connections_of_one_user_do_not_keep_others_waiting() {
    let (held, slowest, taken) = in_network(|_| {
        let shares = Shares::from_limits(&Config::default().limits).unwrap();
        apply(NFT, shares);
        let _daemon = listen_marked(families()[0].listener);
        let service = families()[0].service;
        let flood: Vec<_> = (0..5_000)
            .filter_map(|_| ALICE.connect(service).ok())
            .collect();
        assert_eq!(flood.len(), shares.connections as usize);
        let mut slowest = Duration::ZERO;
        for _ in 0..20 {
            let begun = Instant::now();
            BOB.connect(service).unwrap();
            slowest = slowest.max(begun.elapsed());
        }
        assert!(slowest < Duration::from_millis(100), "{slowest:?}");

        NFT.without(AT_ONCE);
        NFT.without(ARRIVALS);
        let mut flood = flood;
        while let Ok(client) = ALICE.connect(service) {
            flood.push(client);
        }
        assert_eq!(
            BOB.connect(service).unwrap_err().kind(),
            ErrorKind::TimedOut
        );
        (shares.connections, slowest, flood.len())
    });
    shown(
        "One user opens thousands of connections to a daemon that has come to a halt.",
        format!("{held} of 5,000 are made; another user's slowest connect takes {slowest:.0?}"),
        format!("those rules taken out: {taken} are made, and the other user's times out"),
    );
}

#[test]
fn limits_that_are_off_leave_no_rule() {
    on_each(|_, kernel| {
        let limits = Limits {
            enabled: false,
            ..Config::default().limits
        };
        let rules = kernel.rule_set().sharing(Shares::from_limits(&limits));
        assert_eq!(
            intercept::render(&rules),
            intercept::render(&kernel.rule_set())
        );
        let on = kernel.rule_set().sharing(Some(WIDE));
        assert_ne!(intercept::render(&on), intercept::render(&rules));
    });
}
