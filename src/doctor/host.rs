//! The host around the firewall: what could take its rules away or go round
//! them, and what it needs of the kernel.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Finding, sockets};
use crate::ids::MetadataAddr;

/// Services that load rules of their own, and take out all others on reload.
const FLUSHING: [&str; 5] = ["nftables", "firewalld", "iptables", "ip6tables", "ufw"];
/// Where enabled services are linked (systemd.unit(5)).
const WANTED_BY: [&str; 3] = [
    "/etc/systemd/system/sysinit.target.wants",
    "/etc/systemd/system/multi-user.target.wants",
    "/etc/systemd/system/basic.target.wants",
];
/// A clock further off than this makes tokens and credentials look expired.
const CLOCK_OFF: Duration = Duration::from_secs(60);

/// Other programs that manage kernel rules; what they take out, a watcher
/// restores.
pub(super) fn rule_managers(is_watched: bool) -> Vec<Finding> {
    let enabled = |name: &&str| {
        let unit = format!("{name}.service");
        WANTED_BY
            .iter()
            .any(|folder| Path::new(folder).join(&unit).symlink_metadata().is_ok())
    };
    let found: Vec<_> = FLUSHING.into_iter().filter(enabled).collect();
    match found.as_slice() {
        [] => vec![Finding::ok(
            "managers",
            "no service is enabled that flushes foreign rules",
        )],
        found if is_watched => {
            let names = found.join(", ");
            let what = format!("what {names} may take out when it reloads, the watcher restores");
            vec![Finding::ok("managers", what)]
        }
        found => found
            .iter()
            .map(|name| {
                let what = format!(
                    "{name}.service is enabled: when it reloads, it may take out the rules \
                     of the firewall"
                );
                let mend = format!(
                    "systemctl start imdsfw-rules (or after each reload: imdsfw rules apply; \
                     or: systemctl disable {name})"
                );
                Finding::warning("managers", what, mend)
            })
            .collect(),
    }
}

/// Cilium's socket load-balancing rewrites destinations before any rule.
pub(super) fn socket_load_balancer() -> Vec<Finding> {
    let pinned = ["/sys/fs/bpf/cilium", "/run/cilium/cilium.pid"];
    let runs = pinned.iter().any(|path| Path::new(path).exists());
    runs.then(|| {
        Finding::warning(
            "cilium",
            "Cilium runs here: its socket load-balancing acts before the kernel rules do",
            "make sure that no Cilium service has a metadata address: cilium service list",
        )
    })
    .into_iter()
    .collect()
}

