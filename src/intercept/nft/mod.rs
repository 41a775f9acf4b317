//! The rules as text for nft: one table, family inet, named `imdsfw`.
//!
//! Must never decide by a negative test of a connection's state. A packet
//! without connection tracking (`notrack`) matches neither a test nor its
//! opposite, so every guard passes what it knows and refuses the rest.

pub(super) mod kernel;
mod text;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::model::{RuleSet, Shares};
use crate::ids::MetadataAddr;
use text::{Chain, Rule, State, Table};

/// Our table, in family inet.
pub const TABLE: &str = "imdsfw";

/// How many connections each uid has.
const CONNECTIONS: &str = "connections";
/// How many it lately opened.
const ARRIVALS: &str = "arrivals";

/// Right after connection tracking (-200), the earliest that the kernel allows
/// for nat, so that a foreign nat chain (usually -100) does not decide first.
const NAT_FIRST: i32 = -199;
/// Before connection tracking and every nat.
const RAW: i32 = -300;
/// After every nat, whatever priority its chain has: all nat chains of a hook
/// run at -100.
const FILTER: i32 = 0;

/// What `apply` loads: comments for the reader, then one transaction that
/// replaces the table, so that there is no moment without rules.
pub fn render(rules: &RuleSet) -> String {
    let mut text = String::from("# imdsfw: the kernel rules in front of the metadata service.\n");
    for destination in rules.destinations() {
        let _ = writeln!(
            text,
            "#   {destination} -> {}",
            rules.listener(*destination)
        );
    }
    let _ = writeln!(
        text,
        "# Only uid {}, the daemon's, reaches the service directly. Whatever else is\n\
         # bound for its address, or for a listener by another way, is refused at once.",
        rules.daemon_uid()
    );
    let _ = write!(
        text,
        "add table inet {TABLE}\n\
         delete table inet {TABLE}\n\
         {}",
        Table {
            name: TABLE,
            state: State::Active,
            sets: sets(rules),
            chains: chains(rules),
        }
    );
    text
}

/// The same table under another name and without effect, to learn how this
/// nft and this kernel print it.
pub(super) fn render_dormant(rules: &RuleSet, name: &str) -> String {
    Table {
        name,
        state: State::Dormant,
        sets: sets(rules),
        chains: chains(rules),
    }
    .to_string()
}

/// By uid, filled by the packets themselves. One that was quiet for a minute
/// has its whole burst again, so nothing is forgotten with it.
fn sets(rules: &RuleSet) -> &'static [(&'static str, &'static str)] {
    match rules.shares() {
        None => &[],
        Some(_) => &[
            (
                CONNECTIONS,
                "\t\ttype uid\n\t\tsize 65535\n\t\tflags dynamic\n",
            ),
            (
                ARRIVALS,
                "\t\ttype uid\n\t\tsize 65535\n\t\tflags dynamic,timeout\n\t\ttimeout 1m\n",
            ),
        ],
    }
}

/// Whether a line of our table's listing is what packets left in our sets.
pub(super) fn is_count(place: &str, line: &str) -> bool {
    [CONNECTIONS, ARRIVALS]
        .iter()
        .any(|set| place.strip_prefix("set ") == Some(set))
        && (line.starts_with("elements = {") || line.starts_with(|c: char| c.is_ascii_digit()))
}

/// The regular chains, then the base chains in the order in which packets meet
/// them.
fn chains(rules: &RuleSet) -> Vec<Chain> {
    let views: Vec<View> = rules
        .destinations()
        .iter()
        .map(|destination| View::new(rules, *destination))
        .collect();
    let closed = rules.closed().iter().map(|ip| {
        Rule::new(
            format!("{} daddr {ip} goto refuse", word(*ip)),
            "a metadata address that the config leaves out: closed to everybody",
        )
    });
    let closed_before_nat = rules.closed().iter().map(|ip| {
        Rule::new(
            format!(
                "ct direction original ct original {} daddr {ip} goto refuse",
                word(*ip)
            ),
            "opened to a metadata address that the config leaves out",
        )
    });
    let mut chains = vec![refuse()];
    chains.extend(rules.shares().map(shares));
    for view in &views {
        chains.extend([view.metadata(), view.listener()]);
    }
    chains.extend([
        Chain::base(
            "answer_output",
            "filter",
            RAW,
            views.iter().map(View::answer).collect(),
        ),
        Chain::base(
            "prerouting",
            "filter",
            RAW,
            views
                .iter()
                .flat_map(View::prerouting)
                .chain(closed.clone())
                .collect(),
        ),
        Chain::base(
            "forward",
            "filter",
            FILTER,
            views
                .iter()
                .flat_map(View::forward)
                .chain(closed.clone())
                .collect(),
        ),
        Chain::base(
            "nat_output",
            "nat",
            NAT_FIRST,
            views.iter().flat_map(View::nat_output).collect(),
        ),
        Chain::base(
            "output",
            "filter",
            FILTER,
            views
                .iter()
                .flat_map(View::output)
                .chain(closed)
                .chain(closed_before_nat)
                .collect(),
        ),
        Chain::base(
            "input",
            "filter",
            FILTER,
            views.iter().flat_map(View::input).collect(),
        ),
    ]);
    chains
}

