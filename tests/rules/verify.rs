//! Tampering, and that `verify` names exactly what was done.

use imdsfw::ids::Uid;
use imdsfw::intercept::{self, RuleSet};

use crate::common::net::{families, in_network};
use crate::common::nft;
use crate::kernel::{NFT, rule_set};

fn drift() -> Vec<String> {
    let drift = intercept::verify(&rule_set()).unwrap();
    drift.iter().map(ToString::to_string).collect()
}

/// Applies `rules`, and counts the expected and the found lines that hold them.
fn changed(rules: &RuleSet, expected: &str, found: &str) -> (usize, usize) {
    intercept::apply(rules).unwrap();
    let drift = drift();
    let missing = |line: &&String| line.starts_with("missing: ") && line.contains(expected);
    let unexpected = |line: &&String| line.starts_with("unexpected: ") && line.contains(found);
    let counts = (
        drift.iter().filter(missing).count(),
        drift.iter().filter(unexpected).count(),
    );
    assert_eq!(counts.0 + counts.1, drift.len(), "{drift:#?}");
    counts
}

#[test]
fn each_rule_that_was_deleted_is_named_and_no_other() {
    in_network(|_| {
        NFT.apply();
        assert_eq!(drift(), [""; 0]);
        let count = nft::rules().len();
        assert!(count > 20, "{count}");
        for at in 0..count {
            NFT.apply();
            let rule = nft::rules()[at].clone();
            nft::delete(&rule);
            assert_eq!(
                drift(),
                [format!("missing: chain {}: {}", rule.chain, rule.text)]
            );
        }
    });
}

#[test]
fn another_uid_port_or_address_is_named() {
    in_network(|_| {
        let services = families().map(|family| family.service);
        let other_uid = RuleSet::new(&services, 253, Uid(64002)).unwrap();
        assert_eq!(changed(&other_uid, "skuid 64000", "skuid 64002"), (4, 4));
        let other_port = RuleSet::new(&services, 254, Uid(64000)).unwrap();
        assert_eq!(changed(&other_port, "253", "254"), (10, 10));
        let one_family = RuleSet::new(&services[..1], 253, Uid(64000)).unwrap();
        let (missing, unexpected) = changed(&one_family, "", "");
        assert!(missing > 10 && unexpected == 0, "{missing} {unexpected}");
    });
}

#[test]
fn whatever_was_added_is_named() {
    in_network(|_| {
        NFT.apply();
        nft::load(
            "insert rule inet imdsfw nat_output meta skuid 4001 accept
             add rule inet imdsfw input tcp dport 1 drop
             add chain inet imdsfw extra { type filter hook output priority 7; policy drop; }
             add set inet imdsfw addresses { type ipv4_addr; elements = { 10.0.0.1 }; }",
        );
        assert_eq!(
            drift(),
            [
                "unexpected: chain nat_output: meta skuid 4001 accept",
                "unexpected: chain input: tcp dport 1 drop",
                "unexpected: set addresses",
                "unexpected: set addresses: type ipv4_addr",
                "unexpected: set addresses: elements = { 10.0.0.1 }",
                "unexpected: chain extra",
                "unexpected: chain extra: type filter hook output priority 7; policy drop;",
            ]
        );
    });
}

#[test]
fn rules_in_another_order_are_named() {
    in_network(|_| {
        NFT.apply();
        let last = nft::rules()
            .into_iter()
            .rfind(|rule| rule.chain == "nat_output")
            .unwrap();
        nft::delete(&last);
        nft::load(&format!(
            "insert rule inet imdsfw nat_output {}\n",
            last.text
        ));
        let text = last.text;
        assert_eq!(
            drift(),
            [
                format!("unexpected: chain nat_output: {text}"),
                format!("missing: chain nat_output: {text}"),
            ]
        );
    });
}

#[test]
fn a_changed_hook_and_a_dormant_table_are_named() {
    in_network(|_| {
        let text = intercept::render(&rule_set());
        nft::load(&text.replace("hook input priority 0", "hook input priority 5"));
        assert_eq!(
            drift(),
            [
                "unexpected: chain input: type filter hook input priority 5; policy accept;",
                "missing: chain input: type filter hook input priority 0; policy accept;",
            ]
        );
        NFT.apply();
        nft::load("add table inet imdsfw { flags dormant; }");
        assert_eq!(drift(), ["unexpected: table inet imdsfw: flags dormant"]);
        NFT.apply();
        assert_eq!(drift(), [""; 0]);
    });
}

#[test]
fn a_missing_table_is_named_also_where_another_family_has_one() {
    in_network(|_| {
        nft::load("add table ip imdsfw");
        assert_eq!(drift(), ["missing: table inet imdsfw"]);
    });
}

#[test]
fn verifying_leaves_nothing_behind_and_clears_up_after_killed_runs() {
    in_network(|_| {
        NFT.apply();
        let before = nft::output(&["list", "tables"]);
        // Above any process id that the kernel gives.
        nft::load("add table inet imdsfw_expected_4194999_0 { flags dormant; }");
        nft::load("add rule inet imdsfw input tcp dport 1 drop");
        assert_eq!(drift(), ["unexpected: chain input: tcp dport 1 drop"]);
        assert_eq!(nft::output(&["list", "tables"]), before);
    });
}
