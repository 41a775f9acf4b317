//! What a policy says correctly, but its author may not have meant.

use super::Action;
use super::narrow::Narrow;
use super::pattern::Pattern;
use super::principal::Principal;
use super::rule::Rule;
use crate::diagnose::{Diagnostics, Place};
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

/// Rules of a policy up to this long are held against each other. A longer
/// one was written by a program, and the time grows with the square.
const MOST_COMPARED: usize = 1000;

/// A pattern that is well written, but surely matches nothing.
pub(super) fn of_pattern(
    pattern: &Pattern,
    provider: Provider,
    place: &Place,
    found: &mut Diagnostics,
) {
    let roots = provider.roots();
    if pattern.words().iter().any(|word| word.starts_with(".*")) {
        found.warning(
            place.clone(),
            format!("`.*` in \"{pattern}\" asks for a dot"),
            "a `*` by itself stands for anything within a segment, `**` for any segments",
        );
    } else if !roots.iter().any(|root| pattern.can_begin_with(root)) {
        found.warning(
            place.clone(),
            format!("\"{pattern}\" matches no path of this service"),
            format!("they begin with /{}", roots.join(", /")),
        );
    }
}

/// Rules that an earlier one leaves nothing to decide, where that is certain.
fn warn_of_unreached(rules: &[Rule], provider: Provider, found: &mut Diagnostics) {
    for (at, rule) in rules.iter().enumerate().take(MOST_COMPARED) {
        let covers = |earlier: &&Rule| {
            earlier.except.is_empty()
                && rule
                    .who
                    .iter()
                    .all(|who| earlier.who.iter().any(|wide| wide.includes(who)))
                && earlier.paths.includes(&rule.paths, provider)
                && earlier.methods.include(rule.methods)
                && earlier
                    .narrow
                    .as_ref()
                    .is_none_or(|narrow| narrow.includes(rule.narrow.as_deref()))
        };
        if let Some(earlier) = rules.iter().take(at).find(covers) {
            found.warning(
                rule.place.clone(),
                format!("the rule \"{}\" is never reached", rule.name),
                format!(
                    "\"{}\" at {} decides first for all its callers and paths",
                    earlier.name,
                    earlier.place.file_and_line()
                ),
            );
        }
    }
}

/// Rules whose conditions leave nobody, where that is certain.
fn warn_of_nobody(rules: &[Rule], found: &mut Diagnostics) {
    for rule in rules {
        let is_excepted = |who| rule.except.iter().any(|wide| wide.includes(who));
        if rule.who.iter().all(is_excepted) {
            found.warning(
                rule.place.clone(),
                format!("the rule \"{}\" matches nobody", rule.name),
                "its `except` covers all of its `who`",
            );
        }
    }
}

pub(super) fn warn(rules: &[Rule], provider: Provider, found: &mut Diagnostics) {
    warn_of_unreached(rules, provider, found);
    warn_of_nobody(rules, found);
    for rule in rules.iter().filter(|rule| rule.action == Action::Allow) {
        let reaches_credentials = rule
            .paths
            .classes()
            .any(|class| class == Class::Credentials)
            || rule.paths.patterns().any(|pattern| {
                provider.classify(&pattern.words()) == Class::Credentials
                    || CREDENTIALS.iter().any(|path| pattern.matches(path))
            });
        let narrow = rule.narrow.as_deref();
        let is_kept = narrow.is_some_and(Narrow::keeps_users_out);
        if reaches_credentials && !is_kept && rule.who.iter().any(Principal::is_everyone) {
            let expected = "expected `who` to name those who may act as the machine's role";
            let finding = found.warning(
                rule.place.clone(),
                "this rule lets everyone read credentials",
                expected,
            );
            if narrow.is_some_and(|it| !it.exe.is_empty()) {
                finding.help("`exe` keeps nobody out: users can run any program under that path");
            }
        }
        if rule.imdsv1 && !rule.methods.get {
            found.warning(
                rule.place.clone(),
                "`imdsv1` does nothing here",
                "it lets GETs without a token pass, and `methods` leaves GET out",
            );
        } else if rule.imdsv1 {
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
