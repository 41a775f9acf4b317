//! Our chains in the kernel: loading, removing and comparing them, by
//! `iptables-save` and `iptables-restore --noflush`.
//!
//! Each table of each family is one transaction, and no more than that.
//!
//! Must never change a rule or chain that is not ours, nor leave a second jump
//! to one of ours.

use std::path::Path;

use super::compare::leftovers;
use super::{Family, MADE_PREFIX, PREFIX, Table, tables};
use crate::config::Backend;
use crate::intercept::model::RuleSet;
use crate::intercept::tool::{InterceptError, Tool};

/// In the order in which `remove` opens them: the redirect goes first.
pub(super) const TABLES: [&str; 3] = ["nat", "filter", "mangle"];

/// Whose tools are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::intercept) enum Variant {
    /// What the machine calls `iptables`.
    Default,
    Legacy,
}

impl Variant {
    /// `None` for a back end that is not iptables.
    pub(in crate::intercept) fn of(backend: Backend) -> Option<Self> {
        match backend {
            Backend::Nft => None,
            Backend::Iptables => Some(Self::Default),
            Backend::IptablesLegacy => Some(Self::Legacy),
        }
    }

    /// Whether this machine has it, and it is not the other one.
    pub(in crate::intercept) fn is_there(self) -> bool {
        match self {
            Self::Default => self.save(Family::V4).is_there(),
            Self::Legacy => {
                self.save(Family::V4).is_there()
                    && Tool::iptables("iptables")
                        .run(&["--version"], "")
                        .map_or(true, |version| version.contains("nf_tables"))
            }
        }
    }

