//! Comparing the rules in the kernel with those that ought to be there.
//!
//! nft prints a rule otherwise than it was written, and each version in its
//! own way. So the expected rules are loaded too, as a dormant table (no hook
//! registered, no packet sees it), and both are compared as the same nft and
//! the same kernel print them. A stored or computed text would call every
//! update of nft a drift.
//!
//! Must never leave that second table behind, nor report less than every
//! difference.

use std::fmt;
use std::path::Path;
use std::process;
use std::sync::atomic::{AtomicU32, Ordering};

use serde::Serialize;

use super::model::RuleSet;
use super::nft::{TABLE, render_dormant};
use super::tool::{self, InterceptError};

/// Names of the tables to compare with: prefix, process id, `_`, a number.
const EXPECTED_PREFIX: &str = "imdsfw_expected_";

/// One difference between the rules loaded and those expected. A changed rule
/// is two: the expected one missing, another unexpected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Drift {
    /// Which way.
    pub kind: DriftKind,
    /// `table inet imdsfw`, or `chain output` and the like within it.
    pub place: String,
    /// The line of that place that differs, as nft prints it in numbers;
    /// `None` when it is the place itself.
    pub line: Option<String>,
}

/// Which way a rule set differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// Expected, and not loaded.
    Missing,
    /// Loaded, and not expected.
    Unexpected,
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DriftKind::Missing => "missing",
            DriftKind::Unexpected => "unexpected",
        };
        match &self.line {
            None => write!(f, "{kind}: {}", self.place),
            Some(line) => write!(f, "{kind}: {}: {line}", self.place),
        }
    }
}

/// Every difference between `rules` and what the kernel holds; none means
/// that the whole rule set is in force as far as our own table goes.
///
/// # Errors
/// [`InterceptError`] when the rules cannot be read: neither good nor drifted.
pub fn verify(rules: &RuleSet) -> Result<Vec<Drift>, InterceptError> {
    let tables = tool::tables()?;
    clear_leftovers(&tables)?;
    if !tables.iter().any(|table| table == TABLE) {
        return Ok(vec![Drift {
            kind: DriftKind::Missing,
            place: format!("table inet {TABLE}"),
            line: None,
        }]);
    }
    let live = tool::list(TABLE)?;
    let expected = Expected::load(rules)?;
    let mut blocks = parse(&tool::list(&expected.name)?);
    drop(expected);
    // What makes it dormant, and is not to be found in the live one.
    for block in &mut blocks {
        if block.place == table_place() {
            block.lines.retain(|line| line != "flags dormant");
        }
    }
    Ok(compare(&blocks, &parse(&live)))
}

/// Deletes tables that a killed `verify` left behind.
pub(super) fn clear_leftovers(tables: &[String]) -> Result<(), InterceptError> {
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

/// `add` first, so that it is no error when somebody else was faster.
fn delete(table: &str) -> Result<(), InterceptError> {
    tool::load(&format!(
        "add table inet {table}\ndelete table inet {table}\n"
    ))
}

/// The expected rules in the kernel, dormant, until dropped.
struct Expected {
    name: String,
}

impl Expected {
    fn load(rules: &RuleSet) -> Result<Self, InterceptError> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{EXPECTED_PREFIX}{}_{}",
            process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        tool::load(&render_dormant(rules, &name))?;
        Ok(Self { name })
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        // Should it fail, the table is without effect, and the next `verify`
        // clears it when this process has ended.
        let _ = delete(&self.name);
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
                if !text.is_empty() {
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

/// In order, because the order of rules is part of what they mean: a line
/// that moved is missing in one place and unexpected in the other.
fn compare_lines(place: &str, expected: &[String], live: &[String], drifts: &mut Vec<Drift>) {
    let mut report = |kind, line: &String| {
        drifts.push(Drift {
            kind,
            place: place.to_owned(),
            line: Some(line.clone()),
        });
    };
    let (mut expected, mut live) = (expected, live);
    loop {
        match (expected, live) {
            ([], []) => return,
            ([want, wanted @ ..], []) => {
                report(DriftKind::Missing, want);
                expected = wanted;
            }
            ([], [have, rest @ ..]) => {
                report(DriftKind::Unexpected, have);
                live = rest;
            }
            ([want, wanted @ ..], [have, rest @ ..]) if want == have => {
                (expected, live) = (wanted, rest);
            }
            ([want, wanted @ ..], [have, rest @ ..]) => {
                // Whichever line is matched sooner is waited for.
                let want_at = live.iter().position(|line| line == want);
                let have_at = expected.iter().position(|line| line == have);
                if have_at.is_none_or(|have_at| want_at.is_some_and(|at| at <= have_at)) {
                    report(DriftKind::Unexpected, have);
                    live = rest;
                } else {
                    report(DriftKind::Missing, want);
                    expected = wanted;
                }
            }
        }
    }
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
