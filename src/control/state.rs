//! What outlives the daemon: small files in `[state] directory`.
//!
//! The daemon's account writes them, so they are trusted as far as that
//! account is, and no further. While the daemon runs, that account decides
//! every request, and the rules let it through to the service: nothing that it
//! could write here would give it more. So what is read here governs the
//! daemon alone, and never root or the kernel rules (a bypass that takes those
//! out is root's own file, elsewhere), and the snapshot of a policy counts
//! only where the files of root's make none. Nobody else may have written it:
//! owner and mode are those of what was opened, directory and file.
//!
//! A file is there whole, in its old or its new form.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ids::Uid;

/// A policy of eight files as long as they may be.
const BYTES_MAX: u64 = 64 << 20;

/// The directory, and whose it may be beside root's.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    owner: Uid,
}

/// Why nothing could be read or written there.
#[derive(Debug)]
pub enum StateError {
    /// The system says so, of this path.
    Io(PathBuf, io::Error),
    /// Somebody else could have written it; in words.
    Untrusted(PathBuf, String),
    /// It is nothing that a daemon writes.
    Broken(PathBuf, String),
}

impl Store {
    /// Of the daemon that runs as `owner`.
    pub fn new(directory: PathBuf, owner: Uid) -> Self {
        Self { directory, owner }
    }

    /// Whether anything could have been kept there.
    pub(super) fn is_usable(&self) -> bool {
        self.open().is_ok()
    }

    /// What is there under this name; `None` where nothing is.
    pub(super) fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StateError> {
        let path = self.directory.join(name);
        let failed = |errno: Errno| StateError::Io(path.clone(), errno.into());
        let directory = match self.open() {
            Err(StateError::Io(_, error)) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(None);
            }
            opened => opened?,
        };
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let file = match openat(&directory, name, flags, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(None),
            opened => File::from(opened.map_err(failed)?),
        };
        self.trust(&path, &fstat(&file).map_err(failed)?, SFlag::S_IFREG)?;
        let mut bytes = Vec::new();
        file.take(BYTES_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| StateError::Io(path.clone(), error))?;
        match serde_json::from_slice(&bytes) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(StateError::Broken(path, error.to_string())),
        }
    }

    /// Writes it whole, and only then in the place of what was there.
    pub(super) fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), StateError> {
        let path = self.directory.join(name);
        let failed = |error| StateError::Io(path.clone(), error);
        let directory = self.open()?;
        let new = format!("{name}.new");
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_CLOEXEC
            | OFlag::O_NOFOLLOW
            | OFlag::O_NONBLOCK;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let file = openat(&directory, new.as_str(), flags, mode);
        let mut file = File::from(file.map_err(|errno| failed(errno.into()))?);
        let bytes = serde_json::to_vec(value).map_err(|error| failed(error.into()))?;
        file.write_all(&bytes).map_err(failed)?;
        file.sync_all().map_err(failed)?;
        self.put(&directory, &new, name)
    }

    /// What was under one name is under another.
    pub(super) fn rename(&self, from: &str, to: &str) -> Result<(), StateError> {
        self.put(&self.open()?, from, to)
    }

    fn put(&self, directory: &File, from: &str, to: &str) -> Result<(), StateError> {
        let failed = |error| StateError::Io(self.directory.join(to), error);
        renameat(directory, from, directory, to).map_err(|errno| failed(errno.into()))?;
        directory.sync_all().map_err(failed)
    }

    fn open(&self) -> Result<File, StateError> {
        let path = &self.directory;
        let failed = |errno: Errno| StateError::Io(path.clone(), errno.into());
        let flags = OFlag::O_RDONLY | OFlag::O_CLOEXEC | OFlag::O_DIRECTORY;
        let opened = openat(AT_FDCWD, path, flags, Mode::empty()).map_err(failed)?;
        self.trust(path, &fstat(&opened).map_err(failed)?, SFlag::S_IFDIR)?;
        Ok(File::from(opened))
    }

    fn trust(&self, path: &Path, stat: &FileStat, kind: SFlag) -> Result<(), StateError> {
        let untrusted = |why: String| Err(StateError::Untrusted(path.into(), why));
        if SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) != kind {
            return untrusted("is of another kind than it should be".into());
        }
        if stat.st_uid != 0 && stat.st_uid != self.owner.0 {
            return untrusted(format!(
                "belongs to uid {}, and neither to root nor to the daemon",
                stat.st_uid
            ));
        }
        let others = Mode::S_IWGRP | Mode::S_IWOTH;
        if Mode::from_bits_truncate(stat.st_mode).intersects(others) {
            let mode = stat.st_mode & 0o7777;
            return untrusted(format!(
                "has mode {mode:04o}, so that others could change it"
            ));
        }
        Ok(())
    }
}

impl fmt::Display for StateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(path, error) => write!(f, "{}: {error}", path.display()),
            Self::Untrusted(path, why) => write!(f, "{} {why}", path.display()),
            Self::Broken(path, why) => {
                write!(
                    f,
                    "{} is nothing that was written here: {why}",
                    path.display()
                )
            }
        }
    }
}

impl std::error::Error for StateError {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    const DAEMON: Uid = Uid(64000);

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path().into(), DAEMON);
        (dir, store)
    }

    fn refusal(store: &Store) -> String {
        store.read::<u32>("x").unwrap_err().to_string()
    }

    #[test]
    fn what_is_written_is_read_and_nothing_is_left_beside_it() {
        let (dir, store) = store();
        assert_eq!(store.read::<u32>("x").unwrap(), None);
        for value in [1_u32, 2] {
            store.write("x", &value).unwrap();
            assert_eq!(store.read("x").unwrap(), Some(value));
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        let mode = fs::metadata(dir.path().join("x")).unwrap();
        assert_eq!(mode.permissions().mode() & 0o777, 0o600);
        store.rename("x", "y").unwrap();
        assert_eq!(store.read("y").unwrap(), Some(2));
    }

    #[test]
    fn what_somebody_else_could_have_written_is_not_read() {
        let (dir, store) = store();
        store.write("x", &1_u32).unwrap();
        let file = dir.path().join("x");
        chown(&file, Some(DAEMON.0), None).unwrap();
        assert_eq!(store.read("x").unwrap(), Some(1), "the daemon's own");
        chown(&file, Some(4001), None).unwrap();
        assert!(refusal(&store).contains("belongs to uid 4001"));
        chown(&file, Some(0), None).unwrap();
        fs::set_permissions(&file, Permissions::from_mode(0o620)).unwrap();
        assert!(refusal(&store).contains("mode 0620"));
        fs::set_permissions(&file, Permissions::from_mode(0o600)).unwrap();
        fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
        assert!(refusal(&store).contains("mode 0777"));
        fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
        fs::rename(&file, dir.path().join("real")).unwrap();
        symlink("real", &file).unwrap();
        assert!(store.read::<u32>("x").is_err(), "a link leads elsewhere");
        fs::remove_file(&file).unwrap();
        fs::write(&file, "{").unwrap();
        assert!(refusal(&store).contains("nothing that was written here"));
    }
}
