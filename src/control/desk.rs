//! Where orders are taken, one method each: they come into force as a whole,
//! are recorded, and are kept for the next run.
//!
//! Changes of policy and of grants come one after the other, each made on a
//! thread of its own, since files are read for it. A lockdown waits for none
//! of them.

mod exceptions;
mod files;
mod lockdown;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{Mutex, Notify};

pub use files::record_rejected;

use super::acceptor::Peer;
use super::clock::until;
use super::grants::Kept;
use super::orders::{By, Standing};
use super::protocol::{Ask, Judged, Question, Reply, Why};
use super::state::Store;
use super::status::{From, Vitals};
use crate::audit::Log;
use crate::authorize::TokenState;
use crate::caller::Callers;
use crate::config::{Action, Config};
use crate::diagnose::Source;
use crate::ids::Uid;
use crate::policy::Query;
use crate::request::{CanonicalPath, ReadMethod};
use files::{InForce, viable};

/// How often ends are looked at: timers stand still while a host is suspended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

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
}

/// Where files may be read.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let done = tokio::task::spawn_blocking(work).await;
    done.map_err(|_| "a fault in this program; see the daemon's log".to_owned())
}
