//! Takes changed policy files by themselves (`[policy] watch`).
//!
//! Whatever happens in the directories of the policy, and in those that its
//! files lead to, may be a change: a file closed after writing, renamed or
//! linked into place, removed, or given another owner or mode. Once it is
//! quiet for a moment, all is read. What the kernel could not tell, it says,
//! and that is a change too.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::desk::Desk;
use super::status::From;

/// An editor, or a configuration management, has done what it does at once.
const QUIET: Duration = Duration::from_millis(50);
/// However much goes on, it is read so often.
const AT_LATEST: Duration = Duration::from_millis(300);

/// Follows the files for as long as the daemon lives, beginning with a look at
/// what they say now.
///
/// # Errors
/// Where the kernel tells of no changes.
pub fn follow(desk: Arc<Desk>) -> io::Result<()> {
    let inotify = Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?);
    let told = Arc::new(Notify::new());
    let (hears, tells) = (Arc::clone(&inotify), Arc::clone(&told));
    std::thread::Builder::new()
        .name("imdsfw-files".into())
        .spawn(move || hear(&hears, &tells))?;
    tokio::spawn(async move {
        loop {
            // A directory may be another one under its name by now.
            let (desk_, inotify) = (Arc::clone(&desk), Arc::clone(&inotify));
            // Where it fails, it has been said.
            let _ = tokio::task::spawn_blocking(move || watch(&inotify, &desk_)).await;
            // What is wrong with them, the log says.
            let _ = desk.reload(From::Watch, None).await;
            changed(&told).await;
        }
    });
    Ok(())
}

/// On a thread of its own, which waits in the kernel.
fn hear(inotify: &Inotify, told: &Notify) {
    loop {
        match inotify.read_events() {
            Ok(_) => told.notify_one(),
            Err(Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(
                    "changed policy files are not noticed any more, use `imdsfw reload`: {}",
                    error.desc()
                );
                return;
            }
        }
    }
}

fn watch(inotify: &Inotify, desk: &Desk) {
    let changes = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_ATTRIB
        | AddWatchFlags::IN_DELETE_SELF
        | AddWatchFlags::IN_MOVE_SELF
        | AddWatchFlags::IN_ONLYDIR;
    for directory in directories(desk) {
        match inotify.add_watch(&directory, changes) {
            // One that is not there yet is out of the daemon's reach.
            Ok(_) | Err(Errno::ENOENT | Errno::EACCES) => {}
            Err(error) => {
                let directory = directory.display();
                tracing::warn!("changes in {directory} are not noticed: {}", error.desc());
            }
        }
    }
}

/// Those of the policy, and where links in them lead: a ConfigMap's files are
/// links through a link that is replaced.
fn directories(desk: &Desk) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    for directory in desk.policy_directories() {
        let entries = std::fs::read_dir(directory).into_iter().flatten();
        let led_to = entries.filter_map(|entry| {
            let path = entry.ok()?.path();
            let is_policy = path.extension().is_some_and(|it| it == "toml");
            let file = is_policy.then(|| path.canonicalize().ok()).flatten()?;
            Some(file.parent()?.to_path_buf())
        });
        all.extend(led_to);
        all.insert(directory.clone());
    }
    all
}

/// Returns once something has changed and it is quiet again.
async fn changed(told: &Notify) {
    told.notified().await;
    let at_latest = Instant::now() + AT_LATEST;
    loop {
        if Instant::now() >= at_latest {
            return;
        }
        let quiet = (Instant::now() + QUIET).min(at_latest);
        if timeout_at(quiet, told.notified()).await.is_err() {
            return;
        }
    }
}
