//! The rules as text for `iptables-restore`, one text a family.
//!
//! A foreign `-j ACCEPT` ahead of ours in the table filter ends that table for
//! a packet. So the guards stand as DROP in mangle, where they come after the
//! nat of this host's own packets, and a second time as REJECT in filter,
//! where REJECT is known: those only make refusals quick.
//!
//! Our chains leave by RETURN, never by ACCEPT: what we let pass, other
//! people's rules still judge. Must never decide by a negative test of a
//! connection's state, which a packet without connection tracking passes.

mod compare;
mod foreign;
pub(super) mod kernel;

use std::net::{IpAddr, SocketAddr};

use super::model::RuleSet;
use crate::ids::MetadataAddr;

/// All our chains begin with this; the name of a hook follows in those that
/// the hook's own chain jumps to.
pub(super) const PREFIX: &str = "IMDSFW-";

/// In nf_tables, the table and a hook's chain are made by whoever is first.
/// Empty chains of these names say that it was us, so that `remove` can take
/// away what is empty then: this and the hook, or `TABLE`.
const MADE_PREFIX: &str = "IMDSFW-MADE-";

/// An address family, with tools of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }
}

/// A part of our rules that loads in one transaction.
#[derive(Debug)]
struct Table {
    name: &'static str,
    chains: Vec<Chain>,
}

#[derive(Debug)]
struct Chain {
    /// Without the prefix.
    name: &'static str,
    /// Whether it is the name of a hook, whose chain jumps here.
    is_hooked: bool,
    /// Without `-A CHAIN`; `@` stands for the prefix.
    rules: Vec<String>,
}

impl Chain {
    fn hooked(name: &'static str, rules: Vec<String>) -> Self {
        Self {
            name,
            is_hooked: true,
            rules,
        }
    }

    fn called(name: &'static str, rules: Vec<String>) -> Self {
        Self {
            name,
            is_hooked: false,
            rules,
        }
    }
}

impl Table {
    /// As `iptables-restore --noflush` takes it, without jumps from the hooks.
    /// A chain that is there already is emptied.
    fn chains_text(&self, prefix: &str) -> String {
        let mut text = String::new();
        for chain in &self.chains {
            text += &format!(":{prefix}{} - [0:0]\n", chain.name);
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                let rule = rule.replace('@', prefix);
                text += &format!("-A {prefix}{} {rule}\n", chain.name);
            }
        }
        text
    }

    fn hooks(&self) -> impl Iterator<Item = &'static str> {
        let hooked = self.chains.iter().filter(|chain| chain.is_hooked);
        hooked.map(|chain| chain.name)
    }

    /// First, whatever else is there.
    fn jumps_text(&self) -> String {
        self.hooks()
            .map(|hook| format!("-I {hook} 1 -j {PREFIX}{hook}\n"))
            .collect()
    }
}

/// What `apply` loads into a kernel without rules of ours, for the reader.
pub(super) fn render(rules: &RuleSet) -> String {
    let mut text = String::from("# imdsfw: the kernel rules in front of the metadata service.\n");
    for family in Family::BOTH {
        let tables = tables(rules, family);
        if tables.is_empty() {
            continue;
        }
        text += match family {
            Family::V4 => "# iptables-restore --noflush\n",
            Family::V6 => "# ip6tables-restore --noflush\n",
        };
        for table in tables {
            text += &format!(
                "*{}\n{}{}COMMIT\n",
                table.name,
                table.chains_text(PREFIX),
                table.jumps_text()
            );
        }
    }
    text
}

/// The tables of a family in the order to load them: guards first, so that
/// what fails on the way leaves the service closed. None where the family has
/// no metadata address.
fn tables(rules: &RuleSet, family: Family) -> Vec<Table> {
    let closed: Vec<IpAddr> = rules
        .closed()
        .iter()
        .copied()
        .filter(|ip| Family::of(*ip) == family)
        .collect();
    let destination = rules
        .destinations()
        .iter()
        .find(|destination| Family::of(destination.0.ip()) == family);
    let view = destination.map(|destination| View::new(rules, *destination));
    if view.is_none() && closed.is_empty() {
        return Vec::new();
    }
    vec![
        mangle(view.as_ref(), &closed),
        filter(view.as_ref(), &closed, family),
        nat(view.as_ref(), &closed),
    ]
}

