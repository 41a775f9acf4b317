//! What a host needs to come up and to let people in: cloud-init's crawl,
//! and the requests of EC2 Instance Connect.

use serde_json::Value;

use crate::common::host::Setup;
use crate::common::net::in_network;
use crate::common::user::{ALICE, INSTANCE_CONNECT, ROOT, User};
use crate::desk::{Desk, Kind, Printed, lines};

pub(crate) const CRAWL: &[&str] = &["-c", include_str!("crawl.py")];

/// Below any directory it finds, but for security-credentials.
#[test]
fn cloud_init_crawls_what_it_crawls_without_a_firewall() {
    in_network(|net| {
        let mut desk = Desk::without_firewall(net);
        let before = desk.python(ROOT, CRAWL);
        assert_eq!(before.err, "");
        let found: Value = serde_json::from_str(&before.out).unwrap();
        assert_eq!(found["meta-data"]["instance-id"], "i-1234567890abcdef0");
        assert_eq!(found["meta-data"]["tags"]["instance"]["Name"], "web-1");
        assert!(
            found["user-data"]
                .as_str()
                .unwrap()
                .starts_with("#cloud-config")
        );
        desk.put_up_firewall();
        assert_eq!(desk.python(ROOT, CRAWL), before);
        let records = desk.records(ROOT, &["Cloud-Init/", "python-requests/"]);
        assert!(records.len() > 50, "{}", records.len());
        assert!(records.iter().all(|it| it["status"] == 200));
        assert!(
            records
                .iter()
                .all(|it| it["request"]["class"] != "credentials")
        );
    });
}

/// The whole crawl as a user, whom a refusal would set back by retries and in
/// the end by all that was read: with `hide_denied`, it meets none. User data is
/// in no listing; cloud-init asks for it anyway.
#[test]
fn cloud_init_crawls_as_a_user_what_that_user_may_read() {
    in_network(|net| {
        let own = "[[rule]]\nname = \"alice reads user data\"\naction = \"allow\"\n\
                   who = [\"user:alice\"]\npaths = [\"/user-data\"]\n";
        let default = Setup::default();
        let setup = Setup {
            config: "policy.hide_denied = true".into(),
            policy: default
                .policy
                .replacen("[[rule]]", &format!("{own}\n[[rule]]"), 1),
            ..default
        };
        let mut desk = Desk::prepare(net, &setup);
        desk.put_up_firewall();
        let crawled = desk.python(ALICE, CRAWL);
        assert_eq!(crawled.err, "");
        let found: Value = serde_json::from_str(&crawled.out).unwrap();
        let meta_data = &found["meta-data"];
        assert_eq!(meta_data["instance-id"], "i-1234567890abcdef0");
        assert_eq!(meta_data["placement"]["region"], "eu-west-1");
        assert!(
            meta_data["network"]["interfaces"]["macs"].is_object(),
            "{found}"
        );
        for hidden in ["tags", "public-keys", "managed-ssh-keys"] {
            assert_eq!(meta_data.get(hidden), None, "{found}");
        }
        let identity = &found["dynamic"]["instance-identity"];
        assert!(identity["document"].is_object(), "{found}");
        assert_eq!(identity.get("pkcs7"), None, "{found}");
        assert!(
            found["user-data"]
                .as_str()
                .unwrap()
                .starts_with("#cloud-config")
        );
        let records = desk.records(ALICE, &["Cloud-Init/", "python-requests/"]);
        assert!(records.len() > 40, "{}", records.len());
        assert!(records.iter().all(|it| it["status"] == 200));
        assert!(records.iter().any(|it| it["hidden"].as_u64() > Some(0)));
        // Nothing was asked for twice, but that by which it finds the version.
        let mut asked = lines(&records);
        asked.retain(|line| line.starts_with("GET ") && !line.contains("/meta-data/instance-id "));
        let count = asked.len();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), count);
    });
}
/// What its AuthorizedKeysCommand asks for, in order.
pub(crate) const LOGIN: [(&str, &str); 5] = [
    (GET, "instance-id/"),
    (HEAD, "managed-ssh-keys/active-keys/alice/"),
    (GET, "placement/availability-zone/"),
    (GET, "services/domain/"),
    (GET, "managed-ssh-keys/signer-cert/"),
];
/// Where the key's certificate has a status, and there is a key.
const LOGIN_WITH_KEY: [(&str, &str); 3] = [
    (GET, "managed-ssh-keys/signer-ocsp/"),
    (GET, "managed-ssh-keys/signer-ocsp/0a1b2c"),
    (GET, "managed-ssh-keys/active-keys/alice/"),
];
const GET: &str = "-G";
const HEAD: &str = "-I";

