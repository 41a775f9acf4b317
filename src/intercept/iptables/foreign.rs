//! Other people's rules ahead of ours: which of them may decide about packets
//! that ours are for.
//!
//! Must never call a rule harmless that it does not understand; what is not
//! plainly about other packets counts.

use std::net::IpAddr;

/// How deep chains are followed; the kernel refuses loops.
const DEPTH: usize = 16;

/// What a rule that may be first does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Packets leave the table, past our rules in it.
    Accepted,
    /// They are sent elsewhere, or something unknown.
    Otherwise,
}

/// The packets a hook's rules are for.
#[derive(Debug)]
pub(super) struct Packets<'a> {
    /// Their possible destinations; none where their destination is unknown.
    pub(super) to: &'a [IpAddr],
    /// The port, where the rules are for one.
    pub(super) port: Option<u16>,
}

/// What this rule, or one it leads to, may do with such packets. `table` is
/// the whole table as `iptables-save` prints it.
pub(super) fn decides(rule: &str, table: &[&str], packets: &Packets) -> Option<Taken> {
    follow(rule, table, packets, DEPTH)
}

fn follow(rule: &str, table: &[&str], packets: &Packets, depth: usize) -> Option<Taken> {
    let rule = Rule::parse(rule);
    if rule.is_about_others(packets) {
        return None;
    }
    let (_, target) = rule.option("-j").or_else(|| rule.option("-g"))?;
    match target {
        "ACCEPT" | "QUEUE" | "NFQUEUE" | "TPROXY" => Some(Taken::Accepted),
        // In the hook's own chain it means the chain's policy.
        "RETURN" => (depth == DEPTH).then_some(Taken::Accepted),
        // These end a packet before ours as they would behind them.
        "DROP" | "REJECT" => None,
        "AUDIT" | "CHECKSUM" | "CLASSIFY" | "CONNMARK" | "CONNSECMARK" | "CT" | "DSCP" | "HL"
        | "HMARK" | "IDLETIMER" | "LED" | "LOG" | "MARK" | "NFLOG" | "RATEEST" | "SECMARK"
        | "SET" | "TCPMSS" | "TCPOPTSTRIP" | "TEE" | "TOS" | "TRACE" | "TTL" | "ULOG" => None,
        chain if is_chain(chain, table) => {
            let Some(deeper) = depth.checked_sub(1) else {
                return Some(Taken::Otherwise);
            };
            let head = format!("-A {chain} ");
            table
                .iter()
                .filter(|rule| rule.starts_with(&head))
                .find_map(|rule| follow(rule, table, packets, deeper))
        }
        _ => Some(Taken::Otherwise),
    }
}

fn is_chain(name: &str, table: &[&str]) -> bool {
    let declaration = format!(":{name} ");
    table.iter().any(|line| line.starts_with(&declaration))
}

/// The words of a rule, quoted ones left out: what a comment says is no test.
struct Rule(Vec<String>);

impl Rule {
    fn parse(rule: &str) -> Self {
        let mut unquoted = String::new();
        let mut is_quoted = false;
        let mut chars = rule.chars();
        while let Some(c) = chars.next() {
            match c {
                '\\' => {
                    let _ = chars.next();
                }
                '"' => is_quoted = !is_quoted,
                c if !is_quoted => unquoted.push(c),
                _ => {}
            }
        }
        Self(unquoted.split_whitespace().map(str::to_owned).collect())
    }

    /// Whether the option is negated, and the word behind it.
    fn option(&self, option: &str) -> Option<(bool, &str)> {
        let at = self.0.iter().position(|word| word == option)?;
        let before = at.checked_sub(1).and_then(|at| self.0.get(at));
        let value = self.0.get(at + 1)?;
        Some((before.is_some_and(|word| word == "!"), value))
    }

    /// Whether a test that we understand lets none of our packets through.
    fn is_about_others(&self, packets: &Packets) -> bool {
        let other_address = self.option("-d").is_some_and(|(negated, net)| {
            !packets.to.is_empty()
                && packets.to.iter().all(|ip| match contains(net, *ip) {
                    Some(contained) => contained == negated,
                    None => false,
                })
        });
        let Some(port) = packets.port else {
            return other_address;
        };
        let other_port = self.option("--dport").is_some_and(|(negated, theirs)| {
            theirs
                .parse::<u16>()
                .is_ok_and(|theirs| (theirs == port) == negated)
        });
        // A metadata address is no address of this host's.
        let local_alone = self.option("--dst-type") == Some((false, "LOCAL"));
        other_address || other_port || local_alone
    }
}

