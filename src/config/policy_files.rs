//! From the policy directories to the policy that would be in force.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Config;
use super::trusted::{self, Reading, Replacement};
use crate::diagnose::{Diagnostics, Place, Source};
use crate::policy::{Action, Policy};
use crate::sorted;

/// A policy, and the files that say the same again when read again.
#[derive(Debug)]
pub struct LoadedPolicy {
    /// What gives verdicts.
    pub policy: Policy,
    /// In the order they were read.
    pub sources: Vec<Arc<Source>>,
}

/// Reads the policy that the files say should be in force. `None` when any
/// error was recorded, in whatever file; warnings are recorded either way.
pub fn load_policy(config: &Config, found: &mut Diagnostics) -> Option<LoadedPolicy> {
    let sources = read_policy(config, &[], found);
    let policy = Policy::parse(&sources, config.provider, config.policy.default, found)?;
    Some(LoadedPolicy { policy, sources })
}

/// The policy that was called by this hash, where it is still known: it is
/// what the files on disk say now.
pub fn policy_by_hash(config: &Config, hash: &str) -> Option<Policy> {
    let now = load_policy(config, &mut Diagnostics::new())?.policy;
    (**now.hash() == *hash).then_some(now)
}

/// Every policy file in force, ordered by file name: the same name in a later
/// directory replaces the earlier file. What is wrong is recorded; files are
/// then missing here, and the same `found` keeps a policy from being made of
/// the rest.
pub fn read_policy(
    config: &Config,
    replacements: &[Replacement],
    found: &mut Diagnostics,
) -> Vec<Arc<Source>> {
    let mut layered = BTreeMap::new();
    for directory in &config.policy.directories {
        layered.extend(trusted::read_directory(directory, replacements, found));
    }
    if layered.is_empty() && !found.has_errors() {
        let directories: Vec<_> = config
            .policy
            .directories
            .iter()
            .map(|it| it.to_string_lossy())
            .collect();
        let effect = match config.policy.default {
            Action::Deny => "everyone is denied, root included",
            Action::Allow => "everyone may read everything, as `default` says",
        };
        found.warning(
            Place::of_file(directories.last().cloned().unwrap_or_default()),
            format!("no *.toml in {}", directories.join(", ")),
            effect,
        );
    }
    layered.into_values().collect()
}

/// The named files, whatever their names, in the order that they would have
/// when installed.
pub fn read_policy_files(files: &[PathBuf], found: &mut Diagnostics) -> Vec<Arc<Source>> {
    let mut files: Vec<_> = files.iter().collect();
    sorted::by_key(&mut files, |file| file.file_name());
    files
        .into_iter()
        .filter_map(|file| match trusted::read(file, &[], found) {
            Reading::Text(source) => Some(source),
            Reading::Absent => {
                found.error(
                    Place::of_file(file.to_string_lossy()),
                    "there is no such file",
                    "expected a policy file",
                );
                None
            }
            Reading::Refused => None,
        })
        .collect()
}
