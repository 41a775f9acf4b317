//! How things stand, looked up when it is asked for: what is in force, what the
//! files say, what the records add up to.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::clock::{on_the_wall, until};
use super::desk::{Desk, blocking};
use super::status::{BypassStatus, GrantStatus, LockdownStatus, OnDisk, PolicyStatus, Status};
use crate::diagnose::Severity;
use crate::utc;

impl Desk {
    pub(super) async fn status(self: &Arc<Self>) -> Status {
        self.status_with(self.on_disk().await).await
    }

    /// The same, where it is known what the files say.
    pub async fn status_with(&self, on_disk: OnDisk) -> Status {
        let orders = self.standing.orders();
        let in_force = self.in_force.lock().await;
        let seconds = |end| until(end).as_secs();
        let wall = |end| utc::rfc3339_seconds(on_the_wall(end));
        Status {
            version: env!("CARGO_PKG_VERSION").into(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            mode: orders.mode,
            policy: PolicyStatus {
                policy: orders.base.hash().to_string(),
                since: utc::rfc3339_seconds(in_force.since),
                age_s: in_force.since.elapsed().unwrap_or_default().as_secs(),
                from: in_force.from,
                rules: orders.base.len(),
                files: in_force.sources.iter().map(|it| it.name().into()).collect(),
                watch: self.config.policy.watch,
                on_disk,
            },
            grants: orders
                .grants
                .iter()
                .filter(|grant| !grant.has_ended())
                .map(|grant| GrantStatus {
                    id: grant.id.clone(),
                    who: grant.who.clone(),
                    paths: grant.paths.clone(),
                    reason: grant.reason.clone(),
                    until: wall(grant.ends),
                    left_s: seconds(grant.ends),
                    uses: grant.uses.load(Ordering::Relaxed),
                    by: grant.by,
                })
                .collect(),
            lockdown: orders.lockdown.as_ref().map(|lockdown| LockdownStatus {
                since: lockdown.since.clone(),
                except: lockdown.except.clone(),
                reason: lockdown.reason.clone(),
                by: lockdown.by,
            }),
            bypass: orders.bypass.as_ref().map(|bypass| BypassStatus {
                until: wall(bypass.ends),
                left_s: seconds(bypass.ends),
                reason: bypass.reason.clone(),
                by: bypass.by,
            }),
            watcher: self.vitals.status(),
            witness: self.callers.has_witness(),
            counts: self.log.counted(),
            state: self.keeping.lock().await.clone(),
        }
    }

    /// What the files say: they are read, and the policy is made.
    pub async fn on_disk(self: &Arc<Self>) -> OnDisk {
        let desk = Arc::clone(self);
        let on_disk = blocking(move || desk.read_on_disk()).await;
        on_disk.unwrap_or_else(|error| OnDisk::Refused { error })
    }

    fn read_on_disk(&self) -> OnDisk {
        match self.read() {
            Ok(read) => {
                let (policy, mode) = (read.loaded.policy.hash(), read.config.policy.mode);
                let orders = self.standing.orders();
                if policy == orders.base.hash() && mode == orders.mode {
                    return OnDisk::Same {
                        restart: read.restart,
                    };
                }
                OnDisk::Differs {
                    policy: policy.to_string(),
                    mode,
                    restart: read.restart,
                }
            }
            Err(found) => {
                let mut errors = found.iter().filter(|it| it.severity == Severity::Error);
                let first = errors.next();
                let first = first.map(|it| format!("{}: {}", it.place, it.message));
                OnDisk::Refused {
                    error: first.unwrap_or_default(),
                }
            }
        }
    }
}
