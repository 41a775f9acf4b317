//! What the records say, and what they never say.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write as _;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::sethostname;
use serde_json::Value;

use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, V6, connect, get, put, raw, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, CWAGENT, ROOT};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const DOCUMENT: &str = "/latest/dynamic/instance-identity/document";

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

#[test]
fn credentials_are_recorded_by_their_key_id() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let answer = get(CWAGENT, V4, CREDENTIALS, Some(&token(CWAGENT, V4, 60)));
        let issued = json(&answer.body);
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["request"]["class"], "credentials");
        assert_eq!(record["rule"], "the CloudWatch agent acts as the role");
        let credential = &record["credential"];
        assert_eq!(credential["access_key_id"], issued["AccessKeyId"]);
        assert_eq!(credential["expiration"], issued["Expiration"]);
        assert_eq!(credential["role"], "web");
        assert_eq!(record["bytes"], answer.body.len());

        // Refused or not, only an answer that left says so.
        get(ALICE, V4, CREDENTIALS, Some(&token(ALICE, V4, 60)));
        let record = host.records(4).pop().unwrap();
        assert_eq!(record["request"]["class"], "credentials");
        assert_eq!(record.get("credential"), None);
    });
}

#[test]
fn credentials_under_another_name_are_recorded_as_credentials() {
    in_network(|net| {
        let setup = Setup {
            service: false,
            ..Setup::default()
        };
        let mut host = Host::prepare(net, &setup);
        let user_data = host.path("user-data");
        let key = "{\"AccessKeyId\": \"ASIAEXAMPLE\", \"SecretAccessKey\": \"hidden-here\"}";
        fs::write(&user_data, key).unwrap();
        host.start_service(&["--user-data", user_data.to_str().unwrap()]);
        host.run("rules apply");
        host.start_daemon();
        let token = token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, "/latest/user-data", Some(&token)).body, key);
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["request"]["class"], "credentials");
        assert_eq!(record["credential"]["access_key_id"], "ASIAEXAMPLE");
        assert_eq!(record["credential"]["expiration"], Value::Null);
        assert!(!log_text(&host).contains("hidden-here"));
    });
}