/// An answer instead of silence: clients fail at once and say so.
fn refuse() -> Chain {
    Chain::regular(
        "refuse",
        vec![
            Rule::new("meta l4proto tcp reject with tcp reset", "refused: tcp"),
            Rule::new(
                // The word `type` is for nft before 1.0.
                "reject with icmpx type admin-prohibited",
                "refused: every other protocol",
            ),
        ],
    )
}

/// Which new connections a user may have; the sets count them by uid.
fn shares(shares: Shares) -> Chain {
    let Shares {
        connections,
        new_per_second,
        burst,
        users,
    } = shares;
    Chain::regular(
        "shares",
        vec![
            Rule::new(
                "meta skuid 0 return",
                "what the users leave is root's reserve",
            ),
            Rule::new(
                format!("ct count over {users} reject with tcp reset"),
                "all users together: the rest is root's reserve",
            ),
            Rule::new(
                format!(
                    "add @{CONNECTIONS} {{ meta skuid ct count over {connections} }} \
                     reject with tcp reset"
                ),
                "too many connections of one user at once",
            ),
            Rule::new(
                format!(
                    "update @{ARRIVALS} {{ meta skuid limit rate over {new_per_second}/second \
                     burst {burst} packets }} reject with tcp reset"
                ),
                "too many new connections of one user",
            ),
        ],
    )
}

/// An address family, as nft calls it.
fn word(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { "ip" } else { "ip6" }
}

/// One metadata address and its listener, in the words of nft.
struct View<'a> {
    rules: &'a RuleSet,
    /// `ip` or `ip6`.
    ip: &'static str,
    /// Suffix of chain names.
    family: &'static str,
    service: SocketAddr,
    listener: SocketAddr,
}

impl<'a> View<'a> {
    fn new(rules: &'a RuleSet, destination: MetadataAddr) -> Self {
        let ip = word(destination.0.ip());
        let family = if destination.0.is_ipv4() { "v4" } else { "v6" };
        Self {
            rules,
            ip,
            family,
            service: destination.0,
            listener: rules.listener(destination),
        }
    }

    fn to_service(&self) -> String {
        format!("{} daddr {}", self.ip, self.service.ip())
    }

    fn to_listener(&self) -> String {
        format!(
            "{} daddr {} tcp dport {}",
            self.ip,
            self.listener.ip(),
            self.listener.port()
        )
    }

    /// What the connection was opened to, before any nat.
    fn opened_to(&self, addr: IpAddr) -> String {
        format!("ct direction original ct original {} daddr {addr}", self.ip)
    }

    /// Packets that leave for the metadata address, after every nat.
    fn metadata(&self) -> Chain {
        let port = self.service.port();
        let uid = self.rules.daemon_uid();
        let marks = self.rules.marks();
        let mut guards = Vec::new();
        if self.service.is_ipv6() {
            // ICMPv6 to the address itself. Users cannot send it: their
            // unprivileged sockets are held to echo requests.
            guards.push(Rule::new(
                "icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert } accept",
                "neighbour discovery, by the kernel: without it the service cannot be reached",
            ));
        }
        guards.extend([
            // The SYN, because only with it a connection begins: tracking also
            // picks up connections in the middle. Accepted here, so that a
            // mark which somebody else set does not open one.
            Rule::new(
                format!(
                    "tcp dport {port} meta skuid {uid} ct state new \
                     tcp flags & (fin | syn | rst | ack) == syn \
                     ct mark set ct mark & {:#010x} | {:#010x} accept",
                    !marks.mask, marks.connection
                ),
                "the daemon opens a connection: marked, for only what it opened itself may go on",
            ),
            Rule::new(
                format!(
                    "tcp dport {port} ct state established \
                     ct mark & {:#010x} == {:#010x} accept",
                    marks.mask, marks.connection
                ),
                "a connection that the daemon opened",
            ),
            Rule::new(
                "ct state invalid drop",
                "fits no connection: dropped, for a reset could end a healthy one",
            ),
            Rule::new(
                "goto refuse",
                "older connections, other ports and protocols, whatever missed the redirect",
            ),
        ]);
        Chain::regular(format!("metadata_{}", self.family), guards)
    }

    /// Packets that leave for the listener, after every nat.
    fn listener(&self) -> Chain {
        let mut guards = vec![
            // The device of the hook is the one from before the redirect,
            // for every client; the route is from after it. A way to
            // loopback through a gateway is the one of a bound socket.
            Rule::new(
                format!(
                    "meta l4proto tcp rt {} nexthop != {} reject with tcp reset",
                    self.ip,
                    self.listener.ip()
                ),
                "a client bound to a device cannot reach loopback: told at once, not by a timeout",
            ),
        ];
        if self.rules.shares().is_some() {
            guards.push(Rule::new(
                "tcp flags & (fin | syn | rst | ack) == syn jump shares",
                "a new connection: within its user's share",
            ));
        }
        guards.extend([
            Rule::new(
                format!(
                    "meta l4proto tcp ct status dnat {} ct original proto-dst {} accept",
                    self.opened_to(self.service.ip()),
                    self.service.port()
                ),
                "redirected on its way to the metadata service",
            ),
            // Here and not in input, where the refused connection would
            // keep its port from the next honest client.
            Rule::new(
                "meta l4proto tcp reject with tcp reset",
                "not redirected by us: would let a caller pass under another one's source port",
            ),
        ]);
        Chain::regular(format!("listener_{}", self.family), guards)
    }

