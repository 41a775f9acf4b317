//! The service manager's unit in which a socket was made, from the cgroup v2
//! id that the kernel gives with the socket (INET_DIAG_CGROUP_ID, Linux 5.8).
//!
//! The id is the inode number of the cgroup's directory; the directory is
//! found by walking the mount, one walk at a time and off the threads that
//! serve. What is not found is unknown, never guessed from the uid.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::{DirEntryExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::policy::Unit;

/// Clients give up after one second, and this only fills a record.
const DEADLINE: Duration = Duration::from_millis(200);
/// Users may make cgroups of their own; their number must not be a lever. From
/// the end of one walk to the next.
const WALK_EVERY: Duration = Duration::from_secs(1);
/// The same where a verdict hangs on the unit, as of a service just started.
const WALK_FOR_VERDICT_EVERY: Duration = Duration::from_millis(100);
const DIRECTORIES_MAX: usize = 20_000;
/// Longer than it takes to read so many.
const WALK_WITHIN: Duration = Duration::from_secs(1);

/// The cgroups seen by the last walk.
pub(super) struct Units {
    mount: Option<PathBuf>,
    seen: Arc<Mutex<Seen>>,
    /// Held while a walk is under way, or waits for a thread: policies are read
    /// on the same few. Who asks meanwhile waits for what it finds.
    walking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Default)]
struct Seen {
    units: HashMap<u64, Unit>,
    /// When the last walk ended.
    walked: Option<Instant>,
}

impl Seen {
    fn unit(&self, cgroup: u64) -> Option<Unit> {
        self.units.get(&cgroup).cloned()
    }
}

impl Units {
    pub(super) fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            mount: cgroup2(&mounts),
            seen: Arc::default(),
            walking: Arc::default(),
        }
    }

    /// The one directory that is read here, names only.
    pub(super) fn mount(&self) -> Option<&Path> {
        self.mount.as_deref()
    }

    /// The unit of a cgroup id, for a record.
    pub(super) async fn unit(&self, cgroup: Option<u64>) -> Unit {
        self.find(cgroup, WALK_EVERY).await.unwrap_or(Unit::Unknown)
    }

    /// The unit of a cgroup id that was not known a moment ago, for a verdict.
    pub(super) async fn unit_for_verdict(&self, cgroup: Option<u64>) -> Unit {
        if cgroup.is_none() || self.mount.is_none() {
            return Unit::Unknown;
        }
        // Somebody else's walk may have begun before the cgroup was there.
        for wait in [Duration::ZERO, WALK_FOR_VERDICT_EVERY] {
            tokio::time::sleep(wait).await;
            if let Some(unit) = self.find(cgroup, WALK_FOR_VERDICT_EVERY).await {
                return unit;
            }
        }
        Unit::Unknown
    }

    async fn find(&self, cgroup: Option<u64>, walk_every: Duration) -> Option<Unit> {
        let (cgroup, mount) = (cgroup?, self.mount.as_ref()?);
        if let Some(unit) = self.seen().unit(cgroup) {
            return Some(unit);
        }
        let found = async {
            let walking = Arc::clone(&self.walking).lock_owned().await;
            // By somebody else's walk, perhaps.
            {
                let seen = self.seen();
                let unit = seen.unit(cgroup);
                if unit.is_some() || seen.walked.is_some_and(|at| at.elapsed() < walk_every) {
                    return unit;
                }
            }
            let (mount, shared) = (mount.clone(), Arc::clone(&self.seen));
            let walk = tokio::task::spawn_blocking(move || {
                // Whoever still waits for it.
                let _walking = walking;
                let units = walk(&mount);
                let mut seen = locked(&shared);
                seen.units = units;
                seen.walked = Some(Instant::now());
                seen.unit(cgroup)
            });
            walk.await.ok()?
        };
        tokio::time::timeout(DEADLINE, found).await.ok()?
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        locked(&self.seen)
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where cgroup v2 is mounted (proc_pid_mountinfo(5)).
fn cgroup2(mounts: &str) -> Option<PathBuf> {
    mounts.lines().find_map(|line| {
        let (mount, kind) = line.split_once(" - ")?;
        let path = mount.split(' ').nth(4)?;
        kind.starts_with("cgroup2 ").then(|| path.into())
    })
}

fn walk(mount: &Path) -> HashMap<u64, Unit> {
    let mut units = HashMap::new();
    if let Ok(root) = fs::metadata(mount) {
        units.insert(root.ino(), Unit::Outside);
    }
    let begun = Instant::now();
    // Breadth first: what users nest below their own cgroups comes last.
    let mut todo = VecDeque::from([(mount.to_path_buf(), Unit::Outside)]);
    while let Some((directory, within)) = todo.pop_front() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if !entry.file_type().is_ok_and(|it| it.is_dir()) {
                continue;
            }
            if units.len() >= DIRECTORIES_MAX || begun.elapsed() > WALK_WITHIN {
                return units;
            }
            // The first that is no slice: below it, names are its own affair,
            // and below one that is no unit either, nobody can tell.
            let name = entry.file_name();
            let (unit, below) = match (&within, unit_name(&name)) {
                (Unit::Outside, Some(name)) => (Unit::Named(name.clone()), Unit::Named(name)),
                (Unit::Outside, None) if is_slice(&name) => (Unit::Outside, Unit::Outside),
                (Unit::Outside, None) => (Unit::Outside, Unit::Unknown),
                _ => (within.clone(), within.clone()),
            };
            units.insert(entry.ino(), unit);
            todo.push_back((entry.path(), below));
        }
    }
    units
}

