//! Amazon's `ec2-metadata` (a shell script around curl) and Ubuntu's
//! `ec2metadata`.

use crate::common::net::in_network;
use crate::common::user::{ALICE, ROOT};
use crate::desk::{Desk, lines};

const INSTANCE: &str = "i-1234567890abcdef0";

#[test]
fn ec2_metadata_prints_to_root_what_it_prints_without_a_firewall() {
    same_for_root("ec2-metadata", &["--all"], "curl/");
    same_for_root("ec2-metadata", &["-i"], "curl/");
}

#[test]
fn ec2metadata_prints_to_root_what_it_prints_without_a_firewall() {
    same_for_root("ec2metadata", &[], "Python-urllib/");
    same_for_root("ec2metadata", &["--instance-id"], "Python-urllib/");
}

fn same_for_root(tool: &'static str, arguments: &'static [&'static str], user_agent: &'static str) {
    in_network(move |net| {
        let mut desk = Desk::without_firewall(net);
        let before = desk.debian(ROOT, tool, arguments);
        assert_eq!(before.status, Some(0), "{before:?}");
        assert!(before.out.contains(INSTANCE), "{before:?}");
        desk.put_up_firewall();
        assert_eq!(desk.debian(ROOT, tool, arguments), before);
        let records = desk.records(ROOT, &[user_agent]);
        assert_eq!(lines(&records)[0], "PUT /latest/api/token 200");
        assert!(records.iter().all(|it| it["decision"] == "allow"));
    });
}

#[test]
fn a_user_asks_ec2_metadata_for_the_instance_id() {
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        let printed = desk.debian(ALICE, "ec2-metadata", &["-i"]);
        assert_eq!(printed.out, format!("instance-id: {INSTANCE}\n"));
        assert_eq!(
            lines(&desk.records(ALICE, &["curl/"])),
            [
                "PUT /latest/api/token 200",
                "GET /latest/meta-data/instance-id 200"
            ]
        );
    });
}

#[test]
fn ec2_metadata_shows_a_user_what_the_policy_allows_and_no_more() {
    in_network(|net| {
        let mut desk = Desk::without_firewall(net);
        let mut expected = desk.debian(ALICE, "ec2-metadata", &["--all"]);
        for (heading, next) in [
            ("public-keys: \n", "ramdisk-id"),
            ("user-data: ", "tags"),
            ("tags: \n", ""),
        ] {
            let start = expected.out.find(heading).unwrap() + heading.len();
            let end = match next {
                "" => expected.out.len(),
                _ => expected.out.find(next).unwrap(),
            };
            expected.out.replace_range(start..end, "not available\n");
        }
        desk.put_up_firewall();
        assert_eq!(desk.debian(ALICE, "ec2-metadata", &["--all"]), expected);
        let records = desk.records(ALICE, &["curl/"]);
        let denied: Vec<_> = lines(&records)
            .into_iter()
            .filter(|line| line.ends_with(" 403"))
            .collect();
        assert_eq!(
            denied,
            [
                "GET /latest/meta-data/public-keys/ 403",
                "GET /latest/user-data 403",
                "GET /latest/meta-data/tags/instance/ 403",
            ]
        );
    });
}

/// It has no word for a refusal: the first one ends it.
#[test]
fn ec2metadata_gives_a_user_single_facts_and_ends_at_the_first_it_may_not_see() {
    in_network(|net| {
        let desk = Desk::with_firewall(net);
        let one = desk.debian(ALICE, "ec2metadata", &["--instance-id"]);
        assert_eq!(one.out, format!("{INSTANCE}\n"));
        let all = desk.debian(ALICE, "ec2metadata", &[]);
        assert_eq!(all.status, Some(1));
        assert!(all.out.starts_with("ami-id: ami-"), "{all:?}");
        assert!(all.err.ends_with("HTTP Error 403: Forbidden\n"), "{all:?}");
        let records = desk.records(ALICE, &["Python-urllib/"]);
        let (last, before) = records.split_last().unwrap();
        assert_eq!(last["decision"], "deny");
        assert!(before.iter().all(|it| it["decision"] == "allow"));
    });
}
