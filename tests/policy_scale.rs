//! Large policies load quickly and do not slow verdicts down. Prints what it
//! measured: `cargo test --release --test policy_scale -- --nocapture`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use imdsfw::config::Action;
use imdsfw::diagnose::{Diagnostics, Source};
use imdsfw::ids::{Gid, Uid};
use imdsfw::policy::{Account, AccountFacts, Group, Policy, Query, Subject, Verdict};
use imdsfw::provider::Provider;
use imdsfw::request::{CanonicalPath, ReadMethod};

const ROLE: &str = "/latest/meta-data/iam/security-credentials/web";

/// One rule per user, as a site with many teams would generate it.
fn by_user(n: usize) -> String {
    rules(n, |at| (format!("user:u{at}"), "@role".to_owned()))
}

/// One rule per path, for anyone.
fn by_path(n: usize) -> String {
    rules(n, |at| {
        (
            "any".to_owned(),
            format!("/meta-data/tags/instance/t{at}/*"),
        )
    })
}

fn rules(n: usize, of: impl Fn(usize) -> (String, String)) -> String {
    (0..n)
        .map(|at| {
            let (who, paths) = of(at);
            format!(
                "[[rule]]\nname = \"rule {at}\"\naction = \"allow\"\nwho = [\"{who}\"]\npaths = [\"{paths}\"]\n"
            )
        })
        .collect()
}

/// The policy and the quickest of three loads.
fn load(text: &str) -> (Policy, Duration) {
    let loads = (0..3).map(|_| {
        let mut found = Diagnostics::new();
        let source = Source::new("big.toml", text);
        let start = Instant::now();
        let policy = Policy::parse(&[source], Provider::Aws, Action::Deny, &mut found);
        (policy.unwrap_or_else(|| panic!("{found}")), start.elapsed())
    });
    loads.min_by_key(|(_, took)| *took).unwrap()
}

fn person(user: String) -> Subject {
    let groups = (0..16)
        .map(|at| Group {
            gid: Gid(5000 + at),
            name: Some(format!("group{at}")),
        })
        .collect();
    Subject {
        uid: Uid(1000),
        account: Account::Known(AccountFacts {
            user,
            gid: Gid(5000),
            groups,
        }),
    }
}

/// The quickest of several rounds: what else the machine does only adds.
fn time_of_one(policy: &Policy, subject: &Subject, path: &CanonicalPath, times: u32) -> Duration {
    (0..20)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..times {
                let _ = black_box(policy.decide(black_box(&Query::new(
                    subject,
                    ReadMethod::Get,
                    path,
                ))));
            }
            start.elapsed() / times
        })
        .min()
        .unwrap()
}

#[test]
fn verdicts_do_not_slow_down_as_policies_grow() {
    let mut report = String::from("rules     load        by user    by path    unknown names\n");
    let mut times = Vec::new();
    for n in [10, 1_000, 10_000] {
        let last = n - 1;
        let (users, load_time) = load(&by_user(n));
        let (paths, _) = load(&by_path(n));
        let role = CanonicalPath::parse(Provider::Aws, ROLE.as_bytes()).unwrap();
        let tag = format!("/latest/meta-data/tags/instance/t{last}/x");
        let tag = CanonicalPath::parse(Provider::Aws, tag.as_bytes()).unwrap();
        let user = person(format!("u{last}"));
        let nobody = Subject {
            uid: Uid(1000),
            account: Account::Undecidable,
        };
        for (policy, path) in [(&users, &role), (&paths, &tag)] {
            let verdict = policy.decide(&Query::new(&user, ReadMethod::Get, path));
            assert!(
                matches!(verdict, Verdict::Allow { rule: Some(rule), .. } if *rule == *format!("rule {last}"))
            );
        }
        let of = [
            time_of_one(&users, &user, &role, 200),
            time_of_one(&paths, &user, &tag, 200),
            time_of_one(&users, &nobody, &role, 2),
        ];
        report += &format!(
            "{n:<9} {load_time:<11.1?} {:<10.1?} {:<10.1?} {:.1?}\n",
            of[0], of[1], of[2]
        );
        times.push((load_time, of));
    }
    println!("{report}");
    let (load_time, largest) = times[2];
    let smallest = times[0].1;
    assert!(load_time < Duration::from_secs(1), "{report}");
    for (large, small) in largest.iter().zip(smallest).take(2) {
        assert!(*large < small * 4, "{report}");
    }
}
