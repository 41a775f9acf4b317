//! The daemon's life: what must hold before it serves, in which order, and
//! how it ends.
//!
//! As root it verifies the kernel rules, binds its ports and starts the
//! witness; then it drops to
//! its own user for good, and only then opens the log, starts threads and
//! accepts. It must never serve without the whole rule set, nor read a byte
//! from outside while it holds a privilege.

mod error;
mod guards;
pub(crate) mod notify;

use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use nix::unistd::{Gid, Uid, User, chown, geteuid};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

pub use error::StartError;

use crate::audit::{Event, Log};
use crate::caller::witness::Witness;
use crate::caller::{Callers, accounts};
use crate::config::{Config, LoadedPolicy, Mode, load_policy};
use crate::diagnose::{Diagnostics, Style};
use crate::ids::{self, MetadataAddr};
use crate::intercept::{self, Drift, RuleSet};
use crate::limits::Owners;
use crate::policy::Policy;
use crate::proxy::{Guards, Listener, Proxy};
use crate::sys::privilege;
use crate::watch::report;

/// Threads that may be waiting for NSS at once.
const NSS_THREADS: usize = 8;

/// Serves until SIGTERM or SIGINT.
///
/// # Errors
/// [`StartError`]; nothing was changed and nobody was served then.
pub fn run(config: &Config) -> Result<(), StartError> {
    if !geteuid().is_root() {
        return Err(StartError::NotRoot);
    }
    // Also where it was started through another name.
    let _ = nix::sys::prctl::set_name(c"imdsfw");
    let rules = RuleSet::from_config(config).map_err(StartError::RuleSet)?;
    let drift = intercept::verify(&rules).map_err(StartError::Verify)?;
    if drift.iter().any(Drift::is_open) {
        return Err(StartError::Drift(drift));
    }
    for foreign in &drift {
        tracing::warn!("{foreign}; `imdsfw rules apply` puts ours first");
    }
    let policy = load(config)?;
    let owners = Owners::of_this_host();
    let listeners = bind(config)?;
    let uid = rules.daemon_uid();
    let (account, gid) = own_account(uid);
    let post = report::socket(config);
    let post =
        guards::listen(&post, account, gid).map_err(|error| StartError::Post(post, error))?;
    provide_directory(&config.audit.file, account, gid)?;
    let descriptors = privilege::raise_descriptor_limit().map_err(StartError::Descriptors)?;
    let witness = Witness::start(&config.witness_user, uid).map_err(StartError::Witness)?;
    privilege::drop_to(account, gid).map_err(StartError::Privilege)?;
    let sockets = Sockets { listeners, post };
    serve(config, policy, sockets, owners, uid, witness, descriptors)
}

/// What was bound with root's rights.
struct Sockets {
    listeners: Vec<Listener>,
    post: UnixListener,
}

fn serve(
    config: &Config,
    LoadedPolicy { policy, sources }: LoadedPolicy,
    Sockets { listeners, post }: Sockets,
    owners: Owners,
    uid: ids::Uid,
    witness: Witness,
    descriptors: usize,
) -> Result<(), StartError> {
    let callers = Callers::new(uid, accounts::lookup, witness).map_err(StartError::SockDiag)?;
    // One thread serves: the work of a request is smaller than handing it over.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(NSS_THREADS)
        .build()
        .map_err(StartError::Runtime)?;
    let run = getrandom::u32().map_err(StartError::Random)?;
    let file = &config.audit.file;
    let (log, writer) =
        Log::open(file.clone(), run).map_err(|error| StartError::Audit(file.clone(), error))?;
    let started = Started::new(config, &listeners);
    log.event(Event::DaemonStarted, &started);
    log.event(
        Event::PolicyLoaded,
        &Loaded {
            policy: policy.hash(),
            rules: policy.len(),
            files: sources.iter().map(|source| source.name()).collect(),
        },
    );
    let greeting = Greeting::new(&started, &policy, uid);
    let guards = Guards::default();
    let proxy = Proxy::new(
        config,
        policy,
        log.clone(),
        callers,
        guards.clone(),
        owners,
        descriptors,
    )
    .map_err(StartError::Random)?;
    let ended_by = Arc::new(OnceLock::new());
    let served = runtime.block_on(async {
        let stop = on_signals(log.clone(), Arc::clone(&ended_by))?;
        tokio::spawn(guards::heed(post, guards, log.clone()));
        notify::ready();
        greeting.say();
        Arc::new(proxy).run(listeners, stop).await
    });
    log.ending();
    // A hanging NSS module may not hold up the end.
    runtime.shutdown_background();
    log.summarise_denials();
    log.event(
        Event::DaemonStopped,
        &Stopped {
            signal: ended_by.get().copied(),
        },
    );
    writer.close();
    served.map_err(StartError::Runtime)
}

