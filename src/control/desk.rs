//! Where orders are taken, one method each: they come into force as a whole,
//! are recorded, and are kept for the next run.
//!
//! Changes of policy and of grants come one after the other, each made on a
//! thread of its own, since files are read for it. A lockdown waits for none
//! of them.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::json;
use tokio::sync::{Mutex, Notify};

use super::acceptor::Peer;
use super::clock::{in_seconds, on_the_wall, until};
use super::grants::{Kept, ended};
use super::orders::{By, Bypass, Grant, Lockdown, Orders, Standing, compose};
use super::protocol::{Ask, Done, Judged, Question, Reply, Why};
use super::snapshot::Snapshot;
use super::state::Store;
use super::status::{From, Vitals};
use crate::audit::{Event, Log};
use crate::authorize::TokenState;
use crate::caller::Callers;
use crate::config::{Action, Config, LoadedPolicy, load_policy};
use crate::diagnose::{Diagnostics, Source, Style};
use crate::ids::Uid;
use crate::policy::Policy;
use crate::policy::Query;
use crate::request::{CanonicalPath, ReadMethod};
use crate::token::TokenKey;
use crate::utc;

/// How often ends are looked at: timers stand still while a host is suspended.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Nobody grants, or turns the policy off, for longer.
const LONGEST: u64 = 7 * 24 * 60 * 60;
/// Grants at once: for people, not a second policy.
const GRANTS_MAX: usize = 64;

/// What a desk is made of.
pub struct Parts {
    /// As the daemon was started.
    pub config: Config,
    /// Where that was read.
    pub path: PathBuf,
    /// What is in force.
    pub standing: Standing,
    /// Of the policy in force.
    pub sources: Vec<Arc<Source>>,
    /// Where that came from.
    pub from: From,
    /// Who answers whose account a uid is.
    pub callers: Arc<Callers>,
    /// What is heard of the watcher.
    pub vitals: Vitals,
    /// What outlives the daemon.
    pub store: Store,
    /// Where it is all recorded.
    pub log: Log,
}

/// Takes orders.
pub struct Desk {
    pub(super) config: Config,
    path: PathBuf,
    pub(super) standing: Standing,
    pub(super) callers: Arc<Callers>,
    pub(super) vitals: Vitals,
    store: Store,
    pub(super) log: Log,
    pub(super) started: Instant,
    pub(super) in_force: Mutex<InForce>,
    pub(super) keeping: Mutex<Option<String>>,
    ends: Notify,
}

/// The policy of the files, and how it came.
pub(super) struct InForce {
    pub(super) sources: Vec<Arc<Source>>,
    default: Action,
    pub(super) from: From,
    pub(super) since: SystemTime,
}

/// What reading the files came to.
pub(super) struct Read {
    pub(super) loaded: LoadedPolicy,
    pub(super) config: Config,
    /// Whether the config differs in what only a restart takes.
    pub(super) restart: bool,
    warnings: Option<String>,
}

impl Desk {
    /// Takes up what an earlier run left, and keeps the policy that the daemon
    /// has started with. To be called before anybody is served.
    pub fn open(parts: Parts) -> Arc<Self> {
        let Parts {
            config,
            path,
            standing,
            sources,
            from,
            callers,
            vitals,
            store,
            log,
        } = parts;
        let left = Kept::take_up(&store, &log);
        let base = Arc::clone(&standing.orders().base);
        let default = config.policy.default;
        let (grants, policy) = viable(&log, &base, &sources, left.grants, &config, default);
        standing.change(|orders| {
            orders.grants = grants;
            orders.policy = policy;
            orders.lockdown = left.lockdown;
            orders.bypass = left.bypass;
        });
        let desk = Arc::new(Self {
            in_force: Mutex::new(InForce {
                sources,
                default,
                from,
                since: SystemTime::now(),
            }),
            config,
            path,
            standing,
            callers,
            vitals,
            store,
            log,
            started: Instant::now(),
            keeping: Mutex::new(None),
            ends: Notify::new(),
        });
        tokio::spawn(Arc::clone(&desk).keep_time());
        let starting = Arc::clone(&desk);
        tokio::spawn(async move {
            let in_force = starting.in_force.lock().await;
            starting.keep_policy(&in_force).await;
            drop(in_force);
            starting.keep_orders().await;
        });
        desk
    }

    pub(super) fn log(&self) -> &Log {
        &self.log
    }

    pub(super) fn is_open_to_users(&self) -> bool {
        self.config.own_verdict
    }

    /// The directories of the policy.
    pub(super) fn policy_directories(&self) -> &[PathBuf] {
        &self.config.policy.directories
    }

