//! The tree of items.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::harness::Sim;

#[test]
fn the_root_lists_the_versions() {
    let versions = Sim::start(&[]).read("/");
    let versions: Vec<_> = versions.split('\n').collect();
    assert_eq!(versions.first(), Some(&"1.0"));
    assert_eq!(versions.last(), Some(&"latest"));
    assert!(versions.contains(&"2009-04-04") && versions.contains(&"2021-03-23"));
}

#[test]
fn every_version_serves_the_tree() {
    let sim = Sim::start(&[]);
    let token = sim.token();
    for version in sim.read("/").split('\n') {
        let answer = sim.get_with(&token, &format!("/{version}/meta-data/instance-id"));
        assert_eq!(answer.text(), "i-1234567890abcdef0", "{version}");
    }
    for other in ["2009-04-05", "Latest", "latest2", "meta-data"] {
        let answer = sim.get_with(&token, &format!("/{other}/meta-data/instance-id"));
        assert_eq!(answer.status, 404, "{other}");
    }
}

#[test]
fn listings_have_one_entry_a_line_no_final_newline_and_mark_directories() {
    let sim = Sim::start(&[]);
    assert_eq!(sim.read("/latest"), "dynamic\nmeta-data\nuser-data");
    assert_eq!(sim.read("/latest/dynamic/"), "instance-identity/");
    assert_eq!(
        sim.read("/latest/meta-data/iam/"),
        "info\nsecurity-credentials/"
    );
    assert_eq!(sim.read("/latest/meta-data/public-keys/"), "0=web");
    assert_eq!(sim.read("/latest/meta-data/tags/instance/"), "Build\nName");
}

#[test]
fn a_slash_behind_or_doubled_changes_nothing() {
    let sim = Sim::start(&[]);
    for (path, same) in [
        (
            "/latest/meta-data/placement",
            "/latest/meta-data/placement/",
        ),
        ("/latest/meta-data/mac/", "/latest/meta-data/mac"),
        ("/latest//meta-data/mac", "/latest/meta-data/mac"),
        ("//latest/user-data//", "/latest/user-data"),
    ] {
        assert_eq!(sim.read(path), sim.read(same), "{path}");
    }
}

#[test]
fn following_every_listing_finds_every_entry() {
    let sim = Sim::start(&[]);
    let token = sim.token();
    let mut found = BTreeSet::new();
    let mut left: Vec<String> = ["dynamic/", "meta-data/", "user-data"]
        .map(|entry| format!("/latest/{entry}"))
        .into();
    while let Some(path) = left.pop() {
        let answer = sim.get_with(&token, &path);
        assert_eq!(answer.status, 200, "{path}");
        assert!(!answer.body.is_empty(), "{path}");
        if path.ends_with('/') {
            let text = answer.text();
            assert!(!text.ends_with('\n'), "{path}");
            left.extend(text.split('\n').map(|entry| match entry.split_once('=') {
                Some((number, _name)) => format!("{path}{number}/"),
                None => format!("{path}{entry}"),
            }));
        }
        assert!(found.insert(path));
    }
    for leaf in [
        "/latest/user-data",
        "/latest/dynamic/instance-identity/pkcs7",
        "/latest/meta-data/public-keys/0/openssh-key",
        "/latest/meta-data/iam/security-credentials/web",
        "/latest/meta-data/network/interfaces/macs/06:00:00:00:00:05/vpc-id",
    ] {
        assert!(found.contains(leaf), "{leaf}");
    }
}

#[test]
fn what_clients_ask_for_and_a_new_instance_lacks_is_not_found() {
    let sim = Sim::start(&[]);
    let token = sim.token();
    for item in [
        "ancestor-ami-ids",
        "kernel-id",
        "ramdisk-id",
        "product-codes",
        "spot/instance-action",
        "spot/termination-time",
        "managed-ssh-keys/active-keys/bob/",
        "iam/security-credentials-extended/web",
        "iam/security-credentials/other",
        "placement/host-id",
        "mac/below",
        "instance-id?a=b",
    ] {
        let answer = sim.get_with(&token, &format!("/latest/meta-data/{item}"));
        assert_eq!(answer.status, 404, "{item}");
    }
}

/// The state of somebody logging in, of a spot instance about to go, of a
/// second network interface: what agents ask for at such times.
#[test]
fn items_given_on_the_command_line_are_served_and_listed() {
    let key = "meta-data/managed-ssh-keys/active-keys/alice";
    let sim = Sim::start(&[
        "--item",
        &format!("{key}=#Key=ssh-ed25519 AAAA\nsecond line"),
        "--item",
        "meta-data/spot/instance-action={\"action\": \"terminate\"}",
        "--item",
        "meta-data/network/interfaces/macs/06:00:00:00:00:06/device-number=1",
        "--item",
        "meta-data/instance-life-cycle=spot",
    ]);
    assert_eq!(
        sim.read(&format!("/latest/{key}/")),
        "#Key=ssh-ed25519 AAAA\nsecond line"
    );
    assert_eq!(
        sim.read("/2021-03-23/meta-data/managed-ssh-keys/"),
        "active-keys/\nsigner-cert"
    );
    assert_eq!(sim.read("/latest/meta-data/spot/"), "instance-action");
    assert_eq!(
        sim.read("/latest/meta-data/network/interfaces/macs/"),
        "06:00:00:00:00:05/\n06:00:00:00:00:06/"
    );
    assert_eq!(sim.read("/latest/meta-data/instance-life-cycle"), "spot");
}

#[test]
fn the_identity_document_agrees_with_the_items() {
    let sim = Sim::start(&[]);
    let document = sim.read("/latest/dynamic/instance-identity/document");
    let document: Value = serde_json::from_str(&document).unwrap();
    for (field, item) in [
        ("instanceId", "instance-id"),
        ("imageId", "ami-id"),
        ("instanceType", "instance-type"),
        ("privateIp", "local-ipv4"),
        ("region", "placement/region"),
        ("availabilityZone", "placement/availability-zone"),
    ] {
        let item = sim.read(&format!("/latest/meta-data/{item}"));
        assert_eq!(document[field], item, "{field}");
    }
    let info = sim.read("/latest/meta-data/identity-credentials/ec2/info");
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(document["accountId"], info["AccountId"]);
}

#[test]
fn user_data_is_served_byte_for_byte_as_octets() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("user-data");
    let bytes: Vec<u8> = (0..=255).collect();
    fs::write(&file, &bytes).unwrap();
    let sim = Sim::start(&["--user-data", file.to_str().unwrap()]);
    let answer = sim.get("/latest/user-data");
    assert_eq!(answer.body, bytes);
    assert_eq!(
        answer.header("Content-Type"),
        Some("application/octet-stream")
    );
}
