//! Why a verdict is what it is, rule by rule.

use super::names::{Asker, Names};
use super::narrow::Narrow;
use super::principal::Principal;
use super::rule::{JudgedPath, Status};
use super::{Policy, Query};

/// One rule that was asked.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Step {
    /// Its name.
    pub rule: String,
    /// Where it stands, as `file:line`.
    pub place: String,
    /// The paths it is about, as a policy would write them.
    pub paths: Vec<String>,
    /// What it said.
    #[serde(flatten)]
    pub why: Why,
}

/// What a rule said of a request.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case", tag = "outcome", content = "detail")]
pub enum Why {
    /// It decides; no later rule was asked.
    Decides,
    /// Its `paths` do not cover the path.
    Path,
    /// Its `methods` do not hold this one; these were its methods.
    Method(String),
    /// Its `who` does not cover the caller; these were its principals.
    Who(String),
    /// Its `unit` is not the caller's; these were its units.
    Unit(String),
    /// Its `exe` is not what the caller runs; these were its programs.
    Exe(String),
    /// Its `loginuid` is not the caller's; these were its principals.
    Loginuid(String),
    /// This principal of its `except` covers the caller.
    Except(String),
    /// It hangs on this, which is not known.
    Undecidable(String),
}

impl Policy {
    /// Every rule in order, up to the first that decides for certain. Where
    /// names are undecidable, [`Policy::decide`] weighs the rules among these
    /// that hang on them as well.
    pub fn trace(&self, query: &Query) -> Vec<Step> {
        let asker = Asker::new(query, &self.names);
        let path = JudgedPath::new(query.method, query.path);
        let mut steps = Vec::new();
        for rule in &self.rules {
            let status = rule.status(&asker, &path, &self.names);
            let narrow = rule.narrow.as_deref();
            let listed = |list: fn(&Narrow) -> String| narrow.map(list).unwrap_or_default();
            let decides = status == Status::Decides;
            steps.push(Step {
                rule: rule.name.to_string(),
                place: rule.place.file_and_line(),
                paths: rule.paths.texts(),
                why: match status {
                    Status::Decides => Why::Decides,
                    Status::OtherPath => Why::Path,
                    Status::OtherMethod => Why::Method(rule.methods.to_string()),
                    Status::OtherUnit => Why::Unit(listed(Narrow::units)),
                    Status::OtherProgram => Why::Exe(listed(Narrow::programs)),
                    Status::OtherLogin => Why::Loginuid(listed(Narrow::logins)),
                    Status::OtherCaller => Why::Who(list(&rule.who, &self.names)),
                    Status::Excepted(principal) => Why::Except(principal.text(&self.names)),
                    Status::Undecidable(name) => Why::Undecidable(
                        self.names
                            .get(name)
                            .map(ToString::to_string)
                            .unwrap_or_default(),
                    ),
                },
            });
            if decides {
                break;
            }
        }
        steps
    }
}

fn list(principals: &[Principal], names: &Names) -> String {
    principals
        .iter()
        .map(|principal| principal.text(names))
        .collect::<Vec<_>>()
        .join(", ")
}
