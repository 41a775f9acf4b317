use proptest::prelude::*;

use super::*;
use crate::diagnose::Severity;

/// The errors of some files, without warnings, as `file:line:col message | expected`.
fn errors(texts: &[&str]) -> Vec<String> {
    let (policy, found) = parse_all(texts, Action::Deny);
    assert_eq!(policy.is_none(), found.has_errors(), "{found}");
    found
        .iter()
        .filter(|finding| finding.severity == Severity::Error)
        .map(|finding| {
            format!(
                "{} {} | {}",
                finding.place, finding.message, finding.expected
            )
        })
        .collect()
}

/// That a text has one error, which reads so.
fn refused(text: &str, expected: &str) {
    let errors = errors(&[text]);
    assert_eq!(errors.len(), 1, "{text}\n{errors:#?}");
    assert!(errors[0].contains(expected), "{text}\n{}", errors[0]);
}

fn allow(who: &str, paths: &str, rest: &str) -> String {
    rule("r", "allow", who, paths, rest)
}

#[test]
fn what_is_not_understood_is_refused_at_its_place() {
    let good = allow(r#"["user:a"]"#, r#"["/x"]"#, "");
    assert_eq!(errors(&[&good]), [""; 0]);
    for (text, expected) in [
        ("schema = 2", "1:10 2 is out of range"),
        ("rules = []", "1:1 unknown key `rules`"),
        ("rule = {}", "1:8 this is a table | expected [[rule]]"),
        ("[[rule]\n", "0.toml:1:"),
        (
            &format!("{good}hours = \"9-17\""),
            "6:1 unknown key `hours`",
        ),
        (
            &good.replace("\"allow\"", "\"permit\""),
            "3:10 unknown word \"permit\"",
        ),
        (&good.replace("\"allow\"", "true"), "3:10 this is a boolean"),
        (
            &good.replace("[\"user:a\"]", "[]"),
            "4:7 this list is empty",
        ),
        (
            &good.replace("[\"user:a\"]", "\"user:a\""),
            "4:7 this is a string",
        ),
        (&good.replace("[\"/x\"]", "[]"), "5:9 this list is empty"),
        (
            &good.replace("\"user:a\"", "\"alice\""),
            "4:8 \"alice\" is no principal | expected user:NAME",
        ),
        (&good.replace("\"user:a\"", "7"), "4:8 this is an integer"),
        (&format!("{good}except = []"), "6:10 this list is empty"),
        (
            &format!("{good}except = [\"uid:9-1\"]"),
            "6:11 \"9-1\" is no user number",
        ),
        (&format!("{good}imdsv1 = 1"), "6:10 this is an integer"),
        (
            &good
                .replace("allow", "deny")
                .replace("paths", "imdsv1 = true\npaths"),
            "5:10 `imdsv1` on a rule that denies",
        ),
        (
            &good.replace("/x", "@rutine"),
            "5:10 there is no class or path set `@rutine`",
        ),
        (
            &good.replace("/x", "/latest/x"),
            "it holds for all | expected \"/x\"",
        ),
        (
            &good.replace("\"r\"", "\"\""),
            "2:8 this cannot name a rule",
        ),
        (
            &format!("{good}{good}"),
            "7:8 two rules are called \"r\" | the first is at 0.toml:2",
        ),
    ] {
        refused(text, expected);
    }
}

#[test]
fn every_part_of_a_rule_must_be_there() {
    let errors = errors(&["[[rule]]\n"]);
    assert_eq!(errors.len(), 3 + 1, "{errors:#?}");
    for (error, key) in errors
        .iter()
        .zip(["`name`", "`action`", "`who`", "`paths`"])
    {
        assert!(
            error.starts_with(&format!("0.toml:1:1 {key} is missing")),
            "{error}"
        );
    }
}

#[test]
fn sets_are_made_of_sets_but_not_of_themselves() {
    let used = allow(r#"["user:a"]"#, r#"["@outer"]"#, "");
    let good = format!("[paths]\nouter = [\"@inner\", \"/x\"]\ninner = [\"@ssh\"]\n{used}");
    let policy = policy(&good);
    let a = known(1000, "a", &[]);
    assert_eq!(
        said(&policy, &a, "/latest/meta-data/public-keys/"),
        "allow r"
    );
    assert_eq!(said(&policy, &a, "/latest/x"), "allow r");
    for (text, expected) in [
        (
            "[paths]\na = [\"@b\"]\nb = [\"@c\"]\nc = [\"@a\"]",
            "4:6 `@a` is made of itself | expected no circle: @a → @b → @c → @a",
        ),
        ("[paths]\na = [\"@a\"]", "2:6 `@a` is made of itself"),
        (
            "[paths]\nrole = [\"/x\"]",
            "2:1 `@role` is defined by the provider",
        ),
        (
            "[paths]\nssh = [\"/x\"]",
            "2:1 `@ssh` is defined by the provider",
        ),
        ("[paths]\na = []", "2:5 this list is empty"),
        (
            "[paths]\na = [\"@nowhere\"]",
            "2:6 there is no class or path set `@nowhere`",
        ),
        ("[paths]\na = [\"x\"]", "2:6 a pattern must begin with `/`"),
        (
            "[paths]\n\"a b\" = [\"/x\"]",
            "2:1 \"a b\" cannot name a set",
        ),
    ] {
        refused(text, expected);
    }
}

#[test]
fn sets_and_rule_names_are_shared_by_all_files() {
    let used = allow(r#"["user:a"]"#, r#"["@later"]"#, "");
    assert_eq!(errors(&[&used, "[paths]\nlater = [\"/x\"]"]), [""; 0]);
    let twice = errors(&["[paths]\na = [\"/x\"]", "[paths]\na = [\"/x\"]"]);
    assert_eq!(
        twice,
        ["1.toml:2:1 `a` is defined a second time | expected a name that 0.toml:2:1 does not use"]
    );
    assert!(
        errors(&[&used.replace("@later", "/x"), &used.replace("@later", "/x")])[0]
            .starts_with("1.toml:2:8 two rules are called")
    );
}

#[test]
fn a_broken_file_hides_no_error_of_another_and_adds_none() {
    let broken = "[paths]\nlater = [\"/x\"\n";
    let used = allow(r#"["user:a", "bob"]"#, r#"["@later"]"#, "");
    let errors = errors(&[broken, &used]);
    assert_eq!(errors.len(), 2, "{errors:#?}");
    assert!(errors[0].starts_with("0.toml:"), "{errors:#?}");
    assert!(errors[1].starts_with("1.toml:4:18 \"bob\""), "{errors:#?}");
}

#[test]
fn an_empty_policy_is_one() {
    for text in ["", "\n \n", "# only a comment\nschema = 1"] {
        let policy = policy(text);
        assert!(policy.is_empty());
        assert_eq!(
            said(&policy, &known(0, "root", &[]), "/latest/"),
            "deny default"
        );
    }
}

#[test]
fn a_failing_test_refuses_the_policy_and_says_what_decided() {
    let good = allow(r#"["user:a"]"#, r#"["/x"]"#, "");
    let test = |caller: &str, rest: &str| {
        format!("{good}[[test]]\nas = {caller}\npath = \"/latest/x\"\n{rest}\n")
    };
    let a = r#"{ uid = 1000, user = "a" }"#;
    for passing in [
        test(a, "expect = \"allow\""),
        test(a, "expect = \"deny\"\nv1 = true"),
        test(a, "expect = \"allow\"\nmethod = \"HEAD\""),
        test("{ uid = 1000 }", "expect = \"deny\""),
        test(
            r#"{ uid = 1000, user = "b", groups = ["a", 7] }"#,
            "expect = \"deny\"",
        ),
    ] {
        assert_eq!(errors(&[&passing]), [""; 0], "{passing}");
    }
    for (text, expected) in [
        (
            test(a, "expect = \"deny\""),
            "9:10 this test fails: a (uid 1000) GET /latest/x | expected deny, got allow by rule \"r\" (0.toml:2)",
        ),
        (
            test(a, "expect = \"allow\"\nv1 = true"),
            "got deny for want of a token, though allowed by rule \"r\"",
        ),
        (
            test("{ uid = 1000 }", "expect = \"allow\""),
            "got deny because names are unknown",
        ),
        (
            test("{ uid = 0 }", "expect = \"allow\""),
            "because names are unknown",
        ),
        (
            test("{ user = \"a\" }", "expect = \"allow\""),
            "7:6 `uid` is missing",
        ),
        (
            test("{ uid = -1 }", "expect = \"deny\""),
            "7:14 -1 is out of range",
        ),
        (
            test("{ uid = 1, groups = [] }", "expect = \"deny\""),
            "groups of a caller without `user`",
        ),
        (
            test("{ uid = 1, gid = 1 }", "expect = \"deny\""),
            "unknown key `gid`",
        ),
        (
            test(a, "expect = \"denied\""),
            "9:10 unknown word \"denied\"",
        ),
        (test(a, ""), "6:1 `expect` is missing"),
        (
            test(a, "expect = \"deny\"\nmethod = \"PUT\""),
            "unknown word \"PUT\"",
        ),
        (
            test(a, "expect = \"deny\"").replace("/latest/x", "/latest/../x"),
            "no rule is ever asked",
        ),
    ] {
        refused(&text, expected);
    }
}

#[test]
fn imdsv1_lets_a_tokenless_get_pass_but_not_a_head() {
    let text = allow(r#"["user:a"]"#, r#"["/x"]"#, "imdsv1 = true")
        + "[[test]]\nas = { uid = 1000, user = \"a\" }\npath = \"/latest/x\"\nv1 = true\nexpect = \"allow\"\n"
        + "[[test]]\nas = { uid = 1000, user = \"a\" }\npath = \"/latest/x\"\nv1 = true\nmethod = \"HEAD\"\nexpect = \"deny\"\n";
    let (policy, found) = parse_all(&[&text], Action::Deny);
    assert!(policy.is_some(), "{found}");
    assert!(
        found.to_string().contains("without a token pass (IMDSv1)"),
        "{found}"
    );
}

#[test]
fn credentials_for_everyone_are_pointed_out() {
    for paths in [
        "[\"@role\"]",
        "[\"@credentials\"]",
        "[\"/**\"]",
        "[\"/meta-data/iam/**\"]",
        "[\"/meta-data/iam/security-credentials/web\"]",
    ] {
        for who in ["[\"any\"]", "[\"uid:0-\"]"] {
            let (_, found) = parse_all(&[&allow(who, paths, "")], Action::Deny);
            assert!(
                found.to_string().contains("lets everyone read credentials"),
                "{who} {paths}"
            );
        }
    }
    for text in [
        allow(
            "[\"any\"]",
            "[\"@routine\", \"@identity\", \"/meta-data/iam/*\"]",
            "",
        ),
        allow("[\"user:root\"]", "[\"/**\"]", ""),
        rule("r", "deny", "[\"any\"]", "[\"/**\"]", ""),
    ] {
        let (_, found) = parse_all(&[&text], Action::Deny);
        assert!(found.is_empty(), "{found}");
    }
}

#[test]
fn the_names_a_policy_speaks_of_are_listed_once() {
    let text = allow(
        r#"["user:a", "group:g", "user:root", "gid:7", "uid:8"]"#,
        r#"["/x"]"#,
        "",
    ) + &rule(
        "s",
        "deny",
        r#"["user:a"]"#,
        r#"["/x"]"#,
        r#"except = ["user:b"]"#,
    );
    let source = [Source::new("0.toml", text)];
    let mut found = Diagnostics::new();
    let draft = Draft::parse(&source, Provider::Aws, Action::Deny, &mut found).unwrap();
    let names: Vec<_> = draft
        .mentions()
        .map(|(name, place)| format!("{name} {place}"))
        .collect();
    assert_eq!(
        names,
        [
            "user:a 0.toml:4:8",
            "group:g 0.toml:4:18",
            "gid:7 0.toml:4:42",
            "user:b 0.toml:11:11"
        ]
    );
}

proptest! {
    /// Whatever a file holds, reading it ends, and what is said of it can be
    /// shown; a policy comes out only where nothing is wrong.
    #[test]
    fn any_text_is_a_policy_or_an_error(
        cut in 0usize..200,
        middle in "(\\PC|[\"\\[\\]{}=\\n\u{1b}@/*]){0,12}",
        skip in 0usize..20,
    ) {
        let good = format!("[paths]\ns = [\"/x\"]\n{}", allow(r#"["user:a"]"#, r#"["@s"]"#, ""))
            + "[[test]]\nas = { uid = 1 }\npath = \"/y\"\nexpect = \"deny\"\n";
        let tail: String = good.chars().skip(cut + skip).collect();
        let text = good.chars().take(cut).collect::<String>() + &middle + &tail;
        let (policy, found) = parse_all(&[&text], Action::Deny);
        prop_assert_eq!(policy.is_none(), found.has_errors());
        let shown = found.to_string();
        prop_assert!(shown.chars().all(|c| c == '\n' || !c.is_control()), "{:?}", shown);
        for finding in found.iter() {
            prop_assert!(shown.contains(&finding.place.to_string()), "{}", shown);
        }
    }
}
