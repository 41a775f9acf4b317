//! The kernel's own notice of changed rules: netlink, NETLINK_NETFILTER,
//! group NFNLGRP_NFTABLES, of this network namespace.
//!
//! Each transaction is told as its changes and then one NFT_MSG_NEWGEN that
//! names the process. A notice that was lost must count as a change.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recvfrom, setsockopt,
    socket, sockopt,
};

use super::report::Changer;
use crate::sys::netlink::Message;

// linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h, linux/netfilter.h.
const NFNLGRP_NFTABLES: u32 = 7;
const NFNL_SUBSYS_NFTABLES: u8 = 10;
const NFT_MSG_NEWGEN: u8 = 15;
const NFTA_GEN_PROC_PID: u16 = 2;
const NFTA_GEN_PROC_NAME: u16 = 3;
/// NFTA_TABLE_NAME, NFTA_CHAIN_TABLE, NFTA_RULE_TABLE, NFTA_SET_TABLE and so
/// on: in every message about a table or something in it.
const NFTA_TABLE: u16 = 1;
const NFPROTO_INET: u8 = 1;

/// For what comes while rules are verified or loaded.
const QUEUE: usize = 8 * 1024 * 1024;
/// Longer than any one datagram of these.
const DATAGRAM: usize = 64 * 1024;

/// The tools that verify iptables rules, cut to TASK_COMM_LEN.
const VERIFYING: [&str; 2] = ["iptables-restor", "ip6tables-resto"];

const OURS: &str = "imdsfw";
/// Tables that verifying makes and deletes.
const EXPECTED_PREFIX: &str = "imdsfw_expected_";

/// A subscription.
pub(super) struct Changes {
    fd: OwnedFd,
    /// Touched by a transaction whose end has not come yet.
    touched: BTreeSet<Table>,
    /// Read, and to be told again.
    kept: Option<Seen>,
    buffer: Vec<u8>,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Table {
    family: u8,
    name: String,
}

/// What happened in a span of time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    /// No later than the first of it.
    since: Instant,
    transactions: Vec<Transaction>,
    /// Whether something happened that is not among them.
    lost: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Transaction {
    by: Changer,
    touched: BTreeSet<Table>,
}

impl Changes {
    pub(super) fn subscribe() -> Result<Self, Errno> {
        let fd = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
            SockProtocol::NetlinkNetFilter,
        )?;
        setsockopt(&fd, sockopt::RcvBufForce, &QUEUE)?;
        let groups = 1 << (NFNLGRP_NFTABLES - 1);
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        Ok(Self {
            fd,
            touched: BTreeSet::new(),
            kept: None,
            buffer: vec![0; DATAGRAM],
        })
    }

    /// Waits until something happens or `other` can be read, at most so long.
    pub(super) fn wait(&mut self, at_most: Duration, other: BorrowedFd<'_>) -> Seen {
        if self.kept.is_some() {
            return self.read();
        }
        let mut fds = [self.fd.as_fd(), other].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        // Rounded up: nothing is due before.
        let at_most = at_most + Duration::from_millis(1);
        let timeout = PollTimeout::try_from(at_most).unwrap_or(PollTimeout::MAX);
        // Interrupted, it comes back a little later.
        let _ = poll(&mut fds, timeout);
        self.read()
    }

    /// What has happened since it was last asked.
    pub(super) fn read(&mut self) -> Seen {
        let mut seen = self.kept.take().unwrap_or_else(Seen::nothing);
        loop {
            match recvfrom::<NetlinkAddr>(self.fd.as_raw_fd(), &mut self.buffer) {
                // Only the kernel's word counts.
                Ok((_, from)) if from.is_none_or(|from| from.pid() != 0) => {}
                Ok((len, _)) => {
                    let datagram = self.buffer.get(..len).unwrap_or_default();
                    // Cut off by the buffer, its last message does not fit.
                    seen.lost |= parse(datagram, &mut self.touched, &mut seen.transactions)
                        .is_none()
                        || len == DATAGRAM;
                }
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => return seen,
                // ENOBUFS: the queue was full.
                Err(_) => {
                    seen.lost = true;
                    return seen;
                }
            }
        }
    }

    /// Forgets what verifying iptables rules has done to the tables since it
    /// was last asked; what others did meanwhile is told the next time. Of
    /// others who use the same tool only what they did is left to be seen.
    pub(super) fn forget_verifying(&mut self) {
        let mut seen = self.read();
        seen.transactions
            .retain(|it| !VERIFYING.contains(&it.by.name.as_str()));
        self.kept = Some(seen).filter(Seen::is_anything);
    }
}

impl Seen {
    /// From now on.
    pub(super) fn nothing() -> Self {
        Self {
            since: Instant::now(),
            transactions: Vec::new(),
            lost: false,
        }
    }

    /// Only what may have changed the rules: of our table, or of `any` table
    /// but those that verifying makes.
    pub(super) fn concerning(mut self, any: bool) -> Self {
        self.transactions.retain(|transaction| {
            transaction.touched.iter().any(|table| match any {
                true => !table.name.starts_with(EXPECTED_PREFIX),
                false => table.family == NFPROTO_INET && table.name == OURS,
            })
        });
        self
    }

