//! The service's request limit.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many requests per second over the whole service, with up to a second's
/// worth at once (the generic cell rate algorithm: one instant is the state).
pub(super) struct Throttle {
    interval: Duration,
    /// When the next request would be due at a perfectly even pace.
    due: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(per_second: NonZeroU32, now: Instant) -> Self {
        Self {
            interval: Duration::from_secs(1) / per_second.get(),
            due: Mutex::new(now),
        }
    }

    /// Whether one more request is within the limit; if so, counts it.
    pub(super) fn admit(&self, now: Instant) -> bool {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let next = (*due).max(now) + self.interval;
        let admitted = next.duration_since(now) <= Duration::from_secs(1);
        if admitted {
            *due = next;
        }
        admitted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seconds_worth_at_once_then_one_per_interval() {
        let start = Instant::now();
        let throttle = Throttle::new(NonZeroU32::new(4).unwrap(), start);
        let admitted = |at| (0..10).filter(|_| throttle.admit(at)).count();
        assert_eq!(admitted(start), 4);
        assert_eq!(admitted(start + Duration::from_millis(249)), 0);
        assert_eq!(admitted(start + Duration::from_millis(250)), 1);
        assert_eq!(admitted(start + Duration::from_secs(10)), 4);
    }
}
