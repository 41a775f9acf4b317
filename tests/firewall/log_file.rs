//! The file under the log: rotation, crashes, and a disk that takes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::chown;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::audit::assert_gap_free;
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{Answer, V4, connect, get, read_answer, request, token};
use crate::common::net::{Net, in_network};
use crate::common::user::{ALICE, DAEMON, ROOT};

const AMI: &str = "/latest/meta-data/ami-id";
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const USER_DATA: &str = "/latest/user-data";
const LOG: &str = "log/audit.jsonl";

fn lines(host: &Host, name: &str) -> Vec<Value> {
    let text = fs::read_to_string(host.path(name)).unwrap();
    assert!(text.ends_with('\n'), "{text:?}");
    let parse = |line| serde_json::from_str(line).unwrap();
    text.lines().map(parse).collect()
}

#[test]
fn rotation_by_rename_loses_nothing() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ALICE, V4, 60);
        let read = || assert_eq!(get(ALICE, V4, AMI, Some(&token)).status, 200);
        read();
        host.records(2);
        fs::rename(host.path(LOG), host.path("log/audit.jsonl.1")).unwrap();
        // Between rename and signal, the renamed file is still the log.
        read();
        wait_for("the record in the renamed file", || {
            (lines(&host, "log/audit.jsonl.1").len() == 5).then_some(())
        });
        assert!(!host.path(LOG).exists());
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        wait_for("the new file", || {
            (!host.events("audit.reopened").is_empty()).then_some(())
        });
        read();
        host.stop_daemon();
        let old = lines(&host, "log/audit.jsonl.1");
        let new = lines(&host, LOG);
        assert_eq!((old.len(), new.len()), (5, 3));
        assert_gap_free(&[old, new].concat());
    });
}

#[test]
fn after_a_crash_the_log_has_whole_lines_and_its_numbers_go_on() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let own = token(ALICE, V4, 60);
        let get = request("GET", V4, AMI, Some(&own), "keep-alive");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let mut stream = connect(ALICE, V4);
                let get = &get;
                scope.spawn(move || {
                    while stream.write_all(get.as_bytes()).is_ok()
                        && read_answer(&mut stream).is_ok_and(|it| it.status == 200)
                    {
                    }
                });
            }
            host.records(50);
            host.kill_daemon();
        });
        // As if the machine had gone down inside a write.
        let mut log = OpenOptions::new()
            .append(true)
            .open(host.path(LOG))
            .unwrap();
        log.write_all(b"{\"schema\":1,\"seq\":99999,\"time\":\"2026-1")
            .unwrap();
        drop(log);
        host.start_daemon();
        token(ALICE, V4, 60);
        host.stop_daemon();
        let records = lines(&host, LOG);
        assert!(records.len() > 50);
        assert_gap_free(&records);
    });
}

fn fill_disk(host: &Host) {
    let mut filler = File::create(host.path("log/filler")).unwrap();
    while filler.write_all(&[0; 4096]).is_ok() {}
    while filler.write_all(&[0]).is_ok() {}
}

fn free_disk(host: &Host) {
    fs::remove_file(host.path("log/filler")).unwrap();
}

/// A host whose log has a small disk to itself.
fn start<'n>(net: &'n Net, on_failure: &str) -> Host<'n> {
    let setup = Setup {
        config: format!("audit.on_failure = \"{on_failure}\""),
        ..Setup::default()
    };
    let mut host = Host::prepare(net, &setup);
    host.mount_small_log(256);
    host.run("rules apply");
    host.start_daemon();
    host
}

/// The id that a refusal shows.
fn id(answer: &Answer) -> &str {
    let (_, rest) = answer.body.rsplit_once("id ").unwrap();
    rest.split('"').next().unwrap()
}

