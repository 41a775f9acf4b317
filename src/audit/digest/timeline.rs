//! What happened when, in columns that grow wider as the time they cover does.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use super::Counts;

/// Widths of a column in seconds, each a multiple of the one before: a minute,
/// five, fifteen, half an hour, 1, 3 and 6 hours, a day, a week; and on for
/// clocks that were wrong.
const WIDTHS: [u64; 13] = [
    60,
    300,
    900,
    1800,
    3600,
    10_800,
    21_600,
    86_400,
    604_800,
    6_048_000,
    60_480_000,
    604_800_000,
    6_048_000_000,
];
/// Columns that are kept while reading.
const KEPT_MAX: usize = 4096;

/// The counts, by time.
#[derive(Debug)]
pub struct Timeline {
    width: u64,
    columns: BTreeMap<u64, Counts>,
}

/// One column of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Column {
    /// In seconds of the epoch.
    pub begin: u64,
    /// What came within.
    pub counts: Counts,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            width: WIDTHS[0],
            columns: BTreeMap::new(),
        }
    }
}

impl Timeline {
    pub(super) fn add(&mut self, time: &str, counts: Counts) {
        let Some(at) = humantime::parse_rfc3339_weak(time)
            .ok()
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
        else {
            return;
        };
        let begin = at.as_secs() / self.width * self.width;
        *self.columns.entry(begin).or_default() += counts;
        if self.columns.len() > KEPT_MAX {
            self.widen();
        }
    }

    fn widen(&mut self) {
        if let Some(width) = WIDTHS.into_iter().find(|width| *width > self.width) {
            self.columns = self.of_width(width);
            self.width = width;
        }
    }

    fn of_width(&self, width: u64) -> BTreeMap<u64, Counts> {
        let mut columns = BTreeMap::<_, Counts>::new();
        for (begin, counts) in &self.columns {
            *columns.entry(begin / width * width).or_default() += *counts;
        }
        columns
    }

    /// The whole time in at most `max` columns, those without anything too,
    /// and how many seconds wide each is.
    pub fn columns(&self, max: u64) -> (u64, Vec<Column>) {
        let first = self.columns.keys().next().copied().unwrap_or_default();
        let last = self.columns.keys().next_back().copied().unwrap_or_default();
        let width = WIDTHS
            .into_iter()
            .filter(|width| *width >= self.width)
            .find(|width| last / width - first / width < max)
            .unwrap_or(u64::MAX);
        let counts = self.of_width(width);
        let mut columns = Vec::new();
        if counts.is_empty() {
            return (width, columns);
        }
        for number in first / width..=last / width {
            let begin = number * width;
            let counts = counts.get(&begin).copied().unwrap_or_default();
            columns.push(Column { begin, counts });
        }
        (width, columns)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::utc;
    use std::time::Duration;

    fn at(seconds: u64) -> String {
        utc::rfc3339_micros(UNIX_EPOCH + Duration::from_secs(seconds))
    }

    const ONE: Counts = Counts {
        allowed: 1,
        observed: 0,
        denied: 0,
    };

    #[test]
    fn a_day_is_shown_by_the_quarter_of_an_hour_and_nothing_is_left_out() {
        let mut timeline = Timeline::default();
        for minute in 0..24 * 60 {
            timeline.add(&at(1_795_219_200 + minute * 60), ONE);
        }
        let (width, columns) = timeline.columns(170);
        assert_eq!((width, columns.len()), (900, 96));
        assert!(columns.iter().all(|it| it.counts.allowed == 15));
    }

    #[test]
    fn a_clock_that_was_wrong_makes_few_columns_and_loses_no_count() {
        let mut timeline = Timeline::default();
        for number in 0..20_000 {
            timeline.add(&at(number * 12_000_000), ONE);
        }
        timeline.add("soon", ONE);
        assert!(timeline.columns.len() <= KEPT_MAX);
        let (_, columns) = timeline.columns(170);
        assert!(columns.len() <= 170);
        let total: u64 = columns.iter().map(|it| it.counts.allowed).sum();
        assert_eq!(total, 20_000);
        assert!(Timeline::default().columns(170).1.is_empty());
    }
}
