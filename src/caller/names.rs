//! Accounts of uids, for the threads that serve requests: from a cache of
//! bounded life and size, else from the process `imdsfw-names`, with a
//! deadline.
//!
//! That process may hang, be wrong about uids nobody asked for, or be gone;
//! nothing here may wait for it longer than [`DEADLINE`]. No answer is
//! [`Account::Undecidable`], never a guess.

pub mod process;
mod wire;

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, send};
use tokio::net::UnixDatagram;
use tokio::sync::watch;

use super::accounts::without_name;
use crate::ids::Uid;
use crate::limits::Owners;
use crate::policy::{Account, Subject};

/// Clients give up after one second; a verdict must come well before.
const DEADLINE: Duration = Duration::from_millis(500);
/// How long a change of groups may take to be felt.
const KEEP_KNOWN: Duration = Duration::from_secs(30);
/// How long a failing NSS is left alone, per uid.
const KEEP_UNDECIDABLE: Duration = Duration::from_secs(2);
/// More uids than any host has users at work.
const ENTRIES_MAX: usize = 4096;

/// The cache.
pub struct Names(Arc<Shared>);

struct Shared {
    entries: Mutex<HashMap<Uid, Entry>>,
    helper: UnixDatagram,
    /// As they were at the start, for when it does not answer.
    owners: Arc<Owners>,
}

struct Entry {
    asked: Instant,
    answer: watch::Sender<Option<Arc<Subject>>>,
}

impl Names {
    /// Asks `helper`, the daemon's end of a SOCK_SEQPACKET to `imdsfw-names`.
    /// To be called within a tokio runtime.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub fn new(helper: OwnedFd, owners: Arc<Owners>) -> io::Result<Self> {
        // Datagrams with an end: the calls are the same.
        let helper = std::os::unix::net::UnixDatagram::from(helper);
        helper.set_nonblocking(true)?;
        let shared = Arc::new(Shared {
            entries: Mutex::default(),
            helper: UnixDatagram::from_std(helper)?,
            owners,
        });
        tokio::spawn(Arc::clone(&shared).listen());
        Ok(Self(shared))
    }

    /// The account of `uid`, or that it cannot be known now.
    pub async fn subject(&self, uid: Uid) -> Arc<Subject> {
        if let Some(subject) = self.0.known(uid) {
            return subject;
        }
        let mut answer = self.0.ask(uid);
        let known = tokio::time::timeout(DEADLINE, answer.wait_for(Option::is_some)).await;
        known
            .ok()
            .and_then(|answer| answer.ok().and_then(|answer| answer.clone()))
            .unwrap_or_else(|| self.0.without_name(uid))
    }
}

impl Shared {
    fn known(&self, uid: Uid) -> Option<Arc<Subject>> {
        let entries = self.entries();
        let entry = entries.get(&uid).filter(|entry| entry.is_fresh())?;
        entry.answer.borrow().clone()
    }

    fn ask(&self, uid: Uid) -> watch::Receiver<Option<Arc<Subject>>> {
        let mut entries = self.entries();
        if let Some(entry) = entries.get(&uid)
            && entry.is_fresh()
        {
            return entry.answer.subscribe();
        }
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| entry.is_fresh());
        }
        // A user with subordinate uids has tens of thousands of them, without
        // accounts: these may not push out those who have one.
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| entry.is_known());
        }
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        let question = uid.0.to_ne_bytes();
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        // One that is gone, or has more questions than it can take, answers
        // nothing, and nobody needs to wait for that.
        let asked = send(self.helper.as_raw_fd(), &question, flags).is_ok();
        let (answer, receiver) = watch::channel((!asked).then(|| self.without_name(uid)));
        entries.insert(
            uid,
            Entry {
                asked: Instant::now(),
                answer,
            },
        );
        receiver
    }

    async fn listen(self: Arc<Self>) {
        let mut bytes = vec![0; wire::ANSWER_MAX];
        loop {
            match self.helper.recv(&mut bytes).await {
                Ok(0) | Err(_) => break,
                Ok(len) => {
                    let answer = bytes.get(..len).and_then(wire::Answer::from_bytes);
                    if let Some(answer) = answer {
                        self.take_in(answer);
                    }
                }
            }
        }
        tracing::error!(
            "the process imdsfw-names is gone: until the daemon is started again, no user or \
             group is known by its name, and what that could change is denied"
        );
    }

    /// An answer counts for whoever waits for it, and for nobody else.
    fn take_in(&self, answer: wire::Answer) {
        let uid = answer.uid;
        if let Some(entry) = self.entries().get(&uid)
            && entry.answer.borrow().is_none()
        {
            let account = match answer.account() {
                Account::Undecidable => without_name(uid, &self.owners),
                account => account,
            };
            entry
                .answer
                .send_replace(Some(Arc::new(Subject { uid, account })));
        }
    }

    fn without_name(&self, uid: Uid) -> Arc<Subject> {
        let account = without_name(uid, &self.owners);
        Arc::new(Subject { uid, account })
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<Uid, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn is_known(&self) -> bool {
        let answer = self.answer.borrow();
        let account = answer.as_deref().map(|subject| &subject.account);
        matches!(account, Some(Account::Known(_)))
    }

    fn is_fresh(&self) -> bool {
        // Being asked, or asked in vain: no second question beside it.
        let keep = if self.is_known() {
            KEEP_KNOWN
        } else {
            KEEP_UNDECIDABLE
        };
        self.asked.elapsed() < keep
    }
}

#[cfg(test)]
mod tests;
