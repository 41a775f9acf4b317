//! Loading, loading again and removing.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use imdsfw::intercept;

use crate::common::net::families;
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, listen, listen_marked};
use crate::kernel::{Kernel, on_each};

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
    on_each(|_, kernel| {
        kernel.apply();
        let once = Kernel::everything();
        kernel.apply();
        assert_eq!(Kernel::everything(), once);
        assert_eq!(kernel.drift_lines(), [""; 0]);
    });
}

#[test]
fn connections_under_the_rules_survive_applying_again() {
    on_each(|net, kernel| {
        kernel.apply();
        for family in families() {
            let daemon = listen_marked(family.listener);
            let mut client = ALICE.connect(family.service).unwrap();
            let (mut accepted, _) = daemon.accept().unwrap();
            let service = net.service(|| listen(family.service));
            let mut upstream = DAEMON.connect(family.service).unwrap();
            let (mut server, _) = service.accept().unwrap();
            kernel.apply();
            exchange(&mut client, &mut accepted);
            exchange(&mut upstream, &mut server);
        }
    });
}

#[test]
fn removing_leaves_everything_foreign_as_it_was() {
    on_each(|net, kernel| {
        nft::load(FOREIGN);
        let before = nft::output(&["-a", "list", "ruleset"]);
        kernel.apply();
        assert_eq!(intercept::remove(None).unwrap(), [kernel.0]);
        assert_eq!(nft::output(&["-a", "list", "ruleset"]), before);
        for family in families() {
            let _service = net.service(|| listen(family.service));
            ALICE.connect(family.service).unwrap();
        }
    });
}

#[test]
fn removing_what_is_not_there_is_no_error() {
    on_each(|_, kernel| {
        nft::load(FOREIGN);
        assert_eq!(intercept::remove(None).unwrap(), []);
        assert_eq!(intercept::remove(Some(kernel.0)).unwrap(), []);
    });
}
