//! What must hold before the daemon serves, and in which order it takes what
//! it needs and gives up what it may not keep.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixListener;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::unistd::{Gid, Uid, User, chown, geteuid};
use tokio::runtime::Runtime;

use super::listeners::{self, Sockets};
use super::signals::Signals;
use super::witness::{self, Contact};
use super::{StartError, guards};
use crate::audit::{self, Log};
use crate::caller::names::{self, Names};
use crate::caller::{self, Callers};
use crate::config::sinks::SinkTarget;
use crate::config::{self, Config, LoadedPolicy, MetricsAt, load_policy};
use crate::control::{self, Acceptor, Snapshot, Store, clock};
use crate::diagnose::Diagnostics;
use crate::ids;
use crate::intercept::{self, Afterwards, Drift, RuleSet};
use crate::limits::Owners;
use crate::metrics;
use crate::notify::Manager;
use crate::proxy::Listener;
use crate::sys::activation;
use crate::sys::privilege;
use crate::sys::sandbox::{self, Extent, InForce, Reach};
use crate::watch::report;

/// Threads that may be walking through the cgroups, reading a policy, or
/// waiting for what the start has left to be done, at once; one of each would
/// do.
const BLOCKING_THREADS: usize = 4;

/// All that a daemon serves with. Whoever has it holds no privilege any more.
pub(super) struct Ready<'a> {
    pub(super) runtime: Runtime,
    pub(super) config: &'a Config,
    /// Where `config` was read.
    pub(super) path: PathBuf,
    pub(super) policy: Found,
    /// Where root's orders come in.
    pub(super) control: Vec<Acceptor>,
    pub(super) store: Store,
    pub(super) listeners: Vec<Listener>,
    /// Where the watcher of the rules reports.
    pub(super) post: Option<Acceptor>,
    /// Where metrics are fetched, and what is looked at for them.
    pub(super) metrics: Option<(metrics::Listener, metrics::Process)>,
    pub(super) witness: Contact,
    pub(super) callers: Callers,
    pub(super) owners: Arc<Owners>,
    pub(super) descriptors: usize,
    pub(super) signals: Signals,
    pub(super) manager: Manager,
    pub(super) sandbox: InForce,
    pub(super) log: Log,
    pub(super) writer: audit::Writer,
    pub(super) tidying: Afterwards,
}