    /// The listener is known by its answer to a SYN, which carries the mark of
    /// the socket also where no socket is left to ask: from a SYN cookie, or
    /// on a source port that is reused. Before other people's chains, which
    /// may set marks.
    fn answer(&self) -> Rule {
        let marks = self.rules.marks();
        Rule::new(
            format!(
                "{} saddr {} tcp sport {} tcp flags & (syn | ack) == syn | ack \
                 meta mark & {:#010x} != {:#010x} drop",
                self.ip,
                self.listener.ip(),
                self.listener.port(),
                marks.mask,
                marks.listener
            ),
            "another process listens in the daemon's place: its answers reach nobody",
        )
    }

    fn prerouting(&self) -> Vec<Rule> {
        vec![Rule::new(
            format!("iifname != \"lo\" {} goto refuse", self.to_service()),
            "from a container or another host: not a user of this host",
        )]
    }

    fn forward(&self) -> Vec<Rule> {
        vec![Rule::new(
            format!("{} goto refuse", self.to_service()),
            "from a container or another host, with its destination rewritten on the way",
        )]
    }

    fn nat_output(&self) -> Vec<Rule> {
        let service = self.service;
        let to_service_port = format!("{} tcp dport {}", self.to_service(), service.port());
        vec![
            Rule::new(
                format!(
                    "{to_service_port} meta skuid {} dnat {} to {service}",
                    self.rules.daemon_uid(),
                    self.ip
                ),
                "the daemon keeps its destination: no later nat rule may take it elsewhere",
            ),
            Rule::new(
                format!("{to_service_port} redirect to :{}", self.listener.port()),
                "everyone else, root included, goes through the daemon",
            ),
        ]
    }

    fn output(&self) -> Vec<Rule> {
        vec![
            Rule::new(
                format!("{} goto metadata_{}", self.to_service(), self.family),
                "bound for the metadata service",
            ),
            Rule::new(
                format!("{} goto listener_{}", self.to_listener(), self.family),
                "bound for the daemon",
            ),
            Rule::new(
                format!("{} goto refuse", self.opened_to(self.service.ip())),
                "opened to the metadata service, but a foreign nat rule sends it elsewhere",
            ),
        ]
    }

    fn input(&self) -> Vec<Rule> {
        let to_listener = self.to_listener();
        vec![
            Rule::new(
                format!("iifname != \"lo\" {to_listener} reject with tcp reset"),
                "the daemon serves this host alone",
            ),
            Rule::new(
                format!("{to_listener} ct status snat reject with tcp reset"),
                "its source port was changed and may now be the port of another user's socket",
            ),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Uid;

    fn rules(destinations: &[&str]) -> RuleSet {
        let destinations: Vec<_> = destinations.iter().map(|a| a.parse().unwrap()).collect();
        RuleSet::new(&destinations, 253, Uid(4001)).unwrap()
    }

    #[test]
    fn every_rule_says_why_it_is_there_and_the_kernel_keeps_all_of_it() {
        let all = chains(&rules(&["169.254.169.254:80", "[fd00:ec2::254]:80"]));
        assert!(all.iter().map(|chain| chain.rules.len()).sum::<usize>() > 20);
        for rule in all.iter().flat_map(|chain| &chain.rules) {
            assert!(!rule.why.is_empty(), "{}", rule.statement);
            assert!(rule.why.len() <= 127, "{}", rule.why);
            assert!(
                rule.why.is_ascii() && !rule.why.contains('"'),
                "{}",
                rule.why
            );
        }
    }

    #[test]
    fn the_table_is_replaced_in_one_transaction() {
        let text = render(&rules(&["169.254.169.254:80"]));
        let commands: Vec<_> = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.starts_with('\t') && !line.is_empty())
            .collect();
        assert_eq!(
            commands,
            [
                "add table inet imdsfw",
                "delete table inet imdsfw",
                "table inet imdsfw {",
                "}"
            ]
        );
    }

    #[test]
    fn the_header_names_every_value() {
        let text = render(&rules(&["169.254.169.254:80", "[fd00:ec2::254]:80"]));
        let header: String = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .collect();
        for value in [
            "169.254.169.254:80",
            "[fd00:ec2::254]:80",
            "[::1]:253",
            "uid 4001",
        ] {
            assert!(header.contains(value), "{header}");
        }
    }

    #[test]
    fn a_family_without_an_address_has_no_rules() {
        let text = render(&rules(&["169.254.169.254:80"]));
        assert!(!text.contains("ip6"), "{text}");
    }
}