#[test]
fn instance_connect_fetches_keys_and_nobody_else_does() {
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        let statuses = connect(&desk, INSTANCE_CONNECT, &LOGIN);
        // Nobody is logging in right now, so the service has no active keys.
        assert_eq!(statuses, ["200", "404", "200", "200", "200"]);
        assert_eq!(
            lines(&desk.records(INSTANCE_CONNECT, &["curl/"])),
            [
                "PUT /latest/api/token 200",
                "GET /latest/meta-data/instance-id/ 200",
                "HEAD /latest/meta-data/managed-ssh-keys/active-keys/alice/ 404",
                "GET /latest/meta-data/placement/availability-zone/ 200",
                "GET /latest/meta-data/services/domain/ 200",
                "GET /latest/meta-data/managed-ssh-keys/signer-cert/ 200",
            ]
        );
    });
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        let statuses = connect(&desk, ALICE, &LOGIN);
        assert_eq!(statuses, ["200", "403", "200", "200", "403"]);
    });
}

/// Also where nobody but root reads anything; and nothing that logs nobody in.
#[test]
fn instance_connect_lets_alice_in_by_its_drop_in() {
    in_network(|net| {
        let kind = Kind {
            base: "root-only.toml",
            agents: &["50-ec2-instance-connect.toml"],
            items: &[
                "meta-data/managed-ssh-keys/active-keys/alice=ssh-ed25519 AAAA alice",
                "meta-data/managed-ssh-keys/signer-ocsp/0a1b2c=MAo=",
            ],
            ..Kind::default()
        };
        let mut desk = Desk::of_kind(net, &kind);
        desk.put_up_firewall();
        let steps = [&LOGIN[..], &LOGIN_WITH_KEY].concat();
        assert_eq!(connect(&desk, INSTANCE_CONNECT, &steps), ["200"; 8]);
        for path in [
            "/latest/meta-data/iam/security-credentials/",
            "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
            "/latest/meta-data/public-keys/0/openssh-key",
            "/latest/meta-data/placement/region",
        ] {
            assert_eq!(desk.status(INSTANCE_CONNECT, path), "403", "{path}");
        }
    });
}

/// Requests as it sends them: a token of five seconds, a second for each
/// request, a slash on leaves. Gives the status of each.
pub(crate) fn connect(desk: &Desk, user: User, steps: &[(&str, &str)]) -> Vec<String> {
    let curl = |arguments: &[&str]| {
        let always = ["-s", "-m", "1"];
        let printed = desk.run(user, "/usr/bin/curl", &[&always, arguments].concat());
        let Printed { status, out, .. } = printed;
        assert_eq!(status, Some(0), "{out}");
        out
    };
    let base = "http://169.254.169.254/latest";
    let ttl = "X-aws-ec2-metadata-token-ttl-seconds: 5";
    let token = curl(&["-f", "-X", "PUT", "-H", ttl, &format!("{base}/api/token")]);
    let token = format!("X-aws-ec2-metadata-token: {token}");
    let ask = |(method, path): &(&str, &str)| {
        let url = format!("{base}/meta-data/{path}");
        let status = ["-o", "/dev/null", "-w", "%{http_code}"];
        curl(&[&[*method, "-H", &token][..], &status, &[&url]].concat())
    };
    steps.iter().map(ask).collect()
}
