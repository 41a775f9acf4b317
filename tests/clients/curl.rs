//! curl, as people type it: with a token and without, over IPv4 and IPv6.

use serde_json::Value;

use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT, User};
use crate::desk::{Desk, lines};

const SERVICES: [&str; 2] = ["http://169.254.169.254", "http://[fd00:ec2::254]"];
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

#[test]
fn root_sees_what_it_sees_without_a_firewall() {
    in_network(|net| {
        let mut desk = Desk::without_firewall(net);
        let before = SERVICES.map(|it| session(&desk, it));
        desk.put_up_firewall();
        assert_eq!(SERVICES.map(|it| session(&desk, it)), before);
        let one = [
            "PUT /latest/api/token 200",
            "GET /latest/meta-data/instance-id 200",
            "HEAD /latest/meta-data/instance-id 200",
            "GET /latest/meta-data/ 200",
            "GET /latest/meta-data/spot/instance-action 404",
            "GET /latest/user-data 200",
            "GET /latest/meta-data/iam/security-credentials/web 200",
        ];
        let records = desk.records(ROOT, &["curl/"]);
        assert_eq!(lines(&records), [one, one].concat());
    });
}

#[test]
fn without_a_token_everyone_gets_the_services_401() {
    in_network(|net| {
        let mut desk = Desk::without_firewall(net);
        let ask = |desk: &Desk, user| {
            SERVICES.map(|service| {
                let answer = curl(desk, user, &["-si", &format!("{service}{CREDENTIALS}")]);
                let (head, body) = answer.split_once("\r\n\r\n").unwrap();
                (head.lines().next().unwrap().to_owned(), body.to_owned())
            })
        };
        let before = ask(&desk, ROOT);
        assert_eq!(before[0], ("HTTP/1.1 401 Unauthorized".into(), "".into()));
        desk.put_up_firewall();
        assert_eq!(ask(&desk, ROOT), before);
        assert_eq!(desk.paths_at_service(), [CREDENTIALS; 2], "from before");
        for record in desk.records(ROOT, &["curl/"]) {
            assert_eq!(record["reason"], "token_missing");
            assert_eq!(record["request"]["imds"], "v1");
        }
    });
}

#[test]
fn a_user_is_told_who_may_not_read_what() {
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        for service in SERVICES {
            let token = token(&desk, ALICE, service);
            let get = |options, path: &str| {
                let url = format!("{service}{path}");
                desk.run(ALICE, "/usr/bin/curl", &[options, "-H", &token, &url])
            };
            let region = get("-sf", "/latest/meta-data/placement/region");
            assert_eq!(region.out, "eu-west-1");
            let refused = get("-s", CREDENTIALS);
            let said: Value = serde_json::from_str(&refused.out).unwrap();
            assert_eq!(said["code"], "AccessDenied");
            let message = said["message"].as_str().unwrap();
            assert!(
                message.starts_with(&format!(
                    "imdsfw: alice (uid 4001) may not read {CREDENTIALS}; "
                )),
                "{message}"
            );
            let failed = get("-sSf", CREDENTIALS);
            assert_eq!(failed.status, Some(22));
            assert!(failed.err.contains("403"), "{failed:?}");
        }
        assert!(!desk.paths_at_service().contains(&CREDENTIALS.to_owned()));
        let records = desk.records(ALICE, &["curl/"]);
        assert_eq!(
            lines(&records[..4]),
            [
                "PUT /latest/api/token 200",
                "GET /latest/meta-data/placement/region 200",
                "GET /latest/meta-data/iam/security-credentials/web 403",
                "GET /latest/meta-data/iam/security-credentials/web 403",
            ]
        );
        assert_eq!(records.len(), 8);
    });
}

/// Heads and bodies of a session, but for what each answer has of its own:
/// its date, and the rest of the token's life.
fn session(desk: &Desk, service: &str) -> Vec<String> {
    let token = token(desk, ROOT, service);
    let ask = |(option, path)| {
        let url = format!("{service}{path}");
        curl(desk, ROOT, &[option, "-H", &token, &url])
            .lines()
            .map(|line| match line.split_once(": ") {
                Some((name @ ("Date" | "X-Aws-Ec2-Metadata-Token-Ttl-Seconds"), _)) => name,
                _ => line,
            })
            .collect::<Vec<_>>()
            .join("\n")
    };
    [
        ("-si", "/latest/meta-data/instance-id"),
        ("-sI", "/latest/meta-data/instance-id"),
        ("-si", "/latest/meta-data/"),
        ("-si", "/latest/meta-data/spot/instance-action"),
        ("-si", "/latest/user-data"),
        ("-si", CREDENTIALS),
    ]
    .map(ask)
    .into()
}

/// The header that carries a token for `user`.
pub(crate) fn token(desk: &Desk, user: User, service: &str) -> String {
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 21600";
    let url = format!("{service}/latest/api/token");
    let token = curl(desk, user, &["-sf", "-X", "PUT", "-H", ttl, &url]);
    assert!(!token.is_empty());
    format!("X-aws-ec2-metadata-token: {token}")
}

fn curl(desk: &Desk, user: User, arguments: &[&str]) -> String {
    let printed = desk.run(user, "/usr/bin/curl", arguments);
    assert_eq!(printed.status, Some(0), "{printed:?}");
    printed.out
}