#[test]
fn they_name_the_host_as_it_is_called_by_then() {
    in_network(|net| {
        // As cloud-init does it, behind the daemon's back.
        unshare(CloneFlags::CLONE_NEWUTS).unwrap();
        sethostname("before-cloud-init").unwrap();
        let host = Host::start(net, &Setup::default());
        let name = || {
            get(ALICE, V4, AMI, None);
            let requests = host.records(1).len();
            let record = host.records(requests).pop().unwrap();
            record["host"]["name"].as_str().unwrap().to_owned()
        };
        assert_eq!(name(), "before-cloud-init");
        sethostname("login-1").unwrap();
        let start = Instant::now();
        wait_for("the new name", || (name() == "login-1").then_some(()));
        assert!(start.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn no_secret_that_a_client_saw_is_in_the_log() {
    let (secrets, told) = in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let mut secrets = BTreeSet::new();
        // A log of what was asked and answered, as it was.
        let mut naive = String::new();
        let mut requests = 0;
        for to in [V4, V6] {
            for user in [ROOT, ALICE, CWAGENT] {
                let own = token(user, to, 60);
                for path in [
                    CREDENTIALS,
                    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
                    "/latest/user-data",
                    DOCUMENT,
                    // Refused as malformed, with a good token beside it.
                    "/latest/%2e%2e/x",
                ] {
                    let answer = get(user, to, path, Some(&own));
                    naive.push_str(&request("GET", to, path, Some(&own), "close"));
                    naive.push_str(&answer.body);
                    if answer.body.contains("SecretAccessKey") {
                        let issued = json(&answer.body);
                        for field in ["SecretAccessKey", "Token"] {
                            secrets.insert(issued[field].as_str().unwrap().to_owned());
                        }
                    } else if answer.status == 200 {
                        secrets.insert(answer.body);
                    }
                }
                // Stolen, sent twice, and altered.
                get(BOB, to, AMI, Some(&own));
                let twice = request("GET", to, AMI, Some(&own), "close");
                let twice = twice.replace("Connection", &format!("{TOKEN}: {own}\r\nConnection"));
                assert_eq!(raw(user, to, twice.as_bytes()).status, 400);
                get(user, to, AMI, Some(&format!("{own}A")));
                secrets.insert(own);
                requests += 9;
            }
        }
        host.records(requests);
        assert!(secrets.len() > 10, "{}", secrets.len());
        let log = log_text(&host);
        for secret in &secrets {
            assert!(!log.contains(secret.as_str()), "{secret}");
        }
        let told = secrets.iter().filter(|it| naive.contains(it.as_str()));
        (secrets.len(), told.count())
    });
    assert_eq!(told, secrets);
    shown(
        "Whoever reads the log looks for tokens, keys, user data and documents in it.",
        format!("of {secrets} that clients sent or were given, 0 are in it"),
        format!("a log of requests and answers as they were: {told} of them"),
    );
}

const TOKEN: &str = "X-aws-ec2-metadata-token";

#[test]
fn whatever_a_client_sends_each_record_is_one_plain_line() {
    let (sent, forged) = in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let forged = "{\"schema\":1,\"seq\":1,\"event\":\"request\",\"decision\":\"allow\"}";
        let behind = format!("/latest/%0a{forged}");
        let mut naive = String::new();
        let paths: [&[u8]; 9] = [
            b"/latest/\"},{\"x\":\"",
            b"/latest/\\u000a\\n",
            b"/latest/%0a%0d%00",
            b"/latest/\x1b[2J\x1b]0;title\x07",
            b"/latest/\xff\xfe\xc3\x28",
            b"/latest/\xe2\x80\xa8\xc2\x9b31m",
            b"/latest/\x7f\x01",
            forged.as_bytes(),
            behind.as_bytes(),
        ];
        let token = token(ALICE, V4, 60);
        let mut sent = 1;
        for path in paths {
            for (method, agent) in [
                (b"GET".as_slice(), path),
                (b"PUT", b"quiet"),
                (b"G\"T\x1b", b"\"\\\x1b[31m\xff"),
            ] {
                let mut bytes = method.to_vec();
                bytes.extend(b" ");
                bytes.extend(path);
                bytes.extend(b" HTTP/1.1\r\nHost: 169.254.169.254\r\nUser-Agent: ");
                bytes.extend(agent);
                bytes.extend(format!("\r\n{TOKEN}: {token}\r\n\r\n").as_bytes());
                raw(ALICE, V4, &bytes);
                naive += &naive_line(path);
                sent += 1;
            }
        }
        // A well-formed request with such a User-Agent, which is recorded too.
        let agent = "\"},\\n\t'";
        let get = request("GET", V4, AMI, Some(&token), "close");
        let get = get.replace("Connection", &format!("User-Agent: {agent}\r\nConnection"));
        assert_eq!(raw(ALICE, V4, get.as_bytes()).status, 200);
        sent += 1;

        let records = host.records(sent);
        assert_eq!(records.len(), sent, "one each");
        let last = records.last().unwrap();
        assert_eq!(last["request"]["user_agent"], "\"},\\\\n\\x09'");
        let lines = log_text(&host);
        for (at, line) in lines.lines().enumerate() {
            assert!(!line.contains(char::is_control), "{line:?}");
            let record = json(line);
            assert_eq!(record["seq"], at + 1, "no line but the daemon's own");
        }
        assert!(records.iter().all(|it| it["caller"]["uid"] == ALICE.uid));
        assert!(records.iter().all(|it| it["seq"] != 1));
        let forged = naive.lines().filter(|line| *line == forged);
        (sent, forged.count())
    });
    assert!(forged > 0);
    shown(
        "A user sends line breaks, quotes, control bytes and a record of its own in a request.",
        format!("{sent} requests, {sent} records of one line each, all under uid 4001"),
        format!(
            "a line made of the target, decoded and unescaped: {forged} forged records that say \
             `allow`"
        ),
    );
}

/// A record as one writes it at first: what the client sent, as it meant it.
fn naive_line(target: &[u8]) -> String {
    let target = String::from_utf8_lossy(target).replace("%0a", "\n");
    format!("uid=4001 target={target}\n")
}

#[test]
fn facts_about_the_host_are_null_until_an_answer_brings_them() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let facts = |record: &Value| {
            ["instance_id", "account", "region"].map(|name| record["host"][name].clone())
        };
        let null = Value::Null;
        get(ALICE, V4, AMI, Some(&token));
        let record = host.records(2).pop().unwrap();
        assert_eq!(facts(&record), [null.clone(), null.clone(), null.clone()]);
        assert!(record["host"]["boot_id"].is_string());
        get(ALICE, V4, "/latest/meta-data/instance-id", Some(&token));
        let record = host.records(3).pop().unwrap();
        let id = Value::from("i-1234567890abcdef0");
        assert_eq!(facts(&record), [id.clone(), null.clone(), null]);
        let document = json(&get(ALICE, V4, DOCUMENT, Some(&token)).body);
        let record = host.records(4).pop().unwrap();
        let expected = [
            id,
            document["accountId"].clone(),
            document["region"].clone(),
        ];
        assert!(expected.iter().all(Value::is_string));
        assert_eq!(facts(&record), expected);
    });
}

