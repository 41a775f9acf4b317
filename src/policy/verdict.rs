//! What a policy says of one request.

use std::sync::Arc;

use super::Obscured;
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
    /// Something about the caller is not known, and the verdict hangs on it.
    Unknown(Unknown),
}

/// What is not known of a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unknown {
    /// The account or groups.
    pub account: bool,
    /// The unit.
    pub unit: bool,
    /// The program, or the login, and why.
    pub holder: Option<Obscured>,
}

impl Unknown {
    /// What it is, in words.
    pub fn what(&self) -> String {
        let parts = [
            (self.account, "the account or its groups"),
            (self.unit, "the unit"),
            (self.holder.is_some(), "the program or login"),
        ];
        let named: Vec<_> = parts.iter().filter(|it| it.0).map(|it| it.1).collect();
        named.join(", ")
    }
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

    /// What would have to be known for another verdict, maybe.
    pub fn unknown(&self) -> Option<&Unknown> {
        match self {
            Self::Deny {
                cause: DenyCause::Unknown(unknown),
                ..
            } => Some(unknown),
            _ => None,
        }
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
