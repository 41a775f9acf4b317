//! Mode observe: clients get what the service would answer, and the records
//! say what would have been.

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT, User};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

fn observe(policy: Option<&str>, sim: &[&'static str]) -> Setup {
    let mut setup = Setup {
        config: "policy.mode = \"observe\"".into(),
        sim: sim.to_vec(),
        ..Setup::default()
    };
    if let Some(policy) = policy {
        setup.policy = policy.into();
    }
    setup
}

/// Reads, and checks verdict, decision, reason and detail of the record; all
/// earlier ones must have been written.
#[track_caller]
fn assert_outcome(
    host: &Host,
    (user, path, token): (User, &str, Option<&str>),
    status: u16,
    expected: [&str; 4],
) {
    let before = host.records(0).len();
    assert_eq!(get(user, V4, path, token).status, status);
    let record = host.records(before + 1).pop().unwrap();
    assert_eq!(record["status"], status);
    assert_eq!(record["mode"], "observe");
    let fields = ["verdict", "decision", "reason", "detail"];
    let said = fields.map(|name| record[name].as_str().unwrap_or("-").to_owned());
    assert_eq!(said, expected, "{record}");
}

#[test]
fn a_denied_read_passes_and_is_recorded() {
    in_network(|net| {
        let host = Host::start(net, &observe(None, &[]));
        let alice = token(ALICE, V4, 60);
        let root = token(ROOT, V4, 60);
        host.records(2);
        let denied = ["deny", "allow", "observed", "default"];
        assert_outcome(&host, (ALICE, CREDENTIALS, Some(&alice)), 200, denied);
        let stolen = ["deny", "allow", "observed", "token_invalid"];
        assert_outcome(&host, (ALICE, AMI, Some(&root)), 200, stolen);
        let allowed = ["allow", "allow", "allowed", "-"];
        assert_outcome(&host, (ALICE, AMI, Some(&alice)), 200, allowed);
        // What the service does not have, it does not have.
        let absent = "/latest/meta-data/no-such-item";
        assert_outcome(&host, (ALICE, absent, Some(&alice)), 404, denied);
        // A token that is nobody's would be the service's 401 as well.
        let bad = ["deny", "deny", "token_invalid", "foreign"];
        assert_outcome(&host, (ALICE, AMI, Some("AQAEAexample==")), 401, bad);
    });
}

#[test]
fn a_rule_with_enforce_holds_also_here() {
    in_network(|net| {
        let policy = "schema = 1\n[[rule]]\nname = \"keep out\"\naction = \"deny\"\n\
             who = [\"user:alice\"]\npaths = [\"@credentials\"]\nenforce = true\n";
        let sim = ["--http-tokens", "optional"];
        let host = Host::start(net, &observe(Some(policy), &sim));
        let alice = token(ALICE, V4, 60);
        host.records(1);
        let held = ["deny", "deny", "policy", "-"];
        assert_outcome(&host, (ALICE, CREDENTIALS, Some(&alice)), 403, held);
        assert_outcome(&host, (ALICE, CREDENTIALS, None), 403, held);
        assert!(host.seen_by_service("connection").is_empty());
        let passing = ["deny", "allow", "observed", "default"];
        assert_outcome(
            &host,
            (ALICE, "/latest/user-data", Some(&alice)),
            200,
            passing,
        );
    });
}

#[test]
fn a_read_without_token_passes_where_the_service_allows_that() {
    for (sim, status) in [("optional", 200), ("required", 401)] {
        in_network(move |net| {
            let host = Host::start(net, &observe(None, &["--http-tokens", sim]));
            let observed = ["deny", "allow", "observed", "token_missing"];
            assert_outcome(&host, (ALICE, AMI, None), status, observed);
            let seen = host.seen_by_service("request");
            let tokens: Vec<_> = seen.iter().map(|it| &it["token"]).collect();
            assert_eq!(tokens, [false], "asked as the client asked");
        });
    }
}
