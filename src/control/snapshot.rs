//! The last good policy, and the one before it, as their files were.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::state::{StateError, Store};
use crate::config::{Action, LoadedPolicy};
use crate::diagnose::{Diagnostics, Source};
use crate::policy::Policy;
use crate::provider::Provider;
use crate::utc;

const LAST: &str = "policy.json";
const BEFORE: &str = "policy.before.json";

/// A policy that was in force.
#[derive(Debug, Serialize, Deserialize)]
pub struct Snapshot {
    schema: u32,
    /// Its hash then.
    pub policy: String,
    /// When it came into force.
    pub since: String,
    default: Action,
    files: Vec<Copied>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Copied {
    name: String,
    text: String,
}

impl Snapshot {
    /// Of what is in force from now on.
    pub(super) fn new(policy: &Policy, sources: &[Arc<Source>], default: Action) -> Self {
        let files = sources.iter().map(|source| Copied {
            name: source.name().to_owned(),
            text: source.text().to_owned(),
        });
        Self {
            schema: 1,
            policy: policy.hash().to_string(),
            since: utc::rfc3339_seconds(SystemTime::now()),
            default,
            files: files.collect(),
        }
    }

    /// The last one; where keeping it was cut short, the one before.
    ///
    /// # Errors
    /// Where there is something that cannot be trusted or read.
    pub fn last(store: &Store) -> Result<Option<Self>, StateError> {
        match store.read(LAST)? {
            Some(last) => Ok(Some(last)),
            None => Self::before(store),
        }
    }

    /// The one before it.
    pub(super) fn before(store: &Store) -> Result<Option<Self>, StateError> {
        store.read(BEFORE)
    }

    /// Keeps this as the last one. One of the same rules is replaced, another
    /// becomes the one before.
    pub(super) fn keep(&self, store: &Store) -> Result<(), StateError> {
        // One that cannot be read is no policy to go back to.
        if let Ok(Some(last)) = store.read::<Self>(LAST)
            && last.policy != self.policy
        {
            store.rename(LAST, BEFORE)?;
        }
        store.write(LAST, self)
    }

    /// The policy again, its tests included.
    pub fn load(&self, provider: Provider, found: &mut Diagnostics) -> Option<LoadedPolicy> {
        let copies = self.files.iter();
        let sources: Vec<Arc<Source>> = copies
            .map(|copy| Source::new(copy.name.clone(), copy.text.clone()))
            .collect();
        let policy = Policy::parse(&sources, provider, self.default, found)?;
        Some(LoadedPolicy { policy, sources })
    }

    /// The policy that was called by this hash, where it is one of those kept.
    pub fn policy_by_hash(store: &Store, provider: Provider, hash: &str) -> Option<Policy> {
        let kept = [Self::last(store), Self::before(store)];
        let mut known = kept.into_iter().flatten().flatten();
        let snapshot = known.find(|it| it.policy == hash)?;
        let loaded = snapshot.load(provider, &mut Diagnostics::new())?;
        // A later version of this program may read the same text otherwise.
        (**loaded.policy.hash() == *hash).then_some(loaded.policy)
    }

    pub(super) fn default(&self) -> Action {
        self.default
    }
}