/// Whether `net`, such as `10.0.0.0/8`, contains `ip`; `None` where that is
/// not understood.
fn contains(net: &str, ip: IpAddr) -> Option<bool> {
    let (base, length) = match net.split_once('/') {
        Some((base, length)) => (base, Some(length.parse::<u32>().ok()?)),
        None => (net, None),
    };
    // Both as the upper bits of 128.
    let bits = |ip| match ip {
        IpAddr::V4(v4) => u128::from(u32::from(v4)) << 96,
        IpAddr::V6(v6) => u128::from(v6),
    };
    let base: IpAddr = base.parse().ok()?;
    let (whole, same_family) = (
        if ip.is_ipv4() { 32 } else { 128 },
        ip.is_ipv4() == base.is_ipv4(),
    );
    let differing = bits(base) ^ bits(ip);
    Some(same_family && differing.leading_zeros() >= length.unwrap_or(whole).min(128))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of a packet for the service, port 80.
    fn taken(rules: &[&str]) -> Option<Taken> {
        let service = ["169.254.169.254".parse().unwrap()];
        let packets = Packets {
            to: &service,
            port: Some(80),
        };
        decides(rules[0], rules, &packets)
    }

    #[test]
    fn what_may_decide_about_our_packets_is_found() {
        for (rules, how) in [
            (&["-A OUTPUT -o lo -j ACCEPT"][..], Taken::Accepted),
            (&["-A OUTPUT -d 169.254.0.0/16 -j ACCEPT"], Taken::Accepted),
            (&["-A OUTPUT ! -d 10.0.0.0/8 -j RETURN"], Taken::Accepted),
            (
                &["-A OUTPUT -p tcp -j DNAT --to-destination 10.0.0.1"],
                Taken::Otherwise,
            ),
            (
                &["-A OUTPUT -m comment --comment \"a -d 10.0.0.1 b\" -j ACCEPT"],
                Taken::Accepted,
            ),
            (
                &[
                    "-A OUTPUT -j MINE",
                    ":MINE - [0:0]",
                    ":DEEPER - [0:0]",
                    "-A MINE -j DEEPER",
                    "-A DEEPER -j ACCEPT",
                ],
                Taken::Accepted,
            ),
            (
                &["-A OUTPUT -p tcp -m tcp ! --dport 443 -j REDIRECT --to-ports 1"],
                Taken::Otherwise,
            ),
        ] {
            assert_eq!(taken(rules), Some(how), "{rules:?}");
        }
    }

    #[test]
    fn what_is_plainly_about_other_packets_is_not() {
        for rules in [
            &["-A OUTPUT -d 10.0.0.0/8 -j ACCEPT"][..],
            &["-A OUTPUT ! -d 169.254.169.254/32 -j ACCEPT"],
            &["-A OUTPUT -j LOG --log-prefix \"x -j ACCEPT\""],
            &["-A OUTPUT -j MARK --set-xmark 0x1/0x1"],
            &["-A OUTPUT -j DROP"],
            &["-A OUTPUT -j EMPTY", ":EMPTY - [0:0]"],
            &["-A OUTPUT -j MINE", ":MINE - [0:0]", "-A MINE -j RETURN"],
            // Docker's, with a published port.
            &[
                "-A OUTPUT ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j DOCKER",
                "-A DOCKER ! -i docker0 -p tcp -m tcp --dport 80 -j DNAT --to-destination 172.17.0.2:80",
            ],
            // kube-proxy's.
            &[
                "-A OUTPUT -m comment --comment \"kubernetes service portals\" -j KUBE-SERVICES",
                ":KUBE-SERVICES - [0:0]",
                "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment \"default/kubernetes:https cluster IP\" -m tcp --dport 443 -j KUBE-SVC-NPX46M4PTMTKRN6Y",
                "-A KUBE-SERVICES -m comment --comment \"kubernetes service nodeports\" -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",
                "-A KUBE-NODEPORTS -j ACCEPT",
            ],
        ] {
            assert_eq!(taken(rules), None, "{rules:?}");
        }
    }

    #[test]
    fn a_network_contains_its_addresses() {
        let ip = |text: &str| text.parse().unwrap();
        for (net, address, contained) in [
            ("0.0.0.0/0", "169.254.169.254", Some(true)),
            ("169.254.169.254", "169.254.169.254", Some(true)),
            ("169.254.169.255/32", "169.254.169.254", Some(false)),
            ("169.254.169.255/31", "169.254.169.254", Some(true)),
            ("::/0", "fd00:ec2::254", Some(true)),
            ("fd00:ec2::/32", "fd00:ec2::254", Some(true)),
            ("fd00:ec3::/32", "fd00:ec2::254", Some(false)),
            ("169.254.0.0/255.255.0.0", "169.254.169.254", None),
        ] {
            assert_eq!(contains(net, ip(address)), contained, "{net}");
        }
    }
}
