//! `methods`, `unit`, `exe` and `loginuid`, one by one.

use std::sync::Arc;

use super::*;
use crate::diagnose::Style;

const NAME: &str = "/latest/meta-data/iam/security-credentials/web";

fn narrowed(action: &str, narrow: &str) -> Policy {
    policy(&rule("r", action, "[\"any\"]", "[\"@role\"]", narrow))
}

fn program(exe: &str, login: Login) -> Program {
    Program {
        exe: Some(exe.to_owned()),
        login,
    }
}

fn login(uid: u32, user: &str) -> Login {
    Login::As(Arc::new(known(uid, user, &[])))
}

fn from(unit: &str, holders: Vec<Program>) -> Origin {
    Origin {
        unit: match unit {
            "" => Unit::Outside,
            unit => Unit::Named(unit.into()),
        },
        holders: Ok(holders),
    }
}

fn asked(policy: &Policy, origin: &Origin) -> String {
    let (subject, path) = (known(1000, "alice", &[]), path(NAME));
    word(&policy.decide(&Query {
        subject: &subject,
        origin,
        method: ReadMethod::Get,
        path: &path,
    }))
}

#[test]
fn each_condition_holds_where_it_should_and_nowhere_else() {
    let at_home = || from("web.service", vec![program("/usr/bin/aws", Login::Nobody)]);
    let of_alice = || from("", vec![program("/opt/app/bin/x", login(1000, "alice"))]);
    for (narrow, origin, allowed) in [
        ("methods = [\"GET\"]", at_home(), true),
        ("methods = [\"HEAD\"]", at_home(), false),
        ("unit = [\"web.service\"]", at_home(), true),
        ("unit = [\"web*\", \"other.scope\"]", at_home(), true),
        ("unit = [\"web\\\\x2d.service\"]", at_home(), false),
        ("unit = [\"*\"]", of_alice(), false),
        ("exe = [\"/usr/bin/aws\"]", at_home(), true),
        ("exe = [\"/usr/bin/*\"]", at_home(), true),
        ("exe = [\"/usr/*\"]", at_home(), false),
        ("exe = [\"/opt/app/**\"]", of_alice(), true),
        ("loginuid = [\"none\"]", at_home(), true),
        ("loginuid = [\"any\"]", at_home(), false),
        ("loginuid = [\"any\"]", of_alice(), true),
        ("loginuid = [\"user:alice\"]", of_alice(), true),
        ("loginuid = [\"uid:1001-\", \"none\"]", of_alice(), false),
        (
            "unit = [\"web.service\"]\nexe = [\"/bin/no\"]",
            at_home(),
            false,
        ),
    ] {
        let expected = if allowed { "allow r" } else { "deny default" };
        assert_eq!(
            asked(&narrowed("allow", narrow), &origin),
            expected,
            "{narrow}"
        );
    }
}

#[test]
fn what_is_so_of_one_holder_only_is_known_of_none() {
    let both = from(
        "",
        vec![
            program("/bin/a", login(1, "a")),
            program("/bin/b", Login::Nobody),
        ],
    );
    for (narrow, expected) in [
        ("exe = [\"/bin/a\", \"/bin/b\"]", "allow r"),
        ("exe = [\"/bin/c\"]", "deny default"),
        ("exe = [\"/bin/a\"]", "deny the program or login"),
        ("loginuid = [\"none\"]", "deny the program or login"),
        ("loginuid = [\"none\", \"any\"]", "allow r"),
    ] {
        assert_eq!(
            asked(&narrowed("allow", narrow), &both),
            expected,
            "{narrow}"
        );
    }
    // Nor does what denies one of them let the other through.
    let open = policy_or(
        &rule(
            "r",
            "deny",
            "[\"any\"]",
            "[\"@role\"]",
            "exe = [\"/bin/a\"]",
        ),
        Action::Allow,
    );
    assert_eq!(asked(&open, &both), "deny the program or login");
    assert_eq!(
        asked(&open, &from("", vec![program("/bin/b", Login::Nobody)])),
        "allow default"
    );
}

#[test]
fn what_is_unknown_is_denied_only_where_it_matters() {
    let narrow = narrowed("allow", "exe = [\"/bin/a\"]\nunit = [\"a.service\"]");
    let nowhere = Origin::of_unit(Unit::Unknown);
    assert_eq!(
        asked(&narrow, &nowhere),
        "deny the unit, the program or login"
    );
    // The unit alone settles it: nobody is asked for the program.
    assert_eq!(
        asked(&narrow, &Origin::of_unit(Unit::Outside)),
        "deny default"
    );
    let either = policy(
        &(rule(
            "r",
            "allow",
            "[\"any\"]",
            "[\"@role\"]",
            "exe = [\"/bin/a\"]",
        ) + &rule("s", "allow", "[\"any\"]", "[\"@role\"]", "")),
    );
    assert_eq!(asked(&either, &nowhere), "allow s");
    // A login whose account cannot be looked up is an unknown account.
    let by_name = narrowed("allow", "loginuid = [\"user:alice\"]");
    let nameless = Login::As(Arc::new(unknown(1000)));
    let origin = from("", vec![program("/bin/a", nameless)]);
    assert_eq!(asked(&by_name, &origin), "deny account_unknown");
}

#[test]
fn the_hash_covers_them_and_is_as_before_without_them() {
    let hash = |narrow: &str| narrowed("allow", narrow).hash().to_string();
    let mut hashes: Vec<_> = [
        "",
        "methods = [\"GET\"]",
        "unit = [\"a.service\"]",
        "unit = [\"a.scope\"]",
        "exe = [\"/a\"]",
        "loginuid = [\"none\"]",
    ]
    .map(hash)
    .into();
    assert_eq!(hash("methods = [\"HEAD\", \"GET\"]"), hashes[0]);
    assert_eq!(
        hash("exe = [\"/a\", \"/b\"]"),
        hash("exe = [\"/b\", \"/a\", \"/b\"]")
    );
    hashes.sort();
    hashes.dedup();
    assert_eq!(hashes.len(), 6);
}