const NOT_THE_LISTENER: &str =
    "another process listens in the daemon's place: its answers reach nobody";
const HOST_ALONE: &str = "the daemon serves this host alone";
const PORT_CHANGED: &str =
    "its source port was changed and may now be the port of another user's socket";
const FROM_OUTSIDE: &str = "from a container or another host: not a user of this host";
const REWRITTEN: &str =
    "from a container or another host, with its destination rewritten on the way";
const TAKEN_ELSEWHERE: &str =
    "opened to the metadata service, but a foreign nat rule sends it elsewhere";
const RESIDUE: &str = "older connections, other ports and protocols, whatever missed the redirect";
const CLOSED: &str = "a metadata address that the config leaves out: closed to everybody";
const DAEMON_OPENS: &str =
    "the daemon opens a connection: marked, for only what it opened itself may go on";
const DAEMON_OPENED: &str = "a connection that the daemon opened";
const REDIRECTED: &str = "redirected on its way to the metadata service";
const DIRECT: &str =
    "not redirected by us: would let a caller pass under another one's source port";
const BOUND: &str = "a client bound to a device cannot reach loopback: told when it tries again";
const NEIGHBOURS: &str =
    "neighbour discovery, by the kernel: without it the service cannot be reached";
const SHARE: &str = "all users together: the rest is root's reserve";

/// The matches of a rule, its comment, its target.
fn rule(matches: &str, why: &str, target: &str) -> String {
    let separator = if matches.is_empty() { "" } else { " " };
    format!("{matches}{separator}-m comment --comment \"{why}\" {target}")
}

fn opened_to(ip: IpAddr) -> String {
    format!("-m conntrack --ctorigdst {ip} --ctdir ORIGINAL")
}

/// The guards, as DROP.
fn mangle(view: Option<&View>, closed: &[IpAddr]) -> Table {
    let mut input = Vec::new();
    let mut posted = Vec::new();
    let mut chains = Vec::new();
    if let Some(view) = view {
        let (service, to_listener) = (view.service.ip(), view.to_listener());
        input.extend([
            rule(&format!("{to_listener} ! -i lo"), HOST_ALONE, "-j DROP"),
            rule(
                &format!("{to_listener} -m conntrack --ctstate SNAT"),
                PORT_CHANGED,
                "-j DROP",
            ),
            rule(
                &format!("! -i lo {}", opened_to(service)),
                FROM_OUTSIDE,
                "-j DROP",
            ),
        ]);
        posted.extend([
            format!("-d {service} -g @METADATA"),
            format!("{to_listener} -g @LISTENER"),
            rule(&opened_to(service), TAKEN_ELSEWHERE, "-j DROP"),
        ]);
        chains.extend([
            Chain::called("METADATA", view.metadata(Strength::Drop)),
            Chain::called("LISTENER", view.listener(Strength::Drop)),
            Chain::hooked("OUTPUT", vec![view.answer()]),
        ]);
    }
    for ip in closed {
        posted.push(rule(&format!("-d {ip}"), CLOSED, "-j DROP"));
        posted.push(rule(&opened_to(*ip), CLOSED, "-j DROP"));
        input.push(rule(
            &format!("! -i lo {}", opened_to(*ip)),
            CLOSED,
            "-j DROP",
        ));
    }
    chains.push(Chain::hooked("INPUT", input));
    chains.push(Chain::hooked("POSTROUTING", posted));
    Table {
        name: "mangle",
        chains,
    }
}

