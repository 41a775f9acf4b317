//! The process `imdsfw-names`: asks NSS, and nothing else.
//!
//! NSS modules do what they like: they open files and sockets, they start
//! threads, they hang. So they run here, as the daemon's user without any
//! capability, and outside of the daemon's sandbox, in which they would fail
//! in silence. Must never answer for a uid what it did not just hear of it.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, send, socketpair};
use nix::unistd::{Gid, Uid};

use super::wire::{Answer, QUESTION_LEN};
use crate::ids;
use crate::policy::Account;

/// Lookups at once. One user may ask under many uids of a subordinate range,
/// and one of them must not be enough to occupy all.
const LOOKUPS_MAX: usize = 16;
/// All of them busy for this long: nothing will come of them any more.
const WEDGED: Duration = Duration::from_secs(3);

/// Starts the process; returns the daemon's end of its socket. The process
/// ends when that is closed.
///
/// # Errors
/// When no process can be made.
pub fn spawn(uid: Uid, gid: Gid) -> io::Result<OwnedFd> {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )?;
    // It drops to these ids by itself, which takes more than setuid.
    Command::new("/proc/self/exe")
        .arg0("imdsfw-names")
        .args(["names", &uid.to_string(), &gid.to_string()])
        .env_clear()
        .stdin(theirs)
        .stdout(Stdio::null())
        .spawn()?;
    Ok(ours)
}

/// Why [`serve`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Nobody is left to ask.
    AskerGone,
    /// Every lookup hangs; only a new program image gets rid of them. What
    /// was not yet read from the socket is still there to be answered.
    Wedged,
}

/// Answers questions, each on a thread of its own.
pub fn serve(socket: &Arc<OwnedFd>, lookup: fn(ids::Uid) -> Account) -> End {
    let slots = Arc::new(Slots::default());
    loop {
        // Before the question is read, so that it is not lost with the rest.
        let Some(slot) = Slots::take(&slots) else {
            return End::Wedged;
        };
        let mut question = [0; QUESTION_LEN];
        match recv(socket.as_raw_fd(), &mut question, MsgFlags::empty()) {
            Ok(QUESTION_LEN) => {}
            Err(Errno::EINTR) => continue,
            Ok(_) | Err(_) => return End::AskerGone,
        }
        let uid = ids::Uid(u32::from_ne_bytes(question));
        let socket = Arc::clone(socket);
        // Without a thread there is no answer, which is one the asker knows.
        let _ = std::thread::Builder::new().spawn(move || {
            let answer = Answer::new(uid, lookup(uid));
            // One that is larger than a socket's buffer takes cannot be given.
            let _ = send(
                socket.as_raw_fd(),
                &answer.to_bytes(),
                MsgFlags::MSG_NOSIGNAL,
            );
            drop(slot);
        });
    }
}

/// How many lookups are under way.
#[derive(Default)]
struct Slots {
    taken: Mutex<usize>,
    freed: Condvar,
}

/// One lookup, until dropped.
struct Slot(Arc<Slots>);

impl Slots {
    /// `None` when none came free for too long.
    fn take(slots: &Arc<Self>) -> Option<Slot> {
        let taken = slots.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut taken, waited) = slots
            .freed
            .wait_timeout_while(taken, WEDGED, |taken| *taken >= LOOKUPS_MAX)
            .unwrap_or_else(PoisonError::into_inner);
        if waited.timed_out() {
            return None;
        }
        *taken += 1;
        Some(Slot(Arc::clone(slots)))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        *self.0.taken.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        self.0.freed.notify_one();
    }
}
