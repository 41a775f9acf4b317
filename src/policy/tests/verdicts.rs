use super::*;
use crate::ids::Borrower;

#[test]
fn the_first_match_wins_and_except_takes_out() {
    let policy = policy(
        &[
            rule("guard", "deny", r#"["user:mallory"]"#, r#"["/**"]"#, ""),
            rule(
                "ops",
                "allow",
                r#"["user:root", "group:ops@corp", "user:gitlab-runner"]"#,
                r#"["@role"]"#,
                r#"except = ["group:contractors@corp"]"#,
            ),
            rule("all", "allow", r#"["any"]"#, r#"["@routine"]"#, ""),
        ]
        .concat(),
    );
    let role = "/latest/meta-data/iam/security-credentials/web";
    let bob = known(200_417, "bob", &[(5000, "ops@corp")]);
    let eve = known(
        200_418,
        "eve",
        &[(5000, "ops@corp"), (5001, "contractors@corp")],
    );
    for (who, target, expected) in [
        (&bob, role, "allow ops"),
        (
            &bob,
            "/1.0//meta-data/iam/security-credentials/",
            "allow ops",
        ),
        (&eve, role, "deny default"),
        (&known(0, "root", &[(0, "root")]), role, "allow ops"),
        (&known(1000, "root", &[]), role, "deny default"),
        (
            &known(1000, "mallory", &[]),
            "/latest/meta-data/mac",
            "deny guard",
        ),
        (
            &known(1000, "alice", &[]),
            "/latest/meta-data/mac",
            "allow all",
        ),
        (
            &known(1000, "alice", &[]),
            "/latest/user-data",
            "deny default",
        ),
    ] {
        assert_eq!(said(&policy, who, target), expected, "{who:?} {target}");
    }
}

#[test]
fn a_uid_is_no_gid_and_ranges_end_where_they_say() {
    let policy = policy(
        &[
            rule("gid", "allow", r#"["gid:1000"]"#, r#"["/a"]"#, ""),
            rule("one", "allow", r#"["uid:1000"]"#, r#"["/b"]"#, ""),
            rule("range", "allow", r#"["uid:1000-1999"]"#, r#"["/c"]"#, ""),
            rule("open", "allow", r#"["uid:1000-"]"#, r#"["/d"]"#, ""),
        ]
        .concat(),
    );
    let member = known(2000, "m", &[(1000, "g")]);
    let owner = known(1000, "o", &[(2000, "h")]);
    for (who, target, expected) in [
        (&member, "/a", "allow gid"),
        (&owner, "/a", "deny default"),
        (&member, "/b", "deny default"),
        (&owner, "/b", "allow one"),
        (&known(999, "x", &[]), "/c", "deny default"),
        (&known(1999, "x", &[]), "/c", "allow range"),
        (&known(2000, "x", &[]), "/c", "deny default"),
        (&known(4_294_967_294, "x", &[]), "/d", "allow open"),
        (&unknown(1000), "/b", "allow one"),
        (&unknown(1000), "/a", "deny account_unknown"),
    ] {
        assert_eq!(said(&policy, who, target), expected, "{who:?} {target}");
    }
}

#[test]
fn unknown_names_deny_only_where_they_could_change_the_verdict() {
    let policy = policy(
        &[
            rule(
                "no contractors",
                "deny",
                r#"["group:contractors"]"#,
                r#"["@role"]"#,
                "",
            ),
            rule("root", "allow", r#"["user:root"]"#, r#"["/**"]"#, ""),
            rule("ops", "allow", r#"["group:ops"]"#, r#"["@role"]"#, ""),
            rule("a", "allow", r#"["user:a"]"#, r#"["/user-data"]"#, ""),
            rule(
                "not a",
                "allow",
                r#"["any"]"#,
                r#"["/user-data"]"#,
                r#"except = ["user:a"]"#,
            ),
            rule("all", "allow", r#"["any"]"#, r#"["@routine"]"#, ""),
        ]
        .concat(),
    );
    let role = "/latest/meta-data/iam/security-credentials/web";
    for (uid, target, expected) in [
        (1000, role, "deny account_unknown"),
        (0, role, "deny account_unknown"),
        (0, "/latest/user-data", "allow root"),
        // Whether or not the caller is `a`, one of the two rules allows it.
        (1000, "/latest/user-data", "allow not a"),
        (1000, "/latest/meta-data/mac", "allow all"),
        (1000, "/latest/meta-data/spot", "deny default"),
    ] {
        assert_eq!(
            said(&policy, &unknown(uid), target),
            expected,
            "{uid} {target}"
        );
    }
}

#[test]
fn a_caller_has_one_user_name() {
    let policy = policy_or(
        &[
            rule(
                "a",
                "allow",
                r#"["user:a"]"#,
                r#"["/x"]"#,
                r#"except = ["user:b"]"#,
            ),
            rule("b", "deny", r#"["user:a"]"#, r#"["/x"]"#, ""),
        ]
        .concat(),
        Action::Allow,
    );
    // Rule `b` could only decide for somebody called `a` and `b` at once.
    assert_eq!(said(&policy, &unknown(1000), "/x"), "allow default");
}

#[test]
fn obligations_are_the_strictest_of_what_could_be() {
    let text = [
        rule("a", "allow", r#"["user:a"]"#, r#"["/x"]"#, "imdsv1 = true"),
        rule("b", "allow", r#"["any"]"#, r#"["/x"]"#, ""),
        rule("c", "deny", r#"["user:a"]"#, r#"["/y"]"#, "enforce = true"),
        rule("d", "deny", r#"["any"]"#, r#"["/y"]"#, ""),
    ]
    .concat();
    let policy = policy(&text);
    let imdsv1 = |who: &Subject| match policy.decide(&Query::new(who, ReadMethod::Get, &path("/x")))
    {
        Verdict::Allow { imdsv1, .. } => imdsv1,
        verdict => panic!("{verdict:?}"),
    };
    let enforce =
        |who: &Subject| match policy.decide(&Query::new(who, ReadMethod::Get, &path("/y"))) {
            Verdict::Deny { enforce, .. } => enforce,
            verdict => panic!("{verdict:?}"),
        };
    let (a, b) = (known(1, "a", &[]), known(2, "b", &[]));
    assert_eq!(
        [imdsv1(&a), imdsv1(&b), imdsv1(&unknown(3))],
        [true, false, false]
    );
    assert_eq!(
        [enforce(&a), enforce(&b), enforce(&unknown(3))],
        [true, false, true]
    );
}

/// Rules that part the way in two each.
fn forks(count: usize) -> String {
    (0..count)
        .map(|n| {
            let who = format!(r#"["group:g{n}"]"#);
            let except = format!(r#"except = ["group:h{n}"]"#);
            rule(&format!("r{n}"), "allow", &who, r#"["/x"]"#, &except)
        })
        .collect()
}

#[test]
fn ways_that_can_only_agree_are_not_followed_one_by_one() {
    let rest = rule("rest", "allow", r#"["any"]"#, r#"["/x"]"#, "");
    for (policy, expected) in [
        (policy_or(&forks(2000), Action::Allow), "allow default"),
        (policy(&(forks(2000) + &rest)), "allow rest"),
        (policy(&forks(2000)), "deny account_unknown"),
    ] {
        let start = std::time::Instant::now();
        assert_eq!(said(&policy, &unknown(1000), "/x"), expected);
        let took = start.elapsed();
        assert!(took < std::time::Duration::from_millis(100), "{took:?}");
    }
}

#[test]
fn a_verdict_that_parts_too_often_is_a_denial_and_comes_in_time() {
    // Never decides, which only following every way would show.
    let same = r#"["group:z"]"#;
    let except = format!("except = {same}");
    let never = rule("never", "deny", same, r#"["/x"]"#, &except);
    let policy = policy_or(&(forks(2000) + &never), Action::Allow);
    let start = std::time::Instant::now();
    assert_eq!(said(&policy, &unknown(1000), "/x"), "deny account_unknown");
    assert!(start.elapsed() < std::time::Duration::from_secs(5));
}

#[test]
fn long_lists_of_unknown_names_do_not_deny_what_they_cannot_change() {
    let list = |kind: &str| {
        let names: Vec<_> = (0..40).map(|n| format!("group:{kind}{n}")).collect();
        format!("{names:?}")
    };
    let except = format!("except = {}", list("h"));
    let policy = policy(
        &(rule("some", "allow", &list("g"), r#"["/x"]"#, &except)
            + &rule("all", "allow", r#"["any"]"#, r#"["/x"]"#, "")),
    );
    assert_eq!(said(&policy, &unknown(1000), "/x"), "allow all");
}

#[test]
fn the_hash_follows_the_meaning_and_nothing_else() {
    let base = "[paths]\ns = [\"/x\", \"@ssh\"]\n".to_owned()
        + &rule("a", "allow", r#"["user:a", "gid:7"]"#, r#"["@s"]"#, "");
    let hash = |text: &str| policy(text).hash().to_owned();
    let first = hash(&base);
    assert!(first.starts_with("sha256:") && first.len() == 71, "{first}");
    let expanded = rule(
        "a",
        "allow",
        r#"["gid:7", "user:a"]"#,
        r#"["@ssh", "/x"]"#,
        "",
    );
    assert_eq!(first, hash(&format!("# a comment\n{expanded}")));
    assert_ne!(first, hash(&base.replace("/x", "/y")));
    assert_ne!(first, hash(&base.replace("gid:7", "uid:7")));
    assert_ne!(first, hash(&format!("{base}enforce = true")));
    assert_ne!(&first, policy_or(&base, Action::Allow).hash());
}

#[test]
fn a_trace_names_the_first_condition_that_failed() {
    let policy = policy(
        &[
            rule("p", "deny", r#"["any"]"#, r#"["/y"]"#, ""),
            rule("w", "deny", r#"["user:a", "group:g"]"#, r#"["/x"]"#, ""),
            rule(
                "e",
                "deny",
                r#"["any"]"#,
                r#"["/x"]"#,
                r#"except = ["user:root", "uid:7"]"#,
            ),
            rule("d", "allow", r#"["any"]"#, r#"["/x"]"#, ""),
            rule("never asked", "allow", r#"["any"]"#, r#"["/x"]"#, ""),
        ]
        .concat(),
    );
    let whys = |who: &Subject| -> Vec<_> {
        let steps = policy.trace(&Query::new(who, ReadMethod::Get, &path("/x")));
        steps.into_iter().map(|step| step.why).collect()
    };
    let who = Why::Who("user:a, group:g".into());
    let except = Why::Except("uid:7".into());
    assert_eq!(
        whys(&known(7, "z", &[])),
        [Why::Path, who, except.clone(), Why::Decides]
    );
    assert_eq!(
        whys(&unknown(7)),
        [
            Why::Path,
            Why::Undecidable("user:a".into()),
            except,
            Why::Decides
        ]
    );
    let step = &policy.trace(&Query::new(
        &known(7, "z", &[]),
        ReadMethod::Get,
        &path("/x"),
    ))[1];
    assert_eq!((step.rule.as_str(), step.place.as_str()), ("w", "0.toml:7"));
}

#[test]
fn a_lent_uid_is_kept_out_with_its_owner_and_not_let_in_with_it() {
    let policy = policy(
        &[
            rule("one", "deny", r#"["uid:1000"]"#, r#"["/a"]"#, ""),
            rule("range", "deny", r#"["uid:1000-1999"]"#, r#"["/b"]"#, ""),
            rule("hers", "allow", r#"["uid:1000"]"#, r#"["/c"]"#, ""),
            rule(
                "others",
                "allow",
                r#"["any"]"#,
                r#"["/d"]"#,
                r#"except = ["uid:1000"]"#,
            ),
            rule(
                "not hers",
                "deny",
                r#"["any"]"#,
                r#"["/e"]"#,
                r#"except = ["uid:1000"]"#,
            ),
            rule("lent", "allow", r#"["uid:300000"]"#, r#"["/c"]"#, ""),
            rule("any", "allow", r#"["any"]"#, r#"["/a", "/b", "/e"]"#, ""),
        ]
        .concat(),
    );
    let lent_to = |uid, borrowers| Subject {
        uid: Uid(uid),
        account: Account::Subordinate(borrowers),
    };
    let lent = |uid| {
        lent_to(
            uid,
            vec![Borrower::Uid(Uid(5000)), Borrower::Uid(Uid(1000))],
        )
    };
    let other = || lent_to(300_001, vec![Borrower::Uid(Uid(5000))]);
    let anybody = || lent_to(300_001, vec![Borrower::Unknown]);
    for (who, path, expected) in [
        (lent(300_001), "/latest/a", "deny one"),
        (lent(300_001), "/latest/b", "deny range"),
        (lent(300_001), "/latest/c", "deny default"),
        (lent(300_000), "/latest/c", "allow lent"),
        (lent(300_001), "/latest/d", "deny default"),
        (lent(300_001), "/latest/e", "deny not hers"),
        (other(), "/latest/a", "allow any"),
        (other(), "/latest/d", "allow others"),
        (anybody(), "/latest/a", "deny one"),
        (anybody(), "/latest/c", "deny default"),
        (anybody(), "/latest/d", "deny default"),
        (unknown(300_001), "/latest/a", "allow any"),
        (unknown(300_001), "/latest/d", "allow others"),
    ] {
        assert_eq!(said(&policy, &who, path), expected, "{who:?} {path}");
    }
}

#[test]
fn a_denial_that_may_hold_in_observe_is_one_of_that_path_and_method() {
    let policy = policy(
        &[
            rule(
                "kept",
                "deny",
                r#"["user:mallory"]"#,
                r#"["/a"]"#,
                "methods = [\"GET\"]\nenforce = true",
            ),
            rule("plain", "deny", r#"["any"]"#, r#"["/b"]"#, ""),
            rule("let in", "allow", r#"["any"]"#, r#"["/**"]"#, ""),
        ]
        .concat(),
    );
    for (method, target, expected) in [
        (ReadMethod::Get, "/latest/a", true),
        (ReadMethod::Head, "/latest/a", false),
        (ReadMethod::Get, "/latest/b", false),
        (ReadMethod::Get, "/latest/c", false),
    ] {
        let enforces = policy.may_enforce(method, &path(target));
        assert_eq!(enforces, expected, "{method:?} {target}");
    }
}