/// An answer instead of silence: clients fail at once and say so.
fn filter(view: Option<&View>, closed: &[IpAddr], family: Family) -> Table {
    let prohibited = match family {
        Family::V4 => "-j REJECT --reject-with icmp-admin-prohibited",
        Family::V6 => "-j REJECT --reject-with icmp6-adm-prohibited",
    };
    let mut chains = vec![Chain::called(
        "REFUSE",
        vec![
            rule("-p tcp", "refused: tcp", RESET),
            rule("", "refused: every other protocol", prohibited),
        ],
    )];
    let mut output = Vec::new();
    let mut forward = Vec::new();
    if let Some(view) = view {
        let service = view.service.ip();
        output.extend([
            format!("-d {service} -g @METADATA"),
            format!("{} -g @LISTENER", view.to_listener()),
            rule(&opened_to(service), TAKEN_ELSEWHERE, "-g @REFUSE"),
        ]);
        forward.extend([
            rule(&format!("-d {service}"), REWRITTEN, "-g @REFUSE"),
            rule(&opened_to(service), FROM_OUTSIDE, "-g @REFUSE"),
        ]);
        chains.extend([
            Chain::called("METADATA", view.metadata(Strength::Refuse)),
            Chain::called("LISTENER", view.listener(Strength::Refuse)),
        ]);
    }
    for ip in closed {
        let (to, opened) = (format!("-d {ip}"), opened_to(*ip));
        for rules in [&mut output, &mut forward] {
            rules.push(rule(&to, CLOSED, "-g @REFUSE"));
            rules.push(rule(&opened, CLOSED, "-g @REFUSE"));
        }
    }
    chains.push(Chain::hooked("OUTPUT", output));
    chains.push(Chain::hooked("FORWARD", forward));
    Table {
        name: "filter",
        chains,
    }
}

/// A destination kept by DNAT to itself is one that no later nat rule takes
/// elsewhere; also in other people's nf_tables.
fn nat(view: Option<&View>, closed: &[IpAddr]) -> Table {
    let keep = |ip: &IpAddr| {
        rule(
            &format!("-d {ip} ! -i lo"),
            FROM_OUTSIDE,
            &format!("-j DNAT --to-destination {ip}"),
        )
    };
    let mut prerouting: Vec<String> = closed.iter().map(keep).collect();
    let mut chains = Vec::new();
    if let Some(view) = view {
        prerouting.push(keep(&view.service.ip()));
        chains.push(Chain::hooked("OUTPUT", view.redirect()));
    }
    chains.push(Chain::hooked("PREROUTING", prerouting));
    Table {
        name: "nat",
        chains,
    }
}

const RESET: &str = "-j REJECT --reject-with tcp-reset";
const BEGINS: &str = "--tcp-flags FIN,SYN,RST,ACK SYN";

/// The same guard in mangle, and in filter.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Strength {
    Drop,
    Refuse,
}

/// One metadata address and its listener, in the words of iptables.
struct View<'a> {
    rules: &'a RuleSet,
    service: SocketAddr,
    listener: SocketAddr,
}

impl<'a> View<'a> {
    fn new(rules: &'a RuleSet, destination: MetadataAddr) -> Self {
        Self {
            rules,
            service: destination.0,
            listener: rules.listener(destination),
        }
    }

    fn to_listener(&self) -> String {
        let (ip, port) = (self.listener.ip(), self.listener.port());
        format!("-d {ip} -p tcp -m tcp --dport {port}")
    }

    /// Packets that leave for the metadata address, after every nat.
    fn metadata(&self, strength: Strength) -> Vec<String> {
        let port = self.service.port();
        let uid = self.rules.daemon_uid();
        let marks = self.rules.marks();
        let (mark, mask) = (marks.connection, marks.mask);
        let mut rules = Vec::new();
        if self.service.is_ipv6() {
            for kind in [135, 136] {
                let discovery = format!("-p ipv6-icmp -m icmp6 --icmpv6-type {kind}");
                rules.push(rule(&discovery, NEIGHBOURS, "-j RETURN"));
            }
        }
        // Only with a SYN a connection begins: tracking also picks up
        // connections in the middle. Let pass here, so that a mark which
        // somebody else set does not open one.
        let opens = format!(
            "-p tcp -m tcp --dport {port} {BEGINS} -m conntrack --ctstate NEW \
             -m owner --uid-owner {uid}"
        );
        if strength == Strength::Drop {
            let set = format!("-j CONNMARK --set-xmark {mark:#x}/{mask:#x}");
            rules.push(rule(&opens, DAEMON_OPENS, &set));
        }
        rules.push(rule(&opens, DAEMON_OPENS, "-j RETURN"));
        let opened = format!(
            "-p tcp -m tcp --dport {port} -m conntrack --ctstate ESTABLISHED \
             -m connmark --mark {mark:#x}/{mask:#x}"
        );
        rules.push(rule(&opened, DAEMON_OPENED, "-j RETURN"));
        match strength {
            Strength::Drop => rules.push(rule("", RESIDUE, "-j DROP")),
            Strength::Refuse => {
                let invalid = "-m conntrack --ctstate INVALID";
                let why = "fits no connection: dropped, for a reset could end a healthy one";
                rules.push(rule(invalid, why, "-j DROP"));
                rules.push(rule("", RESIDUE, "-g @REFUSE"));
            }
        }
        rules
    }