    pub(super) fn name(self, family: Family) -> &'static str {
        match (self, family) {
            (Self::Default, Family::V4) => "iptables",
            (Self::Default, Family::V6) => "ip6tables",
            (Self::Legacy, Family::V4) => "iptables-legacy",
            (Self::Legacy, Family::V6) => "ip6tables-legacy",
        }
    }

    fn save(self, family: Family) -> Tool {
        Tool::iptables(match (self, family) {
            (Self::Default, Family::V4) => "iptables-save",
            (Self::Default, Family::V6) => "ip6tables-save",
            (Self::Legacy, Family::V4) => "iptables-legacy-save",
            (Self::Legacy, Family::V6) => "ip6tables-legacy-save",
        })
    }

    fn restore(self, family: Family) -> Tool {
        Tool::iptables(match (self, family) {
            (Self::Default, Family::V4) => "iptables-restore",
            (Self::Default, Family::V6) => "ip6tables-restore",
            (Self::Legacy, Family::V4) => "iptables-legacy-restore",
            (Self::Legacy, Family::V6) => "ip6tables-legacy-restore",
        })
    }

    pub(super) fn read(self, family: Family) -> Result<Saved, InterceptError> {
        Ok(Saved(self.save(family).run(&[], "")?))
    }

    /// Whole, or not at all. Waits for another one's lock.
    pub(super) fn load(
        self,
        family: Family,
        table: &str,
        commands: &str,
    ) -> Result<(), InterceptError> {
        let script = format!("*{table}\n{commands}COMMIT\n");
        let args = ["--noflush", "--wait", "20"];
        self.restore(family).run(&args, &script).map(drop)
    }

    /// Loads all tables, replacing what an earlier run loaded.
    pub(in crate::intercept) fn apply(self, rules: &RuleSet) -> Result<(), InterceptError> {
        for family in Family::BOTH {
            let wanted = wanted(rules, family);
            if wanted.is_empty() {
                // Left by an earlier config. A family that this machine does
                // not have has none.
                let _ = self.remove_from(family);
                continue;
            }
            let saved = self.read(family)?;
            for table in &wanted {
                let mut commands = replacement(table, &saved.table(table.name));
                for made in self.will_make(family, table) {
                    commands += &format!(":{MADE_PREFIX}{made} - [0:0]\n");
                }
                self.load(family, table.name, &commands)?;
            }
        }
        Ok(())
    }

    /// Our chains as they are, and what leads to them, in the order in which
    /// they are to be loaded: the guards first.
    pub(in crate::intercept) fn dump(self) -> Result<Vec<Dump>, InterceptError> {
        let mut dumps = Vec::new();
        for family in Family::BOTH {
            if family != Family::V4 && !self.save(family).is_there() {
                continue;
            }
            let saved = self.read(family)?;
            for table in TABLES.into_iter().rev() {
                let commands = dumped(&saved.table(table));
                if !commands.is_empty() {
                    dumps.push(Dump {
                        family,
                        table,
                        commands,
                    });
                }
            }
        }
        Ok(dumps)
    }

    /// Loads them again, in the place of what is there by now.
    pub(in crate::intercept) fn load_dumps(self, dumps: &[Dump]) -> Result<(), InterceptError> {
        for dump in dumps {
            let saved = self.read(dump.family)?;
            let commands = removal(&saved.table(dump.table));
            if !commands.is_empty() {
                self.load(dump.family, dump.table, &commands)?;
            }
            self.load(dump.family, dump.table, &dump.commands)?;
        }
        Ok(())
    }

    /// Whether any chain of ours is there.
    pub(in crate::intercept) fn is_loaded(self) -> Result<bool, InterceptError> {
        for family in Family::BOTH {
            match self.read(family) {
                Ok(saved) => {
                    if saved.lines().any(|line| is_ours_declared(line, PREFIX)) {
                        return Ok(true);
                    }
                }
                Err(error) if family == Family::V4 => return Err(error),
                Err(_) => {}
            }
        }
        Ok(false)
    }

    /// Takes our chains out; whether there were any.
    pub(in crate::intercept) fn remove(self) -> Result<bool, InterceptError> {
        let was_loaded = self.is_loaded()?;
        for family in Family::BOTH {
            if family == Family::V4 || self.save(family).is_there() {
                self.remove_from(family)?;
            }
        }
        Ok(was_loaded)
    }

    /// What is not there yet, and would stay without us. Where there is no nft,
    /// nobody sees an empty chain.
    fn will_make(self, family: Family, table: &Table) -> Vec<&'static str> {
        let is_nf_tables = self == Self::Default
            && Tool::iptables("iptables")
                .run(&["--version"], "")
                .is_ok_and(|version| version.contains("nf_tables"));
        if !is_nf_tables {
            return Vec::new();
        }
        let Ok(listing) = Tool::nft().run(&["list", "chains"], "") else {
            return Vec::new();
        };
        let head = format!("table {} {{", nf_table(family, table.name));
        let mut lines = listing.lines().skip_while(|line| *line != head);
        if lines.next().is_none() {
            return table.hooks().chain(["TABLE"]).collect();
        }
        let there: Vec<_> = lines
            .take_while(|line| *line != "}")
            .filter_map(|line| line.trim().strip_prefix("chain ")?.strip_suffix(" {"))
            .collect();
        table.hooks().filter(|hook| !there.contains(hook)).collect()
    }

    fn remove_from(self, family: Family) -> Result<(), InterceptError> {
        let saved = self.read(family)?;
        for name in TABLES {
            let table = saved.table(name);
            let commands = removal(&table);
            if commands.is_empty() {
                continue;
            }
            self.load(family, name, &commands)?;
            let made: Vec<_> = table
                .chains(MADE_PREFIX)
                .filter_map(|chain| chain.strip_prefix(MADE_PREFIX))
                .collect();
            if !made.is_empty() {
                self.unmake(family, name, &made);
            }
        }
        Ok(())
    }

    /// Takes away what we made, if nobody else has come to use it. Should it
    /// fail, something empty stays, which does nothing.
    fn unmake(self, family: Family, name: &str, made: &[&str]) {
        let Ok(saved) = self.read(family) else {
            return;
        };
        let table = saved.table(name);
        let is_unused = |hook: &&&str| {
            let accepts = format!(":{hook} ACCEPT ");
            table.lines.iter().any(|line| line.starts_with(&accepts))
                && table.rules(hook).is_empty()
        };
        let hooks: String = made
            .iter()
            .filter(is_unused)
            .map(|hook| format!("-X {hook}\n"))
            .collect();
        let _ = self.load(family, name, &hooks);
        let table = nf_table(family, name);
        let listed = Tool::nft()
            .run(&["list", "ruleset"], "")
            .unwrap_or_default();
        if made.contains(&"TABLE") && listed.contains(&format!("table {table} {{\n}}\n")) {
            let _ = Tool::nft().run(&["-f", "-"], &format!("delete table {table}\n"));
        }
    }
}

/// The tables to load. On a host without IPv6 nobody reaches a closed address
/// of that family, and there is no ip6tables to say so.
pub(super) fn wanted(rules: &RuleSet, family: Family) -> Vec<Table> {
    let is_served = rules
        .destinations()
        .iter()
        .any(|destination| Family::of(destination.0.ip()) == family);
    let is_there = family == Family::V4 || Path::new("/proc/self/net/if_inet6").exists();
    if is_served || is_there {
        tables(rules, family)
    } else {
        Vec::new()
    }
}

