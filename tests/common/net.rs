//! A host, a metadata service and a container, each a network namespace
//! without a name: held by a descriptor, gone when the test ends, so that
//! nothing is left behind and two runs cannot meet.
//!
//! ```text
//!  container ──── host ──── service
//!  10.88.0.2   .1    10.77.0.2    10.77.0.1, 169.254.169.254
//!  fd88::2     ::1   fd77::2      fd77::1,   fd00:ec2::254
//! ```

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::panic::resume_unwind;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{geteuid, getpid, gettid};

use super::nft;

/// Everything that differs between the address families.
pub(crate) struct Family {
    /// `ip` or `ip6`, as nft calls it.
    pub(crate) ip: &'static str,
    pub(crate) service: SocketAddr,
    pub(crate) listener: SocketAddr,
    /// The host's own address on the way to the service, port 0.
    pub(crate) client: SocketAddr,
    /// Another address of the service's namespace, port 80.
    pub(crate) elsewhere: SocketAddr,
    /// The host's address towards the container, port 80.
    pub(crate) bridge: SocketAddr,
}

pub(crate) fn families() -> [Family; 2] {
    let addr = |text: &str| text.parse().unwrap();
    [
        Family {
            ip: "ip",
            service: addr("169.254.169.254:80"),
            listener: addr("127.0.0.1:253"),
            client: addr("10.77.0.2:0"),
            elsewhere: addr("10.77.0.1:80"),
            bridge: addr("10.88.0.1:80"),
        },
        Family {
            ip: "ip6",
            service: addr("[fd00:ec2::254]:80"),
            listener: addr("[::1]:253"),
            client: addr("[fd77::2]:0"),
            elsewhere: addr("[fd77::1]:80"),
            bridge: addr("[fd88::1]:80"),
        },
    ]
}

pub(crate) struct Net {
    host: File,
    service: File,
    container: File,
}

/// Runs a test in namespaces of its own, on a thread of its own (a namespace
/// belongs to a thread; its children inherit it), and in the host's. What it
/// returns is what was seen.
pub(crate) fn in_network<T: Send + 'static>(test: impl FnOnce(&Net) -> T + Send + 'static) -> T {
    assert!(
        geteuid().is_root(),
        "this test makes network namespaces: run it as root, with `sudo -E cargo test`"
    );
    let outcome = thread::spawn(|| {
        // A child of another test would, until its exec, hold this one's
        // connections too, and as whomever it is to run.
        unshare(CloneFlags::CLONE_FILES).unwrap();
        test(&Net::new())
    })
    .join();
    outcome.unwrap_or_else(|panic| resume_unwind(panic))
}

impl Net {
    /// Makes the namespaces and leaves the calling thread in the host's.
    fn new() -> Self {
        let net = Self {
            host: new_namespace(),
            service: new_namespace(),
            container: new_namespace(),
        };
        net.service(|| {
            ip("link set lo up");
            nft::load(
                "table inet watch {
                    counter to_service { }
                    chain prerouting {
                        type filter hook prerouting priority -400; policy accept;
                        ip daddr 169.254.169.254 counter name to_service
                        ip6 daddr fd00:ec2::254 icmpv6 type { 135, 136 } accept
                        ip6 daddr fd00:ec2::254 counter name to_service
                    }
                }",
            );
        });
        net.container(|| ip("link set lo up"));
        net.enter(&net.host);
        ip(&format!(
            "link set lo up
             link add eth0 index 10 type veth peer name eth0 index 20 netns {service}
             addr add 10.77.0.2/24 dev eth0
             addr add fd77::2/64 dev eth0 nodad
             link set eth0 up
             link add ctr0 index 11 type veth peer name eth0 index 21 netns {container}
             addr add 10.88.0.1/24 dev ctr0
             addr add fd88::1/64 dev ctr0 nodad
             link set ctr0 up",
            service = path(&net.service),
            container = path(&net.container),
        ));
        net.service(|| {
            ip("addr add 10.77.0.1/24 dev eth0
                addr add 169.254.169.254/32 dev eth0
                addr add fd77::1/64 dev eth0 nodad
                addr add fd00:ec2::254/128 dev eth0 nodad
                link set eth0 up
                route add default via 10.77.0.2
                route add default via fd77::2");
        });
        net.container(|| {
            ip("addr add 10.88.0.2/24 dev eth0
                addr add fd88::2/64 dev eth0 nodad
                link set eth0 up
                route add default via 10.88.0.1
                route add default via fd88::1");
        });
        sysctl("net/ipv4/ip_forward", "1");
        sysctl("net/ipv6/conf/all/forwarding", "1");
        ip("route add default via 10.77.0.1
            route add default via fd77::1");
        for family in families() {
            await_cable(family.elsewhere);
        }
        net
    }

    /// Runs `f` in the service's namespace. Sockets made there stay there.
    pub(crate) fn service<T>(&self, f: impl FnOnce() -> T) -> T {
        self.within(&self.service, f)
    }

    /// Runs `f` in the container's namespace.
    pub(crate) fn container<T>(&self, f: impl FnOnce() -> T) -> T {
        self.within(&self.container, f)
    }

    /// How many packets for a metadata address have arrived at the service,
    /// refused there or not (neighbour discovery aside).
    pub(crate) fn packets_at_service(&self) -> u64 {
        let listing =
            self.service(|| nft::output(&["list", "counter", "inet", "watch", "to_service"]));
        let (_, rest) = listing.split_once("packets ").unwrap();
        rest.split(' ').next().unwrap().parse().unwrap()
    }

    fn within<T>(&self, namespace: &File, f: impl FnOnce() -> T) -> T {
        self.enter(namespace);
        let result = f();
        self.enter(&self.host);
        result
    }

    fn enter(&self, namespace: &File) {
        setns(namespace.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
    }
}

/// The kernel lets packets through a new link a little later, and a lost SYN
/// costs a second. Nobody listens there: the refusal comes from the far end.
fn await_cable(far_end: SocketAddr) {
    let start = Instant::now();
    loop {
        match TcpStream::connect_timeout(&far_end, Duration::from_millis(100)) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return,
            outcome => assert!(start.elapsed() < Duration::from_secs(20), "{outcome:?}"),
        }
    }
}

/// Writes a setting of the current namespace.
pub(crate) fn sysctl(name: &str, value: &str) {
    fs::write(format!("/proc/sys/{name}"), value).unwrap_or_else(|e| panic!("{name}: {e}"));
}

/// Runs `ip` commands, one a line, in the current namespace.
pub(crate) fn ip(commands: &str) {
    let mut child = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("`ip` is in the package iproute2");
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(commands.as_bytes()).unwrap();
    stdin.write_all(b"\n").unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success(), "{commands}");
}

fn new_namespace() -> File {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    // Link-local addresses are of use at once; a router without one cannot
    // find its neighbours.
    sysctl("net/ipv6/conf/default/accept_dad", "0");
    File::open("/proc/thread-self/ns/net").unwrap()
}

/// A name for the namespace that a child process can open too.
fn path(namespace: &File) -> String {
    let (pid, thread) = (getpid(), gettid());
    format!("/proc/{pid}/task/{thread}/fd/{}", namespace.as_raw_fd())
}
