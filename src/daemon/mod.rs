//! The daemon's life: what must hold before it serves, in which order, and
//! how it ends.
//!
//! As root it verifies the kernel rules, binds its ports and starts the
//! witness; then it drops to its own user for good. Started as that user by a
//! service manager, it takes the listeners that it is handed, feels for the
//! rules, which it cannot read, and asks a witness of its own unit. Either way it enters its sandbox, and only then opens the log, starts
//! threads and accepts. It must never serve without the whole rule set, nor
//! read a byte from outside while it holds a privilege.

mod error;
mod guards;
mod listeners;

use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use nix::unistd::{Gid, Uid, User, chown, geteuid};
use serde::Serialize;
use tokio::runtime::Runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;

pub use error::StartError;
pub use listeners::HandedError;

use crate::audit::{self, Event, Log};
use crate::caller::names::{self, Names};
use crate::caller::witness::{RunAs, Witness, WitnessError};
use crate::caller::{self, Callers};
use crate::config::{self, Config, LoadedPolicy, Mode, load_policy};
use crate::diagnose::{Diagnostics, Style};
use crate::ids;
use crate::intercept::{self, Drift, RuleSet};
use crate::limits::Owners;
use crate::notify::Manager;
use crate::policy::Policy;
use crate::proxy::{Guards, Listener, Proxy};
use crate::sys::activation;
use crate::sys::privilege::{self, Dropped};
use crate::sys::sandbox::{self, Extent, InForce, Reach};
use crate::watch::report;

/// Threads that may be walking through the cgroups at once; one would do.
const BLOCKING_THREADS: usize = 2;

/// Serves until SIGTERM or SIGINT. `path` is where `config` was read.
///
/// # Errors
/// [`StartError`]; nothing was changed and nobody was served then.
pub fn run(config: &Config, path: &Path) -> Result<(), StartError> {
    let handed = activation::take().map_err(StartError::Activation)?;
    let is_root = geteuid().is_root();
    if !is_root && handed.is_none() {
        return Err(StartError::NotRoot);
    }
    if !caller::uids_are_the_hosts().map_err(StartError::UidMap)? {
        return Err(StartError::UserNamespace);
    }
    // Also where it was started through another name.
    let _ = nix::sys::prctl::set_name(c"imdsfw");
    let rules = RuleSet::from_config(config).map_err(StartError::RuleSet)?;
    if is_root {
        verify(&rules)?;
    } else if geteuid().as_raw() != rules.daemon_uid().0 {
        let started = ids::Uid(geteuid().as_raw());
        return Err(StartError::NotTheDaemon(started, rules.daemon_uid()));
    }
    let policy = load(config)?;
    let owners = Owners::of_this_host();
    let (listeners, handed_post) = match handed {
        Some(sockets) => listeners::adopt(sockets, &rules, &report::socket(config))
            .map_err(StartError::Handed)?,
        None => (listeners::bind(&rules)?, None),
    };
    if !is_root {
        intercept::probe(&rules).map_err(StartError::Unguarded)?;
    }
    let (account, gid) = own_account(rules.daemon_uid());
    let post = match handed_post {
        Some(post) => Some(post),
        None => post(config, account, gid, is_root)?,
    };
    provide_directory(&config.audit.file, account, gid)?;
    let descriptors = privilege::limit_resources().map_err(StartError::Limits)?;
    let names = names::process::spawn(account, gid).map_err(StartError::Names)?;
    let witness = witness(config, rules.daemon_uid(), is_root).map_err(StartError::Witness)?;
    let dropped = privilege::drop_to(account, gid).map_err(StartError::Privilege)?;
    if let Some(post) = &post {
        guards::claim(post).map_err(|error| StartError::Post(report::socket(config), error))?;
    }
    // One thread serves: the work of a request is smaller than handing it over.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS)
        .build()
        .map_err(StartError::Runtime)?;
    let within = runtime.enter();
    let names = Names::new(names).map_err(StartError::Names)?;
    let callers = Callers::new(rules.daemon_uid(), names, witness).map_err(StartError::SockDiag)?;
    let signals = Signals::catch().map_err(StartError::Runtime)?;
    drop(within);
    let before = Before {
        signals,
        manager: Manager::connect(),
        host: audit::Host::read(),
        reach: reach(config, path, &callers),
    };
    let serving = Serving {
        config,
        policy,
        listeners,
        post,
        callers,
        owners,
        descriptors,
    };
    serve(runtime, serving, before, &dropped)
}

/// What takes more than the sandbox leaves.
struct Before {
    signals: Signals,
    manager: Manager,
    host: audit::Host,
    reach: Reach,
}

struct Serving<'a> {
    config: &'a Config,
    policy: LoadedPolicy,
    listeners: Vec<Listener>,
    post: Option<UnixListener>,
    callers: Callers,
    owners: Owners,
    descriptors: usize,
}

/// Where the watcher of the rules reports. Without root the directory may be
/// another's; a daemon that hears no watcher serves as where there is none.
fn post(
    config: &Config,
    account: Uid,
    gid: Gid,
    is_root: bool,
) -> Result<Option<UnixListener>, StartError> {
    let path = report::socket(config);
    match guards::listen(&path, account, gid) {
        Ok(post) => Ok(Some(post)),
        Err(error) if is_root => Err(StartError::Post(path, error)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no watcher of the rules can be heard");
            Ok(None)
        }
    }
}