/// What is ours of one table of one family, as commands.
#[derive(Debug)]
pub(in crate::intercept) struct Dump {
    family: Family,
    table: &'static str,
    commands: String,
}

fn dumped(table: &SavedTable) -> String {
    let chains: Vec<_> = table.chains(PREFIX).collect();
    let declared = chains.iter().map(|chain| format!(":{chain} - [0:0]\n"));
    let mut commands: String = declared.collect();
    for chain in &chains {
        for rule in table.rules(chain) {
            commands += &format!("-A {chain} {rule}\n");
        }
    }
    // First of all, as they were; the last one that is put there is first.
    let jumps: Vec<_> = table.jumps(PREFIX).collect();
    for jump in jumps.into_iter().rev() {
        commands += &jump.replacen("-A ", "-I ", 1);
        commands.push('\n');
    }
    commands
}

/// What `iptables-save` printed.
pub(super) struct Saved(String);

impl Saved {
    fn lines(&self) -> impl Iterator<Item = &str> {
        self.0.lines().map(str::trim_end)
    }

    /// The lines between `*NAME` and `COMMIT`.
    pub(super) fn table(&self, name: &str) -> SavedTable<'_> {
        let begin = format!("*{name}");
        let lines = self.lines().skip_while(|line| *line != begin).skip(1);
        SavedTable {
            lines: lines.take_while(|line| *line != "COMMIT").collect(),
        }
    }
}

pub(super) struct SavedTable<'a> {
    pub(super) lines: Vec<&'a str>,
}

impl<'a> SavedTable<'a> {
    pub(super) fn has(&self, chain: &str) -> bool {
        let declaration = format!(":{chain} ");
        self.lines.iter().any(|line| line.starts_with(&declaration))
    }

    /// Names of the chains with this prefix.
    pub(super) fn chains(&self, prefix: &str) -> impl Iterator<Item = &'a str> {
        self.lines
            .iter()
            .filter(move |line| is_ours_declared(line, prefix))
            .filter_map(|line| line.strip_prefix(':')?.split(' ').next())
    }

    /// The rules of a chain, without `-A CHAIN `.
    pub(super) fn rules(&self, chain: &str) -> Vec<&'a str> {
        let head = format!("-A {chain} ");
        let rules = self.lines.iter();
        rules.filter_map(|line| line.strip_prefix(&head)).collect()
    }

    /// Rules of foreign chains that lead to a chain of ours.
    pub(super) fn jumps(&self, prefix: &str) -> impl Iterator<Item = &'a str> {
        let own = format!("-A {prefix}");
        let (jump, goto) = (format!(" -j {prefix}"), format!(" -g {prefix}"));
        self.lines.iter().copied().filter(move |line| {
            line.starts_with("-A ")
                && !line.starts_with(&own)
                && (line.contains(&jump) || line.contains(&goto))
        })
    }
}

/// As nft calls it.
fn nf_table(family: Family, name: &str) -> String {
    match family {
        Family::V4 => format!("ip {name}"),
        Family::V6 => format!("ip6 {name}"),
    }
}

fn is_ours_declared(line: &str, prefix: &str) -> bool {
    line.strip_prefix(':')
        .is_some_and(|name| name.starts_with(prefix))
}

/// What turns a table as it is into one with our rules, and none of an
/// earlier run.
fn replacement(wanted: &Table, now: &SavedTable) -> String {
    let mut commands = wanted.chains_text(PREFIX);
    for jump in now.jumps(PREFIX) {
        commands += &jump.replacen("-A ", "-D ", 1);
        commands += "\n";
    }
    let stale = now.chains(PREFIX).filter(|chain| {
        let is_wanted = |name: &str| wanted.chains.iter().any(|chain| chain.name == name);
        !chain.starts_with(MADE_PREFIX) && !chain.strip_prefix(PREFIX).is_some_and(is_wanted)
    });
    commands += &deletion(stale.collect());
    commands + &wanted.jumps_text()
}

/// What takes everything of ours out of a table.
fn removal(now: &SavedTable) -> String {
    let mut commands = String::new();
    for jump in now.jumps(PREFIX) {
        commands += &jump.replacen("-A ", "-D ", 1);
        commands += "\n";
    }
    let mut chains: Vec<_> = now.chains(PREFIX).collect();
    chains.extend(leftovers(now));
    commands + &deletion(chains)
}

pub(super) fn deletion(chains: Vec<&str>) -> String {
    let flush = chains.iter().map(|chain| format!("-F {chain}\n"));
    let delete = chains.iter().map(|chain| format!("-X {chain}\n"));
    flush.chain(delete).collect()
}