#[test]
fn what_cannot_be_recorded_is_not_handed_out() {
    in_network(|net| {
        let mut host = start(net, "deny");
        let token = token(ROOT, V4, 60);
        let read = |path| get(ROOT, V4, path, Some(&token));
        assert_eq!(read(CREDENTIALS).status, 200);
        let mut requests = 2;
        let mut handed_out = 1;
        let mut refused = Vec::new();

        fill_disk(&host);
        // What is left of the last page still takes a few.
        let first = wait_for("a refusal", || {
            let answer = read(CREDENTIALS);
            requests += 1;
            handed_out += usize::from(answer.status == 200);
            (answer.status != 200).then_some(answer)
        });
        assert_eq!(first.status, 503);
        assert!(!first.body.contains("SecretAccessKey"), "{first:?}");
        refused.push(id(&first).to_owned());
        for _ in 0..3 {
            let answer = read(USER_DATA);
            assert_eq!(answer.status, 503);
            refused.push(id(&answer).to_owned());
            assert_eq!(read(AMI).status, 200, "no secret");
            requests += 2;
        }

        free_disk(&host);
        wait_for("credentials again", || {
            let answer = read(CREDENTIALS);
            requests += 1;
            match answer.status {
                200 => handed_out += 1,
                _ => refused.push(id(&answer).to_owned()),
            }
            (answer.status == 200).then_some(())
        });
        host.stop_daemon();

        let records = lines(&host, LOG);
        assert_gap_free(&records);
        let of = |event: &str| -> Vec<&Value> {
            records.iter().filter(|it| it["event"] == event).collect()
        };
        assert_eq!(of("audit.failing").len(), 1);
        assert!(of("audit.failing")[0]["detail"]["error"].is_string());
        assert_eq!(of("audit.recovered").len(), 1);
        assert_eq!(of("audit.recovered")[0]["detail"]["lost"], 0);
        assert_eq!(of("request").len(), requests, "one for each request");
        for id in &refused {
            let its: Vec<_> = records
                .iter()
                .filter(|it| it["id"] == id.as_str())
                .collect();
            assert_eq!(its.len(), 1, "{id}");
            assert_eq!(its[0]["status"], 503);
            assert_eq!(its[0]["reason"], "audit_unwritable");
            assert_eq!(
                (&its[0]["verdict"], &its[0]["decision"]),
                (&"allow".into(), &"deny".into())
            );
            assert_eq!(its[0].get("credential"), None, "nothing was handed out");
        }
        let said = records.iter().filter(|it| it.get("credential").is_some());
        assert_eq!(said.count(), handed_out);
    });
}

#[test]
fn where_the_config_says_so_an_unwritable_log_refuses_nothing() {
    in_network(|net| {
        let mut host = start(net, "allow");
        let token = token(ROOT, V4, 60);
        let read = || assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
        fill_disk(&host);
        (0..10).for_each(|_| read());
        free_disk(&host);
        // Kept, and written as soon as there is room.
        wait_for("recovery", || {
            (!host.events("audit.recovered").is_empty()).then_some(())
        });
        host.stop_daemon();
        let records = lines(&host, LOG);
        assert_gap_free(&records);
        let said = records.iter().filter(|it| it.get("credential").is_some());
        assert_eq!(said.count(), 10);
    });
}

#[test]
fn a_log_that_is_gone_is_no_log() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        let read = |path| get(ROOT, V4, path, Some(&token)).status;
        assert_eq!(read(CREDENTIALS), 200);
        let before = lines(&host, LOG);

        // The file alone: there is another at once.
        fs::remove_file(host.path(LOG)).unwrap();
        assert_eq!(read(CREDENTIALS), 200);
        let between = host.records(1);
        assert_eq!(between[0]["request"]["path"], CREDENTIALS);
        wait_for("the event", || {
            let reopened = host.events("audit.reopened");
            (reopened.first()?["detail"]["removed"] == true).then_some(())
        });
        let between = lines(&host, LOG);

        // With its directory: nothing can be recorded.
        fs::remove_dir_all(host.path("log")).unwrap();
        assert_eq!(read(CREDENTIALS), 503);
        assert_eq!(read(USER_DATA), 503);
        assert_eq!(read(AMI), 200);
        fs::create_dir(host.path("log")).unwrap();
        chown(host.path("log"), Some(DAEMON.uid), Some(DAEMON.gid)).unwrap();
        // One of the same name is not the one that the daemon was confined to.
        assert_eq!(read(CREDENTIALS), 503);
        assert_gap_free(&[before, between].concat());
        host.stop_daemon();
        host.start_daemon();
        let token = crate::common::http::token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
        assert_eq!(host.records(2)[1]["status"], 200);
    });
}

#[test]
fn a_rotation_that_fails_is_not_said_to_be_done() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        let read = |path| get(ROOT, V4, path, Some(&token)).status;
        assert_eq!(read(CREDENTIALS), 200);
        fs::rename(host.path("log"), host.path("elsewhere")).unwrap();
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        wait_for("a refusal", || (read(CREDENTIALS) == 503).then_some(()));
        fs::rename(host.path("elsewhere"), host.path("log")).unwrap();
        wait_for("credentials again", || {
            (read(CREDENTIALS) == 200).then_some(())
        });
        wait_for("both events", || {
            let order: Vec<_> = host
                .audit()
                .iter()
                .map(|it| it["event"].clone())
                .filter(|it| it.as_str().unwrap().starts_with("audit."))
                .collect();
            (order == ["audit.failing", "audit.reopened", "audit.recovered"]).then_some(())
        });
        assert_gap_free(&host.audit());
    });
}