/// What of the kernel's is missing.
pub(super) fn kernel() -> Finding {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release
        .split(['.', '-'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    match lacking(version) {
        [] => Finding::ok("kernel", format!("Linux {release}")),
        lacking => {
            let what = format!("Linux {release} lacks: {}", lacking.join("; "));
            Finding::warning("kernel", what, "boot a newer kernel")
        }
    }
}

/// What a listener whose connections are handed over once their client has
/// asked needs: where too many never ask, the kernel turns others away for as
/// long as they may, unless it sends SYN cookies (tcp(7)).
pub(super) fn syn_cookies() -> Option<Finding> {
    let sent = fs::read_to_string("/proc/sys/net/ipv4/tcp_syncookies").ok()?;
    (sent.trim() == "0").then(|| {
        Finding::warning(
            "kernel",
            "it sends no SYN cookies: thousands of connections on which nothing is said keep \
             all others waiting for a second",
            "sysctl -w net.ipv4.tcp_syncookies=1",
        )
    })
}

/// By the version in which each came.
fn lacking(version: (u32, u32)) -> &'static [&'static str] {
    const LACKING: [&str; 3] = [
        "Landlock (5.13), which keeps the daemon to its own files",
        "the cgroup of a socket (5.8), by which records name the unit",
        "nat in family inet (5.2), which the nft rules need",
    ];
    let count = match version {
        (major, minor) if (major, minor) >= (5, 13) => 0,
        (major, minor) if (major, minor) >= (5, 8) => 1,
        (major, minor) if (major, minor) >= (5, 2) => 2,
        _ => 3,
    };
    LACKING.get(..count).unwrap_or_default()
}

/// Whether packets for a metadata address have a way out: connecting a
/// datagram socket looks the way up and sends nothing.
pub(super) fn route(service: MetadataAddr) -> Finding {
    let from = match service.0 {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    };
    let looked_up = UdpSocket::bind(from).and_then(|socket| socket.connect(service.0));
    let ip = service.0.ip();
    match (looked_up, service.0) {
        (Ok(()), _) => Finding::ok("route", format!("there is a route to {ip}")),
        (Err(error), SocketAddr::V4(_)) => {
            let what = format!("there is no route to {ip}: {error}");
            Finding::failure("route", what, format!("ip route add {ip} dev eth0"))
        }
        // Few hosts have the service on both.
        (Err(error), SocketAddr::V6(_)) => {
            let what = format!("there is no route to {ip}: {error}");
            let mend =
                format!("where the service is to be had by IPv6: ip -6 route add {ip} dev eth0");
            Finding::warning("route", what, mend)
        }
    }
}

/// Against the date of an answer.
pub(super) fn clock(service: Option<SystemTime>) -> Finding {
    clock_at(SystemTime::now(), service)
}

fn clock_at(now: SystemTime, service: Option<SystemTime>) -> Finding {
    let Some(service) = service else {
        let what = "no answer of the service told the time to compare with";
        return Finding::warning("clock", what, "timedatectl status");
    };
    let off = now
        .duration_since(service)
        .unwrap_or_else(|error| error.duration());
    if off <= CLOCK_OFF {
        return Finding::ok("clock", "as the service's, to a minute");
    }
    let what = format!(
        "{} from the service's: credentials seem to have expired, or not to begin",
        humantime::format_duration(Duration::from_secs(off.as_secs()))
    );
    Finding::failure("clock", what, "timedatectl set-ntp true")
}

/// The process of root's that watches the rules of this network. Only those
/// that are root's by every uid count: anybody can take a name, and a setuid
/// program by it.
pub(crate) fn watcher() -> Option<u32> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    sockets::processes()
        .filter(|(_, process)| sockets::is_wholly_roots(process))
        .filter(|(_, process)| fs::read_link(process.join("ns/net")).ok() == own)
        .find(|(_, process)| {
            fs::read_to_string(process.join("comm")).is_ok_and(|name| name == "imdsfw-watch\n")
        })
        .map(|(pid, _)| pid)
}

/// What processes run as `uid` on this network, by the name of their program.
/// One that has no program left is at its end.
pub(crate) fn running_as(uid: u32) -> Vec<(u32, String)> {
    let own = fs::read_link("/proc/thread-self/ns/net").ok();
    sockets::processes()
        .filter(|(_, process)| sockets::uid(process) == Some(uid))
        .filter(|(_, process)| fs::read_link(process.join("ns/net")).ok() == own)
        .filter_map(|(pid, process)| {
            let exe = fs::read_link(process.join("exe")).ok()?;
            let name = exe.file_name()?.to_string_lossy();
            Some((pid, name.trim_end_matches(" (deleted)").to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn a_clock_that_is_off_either_way_is_a_failure() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        for (service, state) in [
            (Some(now), State::Ok),
            (Some(now - Duration::from_secs(30)), State::Ok),
            (Some(now + hour), State::Failure),
            (Some(now - hour), State::Failure),
            (None, State::Warning),
        ] {
            assert_eq!(clock_at(now, service).state, state);
        }
    }

    #[test]
    fn an_older_kernel_lacks_more() {
        assert!(lacking((6, 1)).is_empty());
        assert_eq!(lacking((5, 10)).len(), 1);
        assert_eq!(lacking((4, 18)).len(), 3);
    }
}