/// `path` is where `config` was read.
pub(super) fn start<'a>(config: &'a Config, path: &Path) -> Result<Ready<'a>, StartError> {
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
    if !is_root && geteuid().as_raw() != rules.daemon_uid().0 {
        let started = ids::Uid(geteuid().as_raw());
        return Err(StartError::NotTheDaemon(started, rules.daemon_uid()));
    }
    // Other programs read the rules, which takes as long as all the rest.
    let (verified, prepared) = std::thread::scope(|scope| {
        let verified = is_root.then(|| scope.spawn(|| verify(&rules)));
        let prepared = Prepared::new(config, &rules, handed, is_root);
        let verified = verified.map(|it| it.join().unwrap_or_else(|it| resume_unwind(it)));
        (verified.transpose(), prepared)
    });
    let tidying = verified?.unwrap_or_default();
    let Prepared {
        policy,
        owners,
        sockets,
        account,
        gid,
        descriptors,
        names,
        witness,
    } = prepared?;
    if !is_root {
        intercept::probe(&rules).map_err(StartError::Unguarded)?;
    }
    let post = match sockets.post {
        Some(post) => Some(post),
        None => post(config, is_root)?,
    };
    let control = match sockets.control {
        Some(control) => Some(control),
        None => control(config, is_root)?,
    };
    let root = match sockets.root {
        Some(root) => Some(root),
        None => root_control(config, is_root)?,
    };
    let metrics = match sockets.metrics {
        Some(metrics) => Some(metrics),
        None => metrics(config, gid),
    };
    let metrics = metrics.map(|listener| (listener, metrics::Process::open()));
    let streams = streams(config, sockets.streams, is_root)?;
    let log_directory = config.audit.file.parent().unwrap_or(Path::new("/"));
    provide_directory(log_directory, 0o750, account, gid)
        .map_err(|error| StartError::Audit(log_directory.into(), error))?;
    provide_state(&config.state_directory, account, gid);
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
    let names = Names::new(names, Arc::clone(&owners)).map_err(StartError::Names)?;
    let witness = witness.open().map_err(StartError::Runtime)?;
    let callers = Callers::new(rules.daemon_uid(), names, witness.witness.clone())
        .map_err(StartError::SockDiag)?;
    let post = post.map(|post| Acceptor::new(post, ids::Uid::ROOT));
    let post = post.transpose().map_err(StartError::Runtime)?;
    let control = control.into_iter().map(Acceptor::open);
    let root = root.into_iter();
    let control: Result<_, _> = control
        .chain(root.map(|root| Acceptor::new(root, ids::Uid::ROOT)))
        .collect();
    let control = control.map_err(StartError::Runtime)?;
    let signals = Signals::catch().map_err(StartError::Runtime)?;
    drop(within);
    let manager = Manager::connect();
    let host = audit::Host::read();
    clock::boot_id();
    let run = getrandom::u32().map_err(StartError::Random)?;
    let reach = reach(config, path, &policy, &callers);
    let sandbox = sandbox::enter(&dropped, &reach).map_err(StartError::Sandbox)?;
    warn_of_lacks(sandbox);
    // Only now, without any privilege: the daemon's own account wrote it.
    let store = Store::new(config.state_directory.clone(), rules.daemon_uid());
    let policy = policy.or_else(|refused| last_good(config, &store, refused))?;
    let file = &config.audit.file;
    let options = audit::Options {
        file: file.clone(),
        state: Some(config.state_directory.clone()),
        rotation: config.audit.rotation,
        sinks: sinks(config, streams),
    };
    let (log, writer) =
        Log::open(options, host, run).map_err(|error| StartError::Audit(file.clone(), error))?;
    Ok(Ready {
        runtime,
        config,
        path: path.to_path_buf(),
        policy,
        control,
        store,
        listeners: sockets.listeners,
        post,
        metrics,
        witness,
        callers,
        owners,
        descriptors,
        signals,
        manager,
        sandbox,
        log,
        writer,
        tidying,
    })
}

/// What the kernel rules have no part in. Should they not be as they must, it
/// ends with this process.
struct Prepared {
    policy: Result<Found, Refused>,
    owners: Arc<Owners>,
    sockets: Sockets,
    account: Uid,
    gid: Gid,
    descriptors: usize,
    names: OwnedFd,
    witness: witness::Source,
}

impl Prepared {
    fn new(
        config: &Config,
        rules: &RuleSet,
        handed: Option<Vec<OwnedFd>>,
        is_root: bool,
    ) -> Result<Self, StartError> {
        let policy = load(config);
        let owners = Arc::new(Owners::of_this_host());
        let mut sockets = match handed {
            Some(handed) => Sockets::adopt(handed, rules, config).map_err(StartError::Handed)?,
            None => Sockets::bind(rules)?,
        };
        let (account, gid) = own_account(rules.daemon_uid());
        let descriptors = privilege::limit_resources().map_err(StartError::Limits)?;
        let names = names::process::spawn(account, gid).map_err(StartError::Names)?;
        let handed = sockets.witness.take();
        let witness =
            witness::Source::new(&config.witness_user, rules.daemon_uid(), handed, is_root)
                .map_err(StartError::Witness)?;
        Ok(Self {
            policy,
            owners,
            sockets,
            account,
            gid,
            descriptors,
            names,
            witness,
        })
    }
}

