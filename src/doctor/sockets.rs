//! Who listens on a port, from /proc/net/tcp and tcp6 (proc_net(5)) and the
//! descriptors of processes. For people to read: no verdict hangs on it.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

const LISTEN: &str = "0A";

/// The inodes of sockets that listen on this very address, or on every one of
/// its family.
pub(super) fn listening(on: SocketAddr) -> Vec<u64> {
    let file = match on {
        SocketAddr::V4(_) => "/proc/thread-self/net/tcp",
        SocketAddr::V6(_) => "/proc/thread-self/net/tcp6",
    };
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .skip(1)
        .filter_map(|line| inode(line, on))
        .collect()
}

fn inode(line: &str, on: SocketAddr) -> Option<u64> {
    let mut fields = line.split_whitespace().skip(1);
    let (address, port) = fields.next()?.split_once(':')?;
    let any = address.bytes().all(|byte| byte == b'0');
    let here = any || address == hex(on.ip());
    let state = fields.nth(1)?;
    let is_it = here && u16::from_str_radix(port, 16).ok()? == on.port() && state == LISTEN;
    // Behind the state: queues, timer, retransmits, uid, timeout.
    is_it.then(|| fields.nth(5)?.parse().ok())?
}

/// As the kernel prints addresses: words of 32 bits in the host's byte order.
fn hex(ip: IpAddr) -> String {
    let bytes = match ip {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    };
    let (words, _) = bytes.as_chunks::<4>();
    words
        .iter()
        .map(|word| format!("{:08X}", u32::from_ne_bytes(*word)))
        .collect()
}

/// Every process: its id and its folder in /proc.
pub(super) fn processes() -> impl Iterator<Item = (u32, std::path::PathBuf)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        Some((pid, entry.path()))
    })
}

/// The effective uid of a process.
pub(super) fn uid(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    uids.split_whitespace().nth(1)?.parse().ok()
}

/// Whether a process is root's by its real, effective, saved and file system
/// uid: what a user runs with root's rights has the user's real one.
pub(super) fn is_wholly_roots(process: &Path) -> bool {
    let status = fs::read_to_string(process.join("status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.is_some_and(|uids| uids.split_whitespace().eq(["0"; 4]))
}

/// Whether a process has this socket open.
pub(super) fn holds(process: &Path, inode: u64) -> bool {
    let link = format!("socket:[{inode}]");
    let descriptors = fs::read_dir(process.join("fd")).into_iter().flatten();
    descriptors.flatten().any(|descriptor| {
        fs::read_link(descriptor.path()).is_ok_and(|to| to.as_os_str() == link.as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_of_either_family_is_found_and_its_holder() {
        for on in ["127.0.0.1:0", "[::1]:0", "0.0.0.0:0"] {
            let listener = std::net::TcpListener::bind(on).unwrap();
            let mut address = listener.local_addr().unwrap();
            if address.ip().is_unspecified() {
                address.set_ip(IpAddr::from([127, 0, 0, 1]));
            }
            let [inode] = listening(address)[..] else {
                panic!("{on}");
            };
            assert!(holds(Path::new("/proc/self"), inode));
            drop(listener);
            assert!(listening(address).is_empty(), "{on}");
        }
    }
}
