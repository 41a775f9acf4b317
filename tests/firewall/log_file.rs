//! The file under the log: rotation, crashes, and a disk that takes nothing.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::chown;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

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

/// Asks from several threads until told to stop; gives how many requests had
/// an answer, and how many of them credentials.
fn load(stop: &AtomicBool) -> (usize, usize) {
    let token = &token(ROOT, V4, 21_600);
    let counts = std::thread::scope(|scope| {
        let ask = move |at: usize| {
            let (mut answered, mut handed_out) = (0, 0);
            let mut stream = connect(ROOT, V4);
            let paths = [AMI, CREDENTIALS];
            while !stop.load(Ordering::Relaxed) {
                let path = paths[(at + answered) % 2];
                let get = request("GET", V4, path, Some(token), "keep-alive");
                if stream.write_all(get.as_bytes()).is_err() {
                    break;
                }
                match read_answer(&mut stream) {
                    Ok(answer) if answer.status > 0 => {
                        answered += 1;
                        handed_out += usize::from(answer.body.contains("SecretAccessKey"));
                    }
                    _ => break,
                }
            }
            (answered, handed_out)
        };
        let threads: Vec<_> = (0..4).map(|at| scope.spawn(move || ask(at))).collect();
        threads
            .into_iter()
            .map(|it| it.join().unwrap())
            .collect::<Vec<_>>()
    });
    let sum = |of: fn(&(usize, usize)) -> usize| counts.iter().map(of).sum();
    (1 + sum(|it| it.0), sum(|it| it.1))
}

/// What `imdsfw audit verify` says, which must be that all is whole.
fn verified(host: &Host) -> Value {
    let output = host.command("audit verify --json").output().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["whole"], true, "{found}");
    assert!(output.status.success());
    found
}

/// The records of requests in the log and all that was rotated away.
fn all_requests(host: &Host) -> Vec<Value> {
    let output = host
        .command("audit query --json --event request")
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// Ends a load, also where a test fails meanwhile.
pub(crate) struct Ends<'a>(pub(crate) &'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Until so many records are there that were not.
fn await_growth(host: &Host, records: usize) {
    let grown = host.audit().len() + records;
    wait_for("records", || (host.audit().len() > grown).then_some(()));
}

/// Under load, `rotate` again and again: as many records as requests. With
/// `IMDSFW_TEST_ROTATIONS=30`, so often, each a second after the one before.
fn under_load(host: &mut Host, mut rotate: impl FnMut(&Host)) {
    let asked = std::env::var("IMDSFW_TEST_ROTATIONS").ok();
    let times = asked.as_ref().map_or(4, |times| times.parse().unwrap());
    let pause = Duration::from_secs(asked.is_some().into());
    let mut rotate = |host: &Host| {
        std::thread::sleep(pause);
        rotate(host);
    };
    let stop = AtomicBool::new(false);
    let (answered, handed_out) = std::thread::scope(|scope| {
        let load = scope.spawn(|| load(&stop));
        let ends = Ends(&stop);
        (0..times).for_each(|_| rotate(host));
        drop(ends);
        load.join().unwrap()
    });
    host.stop_daemon();
    let found = verified(host);
    assert!(found["files"].as_u64().unwrap() > 1, "{found}");
    assert_eq!(found["first"], 1);
    assert_eq!(found["last"]["hash"], found["head"]["hash"]);
    assert_eq!(found["head"]["ended"], true);
    let requests = all_requests(host);
    assert_eq!(requests.len(), answered);
    let said = requests.iter().filter(|it| it.get("credential").is_some());
    assert_eq!(said.count(), handed_out);
    eprintln!(
        "{times} rotations: {answered} requests answered, {} recorded, in {} files",
        requests.len(),
        found["files"],
    );
}

/// Debian's logrotate, told to rotate now.
fn logrotate(host: &Host, how: &str) {
    let conf = host.path("logrotate.conf");
    let text = format!(
        "{} {{\n su root root\n rotate 1000\n missingok\n {how}\n}}\n",
        host.path(LOG).display()
    );
    fs::write(&conf, text).unwrap();
    let mut logrotate = Command::new("/usr/sbin/logrotate");
    logrotate
        .arg("--force")
        .arg("--state")
        .arg(host.path("logrotate.state"));
    let output = logrotate.arg(&conf).output().expect("logrotate");
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn logrotate_by_rename_under_load_loses_nothing_and_breaks_no_chain() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        under_load(&mut host, |host| {
            await_growth(host, 100);
            logrotate(host, "nocreate");
            kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
            wait_for("the next file", || host.path(LOG).exists().then_some(()));
        });
    });
}