/// The directories and ports that the daemon needs while it serves.
fn reach(
    config: &Config,
    path: &Path,
    policy: &Result<Found, Refused>,
    callers: &Callers,
) -> Reach {
    // Where links lead from there: what was read is to be read again.
    let led_to = |file: &Path| file.canonicalize().ok()?.parent().map(Path::to_path_buf);
    let sources = policy.as_ref().map(|found| found.loaded.sources.as_slice());
    let files = sources.unwrap_or_default().iter();
    let beside = |file: &Path| file.parent().map(Path::to_path_buf);
    let services = config.upstream.addresses.iter().map(|it| it.port());
    let sinks = || config.audit.sinks.iter().map(|sink| &sink.to);
    let receivers = sinks().filter_map(|to| match to {
        SinkTarget::SyslogTcp(address) => Some(address.port()),
        _ => None,
    });
    let is_syslog = |to: &SinkTarget| matches!(to, SinkTarget::SyslogUnix(_));
    let is_journal = |to: &SinkTarget| matches!(to, SinkTarget::Journald(_));
    let rotation = config.audit.rotation;
    Reach {
        readable: (config.policy.directories.iter().cloned())
            .chain([config::drop_in_directory(path)])
            .chain(beside(path))
            .chain(led_to(path))
            .chain(files.filter_map(|it| led_to(Path::new(it.name()))))
            .collect(),
        // Beside the log, what was rotated away.
        listable: callers
            .cgroups()
            .map(Path::to_path_buf)
            .into_iter()
            .chain(beside(&config.audit.file))
            .collect(),
        appendable: beside(&config.audit.file).into_iter().collect(),
        writable: beside(&config.audit.file)
            .filter(|_| rotation.is_on())
            .into_iter()
            .chain([config.state_directory.clone()])
            .collect(),
        ports: services.chain(receivers).collect(),
        // Syslog's may be either.
        unix_datagrams: sinks().any(|to| is_syslog(to) || is_journal(to)),
        unix_streams: sinks().any(is_syslog),
        removes: rotation.is_on() && rotation.keep > 0,
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
fn verify(rules: &RuleSet) -> Result<Afterwards, StartError> {
    let (drift, afterwards) = intercept::verify_to_serve(rules).map_err(StartError::Verify)?;
    if drift.iter().any(Drift::is_open) {
        return Err(StartError::Drift(drift));
    }
    for foreign in &drift {
        tracing::warn!("{foreign}; `imdsfw rules apply` puts ours first");
    }
    Ok(afterwards)
}

/// The policy to start with.
pub(super) struct Found {
    pub(super) loaded: LoadedPolicy,
    /// What is wrong with the files, where it is the last good one instead.
    pub(super) refused: Option<Refused>,
}

/// What is wrong with the files.
pub(super) struct Refused {
    pub(super) found: Diagnostics,
    shown: String,
}

fn load(config: &Config) -> Result<Found, Refused> {
    let mut found = Diagnostics::new();
    let loaded = load_policy(config, &mut found);
    let shown = found.brief();
    match loaded {
        Some(loaded) => {
            if !shown.is_empty() {
                tracing::warn!("the policy has warnings:\n{shown}");
            }
            let refused = None;
            Ok(Found { loaded, refused })
        }
        None => Err(Refused { found, shown }),
    }
}

/// The policy that was last in force, where the files make none.
fn last_good(config: &Config, store: &Store, refused: Refused) -> Result<Found, StartError> {
    let Refused { shown, .. } = &refused;
    let mut found = Diagnostics::new();
    let loaded = match Snapshot::last(store) {
        Ok(Some(snapshot)) => {
            let loaded = snapshot.load(config.provider, &mut found);
            if loaded.is_some() {
                tracing::error!(
                    "THE POLICY IS REFUSED, AND THE LAST GOOD ONE IS USED, of {}: {}\n{shown}",
                    snapshot.since,
                    snapshot.policy
                );
            }
            loaded
        }
        Ok(None) => None,
        Err(error) => {
            tracing::error!("there is no last good policy to use: {error}");
            None
        }
    };
    match loaded {
        Some(loaded) => Ok(Found {
            loaded,
            refused: Some(refused),
        }),
        None => Err(StartError::Policy(refused.shown)),
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

/// Makes a directory, if it is not there, and gives it to the daemon. What is
/// there already is left as it is.
fn provide_directory(directory: &Path, mode: u32, uid: Uid, gid: Gid) -> io::Result<()> {
    if directory.exists() {
        return Ok(());
    }
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)?;
    Ok(chown(directory, Some(uid), Some(gid))?)
}

/// A daemon that keeps nothing serves all the same.
fn provide_state(directory: &Path, uid: Uid, gid: Gid) {
    if let Err(error) = provide_directory(directory, 0o700, uid, gid) {
        let directory = directory.display();
        tracing::warn!("{directory}: {error}: nothing that is ordered outlives the daemon");
    }
}

/// Where root's orders come in. Without root, as for the watcher.
fn control(config: &Config, is_root: bool) -> Result<Option<UnixListener>, StartError> {
    let path = &config.control_socket;
    match guards::listen(path) {
        Ok(control) => Ok(Some(control)),
        Err(error) if is_root => Err(StartError::Control(path.clone(), error)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no order can be given");
            Ok(None)
        }
    }
}

/// Where they come in whatever stands before the other socket. Without root it
/// could not be root's, who asks at the other one then.
fn root_control(config: &Config, is_root: bool) -> Result<Option<UnixListener>, StartError> {
    if !is_root {
        return Ok(None);
    }
    let path = control::root_socket(&config.control_socket);
    match guards::listen_for_own_user(&path) {
        Ok(root) => Ok(Some(root)),
        Err(error) => Err(StartError::Control(path, error)),
    }
}

/// Where metrics are fetched. A firewall whose numbers nobody can read, because
/// somebody else has the port, is a firewall all the same.
fn metrics(config: &Config, gid: Gid) -> Option<metrics::Listener> {
    let (place, listener) = match config.metrics.as_ref()? {
        MetricsAt::Loopback(address) => {
            let listener = metrics::Listener::bind(*address);
            (address.to_string(), listener)
        }
        MetricsAt::Socket(path) => {
            let listener = guards::listen_for_group(path, gid);
            let listener = listener.map(metrics::Listener::Unix);
            (path.display().to_string(), listener)
        }
    };
    let told = |error: &io::Error| tracing::error!(%error, "no metrics can be fetched at {place}");
    listener.inspect_err(told).ok()
}

/// Where those who follow the log connect. Without root, as for the watcher.
fn streams(
    config: &Config,
    mut handed: Vec<(PathBuf, UnixListener)>,
    is_root: bool,
) -> Result<Vec<(PathBuf, UnixListener)>, StartError> {
    for path in listeners::streams(config) {
        if handed.iter().any(|(other, _)| other == path) {
            continue;
        }
        match guards::listen_for_own_user(path) {
            Ok(listener) => handed.push((path.to_path_buf(), listener)),
            Err(error) if is_root => return Err(StartError::Stream(path.into(), error)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "nobody can follow the log");
            }
        }
    }
    Ok(handed)
}

fn sinks(config: &Config, mut streams: Vec<(PathBuf, UnixListener)>) -> Vec<audit::Sink> {
    let sinks = config.audit.sinks.iter().filter_map(|config| {
        let listener = match &config.to {
            SinkTarget::Stream(path) => {
                let at = streams.iter().position(|(other, _)| other == path)?;
                Some(streams.swap_remove(at).1)
            }
            _ => None,
        };
        let config = config.clone();
        Some(audit::Sink { config, listener })
    });
    sinks.collect()
}

/// Where the watcher of the rules reports. Without root the directory may be
/// another's; a daemon that hears no watcher serves as where there is none.
fn post(config: &Config, is_root: bool) -> Result<Option<UnixListener>, StartError> {
    let path = report::socket(config);
    // A watcher with CAP_NET_ADMIN alone is not above file permissions: where
    // the socket cannot be root's, everybody may connect, and only root is
    // heard.
    let listener = match is_root {
        true => guards::listen_for_own_user(&path),
        false => guards::listen(&path),
    };
    match listener {
        Ok(post) => Ok(Some(post)),
        Err(error) if is_root => Err(StartError::Post(path, error)),
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "no watcher of the rules can be heard");
            Ok(None)
        }
    }
}