#[test]
fn what_they_cannot_say_is_refused() {
    for (narrow, said) in [
        ("methods = []", "this list is empty"),
        ("methods = [\"PUT\"]", "no rule is asked about a PUT"),
        ("methods = [\"get\"]", "did you mean \"GET\"?"),
        ("unit = [\"nginx\"]", "did you mean \"nginx.service\"?"),
        ("unit = [\"user.slice\"]", "is no service and no scope"),
        ("unit = [\"a b.service\"]", "no unit is called"),
        ("exe = [\"aws\"]", "did you mean \"/usr/bin/aws\"?"),
        ("exe = [\"/usr/bin/../sh\"]", "no program is called"),
        ("exe = [\"/usr//bin\"]", "no program is called"),
        ("loginuid = [\"group:ops\"]", "cannot log in"),
        ("loginuid = [\"alice\"]", "cannot log in"),
        ("loginuid = [\"uid:x\"]", "is no user number"),
        ("unit = \"a.service\"", "expected a list: [\"a.service\"]"),
    ] {
        let text = rule("r", "allow", "[\"any\"]", "[\"@role\"]", narrow);
        let (policy, found) = parse_all(&[&text], Action::Deny);
        let shown = found.render(Style::Plain);
        assert!(
            policy.is_none() && shown.contains(said),
            "{narrow}:\n{shown}"
        );
    }
}

#[test]
fn a_rule_behind_a_narrower_one_is_reached() {
    let two = |first: &str, second: &str| {
        let text = rule("a", "allow", "[\"user:root\"]", "[\"@role\"]", first)
            + &rule("b", "allow", "[\"user:root\"]", "[\"@role\"]", second);
        parse_all(&[&text], Action::Deny).1.render(Style::Plain)
    };
    for (first, second, is_reached) in [
        ("methods = [\"GET\"]", "", true),
        ("", "methods = [\"GET\"]", false),
        ("unit = [\"a.service\"]", "", true),
        ("unit = [\"a.*\"]", "unit = [\"a.service\"]", false),
        ("unit = [\"a.service\"]", "unit = [\"a.*\"]", true),
        ("exe = [\"/usr/**\"]", "exe = [\"/usr/bin/aws\"]", false),
        ("exe = [\"/usr/**\"]", "exe = [\"/opt/aws\"]", true),
        ("exe = [\"/usr/**\"]", "unit = [\"a.service\"]", true),
        ("loginuid = [\"any\"]", "loginuid = [\"uid:7\"]", false),
        ("loginuid = [\"any\"]", "loginuid = [\"none\"]", true),
    ] {
        let shown = two(first, second);
        let expected = if is_reached { "" } else { "is never reached" };
        assert_eq!(shown.is_empty(), is_reached, "{first} / {second}: {shown}");
        assert!(shown.contains(expected), "{shown}");
    }
}

#[test]
fn everyone_is_everyone_still_where_nobody_is_kept_out() {
    for (narrow, warned) in [
        ("", true),
        ("methods = [\"GET\"]", true),
        ("exe = [\"/usr/bin/aws\"]", true),
        ("unit = [\"*\"]", true),
        ("unit = [\"session-*.scope\"]", true),
        ("loginuid = [\"any\"]", true),
        ("unit = [\"backup.service\"]", false),
        ("unit = [\"cron.service\"]", true),
        ("loginuid = [\"none\"]", true),
        (
            "loginuid = [\"user:alice\"]\nexe = [\"/usr/bin/aws\"]",
            true,
        ),
    ] {
        let text = rule("r", "allow", "[\"any\"]", "[\"@role\"]", narrow);
        let shown = parse_all(&[&text], Action::Deny).1.render(Style::Plain);
        assert_eq!(
            shown.contains("lets everyone read credentials"),
            warned,
            "{narrow}"
        );
        let by_exe = warned && narrow.contains("exe");
        assert_eq!(shown.contains("`exe` keeps nobody out"), by_exe, "{narrow}");
    }
}

#[test]
fn a_test_says_from_where_it_asks() {
    let rules = rule(
        "r",
        "allow",
        "[\"any\"]",
        "[\"@role\"]",
        "unit = [\"web.service\"]\nexe = [\"/bin/a\"]\nloginuid = [\"none\", \"user:bob\"]",
    );
    for (asker, expect) in [
        (
            "unit = \"web.service\", exe = \"/bin/a\", loginuid = \"none\"",
            "allow",
        ),
        (
            "unit = \"web.service\", exe = \"/bin/a\", loginuid = \"bob\"",
            "allow",
        ),
        (
            "user = \"bob\", unit = \"web.service\", exe = \"/bin/a\", loginuid = 1000",
            "allow",
        ),
        (
            "unit = \"web.service\", exe = \"/bin/a\", loginuid = 1000",
            "deny",
        ),
        ("unit = \"\", exe = \"/bin/a\", loginuid = \"none\"", "deny"),
        ("exe = \"/bin/a\", loginuid = \"none\"", "deny"),
        ("unit = \"web.service\"", "deny"),
    ] {
        let case = format!(
            "[[test]]\nas = {{ uid = 1000, {asker} }}\npath = \"{NAME}\"\nexpect = \"{expect}\"\n"
        );
        policy(&format!("{rules}{case}"));
    }
}
