//! The table in the kernel: loading, removing and comparing it.
//!
//! nft prints a rule otherwise than it was written, and each version in its
//! own way. So the expected rules are loaded too, as a dormant table (no hook
//! registered, no packet sees it), and both are compared as the same nft and
//! the same kernel print them. A stored or computed text would call every
//! update of nft a drift.
//!
//! Must never leave that second table behind, nor change a table that is not
//! ours.

use std::panic::resume_unwind;
use std::path::Path;
use std::process::{self, Child};
use std::sync::atomic::{AtomicU32, Ordering};

use super::{NAT_FIRST, TABLE, is_count, render, render_dormant};
use crate::intercept::Hurry;
use crate::intercept::drift::{Drift, DriftKind, compare_lines};
use crate::intercept::model::RuleSet;
use crate::intercept::tool::{InterceptError, Tool};

/// Names of the tables to compare with: prefix, process id, `_`, a number.
const EXPECTED_PREFIX: &str = "imdsfw_expected_";

/// Replaces the table in one transaction.
pub(in crate::intercept) fn apply(rules: &RuleSet) -> Result<(), InterceptError> {
    load(&render(rules))
}

/// Whether there is a table of ours.
pub(in crate::intercept) fn is_loaded() -> Result<bool, InterceptError> {
    Ok(tables()?.iter().any(|table| table == TABLE))
}

/// Deletes the table; whether there was one.
pub(in crate::intercept) fn remove() -> Result<bool, InterceptError> {
    let tables = tables()?;
    clear_leftovers(&tables)?;
    if !tables.iter().any(|table| table == TABLE) {
        return Ok(false);
    }
    delete(TABLE)?;
    Ok(true)
}

/// The table as it is, without what it has counted, and all in numbers.
pub(in crate::intercept) fn dump() -> Result<String, InterceptError> {
    Tool::nft().run(&["-s", "-n", "-t", "list", "table", "inet", TABLE], "")
}

/// Loads it again, in one transaction.
pub(in crate::intercept) fn load_dump(dump: &str) -> Result<(), InterceptError> {
    load(&format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\n{dump}"
    ))
}

/// Every difference between `rules` and what the kernel holds, and what was
/// loaded to compare with, on its way out. `None` where there is no table of
/// ours.
pub(in crate::intercept) fn verify(
    rules: &RuleSet,
    hurry: Hurry,
) -> Result<Option<(Vec<Drift>, Expected)>, InterceptError> {
    let (here, expected) = match hurry {
        Hurry::ToRestore => match Here::look()? {
            Some(here) => (here, Expected::load(rules)?),
            None => return Ok(None),
        },
        Hurry::ToServe => {
            // The kernel takes its time over a change, which is nobody's
            // processor's.
            let (here, expected) = std::thread::scope(|scope| {
                let here = scope.spawn(Here::look);
                let expected = Expected::load(rules);
                (here.join().unwrap_or_else(|it| resume_unwind(it)), expected)
            });
            match here? {
                Some(here) => (here, expected?),
                None => return Ok(None),
            }
        }
    };
    compare_with(here, expected).map(Some)
}

fn compare_with(
    Here { live, ahead }: Here,
    mut expected: Expected,
) -> Result<(Vec<Drift>, Expected), InterceptError> {
    let mut blocks = parse(&list(&expected.name)?);
    expected.go();
    // What makes it dormant, and is not to be found in the live one.
    for block in &mut blocks {
        if block.place == table_place() {
            block.lines.retain(|line| line != "flags dormant");
        }
    }
    let mut drifts = compare(&blocks, &parse(&live));
    drifts.extend(ahead);
    Ok((drifts, expected))
}

/// That there is none.
pub(in crate::intercept) fn missing() -> Drift {
    Drift {
        kind: DriftKind::Missing,
        place: table_place(),
        line: None,
    }
}

/// What the kernel holds.
struct Here {
    /// Our table.
    live: String,
    ahead: Vec<Drift>,
}

impl Here {
    fn look() -> Result<Option<Self>, InterceptError> {
        // Asked at once: each start of nft takes longer than its answer.
        let both = Tool::nft().run(&["-n", "list tables inet; list chains"], "")?;
        let tables = table_names(&both);
        clear_leftovers(&tables)?;
        if !tables.iter().any(|table| table == TABLE) {
            return Ok(None);
        }
        Ok(Some(Self {
            live: list(TABLE)?,
            ahead: ahead_in(&both, NAT_FIRST),
        }))
    }
}

/// Foreign nat chains that see what this host sends no later than a chain of
/// this priority does: of two with the same, the one loaded last is first.
pub(in crate::intercept) fn ahead(priority: i32) -> Result<Vec<Drift>, InterceptError> {
    let listing = Tool::nft().run(&["-n", "list", "chains"], "")?;
    Ok(ahead_in(&listing, priority))
}