pub(super) fn is_slice(directory: &std::ffi::OsStr) -> bool {
    directory.as_encoded_bytes().ends_with(b".slice")
}

pub(super) fn unit_name(directory: &std::ffi::OsStr) -> Option<Arc<str>> {
    let name = directory.to_str()?;
    let is_unit = [".service", ".scope"]
        .iter()
        .any(|kind| name.ends_with(kind));
    (is_unit && name.len() <= 255).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn units_of(mount: &Path) -> Units {
        Units {
            mount: Some(mount.into()),
            seen: Arc::default(),
            walking: Arc::default(),
        }
    }

    #[test]
    fn finds_the_mount_among_others() {
        let mounts = "30 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      31 30 0:26 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(cgroup2(mounts), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(
            cgroup2("30 1 0:25 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"),
            None
        );
    }

    #[tokio::test]
    async fn the_unit_is_the_first_that_is_no_slice() {
        let dir = tempfile::tempdir().unwrap();
        let session = "user.slice/user-1000.slice/session-3.scope";
        for path in [
            &format!("{session}/forged.service"),
            "system.slice/nginx.service",
            "init",
        ] {
            fs::create_dir_all(dir.path().join(path)).unwrap();
        }
        let units = units_of(dir.path());
        let id = |path: &str| Some(fs::metadata(dir.path().join(path)).unwrap().ino());
        for (path, unit) in [
            (session, Some("session-3.scope")),
            (
                &format!("{session}/forged.service"),
                Some("session-3.scope"),
            ),
            ("system.slice/nginx.service", Some("nginx.service")),
            ("user.slice", None),
            ("init", None),
            ("", None),
        ] {
            let expected = unit.map_or(Unit::Outside, |unit| Unit::Named(unit.into()));
            assert_eq!(units.unit(id(path)).await, expected, "{path}");
        }
        assert_eq!(units.unit(Some(1)).await, Unit::Unknown);
        assert_eq!(units.unit(None).await, Unit::Unknown);
        assert_eq!(units.unit_for_verdict(Some(1)).await, Unit::Unknown);
        // A service that has started since is found without waiting a second.
        let late = "system.slice/late.service";
        fs::create_dir(dir.path().join(late)).unwrap();
        let unit = units.unit_for_verdict(id(late)).await;
        assert_eq!(unit, Unit::Named("late.service".into()));
    }

    #[test]
    fn however_many_ask_there_is_one_walk_at_a_time() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let dir = tempfile::tempdir().unwrap();
        let units = units_of(dir.path());
        runtime.block_on(async {
            // A tree that takes longer to walk than anybody waits.
            let (over, waits) = std::sync::mpsc::channel::<()>();
            let walk = tokio::task::spawn_blocking(move || waits.recv());
            for cgroup in 1..4 {
                let unit = units.unit_for_verdict(Some(cgroup)).await;
                assert_eq!(unit, Unit::Unknown);
            }
            // Each walk that is to come has one, and there is ours.
            assert_eq!(Arc::strong_count(&units.seen), 2);
            drop(over);
            assert!(walk.await.unwrap().is_err());
            // The next to ask takes what it has found.
            let root = fs::metadata(dir.path()).unwrap().ino();
            let unit = units.unit_for_verdict(Some(root)).await;
            assert_eq!(unit, Unit::Outside);
        });
    }
}
