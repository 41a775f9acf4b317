//! Descriptors that a service manager opened and handed over: the protocol of
//! sd_listen_fds(3).

use std::env;
use std::fmt;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// SD_LISTEN_FDS_START.
const FIRST: RawFd = 3;
/// More than anybody hands over, few enough to close.
const MOST: RawFd = 64;

/// Why the descriptors are not as the environment has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ActivationError {
    /// `LISTEN_FDS` is no number of descriptors; as it stands there.
    Count(String),
    /// One of them is not open.
    NotOpen(RawFd),
}

impl fmt::Display for ActivationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(
                f,
                "LISTEN_FDS={count:?} is no number of listeners from 1 to {MOST}"
            ),
            Self::NotOpen(fd) => write!(f, "LISTEN_FDS counts descriptor {fd}, which is not open"),
        }
    }
}

impl std::error::Error for ActivationError {}

/// Takes what this process, and no other, was handed; `None` where that is
/// nothing. They are not passed on by exec. Later calls find nothing.
///
/// To be called before this process opens anything.
///
/// # Errors
/// [`ActivationError`], and then none is to be used.
pub fn take() -> Result<Option<Vec<OwnedFd>>, ActivationError> {
    static TAKEN: AtomicBool = AtomicBool::new(false);
    let for_us = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let Some(count) = env::var_os("LISTEN_FDS").filter(|_| for_us) else {
        return Ok(None);
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(None);
    }
    let number = count.to_str().and_then(|count| count.parse().ok());
    let Some(number) = number.filter(|number| (1..=MOST).contains(number)) else {
        return Err(ActivationError::Count(count.to_string_lossy().into_owned()));
    };
    (FIRST..FIRST + number)
        .map(take_one)
        .collect::<Result<_, _>>()
        .map(Some)
}

fn take_one(fd: RawFd) -> Result<OwnedFd, ActivationError> {
    // SAFETY: only asks about the number, and fcntl answers EBADF where it is
    // not open.
    let number = unsafe { BorrowedFd::borrow_raw(fd) };
    fcntl(number, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))
        .map_err(|_| ActivationError::NotOpen(fd))?;
    // SAFETY: it is open, and the environment says that it was opened for
    // this process to take; each is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