fn load(config: &Config) -> Result<LoadedPolicy, StartError> {
    let mut found = Diagnostics::new();
    let loaded = load_policy(config, &mut found);
    let shown = found.render(Style::Plain);
    match loaded {
        Some(loaded) => {
            if !shown.is_empty() {
                tracing::warn!("the policy has warnings:\n{shown}");
            }
            Ok(loaded)
        }
        None => Err(StartError::Policy(shown)),
    }
}

fn bind(config: &Config) -> Result<Vec<Listener>, StartError> {
    let (port, mark) = (config.listen_port, config.rules.marks.listener);
    let bind = |address: &std::net::SocketAddr| {
        Listener::bind(MetadataAddr(*address), port, mark)
            .map_err(|error| StartError::Bind(*address, port, error))
    };
    config.upstream.addresses.iter().map(bind).collect()
}

/// A uid without account runs under the group of the same number.
fn own_account(uid: ids::Uid) -> (Uid, Gid) {
    let uid = Uid::from_raw(uid.0);
    let account = User::from_uid(uid).ok().flatten();
    (
        uid,
        account.map_or(Gid::from_raw(uid.as_raw()), |account| account.gid),
    )
}

/// Makes the log's directory, if there is none, and gives that to the daemon.
/// What is there already is left as it is.
fn provide_directory(file: &Path, uid: Uid, gid: Gid) -> Result<(), StartError> {
    let Some(directory) = file.parent().filter(|directory| !directory.exists()) else {
        return Ok(());
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(directory)
        .and_then(|()| Ok(chown(directory, Some(uid), Some(gid))?))
        .map_err(|error| StartError::Audit(directory.into(), error))
}

/// SIGTERM and SIGINT end the daemon, SIGHUP opens the log again.
fn on_signals(
    log: Log,
    ended_by: Arc<OnceLock<&'static str>>,
) -> std::io::Result<watch::Receiver<bool>> {
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    let mut hup = signal(SignalKind::hangup())?;
    let (tell, told) = watch::channel(false);
    tokio::spawn(async move {
        let signal = loop {
            tokio::select! {
                _ = hup.recv() => log.reopen(),
                _ = term.recv() => break "SIGTERM",
                _ = int.recv() => break "SIGINT",
            }
        };
        // Told once, here.
        let _ = ended_by.set(signal);
        notify::stopping();
        tell.send_replace(true);
    });
    Ok(told)
}

#[derive(Serialize)]
struct Started {
    mode: Mode,
    listeners: Vec<String>,
    services: Vec<String>,
}

impl Started {
    fn new(config: &Config, listeners: &[Listener]) -> Self {
        let local =
            |listener: &Listener| listener.socket.local_addr().ok().map(|it| it.to_string());
        Self {
            mode: config.policy.mode,
            listeners: listeners.iter().filter_map(local).collect(),
            services: listeners
                .iter()
                .map(|listener| listener.service.to_string())
                .collect(),
        }
    }
}

/// What an admin wants to see at a glance when the daemon serves.
struct Greeting {
    serving: String,
    policy: String,
    warnings: Vec<&'static str>,
}

impl Greeting {
    fn new(started: &Started, policy: &Policy, uid: ids::Uid) -> Self {
        let mut warnings = Vec::new();
        if started.mode == Mode::Observe {
            warnings.push("the mode is observe: what the policy denies is recorded, not refused");
        }
        if policy.is_empty() {
            warnings.push("the policy has no rules: everyone gets the default, root included");
        }
        Self {
            serving: format!("serving {} as uid {uid}", started.listeners.join(" and ")),
            policy: format!("policy {}: {} rules", policy.hash(), policy.len()),
            warnings,
        }
    }

    fn say(&self) {
        tracing::info!("{}", self.serving);
        tracing::info!("{}", self.policy);
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

#[derive(Serialize)]
struct Loaded<'a> {
    policy: &'a str,
    rules: usize,
    /// In the order they were read.
    files: Vec<&'a str>,
}

#[derive(Serialize)]
struct Stopped {
    /// `null` where it ended by a fault.
    signal: Option<&'static str>,
}