#[test]
fn a_client_that_leaves_before_its_answer_is_recorded_once() {
    in_network(|net| {
        let setup = Setup {
            sim: vec!["--latency", "300ms"],
            ..Setup::default()
        };
        let host = Host::start(net, &setup);
        let token = token(ALICE, V4, 60);
        let mut stream = connect(ALICE, V4);
        let get = request("GET", V4, AMI, Some(&token), "keep-alive");
        stream.write_all(get.as_bytes()).unwrap();
        wait_for("the request at the service", || {
            (!host.seen_by_service("request").is_empty()).then_some(())
        });
        drop(stream);
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["reason"], "client_gone");
        assert_eq!(record["decision"], "deny");
        assert_eq!(record["verdict"], "allow");
        assert_eq!(record["status"], Value::Null);
        assert_eq!(record["request"]["path"], AMI);
        assert_eq!(record["caller"]["uid"], ALICE.uid);
        // The next one finds everything in order.
        let again = raw(ALICE, V4, get.replace("keep-alive", "close").as_bytes());
        assert_eq!(again.status, 200);
        assert_eq!(host.records(3).len(), 3, "one each");
    });
}

#[test]
fn stopping_under_load_finishes_and_records_every_request() {
    in_network(|net| {
        let setup = Setup {
            sim: vec!["--latency", "30ms"],
            ..Setup::default()
        };
        let mut host = Host::start(net, &setup);
        let token = token(ALICE, V4, 60);
        let get = request("GET", V4, AMI, Some(&token), "keep-alive");
        let answered: usize = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..8)
                .map(|_| {
                    let mut stream = connect(ALICE, V4);
                    let get = &get;
                    scope.spawn(move || {
                        let mut answered = 0;
                        while stream.write_all(get.as_bytes()).is_ok() {
                            let answer = read_answer(&mut stream).unwrap();
                            if answer.status == 0 {
                                break;
                            }
                            assert_eq!(answer.status, 200);
                            answered += 1;
                            if answer.header("connection") == Some("close") {
                                break;
                            }
                        }
                        answered
                    })
                })
                .collect();
            host.records(40);
            kill(host.daemon_pid(), Signal::SIGTERM).unwrap();
            clients.into_iter().map(|it| it.join().unwrap()).sum()
        });
        host.await_end();
        let records = host.records(0);
        let of = |path: &str| {
            let on = |it: &&Value| it["request"]["path"] == path;
            records.iter().filter(on).collect::<Vec<_>>()
        };
        assert!(answered >= 40 && of(AMI).len() == answered, "{answered}");
        assert!(of(AMI).iter().all(|it| it["status"] == 200));
        let log = host.audit();
        let last = log.last().unwrap();
        assert_eq!(last["event"], "daemon.stopped");
        assert_eq!(last["detail"]["signal"], "SIGTERM");
        let loaded = log.iter().find(|it| it["event"] == "policy.loaded");
        let files = loaded.unwrap()["detail"]["files"].as_array().unwrap();
        assert!(
            files
                .iter()
                .all(|it| it.as_str().unwrap().ends_with(".toml"))
        );
        assert!(!files.is_empty());
        assert_gap_free(&log);
    });
}

#[track_caller]
pub(crate) fn assert_gap_free(records: &[Value]) {
    let seqs: Vec<_> = records
        .iter()
        .map(|it| it["seq"].as_u64().unwrap())
        .collect();
    let expected: Vec<_> = (1..).take(seqs.len()).collect();
    assert_eq!(seqs, expected);
}

fn log_text(host: &Host) -> String {
    fs::read_to_string(host.path("log/audit.jsonl")).unwrap()
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let idle = host.handed_over(|| connect(ALICE, V4));
        let mut used = connect(ALICE, V4);
        used.write_all(put(V4, 60).replace("close", "keep-alive").as_bytes())
            .unwrap();
        assert_eq!(read_answer(&mut used).unwrap().status, 200);
        let mut half = connect(ALICE, V4);
        half.write_all(b"GET /latest/").unwrap();
        let start = Instant::now();
        host.stop_daemon();
        assert!(start.elapsed() < Duration::from_secs(4));
        drop((idle, used, half));
    });
}

#[test]
fn a_head_that_the_end_of_the_daemon_cuts_off_is_recorded() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let mut stream = connect(ALICE, V4);
        stream.write_all(b"GET /latest/user-data HT").unwrap();
        // Answered behind it, so the first bytes have been read.
        get(BOB, V4, "/", None);
        host.records(1);
        host.stop_daemon();
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["reason"], "internal", "{record}");
        assert_eq!(record["detail"], "shutdown");
        assert_eq!(record["caller"]["uid"], ALICE.uid);
        assert_eq!(record["request"]["raw"], "/latest/user-data");
    });
}