fn ahead_in(listing: &str, priority: i32) -> Vec<Drift> {
    let mut drifts = Vec::new();
    let (mut table, mut chain) = ("", "");
    for line in listing.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("table ") {
            table = name.trim_end_matches(" {");
        } else if let Some(name) = line.strip_prefix("chain ") {
            chain = name.trim_end_matches(" {");
        } else if is_nat_output_by(line, priority) && !is_ours(table) {
            drifts.push(Drift {
                kind: DriftKind::Shadowed,
                place: format!("table {table} chain {chain}"),
                line: Some(line.to_owned()),
            });
        }
    }
    drifts
}

fn is_nat_output_by(line: &str, priority: i32) -> bool {
    line.strip_prefix("type nat hook output priority ")
        .and_then(|rest| rest.split(';').next())
        .and_then(|number| number.trim().parse::<i32>().ok())
        .is_some_and(|theirs| theirs <= priority)
}

fn is_ours(table: &str) -> bool {
    table
        .strip_prefix("inet ")
        .is_some_and(|name| name == TABLE || name.starts_with(EXPECTED_PREFIX))
}

/// Loads a script in one transaction.
fn load(script: &str) -> Result<(), InterceptError> {
    Tool::nft().run(&["-f", "-"], script).map(drop)
}

/// A table of ours as nft prints it, without counters (`-s`) and all in
/// numbers (`-n`), so that no services file or account database plays a part.
fn list(table: &str) -> Result<String, InterceptError> {
    Tool::nft().run(&["-s", "-n", "list", "table", "inet", table], "")
}

/// The names of all tables of family inet.
fn tables() -> Result<Vec<String>, InterceptError> {
    let listing = Tool::nft().run(&["list", "tables", "inet"], "")?;
    Ok(table_names(&listing))
}

