//! Reasons that come of the policy and its mode, with what the client gets.

use super::*;
use crate::common::http::get;
use crate::common::user::STRANGER;

const POLICY: &str = r#"
schema = 1

[[rule]]
name   = "ops alone read tags"
action = "allow"
who    = ["group:ops"]
paths  = ["/meta-data/tags/instance/Name"]

[[rule]]
name   = "nobody reads the zone"
action = "deny"
who    = ["any"]
paths  = ["/meta-data/placement/availability-zone"]

[[rule]]
name   = "not even in observe"
action = "deny"
who    = ["any"]
paths  = ["/user-data"]
enforce = true

[[rule]]
name   = "legacy"
action = "allow"
who    = ["user:alice"]
paths  = ["/meta-data/instance-id"]
imdsv1 = true

[[rule]]
name   = "routine"
action = "allow"
who    = ["any"]
paths  = ["@routine"]
"#;
const TAG: &str = "/latest/meta-data/tags/instance/Name";
const ZONE: &str = "/latest/meta-data/placement/availability-zone";
const ID: &str = "/latest/meta-data/instance-id";

struct Case {
    user: User,
    path: &'static str,
    token: bool,
    status: u16,
    decision: &'static str,
    reason: &'static str,
    detail: Option<&'static str>,
    rule: Option<&'static str>,
}

/// Each in a host of its own, with the policy above.
fn comes_to(config: &'static str, case: Case) {
    in_network(move |net| {
        let mut host = Host::start(
            net,
            &Setup {
                policy: POLICY.into(),
                config: config.into(),
                ..Setup::default()
            },
        );
        let token = case.token.then(|| token(case.user, V4, 60));
        let answer = get(case.user, V4, case.path, token.as_deref());
        assert_eq!(answer.status, case.status, "{answer:?}");
        let record = settled(&mut host, 1 + usize::from(case.token))
            .pop()
            .unwrap();
        assert_eq!(record["decision"], case.decision);
        assert_eq!(record["reason"], case.reason);
        assert_eq!(record["detail"].as_str(), case.detail);
        assert_eq!(record["rule"].as_str(), case.rule);
        assert_eq!(record["status"], case.status);
        assert_eq!(record["caller"]["uid"], case.user.uid);
        assert_eq!(record["request"]["path"], case.path);
        assert_eq!(record["bytes"], answer.body.len());
        let expected = usize::from(case.decision == "allow");
        assert_eq!(reads_by_daemon(&host), vec![case.path; expected]);
        if case.decision == "deny" {
            assert_untouched(net, &host);
        }
    });
}

const DENIED: Case = Case {
    user: ALICE,
    path: ZONE,
    token: true,
    status: 403,
    decision: "deny",
    reason: "policy",
    detail: None,
    rule: Some("nobody reads the zone"),
};

#[test]
fn allowed_by_a_group_of_the_account() {
    let case = Case {
        path: TAG,
        status: 200,
        decision: "allow",
        reason: "allowed",
        rule: Some("ops alone read tags"),
        ..DENIED
    };
    comes_to("", case);
}

#[test]
fn denied_by_a_rule() {
    comes_to("", DENIED);
}

#[test]
fn denied_for_want_of_a_rule() {
    let case = Case {
        path: "/latest/meta-data/iam/info",
        reason: "default",
        rule: None,
        ..DENIED
    };
    comes_to("", case);
}

#[test]
fn account_unknown_where_a_name_could_change_the_verdict() {
    let case = Case {
        user: STRANGER,
        path: TAG,
        reason: "account_unknown",
        rule: None,
        ..DENIED
    };
    comes_to("", case);
}

#[test]
fn a_caller_without_account_reads_what_no_name_could_change() {
    let case = Case {
        user: STRANGER,
        path: AMI,
        status: 200,
        decision: "allow",
        reason: "allowed",
        rule: Some("routine"),
        ..DENIED
    };
    comes_to("", case);
}

#[test]
fn tokenless_through_a_rule_with_imdsv1() {
    let case = Case {
        path: ID,
        token: false,
        status: 200,
        decision: "allow",
        reason: "allowed",
        rule: Some("legacy"),
        ..DENIED
    };
    comes_to("", case);
}

#[test]
fn observed_what_would_be_denied() {
    let case = Case {
        status: 200,
        decision: "allow",
        reason: "observed",
        detail: Some("policy"),
        ..DENIED
    };
    comes_to("policy.mode = \"observe\"", case);
}

#[test]
fn denied_in_observe_by_a_rule_with_enforce() {
    let case = Case {
        path: "/latest/user-data",
        rule: Some("not even in observe"),
        ..DENIED
    };
    comes_to("policy.mode = \"observe\"", case);
}
