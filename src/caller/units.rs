//! The service manager's unit in which a socket was made, from the cgroup v2
//! id that the kernel gives with the socket (INET_DIAG_CGROUP_ID, Linux 5.8).
//!
//! The id is the inode number of the cgroup's directory; the directory is
//! found by walking the mount, at most once a second and off the threads that
//! serve. What is not found is unknown, never guessed from the uid.

use std::collections::{HashMap, VecDeque};
use std::fs;
use std::os::unix::fs::DirEntryExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Clients give up after one second, and this only fills a record.
const DEADLINE: Duration = Duration::from_millis(200);
/// Users may make cgroups of their own; their number must not be a lever.
const WALK_EVERY: Duration = Duration::from_secs(1);
const DIRECTORIES_MAX: usize = 20_000;

type Unit = Option<Arc<str>>;

/// The cgroups seen by the last walk.
pub(super) struct Units {
    mount: Option<PathBuf>,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    units: HashMap<u64, Unit>,
    walked: Option<Instant>,
}

impl Units {
    pub(super) fn new() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self {
            mount: cgroup2(&mounts),
            seen: Arc::default(),
        }
    }

    /// The one directory that is read here, names only.
    pub(super) fn mount(&self) -> Option<&Path> {
        self.mount.as_deref()
    }

    /// The unit of a cgroup id.
    pub(super) async fn unit(&self, cgroup: Option<u64>) -> Unit {
        let (cgroup, mount) = (cgroup?, self.mount.as_ref()?);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(unit) = seen.units.get(&cgroup) {
                return unit.clone();
            }
            if seen.walked.is_some_and(|at| at.elapsed() < WALK_EVERY) {
                return None;
            }
            seen.walked = Some(Instant::now());
        }
        let (mount, shared) = (mount.clone(), Arc::clone(&self.seen));
        let walk = tokio::task::spawn_blocking(move || {
            let units = walk(&mount);
            let unit = units.get(&cgroup).cloned().flatten();
            shared.lock().unwrap_or_else(PoisonError::into_inner).units = units;
            unit
        });
        tokio::time::timeout(DEADLINE, walk).await.ok()?.ok()?
    }
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
    // Breadth first: what users nest below their own cgroups comes last.
    let mut todo = VecDeque::from([(mount.to_path_buf(), None)]);
    while let Some((directory, within)) = todo.pop_front() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            if units.len() >= DIRECTORIES_MAX || !entry.file_type().is_ok_and(|it| it.is_dir()) {
                continue;
            }
            // The first that is no slice: below it, names are its own affair.
            let unit: Unit = within.clone().or_else(|| unit_name(&entry.file_name()));
            units.insert(entry.ino(), unit.clone());
            todo.push_back((entry.path(), unit));
        }
    }
    units
}

pub(super) fn unit_name(directory: &std::ffi::OsStr) -> Unit {
    let name = directory.to_str()?;
    let is_unit = [".service", ".scope"]
        .iter()
        .any(|kind| name.ends_with(kind));
    (is_unit && name.len() <= 255).then(|| name.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

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
        let units = Units {
            mount: Some(dir.path().into()),
            seen: Arc::default(),
        };
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
        ] {
            assert_eq!(units.unit(id(path)).await.as_deref(), unit, "{path}");
        }
        assert_eq!(units.unit(Some(1)).await, None);
        assert_eq!(units.unit(None).await, None);
    }
}
