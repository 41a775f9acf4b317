//! Prometheus's text format, version 0.0.4: families of samples, each with its
//! help and kind.

use std::fmt::{Display, Write as _};

use crate::audit::Histogram;

/// As Prometheus tells them apart.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What is said at one scrape.
#[derive(Default)]
pub(super) struct Text(String);

pub(super) struct Family<'t> {
    text: &'t mut Text,
    name: &'static str,
}

impl Text {
    pub(super) fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // A String takes whatever is written to it.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
        Family { text: self, name }
    }

    pub(super) fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).is(&[], value);
    }

    pub(super) fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).is(&[], value);
    }

    pub(super) fn histogram(&mut self, name: &'static str, help: &str, histogram: &Histogram) {
        let mut family = self.family(Kind::Histogram, name, help);
        for (bound, count) in histogram.up_to() {
            let bound = bound.as_secs_f64().to_string();
            family.sample("_bucket", &[("le", &bound)], count);
        }
        family.sample("_bucket", &[("le", "+Inf")], histogram.count());
        family.sample("_sum", &[], histogram.sum().as_secs_f64());
        family.sample("_count", &[], histogram.count());
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0.into_bytes()
    }
}

impl Family<'_> {
    pub(super) fn is(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.sample("", labels, value);
    }

    fn sample(&mut self, suffix: &str, labels: &[(&str, &str)], value: impl Display) {
        let to = &mut self.text.0;
        to.push_str(self.name);
        to.push_str(suffix);
        let mut before = '{';
        for (name, text) in labels {
            to.push(before);
            to.push_str(name);
            to.push_str("=\"");
            for letter in text.chars() {
                match letter {
                    '\\' | '"' => to.extend(['\\', letter]),
                    '\n' => to.push_str("\\n"),
                    letter => to.push(letter),
                }
            }
            to.push('"');
            before = ',';
        }
        if before == ',' {
            to.push('}');
        }
        let _ = writeln!(to, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_cannot_end_a_line_or_a_string() {
        let mut text = Text::default();
        let mut family = text.family(Kind::Gauge, "a", "An a.");
        family.is(&[("b", "1\"2\\3\n4"), ("c", "d")], 5);
        family.is(&[], 0.5);
        let text = String::from_utf8(text.into_bytes()).unwrap();
        assert_eq!(
            text,
            "# HELP a An a.\n# TYPE a gauge\na{b=\"1\\\"2\\\\3\\n4\",c=\"d\"} 5\na 0.5\n"
        );
    }
}
