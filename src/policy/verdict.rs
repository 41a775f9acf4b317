//! What a policy says of one request.

use std::sync::Arc;

use crate::request::ReadMethod;

/// What a rule, or the default, says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Let the request through.
    Allow,
    /// Refuse it.
    Deny,
}

/// The answer, with what it obliges the caller to.
#[must_use]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The request may pass.
    Allow {
        /// The rule that says so; `None` where the default does.
        rule: Option<Arc<str>>,
        /// Whether it may pass also as a GET without a token.
        imdsv1: bool,
    },
    /// The request may not pass.
    Deny {
        /// Why.
        cause: DenyCause,
        /// Whether that holds also while the mode is observe.
        enforce: bool,
    },
}

/// Why a request may not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DenyCause {
    /// The rule of that name.
    Rule(Arc<str>),
    /// No rule matched.
    Default,
    /// Names could not be looked up, and the verdict hangs on them.
    AccountUnknown,
}

impl Verdict {
    /// Allow or deny.
    pub fn action(&self) -> Action {
        match self {
            Self::Allow { .. } => Action::Allow,
            Self::Deny { .. } => Action::Deny,
        }
    }

    /// Whether the rule lets this method through also without a token.
    pub fn bridges_imdsv1(&self, method: ReadMethod) -> bool {
        matches!(self, Self::Allow { imdsv1: true, .. }) && method == ReadMethod::Get
    }

    /// The rule that decided, where one did.
    pub fn rule(&self) -> Option<&Arc<str>> {
        match self {
            Self::Allow { rule, .. } => rule.as_ref(),
            Self::Deny {
                cause: DenyCause::Rule(rule),
                ..
            } => Some(rule),
            Self::Deny { .. } => None,
        }
    }
}
