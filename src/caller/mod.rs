//! Who is asking: the owner of the client's own socket, and that uid's
//! account and groups.
//!
//! An identity is looked up for each request and holds for that request
//! alone; this must never remember one by address or port, nor take the socket
//! that has an address now for the one that a connection was accepted from.

pub mod accounts;
pub mod names;
pub(crate) mod sock_diag;
mod units;
pub mod witness;

use std::fmt;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;

#[cfg(any(test, fuzzing))]
pub(crate) use sock_diag::reply;
pub use sock_diag::{CallerUnknown, ClientSocket, SocketOwner};

use crate::ids::{ClientAddr, Uid};
use crate::policy::{Account, Login, Obscured, Origin, Program, Subject, Unit, Unknown};
use witness::{Ids, Seen, Unwitnessed, Urgency, Witness};

/// What one request's way through this program takes where nothing is waited
/// for, and a little more. Asking the kernel again within it would say no more
/// than the next instant does away with.
const MOMENT: Duration = Duration::from_micros(50);

/// Whether the kernel names callers to this process by the host's own uids. In
/// a user namespace (user_namespaces(7)) it names that namespace's, and one
/// and the same, 65534, for all who have none there.
///
/// # Errors
/// Where /proc does not say.
pub fn uids_are_the_hosts() -> io::Result<bool> {
    match fs::read_to_string("/proc/self/uid_map") {
        Ok(map) => Ok(map.split_whitespace().eq(["0", "0", "4294967295"])),
        // A kernel without user namespaces.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && Path::new("/proc/self").exists() =>
        {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Answers who is asking.
pub struct Callers {
    diag: Mutex<sock_diag::SockDiag>,
    names: names::Names,
    units: units::Units,
    witness: Witness,
}

/// The other end of a connection: the one socket that it was accepted from,
/// for its whole life. Only [`Callers::meet`] makes one.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    socket: ClientSocket,
    met: Result<SocketOwner, CallerUnknown>,
    met_at: Instant,
}

/// What names there are for the owner of a [`Peer`]'s socket.
pub struct Acquaintance {
    subject: Arc<Subject>,
    unit: Unit,
}

/// Who is at the other end of a connection. Only [`Callers`] makes one.
#[derive(Clone)]
pub struct Caller {
    socket: ClientSocket,
    owner: SocketOwner,
    /// When the kernel last said so.
    seen: Instant,
    subject: Arc<Subject>,
    unit: Unit,
}

impl Callers {
    /// `own_uid` is the daemon's, which is nobody's caller.
    pub fn new(own_uid: Uid, names: names::Names, witness: Witness) -> Result<Self, Errno> {
        Ok(Self {
            diag: Mutex::new(sock_diag::SockDiag::new(own_uid)?),
            names,
            units: units::Units::new(),
            witness,
        })
    }

    /// The peer of a connection just accepted. What a client sent can still
    /// be read when it has reset the connection and another user's socket has
    /// taken its addresses. So the socket is found now and known by its cookie
    /// from here on; and it counts only if our end `is_open` afterwards, for
    /// no two connections with these addresses are open at once.
    pub fn meet(&self, socket: ClientSocket, is_open: impl FnOnce() -> bool) -> Peer {
        // From before: what the kernel says is no older than this.
        let met_at = Instant::now();
        let met = match self.diag().owner(socket) {
            Ok(_) if !is_open() => Err(CallerUnknown::NoSocket),
            met => met,
        };
        Peer {
            socket,
            met,
            met_at,
        }
    }

    /// Looks up the names of the peer, which may take a while: so it comes
    /// before [`Callers::identify`], whose answer is of one moment.
    pub async fn acquaint(&self, peer: Peer) -> Result<Acquaintance, CallerUnknown> {
        Ok(self.named(&peer.met?).await)
    }

    /// The caller at the other end, to be asked when the whole request has
    /// been read, which is so since `whole_since`: the very socket that was
    /// met, unchanged. One that was met since then, and a moment ago, is.
    pub fn identify(
        &self,
        peer: Peer,
        known: Acquaintance,
        whole_since: Instant,
    ) -> Result<Caller, CallerUnknown> {
        let owner = peer.met?;
        let seen = if peer.met_at >= whole_since && peer.met_at.elapsed() < MOMENT {
            peer.met_at
        } else {
            let seen = Instant::now();
            self.diag().still(peer.socket, &owner)?;
            seen
        };
        Ok(Caller::new(peer.socket, owner, known, seen))
    }

    /// Who opened the connection. For records alone: whether that socket is
    /// still at the other end, this does not ask.
    pub async fn opener(&self, peer: Peer) -> Option<Caller> {
        let owner = peer.met.ok()?;
        let known = self.named(&owner).await;
        Some(Caller::new(peer.socket, owner, known, peer.met_at))
    }

    async fn named(&self, owner: &SocketOwner) -> Acquaintance {
        let (subject, unit) =
            tokio::join!(self.names.subject(owner.uid), self.units.unit(owner.cgroup));
        Acquaintance { subject, unit }
    }

    /// Whether the socket the caller was read from is still the one at the
    /// other end: asked before the service is, and before the answer leaves.
    /// What the kernel said a moment ago still holds.
    pub fn confirm(&self, caller: &Caller) -> Result<(), CallerUnknown> {
        if caller.seen.elapsed() < MOMENT {
            return Ok(());
        }
        self.diag().still(caller.socket, &caller.owner)
    }

    /// The directory whose names are read to find a caller's unit.
    pub fn cgroups(&self) -> Option<&std::path::Path> {
        self.units.mount()
    }

    /// Whether names can be known: root has an account on every host.
    pub async fn know_names(&self) -> bool {
        self.names.subject(Uid::ROOT).await.account != Account::Undecidable
    }

    /// The processes that hold the caller's socket, seen from now on.
    pub async fn holders(&self, caller: &Caller, urgency: Urgency) -> Result<Seen, Unwitnessed> {
        self.witness.holders(caller.owner.inode, urgency).await
    }

    /// Finds out about the origin of a request what a verdict hangs on; what
    /// the witness said, where it was asked.
    pub async fn clear_up(
        &self,
        caller: &Caller,
        unknown: &Unknown,
        origin: &mut Origin,
    ) -> Option<Result<Seen, Unwitnessed>> {
        if unknown.unit && origin.unit == Unit::Unknown {
            origin.unit = self.units.unit_for_verdict(caller.owner.cgroup).await;
        }
        if unknown.holder != Some(Obscured::NotAsked) {
            return None;
        }
        let seen = self.holders(caller, Urgency::Now).await;
        origin.holders = self.programs(&seen).await;
        Some(seen)
    }

    /// What those who hold a socket run, and who logged in.
    pub async fn programs(
        &self,
        witnessed: &Result<Seen, Unwitnessed>,
    ) -> Result<Vec<Program>, Obscured> {
        let seen = witnessed.as_ref().map_err(|why| Obscured::from(*why))?;
        if seen.holders.is_empty() {
            return Err(Obscured::Nobody);
        }
        // Root needs nobody else's connection, so its own shielded processes
        // are none to be afraid of.
        let is_root = |ids: &Ids| ids.all() == [Uid::ROOT; 4];
        if !seen.shielded.iter().all(is_root) {
            return Err(Obscured::Shielded);
        }
        let mut programs = Vec::with_capacity(seen.holders.len());
        for holder in &seen.holders {
            let login = match holder.loginuid {
                None => Login::Unknown,
                Some(uid) => match u32::try_from(uid) {
                    Ok(uid) => Login::As(self.subject(Uid(uid)).await),
                    Err(_) => Login::Nobody,
                },
            };
            let exe = holder.program().map(str::to_owned);
            programs.push(Program { exe, login });
        }
        Ok(programs)
    }

    /// Whether it is of no use now to ask for holders without urgency.
    pub fn witness_rests(&self) -> bool {
        self.witness.rests()
    }

    /// Whether there is a witness to ask.
    pub fn has_witness(&self) -> bool {
        self.witness.is_there()
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

impl Peer {
    /// Its address.
    pub fn address(&self) -> ClientAddr {
        self.socket.client
    }

    /// Whose socket it was when it was met: for limits and records alone.
    pub fn uid(&self) -> Option<Uid> {
        self.met.ok().map(|owner| owner.uid)
    }
}

impl Caller {
    fn new(socket: ClientSocket, owner: SocketOwner, known: Acquaintance, seen: Instant) -> Self {
        Self {
            socket,
            owner,
            seen,
            subject: known.subject,
            unit: known.unit,
        }
    }

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
        match &self.unit {
            Unit::Named(unit) => Some(unit),
            Unit::Outside | Unit::Unknown => None,
        }
    }

    /// As rules see it, before anybody was asked who holds the socket.
    pub fn origin(&self) -> Origin {
        Origin::of_unit(self.unit.clone())
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
