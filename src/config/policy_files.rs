//! From the policy directories to the policy that would be in force.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::Config;
use super::trusted::{self, Reading, Replacement};
use crate::diagnose::{Diagnostics, Place, Source};

/// Every policy file in force, ordered by file name: the same name in a later
/// directory replaces the earlier file. What is wrong is recorded; files are
/// then missing here, and no policy may be made of the rest.
pub fn read_policy(
    config: &Config,
    replacements: &[Replacement],
    found: &mut Diagnostics,
) -> Vec<Arc<Source>> {
    let mut layered = BTreeMap::new();
    for directory in &config.policy.directories {
        layered.extend(trusted::read_directory(directory, replacements, found));
    }
    layered.into_values().collect()
}

/// The named files, whatever their names, in the order that they would have
/// when installed.
pub fn read_policy_files(files: &[PathBuf], found: &mut Diagnostics) -> Vec<Arc<Source>> {
    let mut files: Vec<_> = files.iter().collect();
    files.sort_by_key(|file| file.file_name());
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
