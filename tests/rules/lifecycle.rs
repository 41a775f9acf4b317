//! Loading, loading again and removing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use imdsfw::intercept::{self, Removal};

use crate::common::net::{families, in_network};
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, listen};
use crate::{apply, rule_set};

const FOREIGN: &str = "table inet foreign {
        chain output {
            type filter hook output priority 0; policy accept;
            tcp dport 1 counter drop
        }
    }
    table ip imdsfw {
        chain same_name {
        }
    }
    table ip nat {
        chain output {
            type nat hook output priority -100; policy accept;
            tcp dport 2 redirect to :3
        }
    }
    ";

fn exchange(one: &mut TcpStream, other: &mut TcpStream) {
    one.write_all(b"x").unwrap();
    other.read_exact(&mut [0]).unwrap();
    other.write_all(b"y").unwrap();
    one.read_exact(&mut [0]).unwrap();
}

#[test]
fn applying_twice_is_applying_once() {
    in_network(|_| {
        apply();
        let once = nft::output(&["list", "ruleset"]);
        apply();
        assert_eq!(nft::output(&["list", "ruleset"]), once);
        assert_eq!(intercept::verify(&rule_set()).unwrap(), []);
    });
}

#[test]
fn connections_under_the_rules_survive_applying_again() {
    in_network(|net| {
        apply();
        for family in families() {
            let daemon = listen(family.listener);
            let mut client = ALICE.connect(family.service).unwrap();
            let (mut accepted, _) = daemon.accept().unwrap();
            let service = net.service(|| listen(family.service));
            let mut upstream = DAEMON.connect(family.service).unwrap();
            let (mut server, _) = service.accept().unwrap();
            apply();
            exchange(&mut client, &mut accepted);
            exchange(&mut upstream, &mut server);
        }
    });
}

#[test]
fn removing_leaves_everything_foreign_as_it_was() {
    in_network(|net| {
        nft::load(FOREIGN);
        let before = nft::output(&["-a", "list", "ruleset"]);
        apply();
        assert_eq!(intercept::remove().unwrap(), Removal::Removed);
        assert_eq!(nft::output(&["-a", "list", "ruleset"]), before);
        for family in families() {
            let _service = net.service(|| listen(family.service));
            ALICE.connect(family.service).unwrap();
        }
    });
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    in_network(|_| {
        nft::load(FOREIGN);
        assert_eq!(intercept::remove().unwrap(), Removal::Absent);
    });
}
