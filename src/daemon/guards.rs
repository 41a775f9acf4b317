//! The daemon's end of the socket to the watcher of the rules.
//!
//! Without a watcher the daemon serves; once one was heard, it must go on
//! saying that the rules stand. Only root's word counts, and the last one to
//! come is the one listened to.

use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use nix::sys::stat::{Mode, umask};
use nix::unistd::{Gid, setfsgid};
use socket2::SockRef;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep_until};

use crate::audit::{Event, Log};
use crate::control::{Acceptor, Vitals};
use crate::proxy::Guards;
use crate::watch::report::{Lifted, Report};

/// A watcher that says nothing for so long is gone.
const SILENCE: Duration = Duration::from_secs(3);

/// Listens where the admin looks for the daemon. Everybody may connect: who asks
/// for what is not for them is to be recorded. Who did, the kernel says.
pub(super) fn listen(path: &Path) -> io::Result<UnixListener> {
    listen_with(path, Mode::from_bits_truncate(0o111))
}

/// The same where it is for root and one group alone, which this process
/// belongs to or may act as.
pub(super) fn listen_for_group(path: &Path, gid: Gid) -> io::Result<UnixListener> {
    let before = setfsgid(gid);
    let listener = listen_with(path, Mode::from_bits_truncate(0o117));
    setfsgid(before);
    listener
}

/// The same where it is for the user alone as whom this process runs.
pub(super) fn listen_for_own_user(path: &Path) -> io::Result<UnixListener> {
    listen_with(path, Mode::from_bits_truncate(0o177))
}

/// `without`: what its mode leaves out. The directory, where there is none, is
/// root's if this process is: nobody is to put anything in the place of what
/// stands there.
fn listen_with(path: &Path, without: Mode) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent().filter(|it| !it.exists()) {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(directory)?;
    }
    // Left behind by an earlier run.
    if std::fs::symlink_metadata(path).is_ok_and(|it| it.file_type().is_socket()) {
        std::fs::remove_file(path)?;
    }
    // Not changed afterwards: in a directory of the daemon's user the path may
    // lead elsewhere by then.
    let before = umask(without);
    let listener = UnixListener::bind(path);
    umask(before);
    listener
}

/// Listens again, as the daemon's own user: by that a watcher which connects
/// tells the daemon from a manager that holds the socket for it (SO_PEERCRED).
pub(super) fn claim(post: &UnixListener) -> io::Result<()> {
    SockRef::from(post).listen(i32::MAX)
}

/// Hears the watcher for as long as the daemon lives.
pub(super) async fn heed(mut root: Acceptor, guards: Guards, vitals: Vitals, log: Log) {
    let mut post = Post {
        guards,
        vitals,
        log,
        heard: None,
    };
    let mut watcher: Option<Lines<BufReader<UnixStream>>> = None;
    loop {
        tokio::select! {
            accepted = root.accept() => watcher = Some(BufReader::new(accepted).lines()),
            line = next(&mut watcher) => match line.as_deref().map(serde_json::from_str) {
                Some(Ok(report)) => post.take(report),
                // Ended, or no watcher of this version: its silence tells.
                Some(Err(_)) | None => watcher = None,
            },
            () = silence(post.heard) => post.silent(),
        }
    }
}

async fn next(watcher: &mut Option<Lines<BufReader<UnixStream>>>) -> Option<String> {
    match watcher {
        Some(lines) => lines.next_line().await.ok().flatten(),
        None => std::future::pending().await,
    }
}

async fn silence(heard: Option<Instant>) {
    match heard {
        Some(heard) => sleep_until(heard + SILENCE).await,
        None => std::future::pending().await,
    }
}

struct Post {
    guards: Guards,
    vitals: Vitals,
    log: Log,
    /// When the watcher was last heard, unless it never was or is given up.
    heard: Option<Instant>,
}

impl Post {
    fn take(&mut self, report: Report) {
        // A bypass without a watcher has somebody who tells of it, and goes.
        let of_bypass = matches!(
            report,
            Report::BypassStarted(_) | Report::Bypassed { .. } | Report::BypassEnded(_)
        );
        if !of_bypass || self.heard.is_some() {
            self.heard = Some(Instant::now());
            self.vitals.heard();
        }
        match report {
            Report::BypassStarted(bypass) => {
                tracing::warn!("hard bypass until {}: {}", bypass.until, bypass.reason);
                self.vitals.set_hard_bypass(Some(bypass.until.clone()));
                let detail = serde_json::json!({ "hard": true, "until": bypass.until,
                    "seconds": bypass.seconds, "reason": bypass.reason, "by": bypass.by });
                self.log.event(Event::BypassStarted, &detail);
            }
            Report::Bypassed { until } => {
                self.vitals.set_hard_bypass(Some(until));
                self.stand();
            }
            Report::BypassEnded(Lifted { why }) => {
                tracing::warn!("the hard bypass has ended: {why}");
                self.vitals.set_hard_bypass(None);
                let detail = serde_json::json!({ "hard": true, "why": why });
                self.log.event(Event::BypassEnded, &detail);
            }
            Report::Ok => self.stand(),
            Report::Broken { why } => self.gone(&why),
            Report::Drift(found) => {
                self.vitals
                    .drifted(found.changed.first().map(ToString::to_string));
                self.log.event(Event::RulesDrift, &found);
            }
            Report::Restored(restored) => self.log.event(Event::RulesRestored, &restored),
        }
    }

    fn silent(&mut self) {
        self.heard = None;
        self.gone("the watcher of the rules has fallen silent; see `imdsfw rules watch`");
    }

    fn gone(&self, why: &str) {
        if !self.guards.are_gone() {
            self.guards.set_gone(true);
            self.vitals.set_unguarded(true);
            tracing::error!("nobody is served: {why}");
            let detail = serde_json::json!({ "why": why });
            self.log.event(Event::RulesUnguarded, &detail);
        }
    }

    fn stand(&self) {
        if self.guards.are_gone() {
            self.guards.set_gone(false);
            self.vitals.set_unguarded(false);
            tracing::warn!("the rules stand: serving again");
            self.log.event(Event::RulesGuarded, &serde_json::json!({}));
        }
    }
}
