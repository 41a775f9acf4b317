//! The AWS SDK for Python, and the AWS CLI.

use serde_json::Value;

use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT};
use crate::desk::{Desk, Printed, lines};

pub(crate) const RESOLVE: &[&str] = &["-c", include_str!("resolve.py")];
/// Shows where credentials come from, and their last four letters.
const CONFIGURE_LIST: &[&str] = &["-m", "awscli", "configure", "list"];
/// Signs with credentials, and asks no service other than this one.
pub(crate) const PRESIGN: &[&str] = &["-m", "awscli", "s3", "presign", "s3://bucket/key"];

pub(crate) const AS_ROLE: [&str; 3] = [
    "PUT /latest/api/token 200",
    "GET /latest/meta-data/iam/security-credentials/ 200",
    "GET /latest/meta-data/iam/security-credentials/web 200",
];
const REFUSED: [&str; 2] = [
    "PUT /latest/api/token 200",
    "GET /latest/meta-data/iam/security-credentials/ 403",
];

#[test]
fn botocore_as_root_gets_the_credentials_it_gets_without_a_firewall() {
    in_network(|net| {
        let mut desk = Desk::without_firewall(net);
        let (_, before) = resolved(&desk.python(ROOT, RESOLVE));
        assert_eq!(before["provider"], "iam-role");
        desk.put_up_firewall();
        let (_, after) = resolved(&desk.python(ROOT, RESOLVE));
        assert_eq!(after, before);
        let records = desk.records(ROOT, &["Botocore/"]);
        assert_eq!(lines(&records), AS_ROLE);
        assert_eq!(records[2]["credential"]["access_key_id"], after["keys"][0]);
    });
}

/// Its own time limit is a second a request: were it left to wait, or to try
/// again, this would take longer.
#[test]
fn botocore_as_a_user_gives_up_at_once() {
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        let (seconds, credentials) = resolved(&desk.python(ALICE, RESOLVE));
        assert_eq!(credentials, Value::Null);
        assert!(seconds < 1.0, "{seconds} s");
        assert_eq!(lines(&desk.records(ALICE, &["Botocore/"])), REFUSED);
    });
}

/// Seconds it took, and what it found.
pub(crate) fn resolved(printed: &Printed) -> (f64, Value) {
    assert_eq!(printed.status, Some(0), "{printed:?}");
    let mut said: Value = serde_json::from_str(&printed.out).unwrap();
    (
        said["seconds"].as_f64().unwrap(),
        said["credentials"].take(),
    )
}

#[test]
fn the_aws_cli_as_root_acts_as_the_role() {
    in_network(|net| {
        let mut desk = Desk::without_firewall(net);
        let before = desk.python(ROOT, CONFIGURE_LIST);
        assert!(before.out.contains("iam-role"), "{before:?}");
        desk.put_up_firewall();
        assert_eq!(desk.python(ROOT, CONFIGURE_LIST), before);
        let signed = desk.python(ROOT, PRESIGN);
        let records = desk.records(ROOT, &["aws-cli/"]);
        assert_eq!(lines(&records), [AS_ROLE, AS_ROLE].concat());
        let key = records[5]["credential"]["access_key_id"].as_str().unwrap();
        assert!(signed.out.contains(key), "{signed:?}");
    });
}

#[test]
fn the_aws_cli_tells_a_user_that_there_are_no_credentials() {
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        let printed = desk.python(ALICE, PRESIGN);
        assert_eq!(printed.status, Some(255), "{printed:?}");
        assert_eq!(printed.out, "");
        assert!(
            printed.err.contains("Unable to locate credentials"),
            "{printed:?}"
        );
        assert_eq!(lines(&desk.records(ALICE, &["aws-cli/"])), REFUSED);
    });
}
