//! What is allowed beside the policy for a time, each with a reason: a grant, and
//! the policy off altogether. None outlives its time.

use std::sync::Arc;

use serde_json::json;

use super::files::InForce;
use super::{Desk, blocking};
use crate::audit::Event;
use crate::control::clock::{in_seconds, on_the_wall, until};
use crate::control::orders::{By, Bypass, Grant, Orders, compose};
use crate::control::protocol::{Done, Reply, Why};
use crate::diagnose::Style;
use crate::policy::Policy;
use crate::utc;

/// Nobody grants, or turns the policy off, for longer.
const LONGEST: u64 = 7 * 24 * 60 * 60;
/// Grants at once: for people, not a second policy.
const GRANTS_MAX: usize = 64;

impl Desk {
    pub(super) async fn grant(
        self: &Arc<Self>,
        who: Vec<String>,
        paths: Vec<String>,
        seconds: u64,
        reason: String,
        by: By,
    ) -> Reply {
        if let Some(refused) = out_of_range(seconds, &reason) {
            return refused;
        }
        let in_force = self.in_force.lock().await;
        let orders = self.standing.orders();
        if orders.grants.len() >= GRANTS_MAX {
            let what = format!("there are {GRANTS_MAX} grants already; revoke one first");
            return Reply::refused(Why::Invalid, what);
        }
        let grant = Arc::new(Grant {
            id: self.log.next_id(),
            who,
            paths,
            reason,
            ends: in_seconds(seconds),
            by,
            uses: 0.into(),
            revoked: false.into(),
        });
        let mut grants = orders.grants.clone();
        grants.push(Arc::clone(&grant));
        let policy = match self.composed(&in_force, &orders, &grants).await {
            Ok(policy) => policy,
            Err(why) => return Reply::refused(Why::Invalid, why),
        };
        let until_then = utc::rfc3339_seconds(on_the_wall(grant.ends));
        let detail = json!({ "id": grant.id, "who": grant.who, "paths": grant.paths,
            "seconds": seconds, "until": until_then, "reason": grant.reason, "by": by });
        self.log.event(Event::GrantStarted, &detail);
        self.standing.change(|orders| {
            orders.grants = grants;
            orders.policy = policy;
        });
        drop(in_force);
        self.ends.notify_one();
        tracing::warn!("granted until {until_then}: {}", grant.id);
        Reply::Done(Done {
            said: format!("granted until {until_then}; id {}", grant.id),
            warnings: self.keep_orders().await.into_iter().collect(),
            id: Some(grant.id.clone()),
            changed: true,
            ..Done::default()
        })
    }

    pub(super) async fn revoke(self: &Arc<Self>, id: &str, by: By) -> Reply {
        let orders = self.standing.orders();
        let mut grants = orders.grants.iter();
        let Some(grant) = grants.find(|it| it.id == id && !it.has_ended()) else {
            let what = format!("there is no grant {id:?}; `imdsfw status` lists them");
            return Reply::refused(Why::Missing, what);
        };
        // From here on, whatever is still made of it.
        grant.revoke();
        self.end_grants(Some(by)).await;
        Reply::Done(Done {
            said: format!("revoked: {id}"),
            warnings: self.keep_orders().await.into_iter().collect(),
            id: Some(grant.id.clone()),
            changed: true,
            ..Done::default()
        })
    }

    /// Takes out those that have ended.
    pub(super) async fn end_grants(self: &Arc<Self>, by: Option<By>) {
        let in_force = self.in_force.lock().await;
        let orders = self.standing.orders();
        let (gone, stay): (Vec<_>, Vec<_>) =
            orders.grants.iter().cloned().partition(|it| it.has_ended());
        if gone.is_empty() {
            return;
        }
        // What has stood together stands without some of it.
        let policy = self.composed(&in_force, &orders, &stay).await;
        self.standing.change(|now| {
            now.policy = policy.unwrap_or_else(|_| Arc::clone(&now.base));
            now.grants = stay;
        });
        for grant in gone {
            let revoked = !until(grant.ends).is_zero();
            tracing::warn!("a grant has ended: {}", grant.id);
            let why = if revoked { "revoked" } else { "expired" };
            let detail = json!({ "id": grant.id, "who": grant.who, "paths": grant.paths,
                "why": why, "by": by.filter(|_| revoked),
                "uses": grant.uses.load(std::sync::atomic::Ordering::Relaxed) });
            self.log.event(Event::GrantEnded, &detail);
        }
    }

    async fn composed(
        &self,
        in_force: &InForce,
        orders: &Orders,
        grants: &[Arc<Grant>],
    ) -> Result<Arc<Policy>, String> {
        let (base, sources) = (Arc::clone(&orders.base), in_force.sources.clone());
        let (grants, provider) = (grants.to_vec(), self.config.provider);
        let default = in_force.default;
        let made = blocking(move || compose(&base, &sources, &grants, provider, default)).await?;
        made.map_err(|found| found.render(Style::Plain))
    }

    pub(super) async fn bypass(&self, seconds: u64, reason: String, by: By) -> Reply {
        if let Some(refused) = out_of_range(seconds, &reason) {
            return refused;
        }
        let bypass = Arc::new(Bypass {
            ends: in_seconds(seconds),
            reason,
            by,
        });
        let until_then = utc::rfc3339_seconds(on_the_wall(bypass.ends));
        let detail = json!({ "hard": false, "seconds": seconds, "until": until_then,
            "reason": bypass.reason, "by": by });
        self.standing.change(|orders| orders.bypass = Some(bypass));
        self.log.event(Event::BypassStarted, &detail);
        tracing::warn!("the policy is off until {until_then}");
        self.ends.notify_one();
        Reply::Done(Done {
            said: format!("the policy is off until {until_then}; everything is still recorded"),
            warnings: self.keep_orders().await.into_iter().collect(),
            changed: true,
            ..Done::default()
        })
    }

    pub(super) async fn end_bypass(&self, why: &str, by: Option<By>) -> Reply {
        let mut before = None;
        self.standing.change(|orders| before = orders.bypass.take());
        let mut done = Done {
            said: "there was no bypass".into(),
            ..Done::default()
        };
        if before.is_some() {
            tracing::warn!("the policy is in force again");
            let detail = json!({ "hard": false, "why": why, "by": by });
            self.log.event(Event::BypassEnded, &detail);
            done.said = "the policy is in force again".into();
            done.changed = true;
        }
        done.warnings.extend(self.keep_orders().await);
        Reply::Done(done)
    }
}

fn out_of_range(seconds: u64, reason: &str) -> Option<Reply> {
    if !(1..=LONGEST).contains(&seconds) {
        let what = "expected a time from one second to seven days";
        return Some(Reply::refused(Why::Invalid, what));
    }
    let is_reason = !reason.trim().is_empty() && reason.len() <= 1024;
    let what = "expected a reason of at most 1,024 bytes: it is what the log will say";
    (!is_reason).then(|| Reply::refused(Why::Invalid, what))
}
