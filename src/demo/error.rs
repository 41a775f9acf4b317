//! What keeps the demo from playing, and what brings it.

use std::fmt;
use std::io;

use nix::errno::Errno;

/// What is missing or went wrong.
#[derive(Debug)]
pub enum DemoError {
    /// Not root, and sudo cannot be had.
    NotRoot(io::Error),
    /// A program is missing; its name and Debian package.
    Missing(&'static str, &'static str),
    /// A kind of namespace; its name and kernel option.
    Namespace(&'static str, &'static str, Errno),
    /// A mount of the private mount namespace.
    Mount(&'static str, Errno),
    /// A program did not start or ended badly; its name.
    Run(&'static str, io::Error),
    /// A program failed; its name and what it said.
    Failed(&'static str, String),
    /// A file of the demo's own.
    File(String, io::Error),
    /// No record came for a scene.
    NoRecord(&'static str),
    /// Ended by a signal; everything it made is gone.
    Interrupted,
}

impl fmt::Display for DemoError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotRoot(error) => {
                write!(f, "the demo needs root, and sudo cannot be run: {error}")
            }
            Self::Missing(program, package) => write!(
                f,
                "the demo needs `{program}`, which is not on this machine; install the package \
                 {package} (Debian: `apt-get install {package}`)"
            ),
            Self::Namespace(kind, option, errno) => write!(
                f,
                "the kernel makes no {kind} namespace: {}; it needs {option}, and in a container \
                 the right to (docker: `--privileged`)",
                errno.desc()
            ),
            Self::Mount(what, errno) => write!(
                f,
                "cannot mount {what} in a private mount namespace: {}; in a container that takes \
                 `--privileged`",
                errno.desc()
            ),
            Self::Run(program, error) => write!(f, "cannot run {program}: {error}"),
            Self::Failed(program, said) => write!(f, "{program} failed: {}", said.trim()),
            Self::File(path, error) => write!(f, "{path}: {error}"),
            Self::NoRecord(scene) => {
                write!(f, "no audit record appeared for the scene {scene:?}")
            }
            Self::Interrupted => f.write_str("interrupted; nothing was left behind"),
        }
    }
}

impl std::error::Error for DemoError {}
