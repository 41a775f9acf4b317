//! Records of who was refused on the control socket: each one's first, and
//! then once a second how many more there were. Whoever asks without end
//! fills no log, and none is left out that no count stands for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;

use super::acceptor::Peer;
use super::protocol::Why;
use crate::audit::{Event, Log};
use crate::ids::Uid;

const EVERY: Duration = Duration::from_secs(1);
/// Users told apart within a second; what others come are taken for one.
const UIDS_MAX: usize = 64;

type Kind = (Option<Uid>, Why);

pub(super) struct Refusals {
    log: Log,
    /// How many more since the last record of this kind.
    more: Mutex<HashMap<Kind, u64>>,
}

#[derive(Serialize)]
struct Refusal {
    /// `null` where there were too many to tell apart.
    uid: Option<Uid>,
    /// `null` for several.
    pid: Option<i32>,
    why: &'static str,
    count: u64,
}

impl Refusals {
    pub(super) fn new(log: Log) -> Self {
        Self {
            log,
            more: Mutex::default(),
        }
    }

    pub(super) fn note(&self, peer: Peer, why: Why) {
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = more.len() < UIDS_MAX || more.contains_key(&(Some(peer.uid), why));
        let uid = Some(peer.uid).filter(|_| is_known);
        if let Some(count) = more.get_mut(&(uid, why)) {
            *count += 1;
            return;
        }
        more.insert((uid, why), 0);
        drop(more);
        self.record(Refusal {
            uid,
            pid: peer.pid,
            why: why.as_str(),
            count: 1,
        });
    }

    /// Tells how many more there were, once a second.
    pub(super) async fn tell(self: Arc<Self>) {
        loop {
            tokio::time::sleep(EVERY).await;
            for ((uid, why), count) in self.counted() {
                self.record(Refusal {
                    uid,
                    pid: None,
                    why: why.as_str(),
                    count,
                });
            }
        }
    }

    /// Who has been quiet since is forgotten, and singled out again.
    fn counted(&self) -> Vec<(Kind, u64)> {
        let mut more = self.more.lock().unwrap_or_else(PoisonError::into_inner);
        more.retain(|_, count| *count > 0);
        let counts = more.iter_mut();
        counts
            .map(|(kind, count)| (*kind, std::mem::take(count)))
            .collect()
    }

    fn record(&self, refusal: Refusal) {
        self.log.event(Event::ControlRefused, &refusal);
    }
}
