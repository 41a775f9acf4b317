//! `hide_denied`: listings without what the caller may not read.

use serde_json::Value;

use crate::common::host::{Host, Setup};
use crate::common::http::{Answer, V4, get, raw, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, CWAGENT, ROOT, User};

const HIDING: &str = "policy.hide_denied = true";
const META_DATA: &str = "/latest/meta-data/";

fn hiding(more: &str) -> Setup {
    Setup {
        config: format!("{HIDING}\n{more}"),
        ..Setup::default()
    }
}

fn read(user: User, path: &str) -> Answer {
    let answer = get(user, V4, path, Some(&token(user, V4, 60)));
    assert_eq!(answer.status, 200, "{path}: {answer:?}");
    // None is longer or shorter than it says.
    let said: usize = answer.header("content-length").unwrap().parse().unwrap();
    assert_eq!(said, answer.body.len(), "{path}");
    answer
}

fn entries(user: User, path: &str) -> Vec<String> {
    let body = read(user, path).body;
    body.lines().map(str::to_owned).collect()
}

/// Reads all that is listed below a directory, as cloud-init does: each path
/// with its status.
fn crawl(user: User, token: &str, directory: &str, seen: &mut Vec<(String, u16)>) {
    let listing = get(user, V4, directory, Some(token));
    seen.push((directory.to_owned(), listing.status));
    for entry in listing.body.lines() {
        // A public key is listed with its name, and read by its number.
        let path = match entry.split_once('=') {
            Some((number, _)) => format!("{directory}{number}/"),
            None => format!("{directory}{entry}"),
        };
        match path.ends_with('/') {
            true => crawl(user, token, &path, seen),
            false => seen.push((path.clone(), get(user, V4, &path, Some(token)).status)),
        }
    }
}

fn crawled(user: User) -> Vec<(String, u16)> {
    let mut seen = Vec::new();
    crawl(user, &token(user, V4, 600), META_DATA, &mut seen);
    seen
}

#[test]
fn whatever_is_listed_can_be_read_and_root_misses_nothing() {
    let all = in_network(|net| {
        let _host = Host::start(net, &Setup::default());
        let by_alice = crawled(ALICE);
        assert!(by_alice.iter().any(|(_, status)| *status == 403));
        crawled(ROOT)
    });
    in_network(move |net| {
        let host = Host::start(net, &hiding(""));
        assert_eq!(crawled(ROOT), all);
        let by_alice = crawled(ALICE);
        assert!(by_alice.len() > 30, "{by_alice:?}");
        for (path, status) in &by_alice {
            assert_eq!(*status, 200, "{path}");
            assert!(all.iter().any(|(other, _)| other == path), "{path}");
        }
        for hidden in ["public-keys/", "tags/", "managed-ssh-keys/"] {
            let path = format!("{META_DATA}{hidden}");
            assert!(all.iter().any(|(other, _)| *other == path), "{path}");
            assert!(by_alice.iter().all(|(other, _)| *other != path), "{path}");
        }
        // A directory is judged by its own listing, whatever is in it.
        assert_eq!(entries(ALICE, "/latest/meta-data/iam/"), [""; 0]);
        assert_eq!(entries(ALICE, "/latest/"), ["dynamic", "meta-data"]);
        assert!(entries(ALICE, "/").contains(&"latest".to_owned()));
        let record = host
            .events("request")
            .into_iter()
            .find(|it| {
                it["request"]["path"] == "/latest/meta-data/iam/"
                    && it["caller"]["uid"] == ALICE.uid
            })
            .unwrap();
        assert_eq!(
            (&record["hidden"], &record["bytes"]),
            (&2.into(), &0.into())
        );
        let by_root = |it: &Value| it["caller"]["uid"] == 0;
        let records = host.events("request");
        assert!(
            records
                .iter()
                .filter(|it| by_root(it))
                .all(|it| it.get("hidden").is_none())
        );
    });
}

#[test]
fn an_answer_is_otherwise_the_services_own() {
    in_network(|net| {
        let host = Host::start(net, &hiding(""));
        let (whole, shown) = (read(ROOT, META_DATA), read(ALICE, META_DATA));
        assert!(shown.body.len() < whole.body.len());
        assert!(
            shown
                .body
                .lines()
                .all(|entry| whole.body.lines().any(|it| it == entry))
        );
        assert!(!shown.body.ends_with('\n'));
        let names = |answer: &Answer| -> Vec<String> {
            let lines = answer.head.lines().skip(1);
            lines
                .map(|line| line.split(':').next().unwrap().to_owned())
                .collect()
        };
        assert_eq!(names(&shown), names(&whole));
        assert_eq!(shown.header("last-modified"), whole.header("last-modified"));
        // Of a HEAD nobody knows how long the answer would be.
        let head = |user: User, path: &str| {
            let bytes = request("HEAD", V4, path, Some(&token(user, V4, 60)), "close");
            raw(user, V4, bytes.as_bytes())
        };
        let answer = head(ALICE, META_DATA);
        assert_eq!(
            (answer.status, answer.header("content-length")),
            (200, None)
        );
        let answer = head(ALICE, "/latest/meta-data/ami-id");
        assert!(answer.header("content-length").is_some());
        // Who may have the role's credentials sees its name.
        let role = "/latest/meta-data/iam/security-credentials/";
        assert_eq!(entries(CWAGENT, role), ["web"]);
        assert!(
            read(CWAGENT, &format!("{role}web"))
                .body
                .contains("SecretAccessKey")
        );
        drop(host);
    });
}

#[test]
fn a_name_that_may_not_be_read_is_not_shown_and_a_key_by_its_number_is() {
    let policy = "[[rule]]\nname = \"names\"\naction = \"allow\"\nwho = [\"any\"]\n\
        paths = [\"/meta-data/iam/security-credentials\", \"/meta-data/public-keys\", \
        \"/meta-data/public-keys/0\"]\n";
    let setup = Setup {
        policy: policy.into(),
        ..hiding("")
    };
    in_network(move |net| {
        let _host = Host::start(net, &setup);
        assert_eq!(
            entries(ALICE, "/latest/meta-data/iam/security-credentials/"),
            [""; 0]
        );
        assert_eq!(entries(ALICE, "/latest/meta-data/public-keys/"), ["0=web"]);
        assert_eq!(entries(ALICE, "/latest/meta-data/public-keys/0/"), [""; 0]);
    });
}

#[test]
fn nothing_is_hidden_that_would_be_answered_and_nothing_where_it_is_off() {
    in_network(|net| {
        let _host = Host::start(net, &hiding("policy.mode = \"observe\""));
        assert!(entries(ALICE, "/latest/").contains(&"user-data".to_owned()));
    });
    in_network(|net| {
        let _host = Host::start(net, &Setup::default());
        assert!(entries(ALICE, "/latest/").contains(&"user-data".to_owned()));
    });
}
