//! Passing for the daemon, which alone may speak to the service.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use imdsfw::intercept::render;
use nix::sys::socket::{setsockopt, sockopt};

use crate::common::net::{Family, Net, families, in_network};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, ROOT, listen, listen_marked};
use crate::escapes::{TRACKING, connected, drain};
use crate::kernel::NFT;

/// The mark that the daemon's connections have.
const MARK: u32 = 0x60;
/// The guard as one writes it at first.
const BY_OWNER_ALONE: &str = "table inet naive { chain output {
    type filter hook output priority 0; policy accept;
    ip daddr 169.254.169.254 meta skuid != 64000 drop
    ip6 daddr fd00:ec2::254 meta skuid != 64000 drop
 }; }";

/// What the kernel says to a user who sets a mark.
fn set_mark_as_alice() -> String {
    let script = "import socket\n\
        s = socket.socket()\n\
        try: s.setsockopt(socket.SOL_SOCKET, 36, 0x60); print('set')\n\
        except OSError as error: print(error)\n";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).uid(ALICE.uid).gid(ALICE.gid);
    String::from_utf8(python.output().unwrap().stdout).unwrap()
}

#[test]
fn a_mark_on_ones_own_packets_is_no_exemption() {
    in_network(|net| {
        assert!(set_mark_as_alice().contains("not permitted"));
        NFT.apply();
        let services = families().map(|family| net.service(|| listen(family.service)));
        let daemons = families().map(|family| listen_marked(family.listener));
        let marked = |family: &Family| {
            let client = ROOT.client(family.service);
            setsockopt(&client, sockopt::Mark, &MARK).unwrap();
            client.connect(family.service).unwrap()
        };
        for (family, daemon) in families().iter().zip(&daemons) {
            let _client = marked(family);
            daemon.accept().unwrap();
        }
        assert_eq!(net.packets_at_service(), 0);
        // Were it the mark of a packet that exempts.
        let text = render(&NFT.rule_set());
        let by_mark = text.replace("meta skuid 64000", "meta mark 0x60");
        assert_ne!(by_mark, text);
        nft::load(&by_mark);
        for (family, service) in families().iter().zip(&services) {
            let _client = marked(family);
            service.accept().unwrap();
        }
    });
    shown(
        "A process gives its packets the mark of the daemon's connections.",
        "a user: EPERM; one with CAP_NET_ADMIN meets the daemon all the same, no packet arrives",
        "rules that exempt by the packet's mark: it is connected to the service",
    );
}

/// Bytes written by a user on a connection older than `rules`, and those of
/// them that arrive once it is closed and the rules are loaded.
fn orphaned(net: &Net, load: impl Fn()) -> (usize, usize) {
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
    load();
    queued
        .into_iter()
        .map(|(written, mut server)| (written, drain(&mut server)))
        .fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
}

/// What is left of a closed socket has no owner, so a rule about owners that
/// are not the daemon does not match it.
#[test]
fn data_without_an_owner_does_not_pass_for_the_daemons() {
    let (written, arrived) = in_network(|net| orphaned(net, || NFT.load()));
    assert!(arrived < written);
    let (all, leaked) = in_network(|net| {
        orphaned(net, || {
            nft::load(BY_OWNER_ALONE);
            // It does stop her while she holds her socket.
            assert!(ALICE.connect(families()[0].service).is_err());
        })
    });
    assert_eq!(leaked, all);
    shown(
        "A user closes a socket with data queued on it: whose packets they are, no rule can tell.",
        format!(
            "of {written} bytes, {} had not left when the rules came, and never do",
            written - arrived
        ),
        format!(
            "a guard that drops what is another's than the daemon's: all {leaked} bytes arrive"
        ),
    );
}
