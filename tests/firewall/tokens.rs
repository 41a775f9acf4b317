//! Session tokens: the daemon's own, bound to a uid and to a run, and the
//! service's own where they are relayed.

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, get, token};
use crate::common::net::in_network;
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, ROOT, STRANGER};

const AMI: &str = "/latest/meta-data/ami-id";
const USER_DATA: &str = "/latest/user-data";
const TTL: &str = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";

fn relay() -> Setup {
    Setup {
        config: "tokens.mode = \"relay\"".into(),
        ..Setup::default()
    }
}

#[test]
fn a_stolen_token_is_worth_nothing_to_another_user() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        for (owner, thief, to, count) in [
            (ALICE, BOB, V4, 3),
            (ROOT, ALICE, V6, 6),
            (ALICE, ROOT, V4, 9),
        ] {
            let stolen = token(owner, to, 60);
            let answer = get(thief, to, AMI, Some(&stolen));
            assert_eq!((answer.status, answer.body.as_str()), (401, ""));
            assert_eq!(get(owner, to, AMI, Some(&stolen)).status, 200);
            let record = &host.records(count)[count - 2];
            assert_eq!(record["caller"]["uid"], thief.uid);
            assert_eq!(record["reason"], "token_invalid");
            assert_eq!(record["detail"], "other_uid");
        }
    });
    in_network(|net| {
        let _host = Host::start(net, &relay());
        let stolen = token(ALICE, V4, 60);
        assert_eq!(get(BOB, V4, AMI, Some(&stolen)).status, 200);
    });
    shown(
        "A user asks with a token that was minted for another user.",
        "401 (`token_invalid`, `other_uid`); its owner goes on with 200",
        "the service's own tokens handed on (`[tokens] mode = \"relay\"`): 200",
    );
}

#[test]
fn a_token_counts_down_and_ends() {
    in_network(|net| {
        let _host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 2);
        let mut seen = Vec::new();
        loop {
            let answer = get(ALICE, V4, AMI, Some(&token));
            let step = (answer.status, answer.header(TTL).map(str::to_owned));
            if seen.last() != Some(&step) {
                seen.push(step);
            }
            if answer.status != 200 {
                break;
            }
        }
        let expected = [
            (200, Some("2".into())),
            (200, Some("1".into())),
            (401, None),
        ];
        assert_eq!(seen, expected);
    });
}

#[test]
fn a_token_of_an_earlier_run_is_worth_nothing() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let old = token(ALICE, V4, 21600);
        assert_eq!(get(ALICE, V4, AMI, Some(&old)).status, 200);
        host.stop_daemon();
        host.start_daemon();
        assert_eq!(get(ALICE, V4, AMI, Some(&old)).status, 401);
        let record = host.records(3).pop().unwrap();
        assert_eq!(record["reason"], "token_invalid");
        assert_eq!(record["detail"], "foreign");
        let new = token(ALICE, V4, 21600);
        assert_eq!(get(ALICE, V4, AMI, Some(&new)).status, 200);
    });
}

#[test]
fn every_caller_may_have_a_token_also_one_that_may_read_nothing() {
    in_network(|net| {
        let setup = Setup {
            policy: include_str!("../../policies/root-only.toml").into(),
            ..Setup::default()
        };
        let host = Host::start(net, &setup);
        for to in [V4, V6] {
            let token = token(STRANGER, to, 60);
            let answer = get(STRANGER, to, AMI, Some(&token));
            assert_eq!(answer.status, 403);
            assert!(answer.body.contains("uid 4009 may not read"), "{answer:?}");
        }
        let minted = &host.records(4)[0];
        assert_eq!(minted["decision"], "allow");
        assert_eq!(minted["request"]["path"], "/latest/api/token");
        assert_eq!(minted["caller"]["uid"], STRANGER.uid);
        assert!(host.seen_by_service("connection").is_empty());
    });
}

#[test]
fn relayed_tokens_are_the_services_and_judged_by_it() {
    in_network(|net| {
        let host = Host::start(net, &relay());
        for (to, requests) in [(V4, 4), (V6, 8)] {
            let token = token(ALICE, to, 60);
            let answer = get(ALICE, to, AMI, Some(&token));
            assert_eq!(answer.status, 200);
            let left: u32 = answer.header(TTL).unwrap().parse().unwrap();
            assert!((50..=60).contains(&left), "{left}");
            // They are not bound to a uid.
            assert_eq!(get(BOB, to, AMI, Some(&token)).status, 200);
            let bad = get(BOB, to, AMI, Some("AQAEAexample=="));
            assert_eq!((bad.status, bad.body.as_str()), (401, ""));
            let record = host.records(requests).pop().unwrap();
            assert_eq!(record["reason"], "allowed", "the service refused");
            assert_eq!(record["status"], 401);
        }
        let seen = host.seen_by_service("request");
        let puts = seen.iter().filter(|it| it["method"] == "PUT").count();
        assert_eq!(puts, 2, "none of the daemon's own");
    });
}

#[test]
fn a_relayed_token_does_not_open_what_the_policy_closes() {
    in_network(|net| {
        let host = Host::start(net, &relay());
        let token = token(ALICE, V4, 60);
        let minted = host.seen_by_service("request").len();
        for (token, status, reason) in [
            (Some(token.as_str()), 403, "default"),
            // Only the service could tell; the policy comes first.
            (Some("AQAEAexample=="), 403, "default"),
            (Some(""), 401, "token_invalid"),
            (Some("not a token"), 401, "token_invalid"),
            (None, 401, "token_missing"),
        ] {
            let before = host.records(1).len();
            assert_eq!(get(ALICE, V4, USER_DATA, token).status, status, "{token:?}");
            let record = host.records(before + 1).pop().unwrap();
            assert_eq!(record["reason"], reason, "{token:?}");
        }
        assert_eq!(get(ALICE, V4, AMI, None).status, 401);
        assert_eq!(host.seen_by_service("request").len(), minted);
    });
}

#[test]
fn a_rule_with_imdsv1_lets_its_own_paths_through_without_a_token() {
    for mode in ["bound", "relay"] {
        in_network(move |net| {
            let policy = format!(
                "schema = 1\n[[rule]]\nname = \"bridge\"\naction = \"allow\"\n\
                 who = [\"user:alice\"]\npaths = [\"{}\"]\nimdsv1 = true\n\
                 [[rule]]\nname = \"rest\"\naction = \"allow\"\nwho = [\"any\"]\n\
                 paths = [\"/**\"]\n",
                "/meta-data/ami-id"
            );
            let setup = Setup {
                policy,
                config: format!("tokens.mode = \"{mode}\""),
                ..Setup::default()
            };
            let host = Host::start(net, &setup);
            for to in [V4, V6] {
                let answer = get(ALICE, to, AMI, None);
                assert_eq!((answer.status, answer.header(TTL)), (200, None), "{mode}");
                assert_eq!(get(BOB, to, AMI, None).status, 401, "not in the rule");
                assert_eq!(get(ALICE, to, USER_DATA, None).status, 401, "{mode}");
                let foreign = get(ALICE, to, AMI, Some("AQAEAexample=="));
                assert_eq!(foreign.status, 401, "a bad token is no missing one");
            }
            let record = &host.records(8)[0];
            assert_eq!(record["rule"], "bridge");
            assert_eq!(record["request"]["imds"], "v1");
            let with_token = get(ALICE, V4, AMI, Some(&token(ALICE, V4, 60)));
            assert!(with_token.header(TTL).is_some());
        });
    }
}
