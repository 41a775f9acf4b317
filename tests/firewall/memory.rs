//! What the service said and still holds is not asked again, and what several
//! ask for at once is asked once: who may read, and what is recorded of it,
//! stays as it would be without.

mod credentials;
pub(crate) mod flights;

use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::common::fake::{Act, Asked, Fake};
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, V6, connect, get, raw, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, ROOT};
use crate::witness::{assert_withheld, curl, setuid_curl};

const ON: &str = "memory.enabled = true";
const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const TTL: &str = "X-Aws-Ec2-Metadata-Token-Ttl-Seconds";

fn remembering() -> Setup {
    Setup {
        config: ON.into(),
        ..Setup::default()
    }
}

/// The same without the simulated service.
fn scripted() -> Setup {
    Setup {
        service: false,
        ..remembering()
    }
}

/// How often the simulated service was asked for this.
fn asked_for(host: &Host, method: &str, path: &str) -> usize {
    let seen = host.seen_by_service("request");
    let same = |it: &&Value| it["method"] == method && it["path"] == path;
    seen.iter().filter(same).count()
}

/// How often a scripted one was.
fn gets(service: &Fake, path: &str) -> usize {
    let line = format!("GET {path} ");
    let asked = service.asked();
    asked.iter().filter(|it| it.head.starts_with(&line)).count()
}

fn body_of_credentials(id: &str, ends: SystemTime) -> String {
    let ends = humantime::format_rfc3339_seconds(ends);
    format!(
        r#"{{"Code":"Success","AccessKeyId":"{id}","SecretAccessKey":"s","Token":"t","Expiration":"{ends}"}}"#
    )
}

fn in_hours(hours: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(hours * 3600)
}

#[test]
fn a_fact_of_the_boot_is_asked_for_once_and_recorded_for_each() {
    in_network(|net| {
        let mut host = Host::start(net, &remembering());
        let mut expected = Vec::new();
        for (user, ttl) in [(ALICE, 60), (BOB, 300), (ROOT, 21600), (ALICE, 1000)] {
            let token = token(user, V4, ttl);
            let mut stream = connect(user, V4);
            for _ in 0..2 {
                let asked = request("GET", V4, AMI, Some(&token), "keep-alive");
                std::io::Write::write_all(&mut stream, asked.as_bytes()).unwrap();
                let answer = read_answer(&mut stream).unwrap();
                assert_eq!(answer.status, 200);
                assert!(answer.body.starts_with("ami-"), "{answer:?}");
                let left: u32 = answer.header(TTL).unwrap().parse().unwrap();
                assert!((ttl - 9..=ttl).contains(&left), "{left} of {ttl}");
                expected.push(user.uid);
            }
        }
        assert_eq!(asked_for(&host, "GET", AMI), 1);

        let mut records = host.records(expected.len() + 4);
        records.retain(|it| it["request"]["method"] == "GET");
        assert_eq!(records.len(), expected.len());
        for (at, (record, uid)) in records.iter().zip(expected).enumerate() {
            assert_eq!(record["caller"]["uid"], uid);
            assert_eq!(record["reason"], "allowed");
            assert!(record["rule"].is_string());
            let served = record.get("served").and_then(Value::as_str);
            assert_eq!(served, (at > 0).then_some("memory"), "{record}");
        }

        // The other address is another service, and another run knows nothing.
        let token_v6 = token(ALICE, V6, 60);
        assert_eq!(get(ALICE, V6, AMI, Some(&token_v6)).status, 200);
        assert_eq!(asked_for(&host, "GET", AMI), 2);
        host.stop_daemon();
        host.start_daemon();
        assert_eq!(get(ALICE, V4, AMI, Some(&token(ALICE, V4, 60))).status, 200);
        assert_eq!(asked_for(&host, "GET", AMI), 3);
    });
}

