//! Figures as people read them.

use serde_json::Value;

/// One table of 80 columns.
pub(crate) struct Table {
    lines: Vec<String>,
}

impl Table {
    pub(crate) fn new(title: &str) -> Self {
        Self {
            lines: vec![
                title.into(),
                format!(
                    "{:<17}{:>8}{:>8}{:>8}{:>8}{:>8}{:>7}{:>7}{:>8}",
                    "",
                    "req/s",
                    "direct",
                    "nginx",
                    "p50 µs",
                    "p99 µs",
                    "cpu µs",
                    "calls",
                    "RSS KiB"
                ),
            ],
        }
    }

    pub(crate) fn row(&mut self, figures: &Value) {
        let number = |key: &str| figures[key].as_f64();
        let ratio = |key: &str| number(key).map_or("-".into(), |it| format!("{it:.2}"));
        self.lines.push(format!(
            "{:<17}{:>8.0}{:>8}{:>8}{:>8.0}{:>8.0}{:>7.1}{:>7.1}{:>8.0}",
            figures["contender"].as_str().unwrap_or_default(),
            number("requests_per_second").unwrap_or_default(),
            ratio("to_direct"),
            ratio("to_nginx_redirected"),
            number("p50_us").unwrap_or_default(),
            number("p99_us").unwrap_or_default(),
            number("cpu_us_per_request").unwrap_or_default(),
            number("system_calls_per_request").unwrap_or_default(),
            number("rss_kib").unwrap_or_default(),
        ));
    }

    pub(crate) fn print(&self) {
        println!("{}\n", self.lines.join("\n"));
    }
}

pub(crate) fn median(figures: impl Iterator<Item = f64>) -> f64 {
    let mut sorted: Vec<f64> = figures.collect();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
