//! Whose socket it is, as one asks at first: the kernel's answer is taken for
//! what it says, whichever socket it is about and in whatever state. What the
//! attacks on identity would succeed against.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;

use nix::libc;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, connect, recv, send,
    socket,
};

/// The uid that sock_diag(7) gives for the client's end of a connection;
/// `None` where it knows no socket at all.
pub(crate) fn owner(client: SocketAddr, service: SocketAddr) -> Option<u32> {
    let fd = socket(
        AddressFamily::Netlink,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::NetlinkSockDiag,
    )
    .unwrap();
    connect(fd.as_raw_fd(), &NetlinkAddr::new(0, 0)).unwrap();
    send(
        fd.as_raw_fd(),
        &question(client, service),
        MsgFlags::empty(),
    )
    .unwrap();
    let mut answer = [0; 1024];
    let len = recv(fd.as_raw_fd(), &mut answer, MsgFlags::empty()).unwrap();
    let number = |at: usize| u32::from_ne_bytes(answer[at..at + 4].try_into().unwrap());
    // Type and, of an error, errno; of an answer, `inet_diag_msg.idiag_uid`.
    match u16::from_ne_bytes([answer[4], answer[5]]) {
        20 => Some(number(80)),
        2 if number(16).cast_signed() == -libc::ENOENT => None,
        _ => panic!("{:?}", &answer[..len]),
    }
}

/// `nlmsghdr` and `inet_diag_req_v2`, for any state and any cookie.
fn question(client: SocketAddr, service: SocketAddr) -> Vec<u8> {
    let family = if client.is_ipv4() {
        libc::AF_INET
    } else {
        libc::AF_INET6
    };
    let mut out = Vec::new();
    out.extend(72u32.to_ne_bytes());
    out.extend(20u16.to_ne_bytes());
    out.extend(1u16.to_ne_bytes());
    out.extend([0; 8]);
    let [family, tcp] = [family, libc::IPPROTO_TCP].map(|it| u8::try_from(it).unwrap());
    out.extend([family, tcp, 0, 0]);
    out.extend(u32::MAX.to_ne_bytes());
    out.extend(client.port().to_be_bytes());
    out.extend(service.port().to_be_bytes());
    for ip in [client.ip(), service.ip()] {
        let mut address = [0; 16];
        match ip {
            IpAddr::V4(v4) => address[..4].copy_from_slice(&v4.octets()),
            IpAddr::V6(v6) => address = v6.octets(),
        }
        out.extend(address);
    }
    out.extend([0; 4]);
    out.extend(u64::MAX.to_ne_bytes());
    out
}
