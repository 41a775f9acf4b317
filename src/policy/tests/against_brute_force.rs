//! Random small policies, judged also the long way: every rule in turn, and
//! for what is unknown every caller that could be behind the uid.

use std::collections::HashSet;
use std::sync::Arc;

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

const UNITS: [&str; 3] = ["u.service", "v.service", "w.scope"];
const PROGRAMS: [&str; 3] = ["/bin/p", "/bin/q", "/opt/r"];

/// What narrows a rule: nothing, most of the time.
fn narrowing() -> impl Strategy<Value = String> {
    let list = |key: &'static str, items: Vec<&'static str>| {
        let items = prop::sample::select(items);
        let some = a_list(items, 1..3).prop_map(move |list| format!("{key} = {list}\n"));
        prop_oneof![4 => Just(String::new()), 1 => some]
    };
    (
        list("methods", vec!["GET", "HEAD"]),
        list("unit", vec!["u.service", "v.service", "w*"]),
        list("exe", vec!["/bin/p", "/bin/q", "/opt/**"]),
        list("loginuid", vec!["none", "user:a", "uid:1000", "uid:1001-"]),
    )
        .prop_map(|(methods, unit, exe, loginuid)| methods + &unit + &exe + &loginuid)
}

fn an_origin() -> impl Strategy<Value = Origin> {
    prop::sample::select(origins())
}

/// Every origin there can be, as far as the rules can tell.
fn origins() -> Vec<Origin> {
    let login = |uid, user: &str| Login::As(Arc::new(known(uid, user, &[])));
    let logins = [
        Login::Nobody,
        login(1000, "a"),
        login(1000, "b"),
        login(1001, "b"),
        login(1001, "a"),
        login(0, "b"),
        login(0, "a"),
    ];
    let named = UNITS.map(|unit| Unit::Named(unit.into()));
    let mut all = Vec::new();
    for unit in named.into_iter().chain([Unit::Outside]) {
        for exe in PROGRAMS.into_iter().chain(["/etc/none"]) {
            for login in &logins {
                let (exe, login) = (Some(exe.to_owned()), login.clone());
                all.push(Origin {
                    unit: unit.clone(),
                    holders: Ok(vec![Program { exe, login }]),
                });
            }
        }
    }
    all
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
        narrowing(),
    )
        .prop_map(|(allow, who, except, paths, imdsv1, enforce, narrowing)| {
            let mut rest = format!("enforce = {enforce}\n{narrowing}");
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
fn linear(policy: &Policy, query: &Query) -> Verdict {
    let asker = Asker::new(query, &policy.names);
    let judged = JudgedPath::new(query.method, query.path);
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
        origin in an_origin(),
        method in prop::sample::select(vec![ReadMethod::Get, ReadMethod::Head]),
    ) {
        for subject in possible(uid) {
            for target in PATHS.map(path) {
                let query = Query { subject: &subject, origin: &origin, method, path: &target };
                let verdict = policy.decide(&query);
                prop_assert_eq!(&verdict, &linear(&policy, &query));
                let steps = policy.trace(&query);
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
        origin in an_origin(),
    ) {
        for target in PATHS.map(path) {
            let subject = unknown(uid);
            let query = Query {
                subject: &subject,
                origin: &origin,
                method: ReadMethod::Get,
                path: &target,
            };
            let verdict = policy.decide(&query);
            let every: Vec<_> = possible(uid)
                .iter()
                .map(|subject| linear(&policy, &Query { subject, ..query }))
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
                    let differ = matches!(cause, DenyCause::Unknown(_));
                    prop_assert_eq!(actions.len(), if differ { 2 } else { 1 });
                    prop_assert!(actions.contains(&false));
                    prop_assert_eq!(*enforce, any_enforce);
                }
            }
            // The rule named is one that some possible account would meet.
            if verdict.rule().is_some() {
                prop_assert!(every.iter().any(|other| other.rule() == verdict.rule()));
                let steps = policy.trace(&query);
                prop_assert!(steps.iter().any(|step| Some(step.rule.as_str())
                    == verdict.rule().map(AsRef::as_ref)
                    && matches!(step.why, Why::Decides | Why::Undecidable(_))));
            }
        }
    }

    /// Of a caller whose account is known and whose origin is not, or only in
    /// part: what is allowed or denied for certain is so for each that it could
    /// be; and where it is given up, they do differ.
    #[test]
    fn unknown_origins_get_what_all_possible_origins_agree_on(
        policy in a_policy(),
        subject in prop::sample::select(possible(1000)),
        origin in an_origin(),
        unit_is_known: bool,
        holders_are_known: bool,
    ) {
        let hidden = Origin {
            unit: if unit_is_known { origin.unit.clone() } else { Unit::Unknown },
            holders: if holders_are_known { origin.holders.clone() } else { Err(Obscured::Gone) },
        };
        for target in PATHS.map(path) {
            let query = Query {
                subject: &subject,
                origin: &hidden,
                method: ReadMethod::Get,
                path: &target,
            };
            let verdict = policy.decide(&query);
            let every: Vec<_> = origins()
                .iter()
                .filter(|it| !unit_is_known || it.unit == origin.unit)
                .filter(|it| !holders_are_known || it.holders == origin.holders)
                .map(|origin| linear(&policy, &Query { origin, ..query }))
                .collect();
            let allowed = every.iter().any(|v| v.action() == Action::Allow);
            let denied = every.iter().any(|v| v.action() == Action::Deny);
            match &verdict {
                Verdict::Allow { imdsv1, .. } => {
                    prop_assert!(allowed && !denied);
                    let all_bridge = every
                        .iter()
                        .all(|v| matches!(v, Verdict::Allow { imdsv1: true, .. }));
                    prop_assert!(!imdsv1 || all_bridge);
                }
                Verdict::Deny { cause: DenyCause::Unknown(unknown), .. } => {
                    prop_assert!(allowed && denied, "given up for nothing");
                    prop_assert!(!unknown.account);
                    prop_assert!(!(unknown.unit && unit_is_known));
                    prop_assert!(!(unknown.holder.is_some() && holders_are_known));
                }
                Verdict::Deny { .. } => prop_assert!(denied && !allowed),
            }
        }
    }
}