    pub(super) fn is_anything(&self) -> bool {
        self.lost || !self.transactions.is_empty()
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Each process once.
    pub(super) fn by(&self) -> Vec<Changer> {
        let mut by = Vec::new();
        for Transaction { by: changer, .. } in &self.transactions {
            if !by.contains(changer) {
                by.push(changer.clone());
            }
        }
        by
    }

    /// With those of another span.
    pub(super) fn by_also(&self, other: &Self) -> Vec<Changer> {
        let mut by = self.by();
        by.extend(other.by().into_iter().filter(|it| !self.by().contains(it)));
        by
    }
}

/// Adds whole transactions to `ended`; `None` for what cannot be understood.
fn parse(
    mut datagram: &[u8],
    touched: &mut BTreeSet<Table>,
    ended: &mut Vec<Transaction>,
) -> Option<()> {
    while !datagram.is_empty() {
        let (message, rest) = Message::parse(datagram)?;
        datagram = rest;
        let [subsystem, kind] = message.kind.to_be_bytes();
        let mut attributes = message.payload;
        // `nfgenmsg`.
        let [family, ..] = attributes.take::<4>()?;
        if subsystem != NFNL_SUBSYS_NFTABLES {
            continue;
        }
        if kind != NFT_MSG_NEWGEN {
            let name = text(attributes.attribute(NFTA_TABLE)?);
            touched.insert(Table { family, name });
            continue;
        }
        let pid = attributes.attribute(NFTA_GEN_PROC_PID);
        let pid = pid.and_then(|pid| pid.try_into().ok());
        ended.push(Transaction {
            by: Changer {
                pid: pid.map_or(0, u32::from_be_bytes),
                name: text(attributes.attribute(NFTA_GEN_PROC_NAME).unwrap_or_default()),
            },
            touched: std::mem::take(touched),
        });
    }
    Some(())
}

/// Up to its NUL; whatever else a process calls itself, escaped.
fn text(bytes: &[u8]) -> String {
    let name = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    name.escape_ascii().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::netlink;
    use proptest::prelude::*;

    fn message(kind: u8, family: u8, attributes: &[(u16, &[u8])]) -> Vec<u8> {
        let mut body = vec![family, 0, 0, 0];
        for (kind, payload) in attributes {
            body.extend(u16::try_from(payload.len() + 4).unwrap().to_ne_bytes());
            body.extend(kind.to_ne_bytes());
            body.extend(*payload);
            body.resize(body.len().next_multiple_of(4), 0);
        }
        let mut out = Vec::new();
        let kind = u16::from_be_bytes([NFNL_SUBSYS_NFTABLES, kind]);
        netlink::request(&mut out, kind, 0, 0, &[&body]);
        out
    }

    fn end(pid: u32, name: &[u8]) -> Vec<u8> {
        let pid = pid.to_be_bytes();
        message(NFT_MSG_NEWGEN, 0, &[(1, &[0; 4]), (2, &pid), (3, name)])
    }

    fn seen(datagrams: &[Vec<u8>]) -> Seen {
        let mut seen = Seen::nothing();
        let mut touched = BTreeSet::new();
        for datagram in datagrams {
            seen.lost |= parse(datagram, &mut touched, &mut seen.transactions).is_none();
        }
        seen
    }

    #[test]
    fn a_transaction_is_whose_its_end_says_and_only_that() {
        let datagrams = [
            message(2, NFPROTO_INET, &[(1, b"imdsfw\0")]),
            end(71, b"nft\0"),
            [
                message(6, 2, &[(1, b"filter\0")]),
                end(72, b"iptables-nft\0"),
            ]
            .concat(),
            message(0, NFPROTO_INET, &[(1, b"imdsfw_expected_9_0\0")]),
            end(73, b"nft\0"),
        ];
        let names = |seen: Seen| -> Vec<_> { seen.by().iter().map(|by| by.pid).collect() };
        assert_eq!(names(seen(&datagrams).concerning(false)), [71]);
        assert_eq!(names(seen(&datagrams).concerning(true)), [71, 72]);
    }

    #[test]
    fn a_table_of_the_same_name_in_another_family_is_not_ours() {
        let datagrams = [message(0, 2, &[(1, b"imdsfw\0")]), end(1, b"nft\0")];
        assert!(!seen(&datagrams).concerning(false).is_anything());
    }

    #[test]
    fn what_a_process_calls_itself_is_escaped() {
        let datagrams = [message(0, 1, &[(1, b"imdsfw\0")]), end(1, b"\x1b[2J\"\n\0")];
        assert_eq!(seen(&datagrams).by()[0].name, "\\x1b[2J\\\"\\n");
    }

    #[test]
    fn a_notice_cut_short_counts_as_a_change() {
        let mut cut = message(0, 1, &[(1, b"other\0")]);
        cut.truncate(cut.len() - 4);
        assert!(seen(&[cut]).concerning(false).is_anything());
    }

    proptest! {
        #[test]
        fn total_on_any_datagram(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes, &mut BTreeSet::new(), &mut Vec::new());
        }

        #[test]
        fn total_on_any_attributes(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            for kind in [0, NFT_MSG_NEWGEN] {
                let datagram = message(kind, 1, &[(1, &bytes), (2, &bytes), (3, &bytes)]);
                let _ = parse(&datagram, &mut BTreeSet::new(), &mut Vec::new());
            }
        }
    }
}
