//! Request targets.

use super::*;
use crate::common::http::get;

fn get_line(target: &str, token: &str) -> Vec<u8> {
    with(
        &format!("GET {target} HTTP/1.1"),
        "Connection: close\r\n",
        token,
    )
}

fn answered_targets(targets: &'static [(&'static str, &'static str)]) {
    answered(|token| {
        let request = |(target, path): &(&str, &str)| (get_line(target, token), (*path).to_owned());
        targets.iter().map(request).collect()
    });
}

#[test]
fn repeated_slashes_collapse() {
    answered_targets(&[
        ("//latest//meta-data/ami-id", AMI),
        ("/latest///meta-data//ami-id", AMI),
    ]);
}

#[test]
fn a_trailing_slash_is_kept_for_the_service() {
    answered_targets(&[
        ("/latest/meta-data/ami-id/", "/latest/meta-data/ami-id/"),
        ("/latest/meta-data/ami-id//", "/latest/meta-data/ami-id/"),
        ("/latest/meta-data/", "/latest/meta-data/"),
        ("/latest/meta-data", "/latest/meta-data"),
    ]);
}

/// Denied targets with the paths they are judged as, one record each.
fn denied(targets: &'static [(&'static str, &'static str)], class: &'static str) {
    in_network(move |net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        for (target, path) in targets {
            let answer = get(ALICE, V4, target, Some(&token));
            assert_eq!(answer.status, 403, "{target}");
            let message: Value = serde_json::from_str(&answer.body).unwrap();
            assert_eq!(message["code"], "AccessDenied");
            let message = message["message"].as_str().unwrap();
            let said =
                format!("imdsfw: alice (uid 4001) may not read {path}; ask the administrator");
            assert!(message.starts_with(&said), "{message}");
        }
        let records = settled(&mut host, 1 + targets.len()).split_off(1);
        for (record, (_, path)) in records.iter().zip(targets) {
            assert_eq!(record["request"]["path"], *path);
            assert_eq!(record["request"]["class"], class, "{path}");
            assert_eq!(record["reason"], "default", "{path}");
            assert_eq!(
                (&record["decision"], &record["status"]),
                (&"deny".into(), &403.into())
            );
            assert_by(ALICE, record);
        }
        assert_untouched(net, &host);
    });
}

#[test]
fn slashes_do_not_lead_around_a_rule() {
    denied(
        &[
            ("/latest/user-data", "/latest/user-data"),
            ("/latest/user-data/", "/latest/user-data/"),
            ("//latest//user-data//", "/latest/user-data/"),
        ],
        "secrets",
    );
}

#[test]
fn escapes_do_not_lead_around_a_rule() {
    let role = "/latest/meta-data/iam/security-credentials/web";
    denied(
        Vec::leak(vec![
            ("/latest/meta%2Ddata/iam/security%2dcredentials/web", role),
            ("/%6catest/meta-data/iam/%73ecurity-credentials/web", role),
        ]),
        "credentials",
    );
}

#[test]
fn a_rule_holds_for_every_version() {
    denied(
        &[
            ("/latest/user-data", "/latest/user-data"),
            ("/1.0/user-data", "/1.0/user-data"),
            ("/2009-04-04/user-data", "/2009-04-04/user-data"),
            ("/2099-12-31/user-data", "/2099-12-31/user-data"),
        ],
        "secrets",
    );
    answered_targets(&[
        ("/1.0/meta-data/ami-id", "/1.0/meta-data/ami-id"),
        (
            "/2021-03-23/meta-data/ami-id",
            "/2021-03-23/meta-data/ami-id",
        ),
    ]);
}

#[test]
fn another_case_is_another_path() {
    denied(
        &[
            ("/Latest/meta-data/ami-id", "/Latest/meta-data/ami-id"),
            ("/latest/Meta-Data/ami-id", "/latest/Meta-Data/ami-id"),
            ("/latest/meta-data/AMI-ID", "/latest/meta-data/AMI-ID"),
        ],
        "unclassified",
    );
}

/// They are no more than part of a name that no rule knows.
#[test]
fn plain_bytes_of_a_path_pass_unescaped_to_the_policy() {
    denied(
        &[
            ("/latest/x+-=.,_:@~*!'()$&y", "/latest/x+-=.,_:@~*!'()$&y"),
            ("/latest/user-data&x=1", "/latest/user-data&x=1"),
        ],
        "unclassified",
    );
}

#[test]
fn an_escape_of_a_plain_byte_is_decoded_once() {
    answered_targets(&[
        ("/latest/meta%2Ddata/%61mi-id", AMI),
        ("/%6c%61%74%65%73%74/meta-data/ami%2did", AMI),
    ]);
}

#[test]
fn other_escapes() {
    refused_targets(
        malformed(400, "path_escape"),
        &[
            "/latest%2fmeta-data/ami-id",
            "/latest/%2561mi-id",
            "/latest/%00",
            "/latest/%0d%0a",
            "/latest/%",
            "/latest/%6",
            "/latest/%zz",
            "/latest/%7euser",
            "/latest/%c0%ae",
            "/latest/%3f",
            "/latest/%5c",
        ],
    );
}

#[test]
fn dot_segments() {
    refused_targets(
        malformed(400, "dot_segment"),
        &[
            "/latest/./meta-data",
            "/latest/meta-data/../user-data",
            "/latest/meta-data/..",
            "/..",
            "/latest/%2e%2e/latest/user-data",
            "/latest/.%2E/",
            "/latest/%2e/",
        ],
    );
}

#[test]
fn backslash_semicolon_and_bytes_that_are_not_ascii() {
    refused_targets(
        malformed(400, "path_byte"),
        &[
            "/latest\\meta-data",
            "/latest/..\\user-data",
            "/latest/meta-data;x",
            "/latest/;/user-data",
            "/latest/<x>",
            "/latest/\"x\"",
            "/latest/{x}|^`",
        ],
    );
    refused(malformed(400, "path_byte"), |token| {
        [&b"\xff"[..], b"\xc3\xa9", b"\x80"]
            .into_iter()
            .map(|bytes| {
                let mut request = [b"GET /latest/", bytes].concat();
                request.extend(&with(" HTTP/1.1", "", token));
                let shown: String = bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect();
                (request, Some(format!("/latest/{shown}")))
            })
            .collect()
    });
}

#[test]
fn control_bytes() {
    refused(malformed(400, "control_byte"), |token| {
        let request = |byte: u8| {
            let mut bytes = b"GET /latest/".to_vec();
            bytes.push(byte);
            bytes.extend(with("x HTTP/1.1", "", token));
            (bytes, Some(format!("/latest/\\x{byte:02x}x")))
        };
        [0x00, 0x01, 0x08, 0x0b, 0x1b, 0x7f].map(request).to_vec()
    });
}

#[test]
fn a_query() {
    refused_targets(
        malformed(400, "query"),
        &[
            "/latest/meta-data/ami-id?",
            "/latest/meta-data/ami-id?a=b",
            "/?/latest/user-data",
        ],
    );
}

#[test]
fn a_fragment() {
    refused_targets(
        malformed(400, "fragment"),
        &["/latest/meta-data/ami-id#", "/latest/#/../user-data"],
    );
}

#[test]
fn absolute_form_authority_form_and_the_asterisk() {
    refused_targets(
        malformed(400, "target_form"),
        &[
            "http://169.254.169.254/latest/meta-data/ami-id",
            "HTTP://169.254.169.254/",
            "169.254.169.254:80",
            "latest/meta-data/ami-id",
            "*",
        ],
    );
}