/// Where a table's chains are listed as well, its name stands before a brace.
fn table_names(listing: &str) -> Vec<String> {
    let lines = listing.lines().filter(|line| !line.ends_with('{'));
    lines
        .filter_map(|line| line.strip_prefix("table inet "))
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Deletes tables that a killed `verify` left behind.
fn clear_leftovers(tables: &[String]) -> Result<(), InterceptError> {
    tables
        .iter()
        .filter(|table| is_leftover(table))
        .try_for_each(|table| delete(table))
}

fn is_leftover(table: &str) -> bool {
    table
        .strip_prefix(EXPECTED_PREFIX)
        .and_then(|rest| rest.split_once('_'))
        .and_then(|(pid, _)| pid.parse::<u32>().ok())
        .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
}

fn delete(table: &str) -> Result<(), InterceptError> {
    load(&deletion(table))
}

/// `add` first: the table may have gone since it was listed, and deleting an
/// absent one is an error.
fn deletion(table: &str) -> String {
    format!("add table inet {table}\ndelete table inet {table}\n")
}

/// The expected rules in the kernel, dormant, until dropped.
#[derive(Debug)]
pub(in crate::intercept) struct Expected {
    name: String,
    leaving: Leaving,
}

#[derive(Debug)]
enum Leaving {
    NotAsked,
    Asked(Option<Child>),
}

impl Expected {
    fn load(rules: &RuleSet) -> Result<Self, InterceptError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{EXPECTED_PREFIX}{}_{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        load(&render_dormant(rules, &name))?;
        let leaving = Leaving::NotAsked;
        Ok(Self { name, leaving })
    }

    /// Takes them out, which takes longer than to ask for it.
    fn go(&mut self) {
        // Should it fail, the table is without effect, and the next `verify`
        // clears it when this process has ended.
        let started = Tool::nft().start(&["-f", "-"], &deletion(&self.name));
        self.leaving = Leaving::Asked(started.ok());
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if matches!(self.leaving, Leaving::NotAsked) {
            self.go();
        }
        if let Leaving::Asked(Some(nft)) = &mut self.leaving {
            let _ = nft.wait();
        }
    }
}

/// A chain (or set, map, ...) of a table, or the table's own lines.
#[derive(Debug, PartialEq, Eq)]
struct Block {
    place: String,
    lines: Vec<String>,
}

fn table_place() -> String {
    format!("table inet {TABLE}")
}

/// Takes a listing apart by its indentation, which comments cannot forge.
fn parse(listing: &str) -> Vec<Block> {
    let mut table = Block {
        place: table_place(),
        lines: Vec::new(),
    };
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for line in listing.lines() {
        match (open.take(), line.strip_prefix('\t')) {
            // The table's first and last line, and empty ones between chains.
            (None, None) => {}
            (None, Some(inner)) => match inner.strip_suffix(" {") {
                Some(head) => {
                    open = Some(Block {
                        place: head.to_owned(),
                        lines: Vec::new(),
                    });
                }
                None => table.lines.push(inner.trim().to_owned()),
            },
            (Some(block), Some("}")) => blocks.push(block),
            (Some(mut block), _) => {
                let text = line.trim();
                if !text.is_empty() && !is_count(&block.place, text) {
                    block.lines.push(text.to_owned());
                }
                open = Some(block);
            }
        }
    }
    blocks.extend(open);
    blocks.push(table);
    blocks
}

fn compare(expected: &[Block], live: &[Block]) -> Vec<Drift> {
    let find = |blocks: &[Block], place: &str| blocks.iter().any(|block| block.place == place);
    let mut drifts = Vec::new();
    for block in expected {
        match live.iter().find(|other| other.place == block.place) {
            Some(other) => compare_lines(&block.place, &block.lines, &other.lines, &mut drifts),
            None => report_block(DriftKind::Missing, block, &mut drifts),
        }
    }
    for block in live.iter().filter(|block| !find(expected, &block.place)) {
        report_block(DriftKind::Unexpected, block, &mut drifts);
    }
    drifts
}

fn report_block(kind: DriftKind, block: &Block, drifts: &mut Vec<Drift>) {
    drifts.push(Drift {
        kind,
        place: block.place.clone(),
        line: None,
    });
    drifts.extend(block.lines.iter().map(|line| Drift {
        kind,
        place: block.place.clone(),
        line: Some(line.clone()),
    }));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(chain: &[&str]) -> Vec<Block> {
        let rules: String = chain.iter().map(|rule| format!("\t\t{rule}\n")).collect();
        parse(&format!(
            "table inet imdsfw {{\n\tchain output {{\n{rules}\t}}\n}}\n"
        ))
    }

    fn drift(expected: &[&str], live: &[&str]) -> Vec<String> {
        compare(&listing(expected), &listing(live))
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn every_difference_is_named_and_nothing_else() {
        let none: [&str; 0] = [];
        assert_eq!(drift(&["a", "b", "c"], &["a", "b", "c"]), none);
        assert_eq!(
            drift(&["a", "b", "c"], &["a", "c"]),
            ["missing: chain output: b"]
        );
        assert_eq!(
            drift(&["a", "b"], &["a", "x", "b", "y"]),
            ["unexpected: chain output: x", "unexpected: chain output: y"]
        );
        assert_eq!(
            drift(&["a", "b", "c"], &["a", "B", "c"]),
            ["unexpected: chain output: B", "missing: chain output: b"]
        );
        assert_eq!(
            drift(&["a", "b"], &["b", "a"]),
            ["unexpected: chain output: b", "missing: chain output: b"]
        );
        assert_eq!(
            drift(&["a", "b", "c", "d"], &["d", "a", "b", "c"]),
            ["unexpected: chain output: d", "missing: chain output: d"]
        );
        assert_eq!(
            drift(&["a", "b"], &["a", "a", "b"]),
            ["unexpected: chain output: a"]
        );
    }

    #[test]
    fn chains_sets_and_table_flags_count_too() {
        let expected = parse("table inet imdsfw {\n\tchain a {\n\t\tx\n\t}\n}\n");
        let live = parse(
            "table inet imdsfw {\n\tflags dormant\n\n\tset s {\n\t\ttype ipv4_addr\n\
             \t\telements = { 10.0.0.1,\n\t\t\t     10.0.0.2 }\n\t}\n}\n",
        );
        let drifts: Vec<_> = compare(&expected, &live)
            .iter()
            .map(ToString::to_string)
            .collect();
        for line in [
            "missing: chain a",
            "missing: chain a: x",
            "unexpected: set s",
            "unexpected: table inet imdsfw: flags dormant",
        ] {
            assert!(
                drifts.iter().any(|drift| drift == line),
                "{line}: {drifts:?}"
            );
        }
    }

    #[test]
    fn scripts_read_kind_place_and_line() {
        let drifts = compare(&listing(&["a"]), &listing(&[]));
        assert_eq!(
            serde_json::to_string(&drifts).unwrap(),
            r#"[{"kind":"missing","place":"chain output","line":"a"}]"#
        );
    }

    #[test]
    fn a_comment_cannot_end_a_chain() {
        let blocks = listing(&["accept comment \"\t} {\"", "drop"]);
        assert_eq!(
            blocks.first().map(|block| block.lines.len()),
            Some(2),
            "{blocks:?}"
        );
    }

    #[test]
    fn only_tables_of_ended_processes_are_leftovers() {
        assert!(!is_leftover(&format!(
            "imdsfw_expected_{}_0",
            process::id()
        )));
        // Above any pid that the kernel gives (2^22).
        assert!(is_leftover("imdsfw_expected_4194999_0"));
        for foreign in [
            "imdsfw",
            "imdsfw_expected_",
            "imdsfw_expected_x_0",
            "filter",
        ] {
            assert!(!is_leftover(foreign), "{foreign}");
        }
    }
}