#[test]
fn logrotate_by_copytruncate_under_load_loses_nothing_and_breaks_no_chain() {
    for compress in ["", "compress\n nodelaycompress\n"] {
        in_network(move |net| {
            let mut host = Host::start(net, &Setup::default());
            under_load(&mut host, |host| {
                await_growth(host, 100);
                logrotate(host, &format!("{compress}copytruncate"));
            });
        });
    }
}

#[test]
fn the_daemon_rotates_by_itself_and_keeps_as_many_as_it_is_to() {
    in_network(|net| {
        let setup = Setup {
            config: "audit.rotate_size = \"64KiB\"\naudit.keep = 0".into(),
            ..Setup::default()
        };
        let mut host = Host::start(net, &setup);
        under_load(&mut host, |host| {
            let files = || fs::read_dir(host.path("log")).unwrap().count();
            let before = files();
            wait_for("rotation", || (files() > before).then_some(()));
        });
        let files = |host: &Host| fs::read_dir(host.path("log")).unwrap().count();
        assert!(files(&host) > 2);
        host.write_config("audit.rotate_size = \"64KiB\"\naudit.keep = 1");
        host.start_daemon();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _ends = Ends(&stop);
            scope.spawn(|| load(&stop));
            wait_for("the oldest to go", || (files(&host) <= 2).then_some(()));
        });
        host.stop_daemon();
        assert!(verified(&host)["first"].as_u64().unwrap() > 1);
    });
}

#[test]
fn a_daemon_that_is_killed_has_recorded_what_it_handed_out() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        for _ in 0..3 {
            let stop = AtomicBool::new(false);
            let (_, handed_out) = std::thread::scope(|scope| {
                let _ends = Ends(&stop);
                let load = scope.spawn(|| load(&stop));
                await_growth(&host, 300);
                host.kill_daemon();
                load.join().unwrap()
            });
            let said = host.audit();
            let said = said.iter().filter(|it| it.get("credential").is_some());
            let said = said.count();
            assert!(
                handed_out > 0 && said >= handed_out,
                "{said} of {handed_out}"
            );
            eprintln!("killed: {handed_out} handed out, {said} recorded");
            fs::remove_file(host.path(LOG)).unwrap();
            host.start_daemon();
        }
        host.stop_daemon();
        verified(&host);
    });
}

/// A small disk that fills up under load, as it would in life.
#[test]
fn a_disk_that_fills_under_load_is_survived_by_the_chain() {
    for on_failure in ["deny", "allow"] {
        in_network(move |net| {
            let setup = Setup {
                config: format!("audit.on_failure = \"{on_failure}\""),
                ..Setup::default()
            };
            let mut host = Host::prepare(net, &setup);
            host.mount_small_log(2048);
            host.run("rules apply");
            host.start_daemon();
            fs::write(host.path("log/filler"), vec![0; 1900 << 10]).unwrap();
            let own = token(ROOT, V4, 21_600);
            let read = || get(ROOT, V4, CREDENTIALS, Some(&own)).status;
            let stop = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let _ends = Ends(&stop);
                scope.spawn(|| load(&stop));
                wait_for("a full disk", || {
                    let disk = nix::sys::statvfs::statvfs(&host.path("log")).unwrap();
                    (disk.blocks_available() < 4).then_some(())
                });
                match on_failure {
                    "deny" => wait_for("a refusal", || (read() == 503).then_some(())),
                    _ => (0..50).for_each(|_| assert_eq!(read(), 200)),
                }
            });
            free_disk(&host);
            wait_for("recovery", || {
                (!host.events("audit.recovered").is_empty()).then_some(())
            });
            assert_eq!(read(), 200);
            host.stop_daemon();
            verified(&host);
            assert!(!host.events("audit.failing").is_empty());
            let mut count = std::collections::BTreeMap::<String, usize>::new();
            for it in host.audit() {
                let what = match it["event"].as_str().unwrap() {
                    "request" => format!("{} {}", it["status"], it["reason"]),
                    event => format!("{event} {}", it["detail"]),
                };
                *count.entry(what).or_default() += 1;
            }
            eprintln!("{on_failure}: {count:#?}");
        });
    }
}