fn serve(
    runtime: Runtime,
    serving: Serving,
    before: Before,
    dropped: &Dropped,
) -> Result<(), StartError> {
    let Serving {
        config,
        policy: LoadedPolicy { policy, sources },
        listeners,
        post,
        callers,
        owners,
        descriptors,
    } = serving;
    let run = getrandom::u32().map_err(StartError::Random)?;
    let sandbox = sandbox::enter(dropped, &before.reach).map_err(StartError::Sandbox)?;
    warn_of_lacks(sandbox);
    let file = &config.audit.file;
    let (log, writer) = Log::open(file.clone(), before.host, run)
        .map_err(|error| StartError::Audit(file.clone(), error))?;
    let manager = Arc::new(before.manager);
    let ended_by = Arc::new(OnceLock::new());
    let served = runtime.block_on(async {
        if !callers.know_names().await {
            tracing::error!(
                "not even root's name can be looked up: until names can be, what a user's or \
                 group's name could change is denied"
            );
        }
        let started = Started::new(config, &listeners, sandbox);
        log.event(Event::DaemonStarted, &started);
        log.event(
            Event::PolicyLoaded,
            &Loaded {
                policy: policy.hash(),
                rules: policy.len(),
                files: sources.iter().map(|source| source.name()).collect(),
            },
        );
        let greeting = Greeting::new(&started, &policy, geteuid());
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
        if let Some(post) = post {
            tokio::spawn(guards::heed(post, guards, log.clone()));
        }
        let (log, ended_by) = (log.clone(), Arc::clone(&ended_by));
        let stop = before.signals.heed(log, Arc::clone(&manager), ended_by);
        if let Some(watchdog) = manager.watchdog() {
            tokio::spawn(heartbeat(Arc::clone(&manager), watchdog));
        }
        manager.ready();
        greeting.say();
        let served = Arc::new(proxy).run(listeners, stop).await;
        served.map_err(StartError::Runtime)
    });
    log.ending();
    // A cgroup tree without end may not hold up the end.
    runtime.shutdown_background();
    log.summarise_denials();
    log.event(
        Event::DaemonStopped,
        &Stopped {
            signal: ended_by.get().copied(),
        },
    );
    writer.close();
    served
}

/// The directories and ports that the daemon needs while it serves.
fn reach(config: &Config, path: &Path, callers: &Callers) -> Reach {
    let beside = |file: &Path| file.parent().map(Path::to_path_buf);
    let services = config.upstream.addresses.iter().map(|it| it.port());
    Reach {
        readable: (config.policy.directories.iter().cloned())
            .chain([config::drop_in_directory(path)])
            .chain(beside(path))
            .collect(),
        listable: callers
            .cgroups()
            .map(Path::to_path_buf)
            .into_iter()
            .collect(),
        appendable: beside(&config.audit.file).into_iter().collect(),
        writable: vec![config.state_directory.clone()],
        ports: services.collect(),
    }
}

fn warn_of_lacks(InForce { seccomp, landlock }: InForce) {
    let lacks = |extent| match extent {
        Extent::Full => None,
        Extent::Partial => Some("only a part"),
        Extent::None => Some("nothing"),
    };
    if let Some(enforced) = lacks(seccomp) {
        tracing::warn!("this kernel enforces {enforced} of the daemon's list of system calls");
    }
    if let Some(enforced) = lacks(landlock) {
        tracing::warn!("this kernel enforces {enforced} of the daemon's Landlock rules");
    }
}

/// As root, which can read them.
fn verify(rules: &RuleSet) -> Result<(), StartError> {
    let drift = intercept::verify(rules).map_err(StartError::Verify)?;
    if drift.iter().any(Drift::is_open) {
        return Err(StartError::Drift(drift));
    }
    for foreign in &drift {
        tracing::warn!("{foreign}; `imdsfw rules apply` puts ours first");
    }
    Ok(())
}

/// Of its own unit, it listens below the directory of the control socket, in
/// one of its own.
fn witness(config: &Config, daemon: ids::Uid, is_root: bool) -> Result<Witness, WitnessError> {
    let account = &config.witness_user;
    if is_root {
        return Witness::start(account, daemon);
    }
    let socket = config.control_socket.with_file_name("witness/witness.sock");
    Ok(Witness::at(socket, RunAs::new(account, daemon)?.uid))
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
struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    fn catch() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    fn heed(
        mut self,
        log: Log,
        manager: Arc<Manager>,
        ended_by: Arc<OnceLock<&'static str>>,
    ) -> watch::Receiver<bool> {
        let (tell, told) = watch::channel(false);
        tokio::spawn(async move {
            let signal = loop {
                tokio::select! {
                    _ = self.hup.recv() => {
                        manager.reloading();
                        log.reopen();
                        manager.ready();
                    }
                    _ = self.term.recv() => break "SIGTERM",
                    _ = self.int.recv() => break "SIGINT",
                }
            };
            // Told once, here.
            let _ = ended_by.set(signal);
            manager.stopping();
            tell.send_replace(true);
        });
        told
    }
}

/// From the thread that serves: while it does, the manager hears of it.
async fn heartbeat(manager: Arc<Manager>, watchdog: Duration) {
    // As sd_watchdog_enabled(3) recommends.
    let mut beat = tokio::time::interval(watchdog / 2);
    loop {
        beat.tick().await;
        manager.alive();
    }
}

#[derive(Serialize)]
struct Started {
    mode: Mode,
    listeners: Vec<String>,
    services: Vec<String>,
    sandbox: InForce,
}

impl Started {
    fn new(config: &Config, listeners: &[Listener], sandbox: InForce) -> Self {
        let local =
            |listener: &Listener| listener.socket.local_addr().ok().map(|it| it.to_string());
        Self {
            mode: config.policy.mode,
            listeners: listeners.iter().filter_map(local).collect(),
            services: listeners
                .iter()
                .map(|listener| listener.service.to_string())
                .collect(),
            sandbox,
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
    fn new(started: &Started, policy: &Policy, uid: Uid) -> Self {
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
