//! How the rules in the kernel differ from those that ought to be there.
//!
//! Must never report less than every difference.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One difference between the rules loaded and those expected. A changed rule
/// is two: the expected one missing, another unexpected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drift {
    /// Which way.
    pub kind: DriftKind,
    /// With nft, `table inet imdsfw`, or `chain output` and the like within
    /// it; with iptables, such as `ip6tables mangle INPUT`; or a place of
    /// others, in full.
    pub place: String,
    /// The line of that place that differs, as the tool prints it in numbers;
    /// `None` when it is the place itself.
    pub line: Option<String>,
}

/// Which way a rule set differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DriftKind {
    /// Expected, and not loaded.
    Missing,
    /// Loaded, and not expected.
    Unexpected,
    /// A foreign rule that may decide before ours. The guards behind it hold:
    /// nobody gets by, but some may be refused.
    Shadowed,
    /// A foreign rule that may accept packets before a guard of ours that has
    /// none behind it.
    Accepted,
}

impl Drift {
    /// Whether somebody may get by, or the daemon be mistaken.
    pub fn is_open(&self) -> bool {
        self.kind != DriftKind::Shadowed
    }
}

impl fmt::Display for Drift {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DriftKind::Missing => "missing",
            DriftKind::Unexpected => "unexpected",
            DriftKind::Shadowed => "shadowed by an earlier foreign rule",
            DriftKind::Accepted => "accepted before ours by a foreign rule",
        };
        match &self.line {
            None => write!(f, "{kind}: {}", self.place),
            Some(line) => write!(f, "{kind}: {}: {line}", self.place),
        }
    }
}

/// In order, because the order of rules is part of what they mean: a line
/// that moved is missing in one place and unexpected in the other.
pub(super) fn compare_lines(
    place: &str,
    expected: &[String],
    live: &[String],
    drifts: &mut Vec<Drift>,
) {
    let mut report = |kind, line: &String| {
        drifts.push(Drift {
            kind,
            place: place.to_owned(),
            line: Some(line.clone()),
        });
    };
    let (mut expected, mut live) = (expected, live);
    loop {
        match (expected, live) {
            ([], []) => return,
            ([want, wanted @ ..], []) => {
                report(DriftKind::Missing, want);
                expected = wanted;
            }
            ([], [have, rest @ ..]) => {
                report(DriftKind::Unexpected, have);
                live = rest;
            }
            ([want, wanted @ ..], [have, rest @ ..]) if want == have => {
                (expected, live) = (wanted, rest);
            }
            ([want, wanted @ ..], [have, rest @ ..]) => {
                // Whichever line is matched sooner is waited for.
                let want_at = live.iter().position(|line| line == want);
                let have_at = expected.iter().position(|line| line == have);
                if have_at.is_none_or(|have_at| want_at.is_some_and(|at| at <= have_at)) {
                    report(DriftKind::Unexpected, have);
                    live = rest;
                } else {
                    report(DriftKind::Missing, want);
                    expected = wanted;
                }
            }
        }
    }
}
