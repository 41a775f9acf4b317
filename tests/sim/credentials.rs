//! Role credentials.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::harness::{Sim, until};

const ROLE: &str = "/latest/meta-data/iam/security-credentials/web";

fn fields(document: &str) -> Map<String, Value> {
    serde_json::from_str(document).unwrap()
}

fn date(fields: &Map<String, Value>, name: &str) -> SystemTime {
    humantime::parse_rfc3339(fields[name].as_str().unwrap()).unwrap()
}

#[test]
fn the_document_has_its_fields_in_order_indented_by_two() {
    let sim = Sim::start(&[]);
    for path in [
        ROLE,
        "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
    ] {
        let document = sim.read(path);
        let names: Vec<_> = document
            .lines()
            .filter_map(|line| line.strip_prefix("  \"")?.split_once("\" : \""))
            .map(|(name, _)| name)
            .collect();
        let expected = [
            "Code",
            "LastUpdated",
            "Type",
            "AccessKeyId",
            "SecretAccessKey",
            "Token",
            "Expiration",
        ];
        assert_eq!(names, expected, "{path}");
        let fields = fields(&document);
        assert_eq!(fields["Code"], "Success");
        assert_eq!(fields["Type"], "AWS-HMAC");
        let key = fields["AccessKeyId"].as_str().unwrap();
        assert!(key.starts_with("ASIAEXAMPLE") && key.len() == 20, "{key}");
        assert!(
            fields["SecretAccessKey"]
                .as_str()
                .unwrap()
                .starts_with("EXAMPLE")
        );
    }
}

#[test]
fn credentials_live_six_hours_and_twenty_minutes_by_default() {
    let fields = fields(&Sim::start(&[]).read(ROLE));
    assert_eq!(
        date(&fields, "Expiration")
            .duration_since(date(&fields, "LastUpdated"))
            .unwrap(),
        Duration::from_secs((6 * 60 + 20) * 60)
    );
}

#[test]
fn the_role_and_the_instance_have_credentials_of_their_own() {
    let sim = Sim::start(&[]);
    let role = fields(&sim.read(ROLE));
    let instance = fields(
        &sim.read("/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance"),
    );
    assert_ne!(role["AccessKeyId"], instance["AccessKeyId"]);
}

#[test]
fn a_new_set_appears_five_minutes_or_more_before_the_old_one_expires() {
    let sim = Sim::start(&["--rotate-every", "1s", "--credential-life", "400s"]);
    let token = sim.token();
    let read = || fields(&sim.get_with(&token, ROLE).text());
    let old = read();
    let new = until(read, |new| new["AccessKeyId"] != old["AccessKeyId"]);
    for secret in ["SecretAccessKey", "Token"] {
        assert_ne!(old[secret], new[secret]);
    }
    let overlap = date(&old, "Expiration")
        .duration_since(date(&new, "LastUpdated"))
        .unwrap();
    assert!(overlap >= Duration::from_secs(5 * 60), "{overlap:?}");
    let info = fields(&sim.read("/latest/meta-data/iam/info"));
    assert!(date(&info, "LastUpdated") >= date(&new, "LastUpdated"));
}

#[test]
fn the_role_is_listed_and_served_under_its_name() {
    let sim = Sim::start(&["--role", "db+ops@x_1"]);
    let listing = "/latest/meta-data/iam/security-credentials/";
    assert_eq!(sim.read(listing), "db+ops@x_1");
    assert!(sim.read(&format!("{listing}db+ops@x_1")).contains("ASIA"));
    assert_eq!(sim.get(ROLE).status, 404);
    let info = fields(&sim.read("/latest/meta-data/iam/info"));
    let arn = info["InstanceProfileArn"].as_str().unwrap();
    assert!(arn.ends_with(":instance-profile/db+ops@x_1"), "{arn}");
}

#[test]
fn without_a_role_everything_below_iam_is_not_found() {
    let sim = Sim::start(&["--no-role"]);
    for path in [
        "",
        "info",
        "security-credentials/",
        "security-credentials/web",
    ] {
        let answer = sim.get(&format!("/latest/meta-data/iam/{path}"));
        assert_eq!(answer.status, 404, "{path}");
    }
    assert!(!sim.read("/latest/meta-data/").contains("iam"));
}
