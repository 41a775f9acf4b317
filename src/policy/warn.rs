//! What a policy says correctly, but its author may not have meant.

use super::Action;
use super::principal::Principal;
use super::rule::Rule;
use crate::diagnose::Diagnostics;
use crate::provider::{Class, Provider};

/// Paths of credentials, for patterns whose wildcards may reach them.
const CREDENTIALS: &[&[&str]] = &[
    &["meta-data", "iam", "security-credentials", "role"],
    &["meta-data", "iam", "security-credentials-extended", "role"],
    &[
        "meta-data",
        "identity-credentials",
        "ec2",
        "security-credentials",
        "ec2-instance",
    ],
];

pub(super) fn warn(rules: &[Rule], provider: Provider, found: &mut Diagnostics) {
    for rule in rules.iter().filter(|rule| rule.action == Action::Allow) {
        let reaches_credentials = rule
            .paths
            .classes()
            .any(|class| class == Class::Credentials)
            || rule.paths.patterns().any(|pattern| {
                provider.classify(&pattern.words()) == Class::Credentials
                    || CREDENTIALS.iter().any(|path| pattern.matches(path))
            });
        if reaches_credentials && rule.who.iter().any(Principal::is_everyone) {
            found.warning(
                rule.place.clone(),
                "this rule lets everyone read credentials",
                "expected `who` to name those who may act as the machine's role",
            );
        }
        if rule.imdsv1 {
            let message = "this rule lets requests without a token pass (IMDSv1)";
            let expected = if reaches_credentials {
                "expected for a while only: such callers receive credentials that the service \
                 marks as delivered by IMDSv2"
            } else {
                "expected for a while only, until the clients send tokens"
            };
            found.warning(rule.place.clone(), message, expected);
        }
    }
}
