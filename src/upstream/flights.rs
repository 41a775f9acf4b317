//! Identical requests under way at once share one.
//!
//! Whoever asks has been permitted by itself; only the way to the service is
//! shared, and its outcome ends with it.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::memory::Key;
use super::{Answer, UpstreamError};

type Outcome = Result<Answer, UpstreamError>;

#[derive(Default)]
pub(super) struct Flights(Mutex<HashMap<Key, Vec<oneshot::Sender<Outcome>>>>);

/// The one that goes to the service.
struct Leader<'f> {
    flights: &'f Flights,
    key: &'f Key,
}

impl Flights {
    /// The outcome of `fetch`, or of another of this key that is under way.
    pub(super) async fn share(&self, key: &Key, fetch: impl Future<Output = Outcome>) -> Outcome {
        while let Some(landing) = self.join(key) {
            match landing.await {
                // It had less time left than this one.
                Ok(Err(UpstreamError::Timeout)) | Err(_) => {}
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
    fn join(&self, key: &Key) -> Option<oneshot::Receiver<Outcome>> {
        let mut flights = self.flights();
        if let Some(waiting) = flights.get_mut(key) {
            let (tell, told) = oneshot::channel();
            waiting.push(tell);
            return Some(told);
        }
        flights.insert(key.clone(), Vec::new());
        None
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Vec<oneshot::Sender<Outcome>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader<'_> {
    fn land(&self) -> Vec<oneshot::Sender<Outcome>> {
        self.flights.flights().remove(self.key).unwrap_or_default()
    }
}

/// Also where its client left in the middle: then those who waited find no
/// sender any more, and one of them goes.
impl Drop for Leader<'_> {
    fn drop(&mut self) {
        self.land();
    }
}