    /// Packets that leave for the listener, after every nat.
    fn listener(&self, strength: Strength) -> Vec<String> {
        let marks = self.rules.marks();
        let (mark, mask) = (marks.listener, marks.mask);
        let redirected = format!(
            "-p tcp -m conntrack --ctstate DNAT --ctorigdst {} --ctorigdstport {} \
             --ctdir ORIGINAL",
            self.service.ip(),
            self.service.port()
        );
        let passes = rule(&redirected, REDIRECTED, "-j RETURN");
        match strength {
            // Only here the device is the one after the redirect, and here is
            // no REJECT. The first SYN is lost on the way to a loopback address
            // behind a cable; the connection's mark has the next one refused.
            Strength::Drop => vec![
                rule(
                    &format!("{redirected} ! -o lo"),
                    BOUND,
                    &format!("-j CONNMARK --set-xmark {mark:#x}/{mask:#x}"),
                ),
                passes,
                rule("", DIRECT, "-j DROP"),
            ],
            Strength::Refuse => {
                let mut rules = vec![rule(
                    &format!("-p tcp -m connmark --mark {mark:#x}/{mask:#x}"),
                    BOUND,
                    RESET,
                )];
                rules.extend(self.share());
                // Here and not in input, where the refused connection would
                // keep its port from the next honest client.
                rules.extend([passes, rule("-p tcp", DIRECT, RESET)]);
                rules
            }
        }
    }

    /// iptables counts no connections by uid. A reserve for root it can keep.
    fn share(&self) -> Option<String> {
        let families = u32::try_from(self.rules.destinations().len()).ok()?;
        let users = self.rules.shares()?.users.checked_div(families)?;
        Some(rule(
            &format!(
                "-p tcp -m tcp {BEGINS} -m owner ! --uid-owner 0 \
                 -m connlimit --connlimit-above {users} --connlimit-mask 0 --connlimit-saddr"
            ),
            SHARE,
            RESET,
        ))
    }

    /// The listener is known by its answer to a SYN, which carries the mark of
    /// the socket also where no socket is left to ask: from a SYN cookie, or
    /// on a source port that is reused.
    fn answer(&self) -> String {
        let marks = self.rules.marks();
        let (ip, port) = (self.listener.ip(), self.listener.port());
        rule(
            &format!(
                "-s {ip} -p tcp -m tcp --sport {port} --tcp-flags SYN,ACK SYN,ACK \
                 -m mark ! --mark {:#x}/{:#x}",
                marks.listener, marks.mask
            ),
            NOT_THE_LISTENER,
            "-j DROP",
        )
    }

    fn redirect(&self) -> Vec<String> {
        let (service, uid) = (self.service, self.rules.daemon_uid());
        let to_service = format!(
            "-d {} -p tcp -m tcp --dport {}",
            service.ip(),
            service.port()
        );
        vec![
            rule(
                &format!("{to_service} -m owner --uid-owner {uid}"),
                "the daemon keeps its destination: no later nat rule may take it elsewhere",
                &format!("-j DNAT --to-destination {service}"),
            ),
            rule(
                &to_service,
                "everyone else, root included, goes through the daemon",
                &format!("-j REDIRECT --to-ports {}", self.listener.port()),
            ),
        ]
    }
}
