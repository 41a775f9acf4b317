//! Figures as people read them.

use std::time::Duration;

/// One table of 80 columns at most.
pub(crate) struct Table {
    title: String,
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&str]) -> Self {
        let head = [""].iter().chain(columns).map(|it| (*it).into());
        Self {
            title: title.into(),
            rows: vec![head.collect()],
        }
    }

    pub(crate) fn row<const N: usize>(&mut self, name: impl Into<String>, cells: [String; N]) {
        self.rows
            .push([name.into()].into_iter().chain(cells).collect());
    }

    pub(crate) fn print(&self) {
        let width = |at: usize| {
            let cells = self.rows.iter().map(|row| row[at].chars().count());
            cells.max().unwrap_or_default()
        };
        println!("{}", self.title);
        for row in &self.rows {
            let mut line = format!("{:<1$}", row[0], width(0));
            for (at, cell) in row.iter().enumerate().skip(1) {
                line += &format!("{cell:>0$}", width(at) + 2);
            }
            assert!(line.chars().count() <= 80, "{line}");
            println!("{line}");
        }
        println!();
    }
}

/// A figure with so many digits behind the point, or a dash.
pub(crate) fn cell(figure: impl Into<Option<f64>>, digits: usize) -> String {
    figure
        .into()
        .map_or("-".into(), |it| format!("{it:.digits$}"))
}

pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// How long each of many took.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    /// What so great a part of them did not exceed, in microseconds.
    pub(crate) fn us(&self, part: f64) -> f64 {
        let last = self.0.len() - 1;
        let at = (self.0.len() as f64 * part) as usize;
        self.0[at.min(last)].as_secs_f64() * 1e6
    }

    /// The same in milliseconds.
    pub(crate) fn ms(&self, part: f64) -> f64 {
        self.us(part) / 1e3
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<Duration> for Times {
    fn from_iter<T: IntoIterator<Item = Duration>>(times: T) -> Self {
        let mut times: Vec<_> = times.into_iter().collect();
        times.sort();
        Self(times)
    }
}
