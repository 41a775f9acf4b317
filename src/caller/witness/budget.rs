//! How much time may go into looking at processes only to fill records, so
//! that nobody can keep a processor busy by asking for routine facts.
//!
//! Pure: the time is handed in.

use std::time::{Duration, Instant};

/// A pass is paid for by so many times the time it took.
const PRICE: u32 = 100;
/// What a pass counts for at least; so there are at most ten a second for
/// long.
const COST_MIN: Duration = Duration::from_millis(1);
/// So much may be owed: after a quiet time, a twentieth of a second of passes is
/// free.
const CREDIT: Duration = Duration::from_secs(5);

pub(super) struct Budget {
    paid_off: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { paid_off: now }
    }

    /// Whether a pass may be made for records alone.
    pub(super) fn affords_one(&self, now: Instant) -> bool {
        self.paid_off < now + CREDIT
    }

    pub(super) fn spend(&mut self, now: Instant, took: Duration) {
        self.paid_off = self.paid_off.max(now) + took.max(COST_MIN) * PRICE;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_a_flood_gets_a_hundredth_of_the_time() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        let pass = Duration::from_millis(10);
        let mut burst = 0;
        while budget.affords_one(now) {
            budget.spend(now, pass);
            burst += 1;
        }
        assert_eq!(burst, 5);

        let start = now;
        let mut passes = 0;
        while now - start < Duration::from_secs(10) {
            if budget.affords_one(now) {
                budget.spend(now, pass);
                now += pass;
                passes += 1;
            }
            now += Duration::from_millis(1);
        }
        assert!((9..=11).contains(&passes), "{passes}");
    }

    #[test]
    fn short_passes_are_counted_too() {
        let start = Instant::now();
        let mut budget = Budget::new(start);
        let mut passes = 0;
        for at in 0..10_000 {
            let now = start + Duration::from_millis(at);
            if budget.affords_one(now) {
                budget.spend(now, Duration::from_micros(10));
                passes += 1;
            }
        }
        assert!((148..=152).contains(&passes), "{passes}");
    }
}
