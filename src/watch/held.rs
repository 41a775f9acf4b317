//! A second table, for the moment between a flush and its repair: everybody
//! but the daemon is denied the metadata addresses, after every nat, so that
//! redirected traffic is not concerned.
//!
//! The table has an owner (NFT_TABLE_F_OWNER, Linux 5.12): `flush ruleset`
//! passes it by, and nobody else can change or delete it. The owner is a
//! netlink socket, of an `nft -i` that is a child of the watcher and ends with
//! it; then the kernel deletes the table. A cgroup program would do the same
//! for sockets alone, and need cgroup v2, CAP_BPF and a way to tell network
//! namespaces apart; this is of one namespace by nature.
//!
//! It must never outlive the watcher, nor stand in the way of the rules: it
//! drops what they would have refused.

use std::fmt::Write as _;
use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::intercept::{RuleSet, Tool};

const TABLE: &str = "imdsfw_held";
/// After every other chain that may decide about a packet.
const LAST: i32 = 400;
/// For nft to load one table.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) struct Held {
    script: String,
    holder: Option<Holder>,
    complaint: String,
}

struct Holder {
    nft: Child,
    /// Held open, so that nothing nft says later ends it.
    answers: io::PipeReader,
}

impl Held {
    pub(super) fn new(rules: &RuleSet) -> Self {
        Self {
            script: render(rules),
            holder: None,
            complaint: String::new(),
        }
    }

    pub(super) fn is_in_force(&self) -> bool {
        self.holder.is_some()
    }

    /// Takes the table away.
    pub(super) fn release(&mut self) {
        self.holder = None;
    }

    /// Makes the table, if it is not there. Where that cannot be done, the
    /// rules hold without it, and each repair says how long they were open.
    pub(super) fn ensure(&mut self) {
        if let Some(holder) = &mut self.holder {
            if matches!(holder.nft.try_wait(), Ok(None)) {
                return;
            }
            self.holder = None;
        }
        match Holder::new(&self.script) {
            Ok(holder) => self.holder = Some(holder),
            Err(why) if why == self.complaint => {}
            Err(why) => {
                tracing::warn!(
                    "no table of its own could be had (it needs Linux 5.12 and an nft with \
                     `nft -i`): should the rules be flushed, requests may get past until they \
                     are restored: {why}"
                );
                self.complaint = why;
            }
        }
    }
}

impl Holder {
    fn new(script: &str) -> Result<Self, String> {
        let (answers, to_us) = io::pipe().map_err(|error| error.to_string())?;
        let also_to_us = to_us.try_clone().map_err(|error| error.to_string())?;
        let mut nft = (Tool::nft().command()).map_err(|error| error.to_string())?;
        let nft = nft
            .arg("-i")
            // Where it would keep a history.
            .env("HOME", "/dev/null")
            .stdin(Stdio::piped())
            .stdout(to_us)
            .stderr(also_to_us)
            .spawn()
            .map_err(|error| format!("nft: {error}"))?;
        let mut holder = Self { nft, answers };
        holder.load(script).map(|()| holder)
    }

    /// nft says nothing of a command that it has carried out; so it is asked
    /// for what it made.
    fn load(&mut self, script: &str) -> Result<(), String> {
        let failed = |error: io::Error| format!("nft -i: {error}");
        if let Some(stdin) = &mut self.nft.stdin {
            let commands = format!("{script}\nlist table inet {TABLE}\n");
            stdin.write_all(commands.as_bytes()).map_err(failed)?;
        }
        let made = format!("table inet {TABLE} {{");
        let (asked, mut said, mut chunk) = (Instant::now(), String::new(), [0; 4096]);
        loop {
            let left = PATIENCE.saturating_sub(asked.elapsed());
            let mut fds = [PollFd::new(self.answers.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            let len = match poll(&mut fds, timeout) {
                Ok(0) => return Err(format!("nft -i did not answer: {said}")),
                Ok(_) => self.answers.read(&mut chunk).map_err(failed)?,
                Err(_) => continue,
            };
            said += &String::from_utf8_lossy(chunk.get(..len).unwrap_or_default());
            if said.lines().any(|line| line.starts_with(&made)) {
                return Ok(());
            }
            if len == 0 || said.contains("Error") {
                return Err(said.lines().next().unwrap_or("nft -i ended").to_owned());
            }
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.nft.kill();
        let _ = self.nft.wait();
    }
}

/// One line, as `nft -i` reads it.
fn render(rules: &RuleSet) -> String {
    let word = |ip: IpAddr| if ip.is_ipv4() { "ip" } else { "ip6" };
    let (uid, marks) = (rules.daemon_uid(), rules.marks());
    let (mut output, mut forward) = (String::new(), String::new());
    for address in rules.destinations() {
        let ip = address.0.ip();
        let to = format!("{} daddr {ip}", word(ip));
        if ip.is_ipv6() {
            output += "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept; ";
        }
        // By the mark too: what a closed socket still sends is nobody's.
        let _ = write!(
            output,
            "{to} meta skuid {uid} accept; {to} ct mark & {:#x} == {:#x} accept; ",
            marks.mask, marks.connection
        );
    }
    let destinations = rules.destinations().iter().map(|it| it.0.ip());
    for ip in destinations.chain(rules.closed().iter().copied()) {
        // Not refused: a client that asks again a second later finds the
        // rules restored.
        let drop = format!("{} daddr {ip} drop; ", word(ip));
        output += &drop;
        forward += &drop;
    }
    let chain = |hook: &str, rules: &str| {
        format!(
            "chain {hook} {{ type filter hook {hook} priority {LAST}; policy accept; {rules}}}; "
        )
    };
    format!(
        "add table inet {TABLE} {{ flags owner; {}{}}}",
        chain("output", &output),
        chain("forward", &forward)
    )
}
