//! Identical requests under way at once share one.
//!
//! Whoever asks has been permitted by itself; only the way to the service is
//! shared, and its outcome ends with it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::oneshot;

use super::budget::Claim;
use super::memory::Key;
use super::{Answer, UpstreamError};

type Outcome = Result<Answer, UpstreamError>;

#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Flight>>);

struct Flight {
    claim: Arc<Claim>,
    waiting: Vec<oneshot::Sender<Outcome>>,
}

/// The one that goes to the service.
struct Leader<'f> {
    flights: &'f Flights,
    key: &'f Key,
}

impl Flights {
    /// The outcome of `fetch`, which asks by `own`, or of another of this key
    /// that is under way; `join` is told of that one's claim.
    pub(super) async fn share(
        &self,
        key: &Key,
        own: &Arc<Claim>,
        join: impl Fn(&Claim),
        fetch: impl Future<Output = Outcome>,
    ) -> Outcome {
        while let Some((claim, landing)) = self.board(key, own) {
            join(&claim);
            match landing.await {
                // Its client left, or it had less time than this one.
                Err(_) => {}
                Ok(Err(UpstreamError::HostBudget)) if own.outlasts(Instant::now()) => {}
                Ok(outcome) => return outcome,
            }
        }
        let leader = Leader { flights: self, key };
        let outcome = fetch.await;
        for waiting in leader.land() {
            // Its client may have gone.
            let _ = waiting.send(outcome.clone());
        }
        outcome
    }

    /// `None` for the first, who then has to go.
    fn board(
        &self,
        key: &Key,
        own: &Arc<Claim>,
    ) -> Option<(Arc<Claim>, oneshot::Receiver<Outcome>)> {
        let mut flights = self.flights();
        if let Some(flight) = flights.get_mut(key) {
            let (tell, told) = oneshot::channel();
            flight.waiting.push(tell);
            return Some((Arc::clone(&flight.claim), told));
        }
        let flight = Flight {
            claim: Arc::clone(own),
            waiting: Vec::new(),
        };
        flights.insert(key.clone(), flight);
        None
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Flight>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader<'_> {
    fn land(&self) -> Vec<oneshot::Sender<Outcome>> {
        let flight = self.flights.flights().remove(self.key);
        flight.map_or_else(Vec::new, |flight| flight.waiting)
    }
}

/// Also where its client left in the middle, or its time was over: then those
/// who waited find no sender any more, and one of them goes.
impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.land();
    }
}
