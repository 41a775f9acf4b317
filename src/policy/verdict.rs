//! What a policy says of a request.

use std::sync::Arc;

/// Allow or deny, with what goes with it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use]
pub enum Verdict {
    /// Let it through.
    Allow {
        /// The rule that says so; `None` for the default.
        rule: Option<Arc<str>>,
        /// Also without a token.
        imdsv1: bool,
    },
    /// Refuse it.
    Deny {
        /// What says so.
        cause: DenyCause,
        /// Also while the mode is observe.
        enforce: bool,
    },
}

/// What says no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenyCause {
    /// The rule of this name.
    Rule(Arc<str>),
    /// No rule matches.
    Default,
    /// A name could not be decided and could change the verdict.
    AccountUnknown,
}
