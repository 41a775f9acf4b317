//! The policy of the files: read anew, refused, put in force, gone back from.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::json;

use super::{Desk, blocking};
use crate::audit::{Event, Log};
use crate::config::{Action, Config, LoadedPolicy, load_policy};
use crate::control::grants::ended;
use crate::control::orders::{By, Grant, compose};
use crate::control::protocol::{Done, Reply, Why};
use crate::control::snapshot::Snapshot;
use crate::control::status::From;
use crate::diagnose::{Diagnostics, Source, Style};
use crate::policy::Policy;

/// The policy of the files, and how it came.
pub(in crate::control) struct InForce {
    pub(in crate::control) sources: Vec<Arc<Source>>,
    pub(super) default: Action,
    pub(in crate::control) from: From,
    pub(in crate::control) since: SystemTime,
}

/// What reading the files came to.
pub(in crate::control) struct Read {
    pub(in crate::control) loaded: LoadedPolicy,
    pub(in crate::control) config: Config,
    /// Whether the config differs in what only a restart takes.
    pub(in crate::control) restart: bool,
    warnings: Option<String>,
}

impl Desk {
    /// Takes what the files say now, whole or not at all.
    pub async fn reload(self: &Arc<Self>, from: From, by: Option<By>) -> Reply {
        let mut in_force = self.in_force.lock().await;
        let desk = Arc::clone(self);
        let read = blocking(move || desk.read()).await;
        let read = match read {
            Ok(Ok(read)) => read,
            Ok(Err(found)) => return self.reject(&found, from, by),
            Err(fault) => return Reply::refused(Why::Invalid, fault),
        };
        let Read {
            loaded,
            config,
            restart,
            warnings,
        } = read;
        let mut done = self
            .put_in_force(&mut in_force, loaded, &config, from, by)
            .await;
        if let Some(warnings) = warnings {
            tracing::warn!("the policy has warnings:\n{warnings}");
            done.warnings.push(warnings);
        }
        if restart {
            let what = "the config differs in more than [policy] mode and default; that is in \
                        force when the daemon is started again";
            done.warnings.push(what.into());
        }
        Reply::Done(done)
    }

