//! Comparing our chains in the kernel with those that ought to be there, and
//! looking for foreign rules ahead of them.
//!
//! Every version of iptables prints rules in its own way. So the expected
//! rules are loaded too, into chains that no packet reaches, and both are
//! compared as the same tool prints them. Must never leave these behind.

use std::net::IpAddr;
use std::path::Path;
use std::process;

use super::foreign::{Packets, Taken, decides};
use super::kernel::{SavedTable, TABLES, Variant, deletion, wanted};
use super::{Chain, Family, MADE_PREFIX, PREFIX, Table};
use crate::intercept::drift::{Drift, DriftKind, compare_lines};
use crate::intercept::model::RuleSet;
use crate::intercept::nft;
use crate::intercept::tool::{InterceptError, Tool};

/// Chains to compare with: this, a process id, `-`, the name.
const EXPECTED_PREFIX: &str = "IMDSFWX";
/// iptables' own place for nat; an nft chain before it decides first.
const BEFORE_NAT: i32 = -101;

impl Variant {
    /// That there are no chains of ours.
    pub(in crate::intercept) fn missing(self) -> Drift {
        Drift {
            kind: DriftKind::Missing,
            place: format!("{} chains {PREFIX}*", self.name(Family::V4)),
            line: None,
        }
    }

    /// Every difference between `rules` and what the kernel holds; `None` where
    /// there are no chains of ours.
    pub(in crate::intercept) fn verify(
        self,
        rules: &RuleSet,
    ) -> Result<Option<Vec<Drift>>, InterceptError> {
        if !self.is_loaded()? {
            return Ok(None);
        }
        let mut drifts = Vec::new();
        for family in Family::BOTH {
            let wanted = wanted(rules, family);
            if wanted.is_empty() {
                if let Ok(saved) = self.read(family) {
                    for name in TABLES {
                        let place = format!("{} {name}", self.name(family));
                        compare_chains(&place, &[], &saved.table(name), &mut drifts);
                    }
                }
                continue;
            }
            let expected = Expected::load(self, family, &wanted)?;
            let saved = self.read(family)?;
            drop(expected);
            for table in &wanted {
                let place = format!("{} {}", self.name(family), table.name);
                let live = saved.table(table.name);
                compare_chains(&place, &table.chains, &live, &mut drifts);
                for hook in table.hooks() {
                    let packets = packets(rules, family, table.name, hook);
                    check_jump(&place, hook, &live, &packets.view(), &mut drifts);
                }
            }
        }
        if Tool::nft().is_there() {
            drifts.extend(nft::kernel::ahead(BEFORE_NAT)?);
        }
        Ok(Some(drifts))
    }
}

fn expected_prefix() -> String {
    format!("{EXPECTED_PREFIX}{}-", process::id())
}

/// The expected rules, in chains of their own until dropped.
struct Expected<'a> {
    variant: Variant,
    family: Family,
    tables: &'a [Table],
}

impl<'a> Expected<'a> {
    fn load(variant: Variant, family: Family, tables: &'a [Table]) -> Result<Self, InterceptError> {
        let expected = Self {
            variant,
            family,
            tables,
        };
        for table in tables {
            variant.load(family, table.name, &table.chains_text(&expected_prefix()))?;
        }
        Ok(expected)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        // Should it fail, they are without effect, and the next `verify` or
        // `remove` clears them when this process has ended.
        let Ok(saved) = self.variant.read(self.family) else {
            return;
        };
        for table in self.tables {
            let chains = leftovers(&saved.table(table.name));
            let _ = self
                .variant
                .load(self.family, table.name, &deletion(chains));
        }
    }
}

