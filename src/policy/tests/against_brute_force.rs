//! Random small policies, judged also the long way: every rule in turn, and
//! for unknown names every account that could be behind the uid.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::policy::names::Asker;
use crate::policy::rule::{JudgedPath, Status};

const USERS: [&str; 3] = ["a", "b", "somebody-else"];
const GROUPS: [(u32, &str); 3] = [(7, "g"), (8, "h"), (9, "i")];
const PATHS: [&str; 4] = ["/x", "/x/y", "/latest/meta-data/mac", "/latest/user-data"];

fn a_principal() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "any",
        "user:root",
        "user:a",
        "user:b",
        "group:g",
        "group:h",
        "group:i",
        "uid:1000",
        "uid:0-999",
        "uid:1001-",
    ])
}

fn a_list(
    item: impl Strategy<Value = &'static str>,
    size: std::ops::Range<usize>,
) -> impl Strategy<Value = String> {
    prop::collection::vec(item, size).prop_map(|items| format!("{items:?}"))
}

fn a_rule() -> impl Strategy<Value = String> {
    let paths = prop::sample::select(vec!["/x", "/x/**", "/**/y", "@routine", "@secrets", "/**"]);
    (
        any::<bool>(),
        a_list(a_principal(), 1..3),
        prop::option::of(a_list(a_principal(), 1..3)),
        a_list(paths, 1..3),
        any::<bool>(),
        any::<bool>(),
    )
        .prop_map(|(allow, who, except, paths, imdsv1, enforce)| {
            let mut rest = format!("enforce = {enforce}\n");
            if allow {
                rest += &format!("imdsv1 = {imdsv1}\n");
            }
            if let Some(except) = except {
                rest += &format!("except = {except}\n");
            }
            rule(
                "NAME",
                if allow { "allow" } else { "deny" },
                &who,
                &paths,
                &rest,
            )
        })
}

fn a_policy() -> impl Strategy<Value = Policy> {
    (prop::collection::vec(a_rule(), 0..7), any::<bool>()).prop_map(|(rules, allow)| {
        let text: String = rules
            .iter()
            .enumerate()
            .map(|(at, rule)| rule.replace("NAME", &format!("r{at}")))
            .collect();
        policy_or(&text, if allow { Action::Allow } else { Action::Deny })
    })
}

/// Every account that could be behind a uid, as far as the rules can tell.
fn possible(uid: u32) -> Vec<Subject> {
    let mut subjects = Vec::new();
    for user in USERS {
        for held in 0..1 << GROUPS.len() {
            let groups: Vec<_> = (0..GROUPS.len())
                .filter(|at| held & (1 << at) != 0)
                .map(|at| GROUPS[at])
                .collect();
            subjects.push(known(uid, user, &groups));
        }
    }
    subjects
}

/// The first rule that decides, without the index.
fn linear(policy: &Policy, subject: &Subject, target: &CanonicalPath) -> Verdict {
    let asker = Asker::new(subject, &policy.names);
    let judged = JudgedPath::new(target);
    let rule = policy
        .rules
        .iter()
        .find(|rule| rule.status(&asker, &judged, &policy.names) == Status::Decides);
    let name = rule.map(|rule| rule.name.clone());
    match rule.map_or(policy.default, |rule| rule.action) {
        Action::Allow => Verdict::Allow {
            rule: name,
            imdsv1: rule.is_some_and(|rule| rule.imdsv1),
        },
        Action::Deny => Verdict::Deny {
            cause: name.map_or(DenyCause::Default, DenyCause::Rule),
            enforce: rule.is_some_and(|rule| rule.enforce),
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn known_callers_get_the_first_match_and_the_trace_ends_there(
        policy in a_policy(),
        uid in prop::sample::select(vec![0_u32, 999, 1000, 1001]),
    ) {
        for subject in possible(uid) {
            for target in PATHS.map(path) {
                let verdict = policy.decide(&subject, &target);
                prop_assert_eq!(&verdict, &linear(&policy, &subject, &target));
                let steps = policy.trace(&subject, &target);
                let winner = steps.last().filter(|step| step.why == Why::Decides);
                prop_assert_eq!(
                    winner.map(|step| step.rule.as_str()),
                    verdict.rule().map(AsRef::as_ref)
                );
            }
        }
    }

    #[test]
    fn unknown_callers_get_what_all_possible_accounts_agree_on(
        policy in a_policy(),
        uid in prop::sample::select(vec![0_u32, 999, 1000, 1001]),
    ) {
        for target in PATHS.map(path) {
            let verdict = policy.decide(&unknown(uid), &target);
            let every: Vec<_> = possible(uid)
                .iter()
                .map(|subject| linear(&policy, subject, &target))
                .collect();
            let actions: HashSet<_> = every.iter().map(|v| v.action() == Action::Allow).collect();
            let all_bridge = every
                .iter()
                .all(|v| !matches!(v, Verdict::Allow { imdsv1: false, .. }));
            let any_enforce = every
                .iter()
                .any(|v| matches!(v, Verdict::Deny { enforce: true, .. }));
            match &verdict {
                Verdict::Allow { imdsv1, .. } => {
                    prop_assert_eq!(actions, HashSet::from([true]));
                    prop_assert_eq!(*imdsv1, all_bridge);
                }
                Verdict::Deny { cause, enforce } => {
                    let differ = *cause == DenyCause::AccountUnknown;
                    prop_assert_eq!(actions.len(), if differ { 2 } else { 1 });
                    prop_assert!(actions.contains(&false));
                    prop_assert_eq!(*enforce, any_enforce);
                }
            }
            // The rule named is one that some possible account would meet.
            if verdict.rule().is_some() {
                prop_assert!(every.iter().any(|other| other.rule() == verdict.rule()));
                let steps = policy.trace(&unknown(uid), &target);
                prop_assert!(steps.iter().any(|step| Some(step.rule.as_str())
                    == verdict.rule().map(AsRef::as_ref)
                    && matches!(step.why, Why::Decides | Why::Undecidable(_))));
            }
        }
    }
}