    /// Answers a question that this peer may ask.
    pub(super) async fn answer(self: &Arc<Self>, peer: Peer, question: Question) -> Reply {
        let login = question.login;
        let by = By { peer, login };
        match question.ask {
            Ask::Status => Reply::Status(Box::new(self.status().await)),
            Ask::Reload => self.reload(From::Reload, Some(by)).await,
            Ask::Rollback => self.rollback(by).await,
            Ask::Lockdown {
                on: true,
                except,
                reason,
            } => self.lock_down(except, reason, by).await,
            Ask::Lockdown { on: false, .. } => self.lift_lockdown(by).await,
            Ask::Grant {
                who,
                paths,
                seconds,
                reason,
            } => self.grant(who, paths, seconds, reason, by).await,
            Ask::Revoke { id } => self.revoke(&id, by).await,
            Ask::Bypass {
                on: true,
                seconds,
                reason,
            } => self.bypass(seconds, reason, by).await,
            Ask::Bypass { on: false, .. } => self.end_bypass("revoked", Some(by)).await,
            Ask::Verdict { path } => self.verdict(peer.uid, &path).await,
        }
    }

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
    async fn rollback(self: &Arc<Self>, by: By) -> Reply {
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
    pub(super) fn read(&self) -> Result<Read, Diagnostics> {
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

    async fn lock_down(&self, except: Vec<String>, reason: Option<String>, by: By) -> Reply {
        let since = utc::rfc3339_seconds(SystemTime::now());
        let lockdown = match Lockdown::new(except, reason, since, by) {
            Ok(lockdown) => Arc::new(lockdown),
            Err(found) => return Reply::refused(Why::Invalid, found.render(Style::Plain)),
        };
        let detail = json!({ "except": lockdown.except, "reason": lockdown.reason, "by": by });
        let tokens = new_tokens();
        let keyless = tokens.is_none();
        self.standing.change(|orders| {
            orders.lockdown = Some(lockdown);
            if let Some(tokens) = tokens {
                orders.tokens = Arc::new(tokens);
            }
        });
        tracing::warn!("locked down: no credentials for anyone");
        self.log.event(Event::LockdownStarted, &detail);
        let mut done = Done {
            said: "locked down: no credentials leave, and tokens minted before are void".into(),
            changed: true,
            ..Done::default()
        };
        if keyless {
            let what = "the kernel gave no random numbers: tokens minted before are not void";
            done.warnings.push(what.into());
        }
        if self.config.tokens == crate::config::TokenMode::Relay {
            let what = "tokens are the service's own (`mode = \"relay\"`): they are not void";
            done.warnings.push(what.into());
        }
        done.warnings.extend(self.keep_orders().await);
        Reply::Done(done)
    }

    async fn lift_lockdown(&self, by: By) -> Reply {
        let mut before = None;
        self.standing
            .change(|orders| before = orders.lockdown.take());
        let mut done = Done {
            said: "there was no lockdown".into(),
            ..Done::default()
        };
        if let Some(lockdown) = before {
            tracing::warn!("the lockdown is lifted");
            let detail = json!({ "since": lockdown.since, "by": by });
            self.log.event(Event::LockdownEnded, &detail);
            done.said = "the lockdown is lifted: the policy decides again".into();
            done.changed = true;
        }
        done.warnings.extend(self.keep_orders().await);
        Reply::Done(done)
    }

    async fn grant(
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

    async fn revoke(self: &Arc<Self>, id: &str, by: By) -> Reply {
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
    async fn end_grants(self: &Arc<Self>, by: Option<By>) {
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

    async fn bypass(&self, seconds: u64, reason: String, by: By) -> Reply {
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

    async fn end_bypass(&self, why: &str, by: Option<By>) -> Reply {
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

    /// Ends what ends by itself, for as long as the daemon lives.
    async fn keep_time(self: Arc<Self>) {
        loop {
            let orders = self.standing.orders();
            let Some(end) = orders.next_end() else {
                self.ends.notified().await;
                continue;
            };
            let left = until(end);
            if !left.is_zero() {
                let timer = tokio::time::sleep(left.min(LOOK_EVERY));
                tokio::select! {
                    () = timer => {}
                    () = self.ends.notified() => {}
                }
                continue;
            }
            self.end_grants(None).await;
            let bypass = self.standing.orders().bypass.clone();
            if bypass.is_some_and(|it| until(it.ends).is_zero()) {
                self.end_bypass("expired", None).await;
            }
            self.keep_orders().await;
        }
    }

    async fn verdict(&self, uid: Uid, path: &str) -> Reply {
        let Ok(path) = CanonicalPath::parse(self.config.provider, path.as_bytes()) else {
            let what = "no rule is ever asked about this path; it would be refused as malformed";
            return Reply::refused(Why::Invalid, what);
        };
        let subject = self.callers.subject(uid).await;
        let orders = self.standing.orders();
        let query = Query::new(&subject, ReadMethod::Get, &path);
        let judged = orders.judge(orders.decide(&query), &query, TokenState::Good(1));
        let passes = matches!(judged.outcome, crate::authorize::Outcome::Forward(_));
        Reply::Verdict(Judged {
            verdict: if passes { Action::Allow } else { Action::Deny },
            reason: judged.reason.as_str().to_owned(),
            rule: judged.rule.as_deref().map(str::to_owned),
            policy: orders.base.hash().to_string(),
        })
    }

    /// Keeps what has to outlive the daemon; what to warn of where it cannot.
    async fn keep_orders(&self) -> Option<String> {
        // Whoever comes last keeps what is in force last.
        let mut failing = self.keeping.lock().await;
        let (kept, store) = (Kept::new(&self.standing.orders()), self.store.clone());
        let written = blocking(move || kept.write(&store).map_err(|error| error.to_string())).await;
        let warning = written.and_then(|written| written).err();
        if let Some(error) = &warning
            && *failing != warning
        {
            tracing::error!("orders will not outlive the daemon: {error}");
        }
        failing.clone_from(&warning);
        warning.map(|error| format!("this does not outlive the daemon: {error}"))
    }

    async fn keep_policy(&self, in_force: &InForce) {
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
fn viable(
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

fn out_of_range(seconds: u64, reason: &str) -> Option<Reply> {
    if !(1..=LONGEST).contains(&seconds) {
        let what = "expected a time from one second to seven days";
        return Some(Reply::refused(Why::Invalid, what));
    }
    let is_reason = !reason.trim().is_empty() && reason.len() <= 1024;
    let what = "expected a reason of at most 1,024 bytes: it is what the log will say";
    (!is_reason).then(|| Reply::refused(Why::Invalid, what))
}

fn new_tokens() -> Option<TokenKey> {
    let mut key = [0; 64];
    getrandom::fill(&mut key).ok()?;
    Some(TokenKey::new(&key))
}

/// Where files may be read.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| "a fault in this program; see the daemon's log".to_owned())
}
