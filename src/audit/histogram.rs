//! How long something took, counted by bounds that never change: what it costs
//! to note is a look at one short list.

use std::time::Duration;

const fn micros(count: u64) -> Duration {
    Duration::from_micros(count)
}

/// From an answer out of memory to a client that waits in vain.
const BOUNDS: [Duration; 16] = [
    micros(50),
    micros(100),
    micros(250),
    micros(500),
    micros(1_000),
    micros(2_500),
    micros(5_000),
    micros(10_000),
    micros(25_000),
    micros(50_000),
    micros(100_000),
    micros(250_000),
    micros(500_000),
    micros(1_000_000),
    micros(2_500_000),
    micros(5_000_000),
];

/// How often it took how long.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: [u64; BOUNDS.len()],
    longer: u64,
    sum: Duration,
}

impl Histogram {
    pub(super) fn note(&mut self, took: Duration) {
        let bounds = BOUNDS.iter().zip(&mut self.counts);
        let mut within = bounds.filter(|(bound, _)| took <= **bound);
        match within.next() {
            Some((_, count)) => *count += 1,
            None => self.longer += 1,
        }
        self.sum = self.sum.saturating_add(took);
    }

    /// Each bound, and how many took no longer.
    pub fn up_to(&self) -> impl Iterator<Item = (Duration, u64)> {
        let mut sum = 0;
        BOUNDS.iter().zip(&self.counts).map(move |(bound, count)| {
            sum += count;
            (*bound, sum)
        })
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum::<u64>() + self.longer
    }

    /// How long they took together.
    pub fn sum(&self) -> Duration {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Of any times: each bound counts just those that are no longer.
        #[test]
        fn each_bound_counts_what_took_no_longer(
            took in proptest::collection::vec(0u64..10_000_000_000, 0..200),
        ) {
            let took: Vec<_> = took.into_iter().map(Duration::from_nanos).collect();
            let mut histogram = Histogram::default();
            took.iter().for_each(|it| histogram.note(*it));
            for (bound, count) in histogram.up_to() {
                let expected = took.iter().filter(|it| **it <= bound).count();
                prop_assert_eq!(count, expected as u64);
            }
            prop_assert_eq!(histogram.count(), took.len() as u64);
            prop_assert_eq!(histogram.sum(), took.iter().sum::<Duration>());
        }
    }

    #[test]
    fn the_bounds_go_up() {
        assert!(BOUNDS.is_sorted());
    }
}