    /// Goes back to the policy before the last one. The files stay as they
    /// are.
    pub(super) async fn rollback(self: &Arc<Self>, by: By) -> Reply {
        let mut in_force = self.in_force.lock().await;
        let desk = Arc::clone(self);
        let read = blocking(move || {
            let snapshot = Snapshot::before(&desk.store).map_err(|error| error.to_string())?;
            let Some(snapshot) = snapshot else {
                return Err("there is no policy before this one to go back to".into());
            };
            let mut found = Diagnostics::new();
            let mut config = desk.config.clone();
            config.policy.default = snapshot.default();
            match snapshot.load(config.provider, &mut found) {
                Some(loaded) => Ok((loaded, config)),
                None => Err(found.render(Style::Plain)),
            }
        });
        let (loaded, mut config) = match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(why)) => return Reply::refused(Why::Missing, why),
            Err(fault) => return Reply::refused(Why::Invalid, fault),
        };
        config.policy.mode = self.standing.orders().mode;
        let mut done = self
            .put_in_force(&mut in_force, loaded, &config, From::Rollback, Some(by))
            .await;
        done.warnings.push(
            "the files are as they were: what they say comes into force again with the next \
             reload, changed file (`watch`) or restart; set them right before that"
                .into(),
        );
        Reply::Done(done)
    }

    /// Reads config and policy; on a thread of its own.
    pub(in crate::control) fn read(&self) -> Result<Read, Diagnostics> {
        let on_disk = Config::load(&self.path)?;
        let mut config = self.config.clone();
        config.policy.mode = on_disk.policy.mode;
        config.policy.default = on_disk.policy.default;
        let restart = config != on_disk;
        let mut found = Diagnostics::new();
        match load_policy(&config, &mut found) {
            Some(loaded) => Ok(Read {
                loaded,
                config,
                restart,
                warnings: Some(found.render(Style::Plain)).filter(|it| !it.is_empty()),
            }),
            None => Err(found),
        }
    }

    fn reject(&self, found: &Diagnostics, from: From, by: Option<By>) -> Reply {
        let shown = found.brief();
        tracing::error!("the policy is refused, and the one that runs stays:\n{shown}");
        let running = Arc::clone(self.standing.orders().base.hash());
        record_rejected(&self.log, found, from, by, &running);
        Reply::refused(Why::Invalid, shown)
    }

    async fn put_in_force(
        self: &Arc<Self>,
        in_force: &mut InForce,
        loaded: LoadedPolicy,
        config: &Config,
        from: From,
        by: Option<By>,
    ) -> Done {
        let (mode, default) = (config.policy.mode, config.policy.default);
        let LoadedPolicy { policy, sources } = loaded;
        let before = self.standing.orders();
        let (hash, rules) = (policy.hash().to_string(), policy.len());
        let changed = **before.base.hash() != hash || before.mode != mode;
        let base = Arc::new(policy);
        let made = {
            let (log, grants, config) = (self.log.clone(), before.grants.clone(), config.clone());
            let (base, sources) = (Arc::clone(&base), sources.clone());
            blocking(move || viable(&log, &base, &sources, grants, &config, default)).await
        };
        let (grants, policy) = made.unwrap_or_else(|_| (Vec::new(), Arc::clone(&base)));
        self.standing.change(|orders| {
            orders.base = base;
            orders.policy = policy;
            orders.grants = grants;
            orders.mode = mode;
        });
        *in_force = InForce {
            sources,
            default,
            from: if changed { from } else { in_force.from },
            since: if changed {
                SystemTime::now()
            } else {
                in_force.since
            },
        };
        if changed {
            tracing::info!("policy {hash}: {rules} rules");
            let files: Vec<_> = in_force.sources.iter().map(|it| it.name()).collect();
            let detail = json!({ "policy": hash, "rules": rules, "files": files, "mode": mode,
                "from": from, "before": &**before.base.hash(), "by": by });
            self.log.event(Event::PolicyLoaded, &detail);
        }
        self.keep_policy(in_force).await;
        Done {
            said: match changed {
                true => format!("in force: {rules} rules, {hash}"),
                false => format!("unchanged: {rules} rules, {hash}"),
            },
            policy: Some(hash),
            changed,
            ..Done::default()
        }
    }

    pub(super) async fn keep_policy(&self, in_force: &InForce) {
        let base = Arc::clone(&self.standing.orders().base);
        let snapshot = Snapshot::new(&base, &in_force.sources, in_force.default);
        let store = self.store.clone();
        let kept = blocking(move || snapshot.keep(&store).map_err(|error| error.to_string())).await;
        if let Err(error) = kept.and_then(|kept| kept) {
            tracing::warn!("the policy is not kept for the next start: {error}");
        }
    }
}

/// Records that a policy was refused. What is wrong with it may fill many files;
/// the record stays one that every sink takes.
pub fn record_rejected(log: &Log, found: &Diagnostics, from: From, by: Option<By>, running: &str) {
    let (errors, omitted) = found.for_record();
    let detail = json!({ "from": from, "by": by, "running": running, "errors": errors,
        "errors_omitted": omitted });
    log.event(Event::PolicyRejected, &detail);
}

/// The grants that this policy can stand behind, and it behind them. One that
/// speaks of a set which is no more ends.
pub(super) fn viable(
    log: &Log,
    base: &Arc<Policy>,
    sources: &[Arc<Source>],
    grants: Vec<Arc<Grant>>,
    config: &Config,
    default: Action,
) -> (Vec<Arc<Grant>>, Arc<Policy>) {
    let composed = |grants: &[Arc<Grant>]| compose(base, sources, grants, config.provider, default);
    if let Ok(policy) = composed(&grants) {
        return (grants, policy);
    }
    let (stay, gone): (Vec<_>, Vec<_>) = grants
        .into_iter()
        .partition(|grant| composed(std::slice::from_ref(grant)).is_ok());
    for grant in gone {
        tracing::error!(
            "a grant does not go with the policy any more, and ends: {}",
            grant.id
        );
        ended(log, &grant, "policy");
    }
    match composed(&stay) {
        Ok(policy) => (stay, policy),
        Err(_) => (Vec::new(), Arc::clone(base)),
    }
}
