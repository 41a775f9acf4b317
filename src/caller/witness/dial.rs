//! How a witness that was not started by the daemon finds it.
//!
//! What it knows is not everybody's to know. So it must never ask to be asked
//! by anybody but the daemon: the way to the socket may be changed by root
//! alone, and whoever listens there is root, who holds it for the daemon, or
//! the daemon.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, UnixAddr, connect, getsockopt, socket, sockopt,
};

use crate::ids::Uid;

/// Between attempts, twice as long after each.
const PAUSES: [Duration; 2] = [Duration::from_millis(50), Duration::from_secs(2)];

/// Why there is nobody to answer yet.
#[derive(Debug, PartialEq, Eq)]
enum Astray {
    /// A directory on the way that cannot be looked at.
    Hidden(PathBuf, io::ErrorKind),
    /// A directory that others than root can change: its owner and mode.
    Shared(PathBuf, Uid, u32),
    /// Nobody listens there, or not in our way.
    Refused(Errno),
    /// Somebody else listens there.
    Stranger(Uid),
}

/// Waits until there is a daemon, which runs as that uid, or somebody who
/// holds its sockets for it.
pub(super) fn dial(path: &Path, daemon: Uid) -> OwnedFd {
    let [mut pause, longest] = PAUSES;
    let mut complaint = None;
    loop {
        let astray = match connect_to(path, daemon) {
            Ok(connection) => return connection,
            Err(astray) => Some(astray),
        };
        if astray != complaint
            && let Some(astray) = &astray
        {
            tracing::warn!("no daemon to answer at {}: {astray}", path.display());
        }
        complaint = astray;
        std::thread::sleep(pause);
        pause = (pause * 2).min(longest);
    }
}

fn connect_to(path: &Path, daemon: Uid) -> Result<OwnedFd, Astray> {
    let path = only_roots(path)?;
    let fd = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .map_err(Astray::Refused)?;
    UnixAddr::new(&path)
        .and_then(|address| connect(fd.as_raw_fd(), &address))
        .map_err(Astray::Refused)?;
    // Of a connected socket, this is who called listen(2).
    let listener = getsockopt(&fd, sockopt::PeerCredentials).map_err(Astray::Refused)?;
    match Uid(listener.uid()) {
        uid if uid == Uid::ROOT || uid == daemon => Ok(fd),
        stranger => Err(Astray::Stranger(stranger)),
    }
}

/// The same path without symbolic links, if nobody but root can have put
/// there what is there. In a directory that has the sticky bit, as /tmp does,
/// nobody can replace a directory of root's.
fn only_roots(path: &Path) -> Result<PathBuf, Astray> {
    let hidden = |directory: &Path| {
        let directory = directory.to_owned();
        move |error: io::Error| Astray::Hidden(directory, error.kind())
    };
    let directory = path.parent().unwrap_or(Path::new("/"));
    let directory = directory.canonicalize().map_err(hidden(directory))?;
    for above in directory.ancestors() {
        let found = above.symlink_metadata().map_err(hidden(above))?;
        let is_shared = found.mode() & 0o022 != 0;
        let is_sticky = found.mode() & 0o1000 != 0 && above != directory;
        if found.uid() != 0 || is_shared && !is_sticky {
            let owner = Uid(found.uid());
            return Err(Astray::Shared(above.into(), owner, found.mode() & 0o7777));
        }
    }
    Ok(directory.join(path.file_name().unwrap_or_default()))
}

impl fmt::Display for Astray {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Hidden(directory, error) => write!(f, "{}: {error}", directory.display()),
            Self::Shared(directory, owner, mode) => write!(
                f,
                "others than root can change {} (uid {owner}, mode {mode:04o}); it must belong \
                 to root and be writable by nobody else",
                directory.display()
            ),
            Self::Refused(errno) => f.write_str(errno.desc()),
            Self::Stranger(uid) => write!(
                f,
                "uid {uid} listens there, who is neither root nor `user` in the config"
            ),
        }
    }
}
