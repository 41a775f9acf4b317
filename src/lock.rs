//! A file of root's that one process at a time holds, so that of two commands
//! the second waits for the first. It ends with whoever holds it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// `None` where somebody else holds it for longer than that. What is at `path`
/// and could be another's to hold, or to wait for, is an error.
pub(crate) fn lock(path: &Path, within: Duration) -> io::Result<Option<Flock<File>>> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // The directory may be one that others write: not through a link, and
        // not to wait for the other end of a FIFO.
        .custom_flags(libc::O_NOFOLLOW | libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(path)?;
    let meta = file.metadata()?;
    let is_ours = meta.uid() == geteuid().as_raw() && meta.mode() & 0o077 == 0;
    if !meta.is_file() || !is_ours {
        let said = format!("{} is no file of root's alone; remove it", path.display());
        return Err(io::Error::other(said));
    }
    let begun = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(locked) => return Ok(Some(locked)),
            Err((_, errno)) if !matches!(errno, Errno::EAGAIN | Errno::EINTR) => {
                return Err(errno.into());
            }
            Err((_, _)) if begun.elapsed() > within => return Ok(None),
            Err((back, _)) => file = back,
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    #[test]
    fn the_second_waits_no_longer_than_it_is_to() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock(&path, Duration::ZERO).unwrap();
        assert!(first.is_some());
        assert!(lock(&path, Duration::ZERO).unwrap().is_none());
        let second = std::thread::scope(|scope| {
            let second = scope.spawn(|| lock(&path, Duration::from_secs(20)).unwrap().is_some());
            drop(first);
            second.join().unwrap()
        });
        assert!(second);
    }

    #[test]
    fn what_others_have_put_there_is_neither_held_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        mkfifo(&path("fifo"), Mode::from_bits_truncate(0o600)).unwrap();
        // With somebody at its other end, it can be opened.
        let read = File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path("fifo"))
            .unwrap();
        assert!(lock(&path("fifo"), Duration::ZERO).is_err());
        drop(read);
        assert!(lock(&path("fifo"), Duration::ZERO).is_err());
        fs::write(path("open"), "").unwrap();
        fs::set_permissions(path("open"), Permissions::from_mode(0o644)).unwrap();
        assert!(lock(&path("open"), Duration::ZERO).is_err());
        symlink(path("target"), path("link")).unwrap();
        assert!(lock(&path("link"), Duration::ZERO).is_err());
        assert!(!path("target").exists());
    }
}