#[test]
fn an_answer_from_memory_is_dated_now() {
    in_network(|net| {
        let host = Host::start(net, &remembering());
        let token = token(ALICE, V4, 60);
        let first = get(ALICE, V4, AMI, Some(&token));
        let dated = |answer: &crate::common::http::Answer| {
            httpdate::parse_http_date(answer.header("Date").unwrap()).unwrap()
        };
        let later = wait_for("the next second", || {
            let before = SystemTime::now() - Duration::from_secs(1);
            let again = get(ALICE, V4, AMI, Some(&token));
            assert!(dated(&again) > before && dated(&again) <= SystemTime::now());
            (dated(&again) > dated(&first)).then_some(again)
        });
        assert_eq!(asked_for(&host, "GET", AMI), 1);
        let rest = |head: &str| {
            let own = |line: &&str| !line.starts_with("Date: ") && !line.starts_with(TTL);
            head.lines()
                .filter(own)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(rest(&later.head), rest(&first.head), "nothing else differs");
        assert_eq!(later.body, first.body);
    });
}

#[test]
fn head_is_the_services_and_a_tokenless_bridge_learns_no_ttl() {
    in_network(|net| {
        let setup = Setup {
            policy: "schema = 1\n[[rule]]\nname = \"bridge\"\naction = \"allow\"\n\
                     who = [\"any\"]\npaths = [\"@routine\"]\nimdsv1 = true\n"
                .into(),
            ..remembering()
        };
        let host = Host::start(net, &setup);
        let token = token(ALICE, V4, 60);
        let head = || {
            let asked = request("HEAD", V4, AMI, Some(&token), "close");
            raw(ALICE, V4, asked.as_bytes())
        };
        let before = head();
        let answer = get(ALICE, V4, AMI, Some(&token));
        assert!(answer.body.starts_with("ami-"), "not the answer to HEAD");
        let after = head();
        for head in [before, after] {
            assert_eq!((head.status, head.body.as_str()), (200, ""));
            let length = answer.body.len().to_string();
            assert_eq!(head.header("Content-Length"), Some(length.as_str()));
        }
        let tokenless = get(BOB, V4, AMI, None);
        assert_eq!(tokenless.body, answer.body);
        assert_eq!(tokenless.header(TTL), None, "there is no token to count");
        assert_eq!(asked_for(&host, "HEAD", AMI), 2);
        assert_eq!(asked_for(&host, "GET", AMI), 1);
        let record = host.records(5).pop().unwrap();
        assert_eq!(record["request"]["imds"], "v1");
        assert_eq!(record["served"], "memory");
    });
}

/// A service with something at every path, and at some what should not be
/// there.
fn anything(asked: &Asked) -> Act {
    if asked.is_put() {
        return Act::token("t", 21600);
    }
    let path = asked.head.split(' ').nth(1).unwrap();
    let far = SystemTime::UNIX_EPOCH + Duration::from_secs(4_000_000_000);
    match path.rsplit_once('/').unwrap().1 {
        "mac" => Act::ok(&body_of_credentials("ASIA1", far)),
        "hostname" => Act::ok("{\"SecretAccessKey\": \"without the rest\"}"),
        "system" => Act::ok(&"x".repeat(64 * 1024 + 1)),
        "kernel-id" => Act::status(404),
        "ramdisk-id" => Act::status(206),
        "reservation-id" => Act::status(500),
        _ => Act::ok(path),
    }
}

#[test]
fn what_is_kept_and_what_never_is() {
    in_network(|net| {
        let host = Host::start(net, &scripted());
        let service = Fake::start(net, anything);
        let token = token(ROOT, V4, 600);
        let dynamic = "dynamic/instance-identity";
        let kept = [
            "meta-data/ami-id",
            "meta-data/instance-id",
            "meta-data/instance-id/",
            "meta-data/placement/region",
            "meta-data/services/domain",
            "meta-data/public-keys/0/openssh-key",
            "user-data",
            &format!("{dynamic}/document"),
            &format!("{dynamic}/signature"),
            &format!("{dynamic}/pkcs7"),
        ];
        let never = [
            // No such thing, other failures, and half an answer.
            "meta-data/kernel-id",
            "meta-data/reservation-id",
            "meta-data/ramdisk-id",
            // Credentials under another name; and too much.
            "meta-data/mac",
            "meta-data/hostname",
            "meta-data/system",
            // Listings.
            "",
            "meta-data",
            "meta-data/",
            "meta-data/placement",
            "meta-data/placement/",
            "meta-data/services/",
            "meta-data/block-device-mapping/",
            "meta-data/public-keys/",
            "meta-data/public-keys/0/",
            "meta-data/iam",
            "meta-data/iam/security-credentials/",
            "dynamic",
            dynamic,
            // What can change.
            "meta-data/public-ipv4",
            "meta-data/spot/instance-action",
            "meta-data/events/maintenance/scheduled",
            "meta-data/network/interfaces/macs/0e/ipv6s",
            "meta-data/tags/instance/Name",
            "meta-data/iam/info",
            "meta-data/identity-credentials/ec2/info",
            "meta-data/managed-ssh-keys/active-keys/bob",
            "meta-data/hibernation/configured",
        ];
        for (paths, times) in [(&kept[..], 1), (&never[..], 2)] {
            for path in paths {
                let path = format!("/latest/{path}");
                let answers = [(); 2].map(|()| get(ROOT, V4, &path, Some(&token)));
                assert_eq!(answers[0].status, answers[1].status, "{path}");
                assert_eq!(answers[0].body, answers[1].body, "{path}");
                assert_eq!(gets(&service, &path), times, "{path}");
            }
        }
        let mut from_memory = host.records(1 + 2 * (kept.len() + never.len()));
        from_memory.retain(|it| it.get("served").is_some());
        assert_eq!(from_memory.len(), kept.len());
    });
}

#[test]
fn relayed_tokens_and_a_memory_that_is_off_leave_every_request_to_the_service() {
    for config in [
        "memory.enabled = true\ntokens.mode = \"relay\"",
        "memory.enabled = false",
    ] {
        in_network(move |net| {
            let setup = Setup {
                config: config.into(),
                ..Setup::default()
            };
            let host = Host::start(net, &setup);
            let token = token(ROOT, V4, 60);
            for path in [AMI, CREDENTIALS] {
                for _ in 0..3 {
                    assert_eq!(get(ROOT, V4, path, Some(&token)).status, 200);
                }
                assert_eq!(asked_for(&host, "GET", path), 3, "{config}: {path}");
            }
            let records = host.records(7);
            assert!(records.iter().all(|it| it.get("served").is_none()));
        });
    }
}

#[test]
fn a_warm_memory_changes_no_verdict() {
    in_network(|net| {
        let host = Host::start(net, &remembering());
        let (roots, alices) = (token(ROOT, V4, 60), token(ALICE, V4, 60));
        let signature = "/latest/dynamic/instance-identity/signature";
        let mut before = 2;
        for path in [CREDENTIALS, "/latest/user-data", signature, AMI] {
            for _ in 0..2 {
                assert_eq!(get(ROOT, V4, path, Some(&roots)).status, 200);
            }
            before += 2;
            let memory = host.records(before).pop().unwrap();
            let may = path == AMI;
            for (user, token, status, reason) in [
                (ALICE, Some(&alices), if may { 200 } else { 403 }, "default"),
                (ALICE, Some(&roots), 401, "token_invalid"),
                (ALICE, None, 401, "token_missing"),
                (BOB, Some(&alices), 401, "token_invalid"),
            ] {
                let answer = get(user, V4, path, token.map(String::as_str));
                assert_eq!(answer.status, status, "{path} {reason}");
                if status != 200 {
                    assert!(!answer.body.contains("SecretAccessKey"), "{path}");
                }
            }
            let records = &host.records(before + 4)[before..];
            for (record, reason) in records.iter().zip([
                if may { "allowed" } else { "default" },
                "token_invalid",
                "token_missing",
                "token_invalid",
            ]) {
                assert_eq!(record["reason"], reason, "{path}");
                let from_memory = record.get("served").is_some();
                assert_eq!(from_memory, reason == "allowed", "{path}");
            }
            before += 4;
            assert_eq!(memory["caller"]["uid"], 0);
            assert_eq!(memory["served"], "memory");
            assert_eq!(asked_for(&host, "GET", path), 1, "{path}");
        }
    });
}

#[test]
fn who_holds_the_connection_is_looked_at_for_credentials_from_memory_too() {
    in_network(|net| {
        let host = Host::start(net, &remembering());
        let program = setuid_curl(&host, "curl");
        let roots = token(ROOT, V4, 60);
        let warm = Instant::now();
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&roots)).status, 200);
        let (said, _) = curl(&program, ALICE, CREDENTIALS);
        assert!(said.ends_with(" 403"), "{said}");
        assert!(!said.contains("SecretAccessKey"), "{said}");
        assert_withheld(&host.records(4).pop().unwrap(), "uid");
        let (said, _) = curl(&program, ROOT, CREDENTIALS);
        assert!(said.ends_with(" 200"), "{said}");

        kill(host.witness_pid(), Signal::SIGKILL).unwrap();
        let answer = get(ROOT, V4, CREDENTIALS, Some(&roots));
        assert_eq!(answer.status, 403);
        assert!(!answer.body.contains("SecretAccessKey"), "{answer:?}");
        let refused = host.records(7).pop().unwrap();
        assert_eq!(refused["reason"], "witness_gone");
        assert_eq!(refused.get("credential"), None);
        // None of it was the service's doing.
        let took = warm.elapsed();
        assert!(took < Duration::from_secs(5), "too slow to tell: {took:?}");
        assert_eq!(asked_for(&host, "GET", CREDENTIALS), 1);
    });
}
