//! Rules that have been read, before their tests have spoken for them.

use std::sync::Arc;

use super::index::Index;
use super::rules::{self, RuleReader};
use super::sets::{ITEM, Sets};
use super::{Action, Case, Name, Policy, Proof, hash, proof, warn};
use crate::diagnose::schema::{Key, Shape};
use crate::diagnose::toml::Table;
use crate::diagnose::{Diagnostics, Place, Source, toml};
use crate::provider::Provider;

/// What a policy file may say.
pub const KEYS: &[Key] = &[
    Key::new(
        "schema",
        Shape::Integer(1, 1),
        "The version of this language",
    ),
    Key::new(
        "paths",
        Shape::Names("^[A-Za-z0-9_-]+$", &Shape::List(1, &ITEM)),
        "Named sets of paths, used as @name",
    ),
    Key::new(
        "rule",
        Shape::Tables(rules::KEYS),
        "The first that matches decides",
    ),
    Key::new(
        "test",
        Shape::Tables(proof::KEYS),
        "What must hold, or the policy is refused",
    ),
];

/// A policy without errors whose tests have yet to run.
#[derive(Debug)]
pub struct Draft {
    policy: Policy,
    cases: Vec<Case>,
}

impl Draft {
    /// Reads the files as one policy, in their order. `None` when `found`
    /// holds any error; warnings are recorded either way.
    pub fn parse(
        sources: &[Arc<Source>],
        provider: Provider,
        default: Action,
        found: &mut Diagnostics,
    ) -> Option<Self> {
        let trees: Vec<_> = sources
            .iter()
            .map(|source| (source, toml::parse(source, found)))
            .collect();
        let files: Vec<_> = trees
            .iter()
            .filter_map(|(source, tree)| Some(Table::root(source, tree.as_ref()?)))
            .collect();
        let mut sets = Sets::new(provider, files.len() < sources.len(), found);
        for file in &files {
            file.refuse_unknown(KEYS, found);
            file.check_schema(found);
            let paths = file
                .get("paths")
                .and_then(|node| node.table("expected the table [paths]", found));
            if let Some(paths) = paths {
                sets.define(&paths, found);
            }
        }
        sets.resolve(found);
        let mut reader = RuleReader::new(&sets);
        let mut cases = Vec::new();
        for file in &files {
            for rule in tables(file, "rule", found) {
                reader.read(&rule, found);
            }
            for test in tables(file, "test", found) {
                cases.extend(Case::read(&test, provider, found));
            }
        }
        let RuleReader { rules, names, .. } = reader;
        warn::warn(&rules, provider, found);
        let policy = Policy {
            default,
            index: Index::new(&rules),
            hash: hash::hash(&rules, &names, provider, default).into(),
            rules,
            names,
        };
        (!found.has_errors()).then_some(Self { policy, cases })
    }

    /// Every account, group and group number that a rule names, and where it
    /// is named first.
    pub fn mentions(&self) -> impl Iterator<Item = (&Name, &Place)> {
        self.policy.names.iter()
    }

    /// Every test, and what came of it.
    pub fn proofs(&self) -> impl Iterator<Item = (&Case, Proof)> {
        self.cases.iter().map(|case| (case, case.run(&self.policy)))
    }

    /// The rules under the name of the policy that they stand ahead of.
    pub(super) fn unproved(self, hash: Arc<str>) -> Policy {
        Policy {
            hash,
            ..self.policy
        }
    }

    /// The policy, if every test passes; each that fails is an error.
    pub fn prove(self, found: &mut Diagnostics) -> Option<Policy> {
        let mut passed = true;
        for (case, proof) in self.proofs().filter(|(_, proof)| !proof.passed) {
            passed = false;
            found.error(
                case.place.clone(),
                format!("this test fails: {}", case.request()),
                format!(
                    "expected {}, got {} {}",
                    word(case.expect),
                    word(proof.got),
                    proof.why
                ),
            );
        }
        passed.then_some(self.policy)
    }
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Allow => "allow",
        Action::Deny => "deny",
    }
}

fn tables<'a>(file: &Table<'a>, key: &str, found: &mut Diagnostics) -> Vec<Table<'a>> {
    let expected = format!("expected [[{key}]], in double brackets");
    file.get(key)
        .map(|node| node.tables(&expected, found))
        .unwrap_or_default()
}
