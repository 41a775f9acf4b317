//! What is kept of orders for the next run of the daemon: grants and a bypass
//! for this boot, a lockdown until it is lifted.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::clock::boot_id;
use super::orders::{Bypass, Grant, Lockdown, Orders, compose};
use super::state::{StateError, Store};
use crate::audit::{Event, Log};
use crate::config::{Config, LoadedPolicy};
use crate::policy::Policy;

const NAME: &str = "orders.json";

/// As it is on disk.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Kept {
    schema: u32,
    boot_id: String,
    grants: Vec<Arc<Grant>>,
    lockdown: Option<Arc<Lockdown>>,
    bypass: Option<Arc<Bypass>>,
}

/// What an earlier run left, as far as it still holds.
pub(super) struct Left {
    pub(super) grants: Vec<Arc<Grant>>,
    pub(super) lockdown: Option<Arc<Lockdown>>,
    pub(super) bypass: Option<Arc<Bypass>>,
}

impl Kept {
    /// Of these orders.
    pub(super) fn new(orders: &Orders) -> Self {
        Self {
            schema: 1,
            boot_id: boot_id().to_owned(),
            grants: orders.grants.clone(),
            lockdown: orders.lockdown.clone(),
            bypass: orders.bypass.clone(),
        }
    }

    pub(super) fn write(&self, store: &Store) -> Result<(), StateError> {
        store.write(NAME, self)
    }

    /// What still holds; what does not is recorded as ended. Where nobody can
    /// tell whether there was a lockdown, there is one.
    pub(super) fn take_up(store: &Store, log: &Log) -> Left {
        let kept = match store.read::<Self>(NAME) {
            Ok(kept) => kept.unwrap_or_default(),
            Err(error) if store.is_usable() => {
                tracing::error!(
                    "what was ordered of an earlier run cannot be read, so credentials are locked \
                     down; lift that by `imdsfw lockdown off`: {error}"
                );
                Self {
                    lockdown: Some(Arc::new(Lockdown::in_doubt(error.to_string()))),
                    ..Self::default()
                }
            }
            // Nothing could be kept there either.
            Err(error) => {
                tracing::warn!("nothing outlives the daemon: {error}");
                Self::default()
            }
        };
        let is_this_boot = !kept.boot_id.is_empty() && kept.boot_id == boot_id();
        let mut left = Left {
            grants: Vec::new(),
            lockdown: kept.lockdown.map(Lockdown::taken_up),
            bypass: None,
        };
        for grant in kept.grants {
            if is_this_boot && !grant.has_ended() {
                left.grants.push(grant);
            } else {
                ended(log, &grant, if is_this_boot { "expired" } else { "reboot" });
            }
        }
        if let Some(bypass) = kept.bypass {
            if is_this_boot && !super::clock::until(bypass.ends).is_zero() {
                left.bypass = Some(bypass);
            } else {
                let why = if is_this_boot { "expired" } else { "reboot" };
                log.event(Event::BypassEnded, &json!({ "hard": false, "why": why }));
            }
        }
        left
    }
}

/// Records the end of a grant.
pub(super) fn ended(log: &Log, grant: &Grant, why: &str) {
    let uses = grant.uses.load(Ordering::Relaxed);
    let detail = json!({ "id": grant.id, "who": grant.who, "paths": grant.paths,
        "why": why, "uses": uses });
    log.event(Event::GrantEnded, &detail);
}

/// The policy with the grants that the daemon keeps ahead of it, for who may
/// read them; else the policy alone.
pub fn ahead_of(loaded: LoadedPolicy, config: &Config, store: &Store) -> Arc<Policy> {
    let policy = Arc::new(loaded.policy);
    let Ok(Some(kept)) = store.read::<Kept>(NAME) else {
        return policy;
    };
    let holds = |grant: &Arc<Grant>| kept.boot_id == boot_id() && !grant.has_ended();
    let grants: Vec<_> = kept.grants.iter().filter(|it| holds(it)).cloned().collect();
    let (provider, default) = (config.provider, config.policy.default);
    compose(&policy, &loaded.sources, &grants, provider, default).unwrap_or(policy)
}
