//! A token bucket, held as the one moment at which it will be full again
//! (the generic cell rate algorithm): no timer refills it, and a bucket that
//! is full is worth nothing and can be forgotten.

use std::time::{Duration, Instant};

/// One each `interval`, and `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: Duration,
    burst: u32,
}

impl Rate {
    /// `count` in each `period`; a `count` of 0 counts as 1.
    pub fn new(count: u32, period: Duration, burst: u32) -> Self {
        Self {
            interval: period / count.max(1),
            burst: burst.max(1),
        }
    }
}

/// How much of a [`Rate`] has been taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bucket {
    full_at: Option<Instant>,
}

impl Bucket {
    /// Takes one, if there is one.
    pub fn take(&mut self, rate: Rate, now: Instant) -> bool {
        let full_at = self.full_at.map_or(now, |at| at.max(now)) + rate.interval;
        if full_at - now > rate.interval.saturating_mul(rate.burst) {
            return false;
        }
        self.full_at = Some(full_at);
        true
    }

    /// Whether nothing of it is missing.
    pub fn is_full(&self, now: Instant) -> bool {
        self.full_at.is_none_or(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_burst_is_there_at_once_and_then_one_each_interval() {
        let rate = Rate::new(10, Duration::from_secs(1), 3);
        let start = Instant::now();
        let mut bucket = Bucket::default();
        let taken = (0..5).filter(|_| bucket.take(rate, start)).count();
        assert_eq!(taken, 3);
        let later = start + Duration::from_millis(100);
        assert!(bucket.take(rate, later) && !bucket.take(rate, later));
        assert!(!bucket.is_full(later));
        assert!(bucket.is_full(later + Duration::from_millis(300)));
    }

    proptest! {
        /// In no span of time more than the burst and what has flowed in.
        #[test]
        fn never_more_than_burst_and_rate(
            count in 1u32..2000,
            burst in 1u32..500,
            steps in proptest::collection::vec(0u64..20_000, 1..400),
        ) {
            let rate = Rate::new(count, Duration::from_secs(1), burst);
            let start = Instant::now();
            let (mut now, mut bucket, mut taken) = (start, Bucket::default(), Vec::new());
            for step in steps {
                now += Duration::from_micros(step);
                if bucket.take(rate, now) {
                    taken.push(now);
                }
            }
            for (first, from) in taken.iter().enumerate() {
                for (last, to) in taken.iter().enumerate().skip(first) {
                    let flowed = (*to - *from).as_secs_f64() * f64::from(count);
                    let most = f64::from(burst) + flowed + 1e-3;
                    prop_assert!(((last - first + 1) as f64) <= most);
                }
            }
        }

        /// Who asks no faster than the rate is never refused.
        #[test]
        fn the_rate_itself_is_always_granted(count in 1u32..5000, extra in 0u64..1000) {
            let rate = Rate::new(count, Duration::from_secs(1), 1);
            let (mut now, mut bucket) = (Instant::now(), Bucket::default());
            for _ in 0..100 {
                prop_assert!(bucket.take(rate, now));
                now += Duration::from_secs(1) / count + Duration::from_nanos(extra);
            }
        }
    }
}
