//! Text → rules → verdict. Pure: knows no file, clock or runtime.
//!
//! A policy with any error is refused whole; absence and unknown are errors
//! or denials here, never "any".

mod decide;
mod draft;
mod filter;
mod hash;
mod index;
mod names;
mod narrow;
mod pattern;
mod principal;
mod proof;
mod rule;
mod rules;
mod sets;
mod subject;
mod trace;
mod verdict;
mod warn;

#[cfg(test)]
mod tests;

use std::sync::Arc;

pub use draft::{Draft, KEYS};
pub use filter::PathFilter;
pub use names::Name;
pub use proof::{Case, Proof};
pub use subject::{
    Account, AccountFacts, Group, Login, Obscured, Origin, Program, Query, Subject, Unit,
};
pub use trace::{Step, Why};
pub use verdict::{Action, DenyCause, Unknown, Verdict};

use crate::diagnose::{Diagnostics, Place, Source};
use crate::provider::Provider;
use index::Index;
use names::Names;
use rule::Rule;

/// Rules whose own tests have passed. The only thing that gives verdicts.
#[derive(Debug)]
pub struct Policy {
    default: Action,
    rules: Vec<Rule>,
    names: Names,
    index: Index,
    hash: Arc<str>,
}

impl Policy {
    /// Reads the files as one policy and runs their tests. `None` when `found`
    /// holds any error, also one from the reading of the files: no policy is
    /// made of what is left of another. Warnings are recorded either way.
    pub fn parse(
        sources: &[Arc<Source>],
        provider: Provider,
        default: Action,
        found: &mut Diagnostics,
    ) -> Option<Self> {
        Draft::parse(sources, provider, default, found)?.prove(found)
    }

    /// This policy with the rules of other files ahead of its own, such as
    /// grants. Its hash and its tests are of the policy alone.
    pub fn behind(
        &self,
        ahead: &[Arc<Source>],
        sources: &[Arc<Source>],
        provider: Provider,
        default: Action,
        found: &mut Diagnostics,
    ) -> Option<Self> {
        let all: Vec<_> = ahead.iter().chain(sources).cloned().collect();
        let hash = Arc::clone(&self.hash);
        Some(Draft::parse(&all, provider, default, found)?.unproved(hash))
    }

    /// `sha256:…` over what the rules mean: every set expanded, the default
    /// and the definition of the classes included; comments, tests and the
    /// spreading over files not.
    pub fn hash(&self) -> &Arc<str> {
        &self.hash
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.rules.len()
    }

    /// Whether the default alone decides.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether any rule lets requests without a token pass.
    pub fn bridges_imdsv1(&self) -> bool {
        self.rules.iter().any(|rule| rule.imdsv1)
    }

    /// Where the rule of that name stands.
    pub fn place_of(&self, rule: &str) -> Option<&Place> {
        let rule = self.rules.iter().find(|other| &*other.name == rule)?;
        Some(&rule.place)
    }
}