fn compare_chains(place: &str, wanted: &[Chain], live: &SavedTable, drifts: &mut Vec<Drift>) {
    let expected = expected_prefix();
    for chain in wanted {
        let name = format!("{PREFIX}{}", chain.name);
        let place = format!("{place} {name}");
        let own = |rules: Vec<&str>| -> Vec<String> {
            let rules = rules.into_iter();
            rules.map(|rule| rule.replace(&expected, PREFIX)).collect()
        };
        let want = own(live.rules(&format!("{expected}{}", chain.name)));
        if live.has(&name) {
            compare_lines(&place, &want, &own(live.rules(&name)), drifts);
        } else {
            drifts.push(Drift {
                kind: DriftKind::Missing,
                place,
                line: None,
            });
        }
    }
    let ours = live.chains(PREFIX);
    for name in ours.filter(|name| !name.starts_with(MADE_PREFIX)) {
        let is_wanted = |short: &str| wanted.iter().any(|chain| chain.name == short);
        if !name.strip_prefix(PREFIX).is_some_and(is_wanted) {
            drifts.push(Drift {
                kind: DriftKind::Unexpected,
                place: format!("{place} {name}"),
                line: None,
            });
        }
    }
}

/// The jump must be there once; what stands before it must not decide.
fn check_jump(
    place: &str,
    hook: &str,
    live: &SavedTable,
    packets: &Packets,
    drifts: &mut Vec<Drift>,
) {
    let is_guard = place.ends_with(" mangle");
    let place = format!("{place} {hook}");
    let jump = format!("-j {PREFIX}{hook}");
    let mut report = |kind, line: &str| {
        drifts.push(Drift {
            kind,
            place: place.clone(),
            line: Some(line.to_owned()),
        });
    };
    let rules = live.rules(hook);
    let at = rules.iter().position(|rule| *rule == jump);
    if at.is_none() {
        report(DriftKind::Missing, &jump);
    }
    let ours = format!("-A {hook} ");
    for line in live
        .jumps(PREFIX)
        .filter_map(|line| line.strip_prefix(&ours))
    {
        if line != jump {
            report(DriftKind::Unexpected, line);
        }
    }
    for _ in rules.iter().filter(|rule| **rule == jump).skip(1) {
        report(DriftKind::Unexpected, &jump);
    }
    for rule in rules.iter().take(at.unwrap_or(0)) {
        match decides(rule, &live.lines, packets) {
            Some(Taken::Accepted) if is_guard => report(DriftKind::Accepted, rule),
            Some(_) => report(DriftKind::Shadowed, rule),
            None => {}
        }
    }
}

/// Which packets the rules of a hook are for.
struct OurPackets {
    to: Vec<IpAddr>,
    port: Option<u16>,
}

impl OurPackets {
    fn view(&self) -> Packets<'_> {
        Packets {
            to: &self.to,
            port: self.port,
        }
    }
}

fn packets(rules: &RuleSet, family: Family, table: &str, hook: &str) -> OurPackets {
    let of_family = |ip: &IpAddr| Family::of(*ip) == family;
    let destination = rules
        .destinations()
        .iter()
        .find(|destination| of_family(&destination.0.ip()));
    // The answers of a listener go to whatever address a client has, and
    // a guard of input is for what was sent elsewhere too.
    if table == "mangle" && (hook == "OUTPUT" || hook == "INPUT") {
        return OurPackets {
            to: Vec::new(),
            port: None,
        };
    }
    let mut to: Vec<IpAddr> = rules.closed().iter().copied().filter(of_family).collect();
    to.extend(destination.map(|destination| destination.0.ip()));
    if table == "nat" {
        let port = destination.map(|destination| destination.0.port());
        let port = port.filter(|_| hook == "OUTPUT");
        return OurPackets { to, port };
    }
    to.extend(destination.map(|destination| rules.listener(*destination).ip()));
    OurPackets { to, port: None }
}

/// Chains that a killed `verify` left behind.
pub(super) fn leftovers<'a>(now: &SavedTable<'a>) -> Vec<&'a str> {
    let has_ended = |chain: &&str| {
        chain
            .strip_prefix(EXPECTED_PREFIX)
            .and_then(|rest| rest.split_once('-'))
            .and_then(|(pid, _)| pid.parse::<u32>().ok())
            .is_some_and(|pid| {
                pid == process::id() || !Path::new("/proc").join(pid.to_string()).exists()
            })
    };
    now.chains(EXPECTED_PREFIX).filter(has_ended).collect()
}
