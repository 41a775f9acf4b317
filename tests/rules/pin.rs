//! Somebody else's process on the daemon's port, while the daemon is gone:
//! whoever asks for credentials must not be given forged ones.

use std::io::{ErrorKind, Read as _, Write as _};
use std::thread;

use crate::common::again::again;
use crate::common::iptables;
use crate::common::net::{families, sysctl};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, ROOT, listen, listen_marked};
use crate::kernel::on_each;

const PIN: &str = "another process listens";
/// Fresh connections in a row: with `--release`, as many as a busy day has.
const MANY: usize = if cfg!(debug_assertions) {
    8_000
} else {
    40_000
};

/// By a socket of the listener's, and by a SYN cookie, which has no socket.
#[test]
fn a_process_in_the_daemons_place_reaches_nobody() {
    on_each(|_, kernel| {
        sysctl("net/ipv4/ip_unprivileged_port_start", "0");
        kernel.apply();
        let hijackers = families().map(|family| ALICE.run(|| listen(family.listener)));
        for cookies in ["1", "2"] {
            sysctl("net/ipv4/tcp_syncookies", cookies);
            // Both wait at once; a thread inherits the namespace.
            let asking = families().map(|it| thread::spawn(move || ROOT.connect(it.service)));
            for (asking, hijacker) in asking.into_iter().zip(&hijackers) {
                let asked = asking.join().unwrap();
                assert_eq!(asked.unwrap_err().kind(), ErrorKind::TimedOut);
                hijacker.set_nonblocking(true).unwrap();
                assert_eq!(hijacker.accept().unwrap_err().kind(), ErrorKind::WouldBlock);
            }
        }
        kernel.without(PIN);
        for (family, hijacker) in families().iter().zip(&hijackers) {
            hijacker.set_nonblocking(false).unwrap();
            let mut asking = ROOT.connect(family.service).unwrap();
            let (mut caught, _) = hijacker.accept().unwrap();
            caught.write_all(b"forged").unwrap();
            let mut answer = [0; 6];
            asking.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"forged");
        }
    });
    shown(
        "With the daemon gone, a user listens on its port and answers root.",
        "root's connection times out and the user's process accepts nothing, with SYN cookies too",
        "that rule taken out: root is connected and reads `forged`",
    );
}

/// The daemon closes first, so it has a socket in TIME_WAIT for each port that
/// comes again. A match of the listener's socket where packets come in would
/// refuse these.
#[test]
fn source_ports_that_come_again_are_served() {
    on_each(|_, kernel| {
        sysctl("net/ipv4/ip_local_port_range", "40000 40999");
        kernel.apply();
        for family in families() {
            let daemon = listen_marked(family.listener);
            let count = MANY / families().len();
            let serving = thread::spawn(move || {
                (0..count).for_each(|_| drop(daemon.accept().unwrap()));
            });
            for number in 0..count {
                let mut client = ALICE
                    .connect(family.service)
                    .unwrap_or_else(|error| panic!("connection {number}: {error}"));
                assert_eq!(again(|| client.read(&mut [0])).unwrap(), 0);
            }
            serving.join().unwrap();
            println!("{kernel:?}: {count} connections from 1,000 ports, none refused");
        }
    });
}

/// As some VPN clients and routers of container networks do.
#[test]
fn foreign_rules_that_set_marks_do_not_take_the_listener_away() {
    on_each(|_, kernel| {
        kernel.apply();
        nft::load(
            "table inet foreign { chain output {
                type route hook output priority -140; policy accept;
                meta mark set ct mark
             }; }",
        );
        let [v4, v6] = iptables::tools(kernel.0);
        iptables::run(&format!(
            "{v4} -t mangle -A OUTPUT -j CONNMARK --restore-mark
             {v6} -t mangle -A OUTPUT -j CONNMARK --restore-mark"
        ));
        for family in families() {
            let daemon = listen_marked(family.listener);
            let mut client = ALICE.connect(family.service).unwrap();
            let (mut accepted, _) = daemon.accept().unwrap();
            accepted.write_all(b"x").unwrap();
            client.read_exact(&mut [0]).unwrap();
        }
    });
}
