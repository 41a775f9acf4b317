//! Who is asking: the owner of the client's own socket, and that uid's
//! account and groups.
//!
//! An identity is looked up for each request and holds for that request
//! alone; this must never remember one by address or port.

pub mod accounts;
mod names;
mod sock_diag;
mod units;
pub mod witness;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use nix::errno::Errno;

pub use sock_diag::{CallerUnknown, ClientSocket, SocketOwner};

use crate::ids::Uid;
use crate::policy::{Account, Subject};
use witness::{Seen, Unwitnessed, Urgency, Witness};

/// Answers who is asking.
pub struct Callers {
    diag: Mutex<sock_diag::SockDiag>,
    names: names::Names,
    units: units::Units,
    witness: Witness,
}

/// The caller of one request. Only [`Callers::identify`] makes one.
#[derive(Clone)]
pub struct Caller {
    socket: ClientSocket,
    owner: SocketOwner,
    subject: Arc<Subject>,
    unit: Option<Arc<str>>,
}

impl Callers {
    /// `own_uid` is the daemon's, which is nobody's caller.
    pub fn new(own_uid: Uid, lookup: fn(Uid) -> Account, witness: Witness) -> Result<Self, Errno> {
        Ok(Self {
            diag: Mutex::new(sock_diag::SockDiag::new(own_uid)?),
            names: names::Names::new(lookup),
            units: units::Units::new(),
            witness,
        })
    }

    /// The caller at the other end of `socket`, to be asked when the whole
    /// request has been read.
    pub async fn identify(&self, socket: ClientSocket) -> Result<Caller, CallerUnknown> {
        let owner = self.diag().owner(socket)?;
        let (subject, unit) =
            tokio::join!(self.names.subject(owner.uid), self.units.unit(owner.cgroup));
        Ok(Caller {
            socket,
            owner,
            subject,
            unit,
        })
    }

    /// Whether the socket the caller was read from is still the one at the
    /// other end: asked before the service is, and before the answer leaves.
    pub fn confirm(&self, caller: &Caller) -> Result<(), CallerUnknown> {
        self.diag().still(caller.socket, &caller.owner)
    }

    /// The processes that hold the caller's socket, seen from now on.
    pub async fn holders(&self, caller: &Caller, urgency: Urgency) -> Result<Seen, Unwitnessed> {
        self.witness.holders(caller.owner.inode, urgency).await
    }

    /// A uid as rules see it.
    pub async fn subject(&self, uid: Uid) -> Arc<Subject> {
        self.names.subject(uid).await
    }

    fn diag(&self) -> std::sync::MutexGuard<'_, sock_diag::SockDiag> {
        // Poisoned: a panic between question and answer. Sequence numbers
        // keep a left-over answer from being taken for the next one.
        self.diag.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Caller {
    /// As rules see the caller.
    pub fn subject(&self) -> &Arc<Subject> {
        &self.subject
    }

    /// The owner of the caller's socket.
    pub fn uid(&self) -> Uid {
        self.owner.uid
    }

    /// The service manager's unit in which the socket was made.
    pub fn unit(&self) -> Option<&Arc<str>> {
        self.unit.as_ref()
    }

    /// The metadata address the caller asked.
    pub fn service(&self) -> crate::ids::MetadataAddr {
        self.socket.service
    }
}

impl fmt::Debug for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Caller")
            .field("uid", &self.owner.uid)
            .finish_non_exhaustive()
    }
}
