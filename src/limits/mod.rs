//! Fair shares: what one uid may take of the daemon while others want it too.
//!
//! ```text
//! uid ─► owner (of a subordinate uid) ─► its share: connections, arrivals, tokens, turns
//! ```
//!
//! Root is bound by none of this, and keeps places that nobody else can take.
//! Time is handed in. Memory is bounded whatever uids come: nothing here may
//! grow with what clients do.

mod bucket;
mod owners;
mod shares;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

pub use bucket::{Bucket, Rate};
pub use owners::Owners;
pub use shares::{Holder, Over};

use crate::config;
use crate::ids::Uid;
use shares::{Share, Shares};

/// The limits in force, or none.
#[derive(Clone, Debug)]
pub struct Limits(Option<Arc<Table>>);

#[derive(Debug)]
struct Table {
    owners: Arc<Owners>,
    shares: Mutex<Shares>,
}

/// A connection that counts towards its holder's share until dropped.
#[derive(Debug)]
pub struct Connection(Option<(Arc<Table>, Holder)>);

impl Limits {
    /// By the config, for a daemon that keeps at most `places` connections.
    pub fn new(config: &config::Limits, owners: Arc<Owners>, places: usize) -> Self {
        Self(config.enabled.then(|| {
            let shares = Mutex::new(Shares::new(config, places));
            Arc::new(Table { owners, shares })
        }))
    }

    /// Takes a place for a connection of `uid`; `None` is whoever cannot be
    /// named.
    pub fn connection(&self, uid: Option<Uid>, now: Instant) -> Result<Connection, Over> {
        let Some((table, holder)) = self.bound(uid) else {
            return Ok(Connection(None));
        };
        let holder = table.shares().connect(holder, now)?;
        Ok(Connection(Some((Arc::clone(table), holder))))
    }

    /// Takes the right to one token.
    pub fn token(&self, uid: Uid, now: Instant) -> Result<(), Over> {
        match self.bound(Some(uid)) {
            Some((table, holder)) => table.shares().token(holder, now),
            None => Ok(()),
        }
    }

    /// Waits until it is the turn of one more request of `uid`. All requests
    /// of one uid together get as many turns as each other uid's, however many
    /// connections they come by.
    pub async fn turn(&self, uid: Option<Uid>) {
        let Some(turnstile) = self.queue(uid, |share| &share.turnstile) else {
            return;
        };
        let turn = turnstile.acquire_owned().await;
        // Others' requests go first, and the same uid's cannot: they wait for
        // the turnstile.
        tokio::task::yield_now().await;
        drop(turn);
    }

    /// Waits until one more request of `uid` may be under way to the service.
    pub async fn upstream(&self, uid: Uid) -> Option<OwnedSemaphorePermit> {
        let lanes = self.queue(Some(uid), |share| &share.lanes)?;
        // Never closed.
        lanes.acquire_owned().await.ok()
    }

    fn queue(
        &self,
        uid: Option<Uid>,
        which: impl FnOnce(&Share) -> &Arc<Semaphore>,
    ) -> Option<Arc<Semaphore>> {
        let (table, holder) = self.bound(uid)?;
        let mut shares = table.shares();
        Some(Arc::clone(which(shares.share(holder, Instant::now()).1)))
    }

    /// Whose share it is, where there is anybody to be limited.
    fn bound(&self, uid: Option<Uid>) -> Option<(&Arc<Table>, Holder)> {
        let table = self.0.as_ref()?;
        match uid {
            Some(Uid::ROOT) => None,
            Some(uid) => Some((table, Holder::Owner(table.owners.owner(uid)))),
            None => Some((table, Holder::Others)),
        }
    }
}

impl Table {
    fn shares(&self) -> MutexGuard<'_, Shares> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some((table, holder)) = &self.0 {
            table.shares().disconnect(*holder);
        }
    }
}
