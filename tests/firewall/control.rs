//! Root's orders to the running daemon: who may give them, and that they hold
//! from the moment they are given until they end.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use serde_json::Value;

use crate::common::host::{BINARY, Host, Running, Setup, copy_program, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, CWAGENT, ROOT, User};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const AMI: &str = "/latest/meta-data/ami-id";
/// From memory as well as from the service.
const WITH_MEMORY: &str = "memory.enabled = true";

const POLICY: &str = "schema = 1\n[[rule]]\nname = \"role\"\naction = \"allow\"\n\
    who = [\"user:root\", \"user:bob\"]\npaths = [\"@role\"]\n\n[[rule]]\nname = \"facts\"\n\
    action = \"allow\"\nwho = [\"any\"]\npaths = [\"@routine\"]\n\n[[rule]]\nname = \"never\"\n\
    action = \"deny\"\nenforce = true\nwho = [\"user:cwagent\"]\npaths = [\"@secrets\"]\n";

fn setup(config: &str) -> Setup {
    Setup {
        policy: POLICY.into(),
        config: config.into(),
        ..Setup::default()
    }
}

fn run(host: &Host, words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(words).arg("--config").arg(host.config());
    command.output().unwrap()
}

/// What it prints; it must succeed.
fn order(host: &Host, words: &[&str]) -> String {
    let output = run(host, words);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn credentials(user: User) -> u16 {
    get(user, V4, CREDENTIALS, Some(&token(user, V4, 60))).status
}

/// The record of a request that ended so.
fn recorded(host: &Host, reason: &str) -> Value {
    wait_for(reason, || {
        let mut requests = host.events("request");
        requests.retain(|it| it["reason"] == reason);
        requests.pop()
    })
}

fn status(host: &Host) -> Value {
    serde_json::from_str(&order(host, &["status", "--json"])).unwrap()
}

/// A frame as the protocol has it.
fn frame(json: &str) -> Vec<u8> {
    let mut frame = u32::try_from(json.len()).unwrap().to_be_bytes().to_vec();
    frame.extend(json.as_bytes());
    frame
}

fn dial(host: &Host) -> UnixStream {
    let stream = UnixStream::connect(host.path("control.sock")).unwrap();
    let patience = Some(Duration::from_secs(10));
    stream.set_read_timeout(patience).unwrap();
    stream
}

/// What comes back until the other end closes.
fn answer(stream: &mut UnixStream) -> String {
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    String::from_utf8(bytes.get(4..).unwrap_or_default().to_vec()).unwrap()
}

/// The same, by a process of that user.
fn asked_by(user: User, host: &Host, json: &str) -> String {
    let output = asked_at(user, host, "control.sock", json);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn asked_at(user: User, host: &Host, socket: &str, json: &str) -> Output {
    let script = "import socket, sys\ns = socket.socket(socket.AF_UNIX)\n\
        s.connect(sys.argv[1])\nj = sys.argv[2].encode()\n\
        try: s.sendall(len(j).to_bytes(4, 'big') + j)\nexcept OSError: pass\n\
        b = b''\nwhile True:\n  c = s.recv(65536)\n  if not c: break\n  b += c\n\
        print(b[4:].decode())\n";
    let mut python = python_of(user, script);
    python.arg(host.path(socket)).arg(json).output().unwrap()
}

/// Another user from its exec on: until then it holds every socket of this
/// process, those of other tests' roots as well.
fn python_of(user: User, script: &str) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--clear-groups", "--reuid", &user.uid.to_string()]);
    setpriv.args(["--regid", &user.gid.to_string()]);
    setpriv.args(["/usr/bin/python3", "-Ic", script]);
    setpriv
}

#[test]
fn nobody_but_root_is_heard_and_who_tries_is_recorded() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        for json in [
            r#"{"v":1,"ask":{"do":"lockdown","on":true}}"#,
            r#"{"v":1,"ask":{"do":"status"}}"#,
            r#"{"v":1,"ask":{"do":"verdict","path":"/latest/user-data"}}"#,
        ] {
            let said = asked_by(ALICE, &host, json);
            assert!(said.contains(r#""why":"forbidden""#), "{said}");
        }
        assert_eq!(credentials(BOB), 200);
        let counted = wait_for("the records of them", || {
            let events = host.events("control.refused");
            let counts = events
                .iter()
                .map(|it| it["detail"]["count"].as_u64().unwrap());
            (counts.sum::<u64>() == 3).then_some(events)
        });
        let first = &counted[0]["detail"];
        assert_eq!(
            (&first["uid"], &first["why"]),
            (&ALICE.uid.into(), &"forbidden".into())
        );
        assert!(first["pid"].as_u64().unwrap() > 1);
    });
}

#[test]
fn a_user_may_ask_for_their_own_verdict_where_the_config_says_so_and_nothing_else() {
    in_network(|net| {
        let host = Host::start(net, &setup("control.own_verdict = true"));
        let ask = format!(r#"{{"v":1,"ask":{{"do":"verdict","path":"{CREDENTIALS}"}}}}"#);
        for (user, verdict, reason) in [(ALICE, "deny", "default"), (BOB, "allow", "allowed")] {
            let said = asked_by(user, &host, &ask);
            let said: Value = serde_json::from_str(&said).unwrap();
            assert_eq!(said["reply"]["verdict"], verdict, "{said}");
            assert_eq!(said["reply"]["reason"], reason, "{said}");
        }
        // By the command as well, with a grant counted in.
        order(
            &host,
            &[
                "grant", "--user", "alice", "--path", "@role", "--for", "1h", "--reason", "t",
            ],
        );
        let copy = host.path("imdsfw-copy");
        copy_program(BINARY, &copy);
        let mut explain = Command::new(copy);
        explain.args(["explain", "--live", "--json", CREDENTIALS, "--config"]);
        explain.arg(host.config()).uid(ALICE.uid).gid(ALICE.gid);
        let output = explain.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            (&said["verdict"], &said["reason"]),
            (&"allow".into(), &"allowed".into())
        );
        let id = said["rule"].as_str().unwrap();
        let id = id.strip_prefix("grant ").unwrap();
        order(&host, &["revoke", id]);
        for json in [
            r#"{"v":1,"ask":{"do":"status"}}"#,
            r#"{"v":1,"ask":{"do":"bypass","on":true,"seconds":60,"reason":"x"}}"#,
        ] {
            assert!(asked_by(ALICE, &host, json).contains("forbidden"));
        }
        assert!(asked_by(ALICE, &host, "{}").contains("malformed"));
        let refused = host.events("control.refused");
        assert!(refused.iter().all(|it| it["detail"]["uid"] == ALICE.uid));
        assert_eq!(credentials(ALICE), 403);
    });
}

#[test]
fn garbage_half_messages_and_a_thousand_connections_do_it_no_harm() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        let huge = [0xff, 0xff, 0xff, 0xff, b'{'];
        let other_version = frame(r#"{"v":2,"ask":{"do":"reload"}}"#);
        let garbage = [0_u8, 0, 0, 3, 0xfe, 0xff, 0x00];
        let deep = frame(&"[".repeat(60_000));
        for bytes in [
            &huge[..],
            &other_version,
            &garbage,
            &deep,
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut stream = dial(&host);
            let _ = stream.write_all(bytes);
            let said = answer(&mut stream);
            assert!(said.contains("malformed"), "{said:?}");
        }
        let before = host.descriptors();
        // Half a message each, and then nothing; root's own, which are heard.
        let start = Instant::now();
        let mut halves: Vec<_> = (0..1000).map(|_| dial(&host)).collect();
        for stream in &mut halves {
            let _ = stream.write_all(&[0, 0, 0]);
        }
        let opened = start.elapsed();
        let open = host.descriptors();
        assert!(open <= before + 64, "{open} descriptors");
        assert_eq!(credentials(BOB), 200, "meanwhile");
        let answered = quickest_status(&host);
        println!(
            "1,000 half messages opened in {opened:?}; `status` beside them after {answered:?}"
        );
        assert!(answered < AT_ONCE, "{answered:?}");
        // Each is told, and closed.
        let ends = halves.iter_mut().map(answer);
        let (busy, malformed) = ends.fold((0, 0), |(busy, malformed), said| {
            assert!(
                said.contains("busy") || said.contains("malformed"),
                "{said:?}"
            );
            (
                busy + usize::from(said.contains("busy")),
                malformed + usize::from(said.contains("malformed")),
            )
        });
        println!("{busy} told that it is busy, {malformed} that it was no question");
        drop(halves);
        wait_for("the descriptors", || {
            (host.descriptors() <= before + 4).then_some(())
        });
        let count = |why: &str| -> u64 {
            let events = host.events("control.refused");
            let of_it = events.iter().filter(|it| it["detail"]["why"] == why);
            of_it
                .map(|it| it["detail"]["count"].as_u64().unwrap())
                .sum()
        };
        wait_for("the records", || {
            (count("busy") + count("malformed") >= 1005).then_some(())
        });
        assert!(host.events("control.refused").len() < 20, "summed up");
    });
}

/// For the command to start and be answered, on a machine that has other work.
const AT_ONCE: Duration = Duration::from_millis(500);

/// Of three, which may not have to wait for the daemon.
fn quickest_status(host: &Host) -> Duration {
    let taken = (0..3).map(|_| {
        let start = Instant::now();
        let said = order(host, &["status"]);
        assert!(said.contains("policy"), "{said}");
        start.elapsed()
    });
    taken.min().unwrap()
}

/// Connects without end, and says half of something each time.
const CROWD: &str = "
import collections, socket, sys
kept = collections.deque(maxlen=1000)
while True:
    s = socket.socket(socket.AF_UNIX)
    s.setblocking(False)
    try:
        s.connect(sys.argv[1])
        s.send(bytes(3))
        kept.append(s)
    except OSError:
        if sys.stdout:
            print('crowded', flush=True)
            sys.stdout = None
";

#[test]
fn however_many_users_crowd_before_it_root_is_answered_at_once() {
    in_network(|net| {
        let host = Host::start(net, &setup("control.own_verdict = true"));
        let crowd: Vec<_> = (0..2)
            .map(|_| {
                let mut python = python_of(ALICE, CROWD);
                python.arg(host.path("control.sock")).stdout(Stdio::piped());
                let mut crowd = Running(python.spawn().unwrap());
                let said = crowd.0.stdout.take().unwrap();
                let said = BufReader::new(said).lines().next().unwrap().unwrap();
                assert_eq!(said, "crowded", "no more fit into the queue");
                crowd
            })
            .collect();
        let answered = quickest_status(&host);
        println!("`status` beside users who connect without end: {answered:?}");
        assert!(answered < AT_ONCE, "{answered:?}");
        // For root alone, whoever else may connect.
        let refused = asked_at(ALICE, &host, "root.sock", "{}");
        let said = String::from_utf8_lossy(&refused.stderr);
        assert!(said.contains("PermissionError"), "{said}");
        drop(crowd);
    });
}

/// Reads credentials over and over as these users; when each request was begun
/// that was answered with 200. `body` runs meanwhile. (When an answer is seen,
/// a busy machine decides; what left when, the log says.)
fn under_load<T>(
    users: &[User],
    body: impl FnOnce(&Mutex<Vec<(User, Instant)>>) -> T,
) -> (T, Vec<(User, Instant)>) {
    let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
    let (going, seen) = (AtomicBool::new(true), Mutex::new(Vec::new()));
    let result = thread::scope(|scope| {
        for user in users {
            let (going, seen, namespace) = (&going, &seen, &namespace);
            scope.spawn(move || {
                setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
                let mut own = token(*user, V4, 3600);
                while going.load(Ordering::SeqCst) {
                    let begun = Instant::now();
                    match get(*user, V4, CREDENTIALS, Some(&own)).status {
                        200 => seen.lock().unwrap().push((*user, begun)),
                        401 => own = token(*user, V4, 3600),
                        status => assert_eq!(status, 403),
                    }
                }
            });
        }
        let result = body(&seen);
        going.store(false, Ordering::SeqCst);
        result
    });
    (result, seen.into_inner().unwrap())
}

/// No record of credentials handed out stands behind this event.
fn assert_none_after(host: &Host, event: &str, user: Option<User>) {
    let audit = host.audit();
    let at = audit
        .iter()
        .rposition(|it| it["event"] == event)
        .expect(event);
    let after = audit[at..].iter().filter(|it| {
        it["request"]["class"] == "credentials"
            && it["decision"] == "allow"
            && user.is_none_or(|user| it["caller"]["uid"] == user.uid)
    });
    assert_eq!(after.count(), 0, "credentials behind {event}");
}

#[test]
fn after_a_lockdown_no_credentials_leave_and_no_token_of_before_counts() {
    in_network(|net| {
        let mut host = Host::start(net, &setup(WITH_MEMORY));
        let old = token(ROOT, V4, 3600);
        let (locked, seen) = under_load(&[ROOT, BOB, BOB, ROOT], |seen| {
            wait_for("answers", || {
                (seen.lock().unwrap().len() > 30).then_some(())
            });
            order(&host, &["lockdown", "on", "--reason", "a key leaked"]);
            let locked = Instant::now();
            thread::sleep(Duration::from_millis(500));
            locked
        });
        let (before, after): (Vec<&(User, Instant)>, Vec<_>) =
            seen.iter().partition(|(_, at)| *at < locked);
        println!(
            "{} answers before the lockdown, {} after",
            before.len(),
            after.len()
        );
        assert!(before.len() > 20);
        assert!(after.is_empty());
        assert_none_after(&host, "lockdown.started", None);
        let memory = host.records(20).into_iter();
        assert!(memory.filter(|it| it["served"] == "memory").count() > 5);

        let answer = get(ROOT, V4, CREDENTIALS, Some(&old));
        assert_eq!(answer.status, 401, "minted before");
        assert_eq!(get(ALICE, V4, AMI, Some(&old)).status, 401);
        let answer = get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60)));
        assert_eq!(answer.status, 403);
        assert!(
            answer.body.contains("no credentials leave this host"),
            "{}",
            answer.body
        );
        let record = recorded(&host, "lockdown");
        assert_eq!(
            (&record["verdict"], &record["decision"]),
            (&"allow".into(), &"deny".into())
        );
        assert_eq!(get(ALICE, V4, AMI, Some(&token(ALICE, V4, 60))).status, 200);

        // Another run of the daemon, and a bypass, change nothing of it.
        host.kill_daemon();
        host.start_daemon();
        assert_eq!(credentials(ROOT), 403);
        order(&host, &["bypass", "on", "--for", "1m", "--reason", "x"]);
        assert_eq!(credentials(ROOT), 403);
        order(&host, &["bypass", "off"]);
        order(&host, &["lockdown", "on", "--except", "user:root"]);
        assert_eq!((credentials(ROOT), credentials(BOB)), (200, 403));
        let shown = order(&host, &["status"]);
        assert!(
            shown.contains("ON since") && shown.contains("user:root"),
            "{shown}"
        );
        host.stop_daemon();
        host.start_daemon();
        assert_eq!((credentials(ROOT), credentials(BOB)), (200, 403));
        order(&host, &["lockdown", "off"]);
        assert_eq!((credentials(ROOT), credentials(BOB)), (200, 200));
        assert_eq!(host.events("lockdown.ended").len(), 1);
        let wrong = run(&host, &["lockdown", "on", "--except", "root"]);
        assert_eq!(wrong.status.code(), Some(1));
        assert_eq!(credentials(BOB), 200);
    });
}

#[test]
fn a_grant_ends_to_the_moment_and_is_recorded_from_start_to_end() {
    in_network(|net| {
        let host = Host::start(net, &setup(WITH_MEMORY));
        let (granted, seen) = under_load(&[ALICE, BOB, ALICE, ALICE], |seen| {
            wait_for("answers", || {
                (!seen.lock().unwrap().is_empty()).then_some(())
            });
            let before = Instant::now();
            let said = order(
                &host,
                &[
                    "grant", "--user", "alice", "--path", "@role", "--for", "2s", "--reason", "t",
                ],
            );
            assert!(said.contains("granted until"), "{said}");
            let at = (before, Instant::now());
            thread::sleep(Duration::from_millis(2600));
            at
        });
        let of_alice: Vec<_> = seen.iter().filter(|(user, _)| *user == ALICE).collect();
        let last = of_alice.last().unwrap().1;
        println!(
            "{} answers to alice by a grant of 2 s; the last one {:?} after it was asked for, \
             {:?} after it was given",
            of_alice.len(),
            last - granted.0,
            last - granted.1,
        );
        assert!(of_alice.len() > 20);
        let begun_before = of_alice.iter().filter(|(_, at)| *at < granted.0);
        assert!(begun_before.count() <= 3, "under way when it was given");
        assert!(last < granted.1 + Duration::from_secs(2), "after its end");
        let bobs = seen.iter().filter(|(user, at)| *user == BOB && *at > last);
        assert!(bobs.count() > 5, "the policy's own go on");

        let started = &host.events("grant.started")[0]["detail"];
        let id = started["id"].as_str().unwrap();
        assert_eq!(started["who"][0], "user:alice");
        assert_eq!(started["by"]["uid"], 0);
        let rule = format!("grant {id}");
        let uses = host.events("request");
        let uses: Vec<_> = uses
            .iter()
            .filter(|it| it["rule"] == rule.as_str())
            .collect();
        assert!(uses.len() > 20);
        let base = &host.events("policy.loaded")[0]["detail"]["policy"];
        assert!(uses.iter().all(|it| &it["policy"] == base));
        let ended = &host.events("grant.ended")[0]["detail"];
        assert_eq!(
            (&ended["id"], &ended["why"]),
            (&id.into(), &"expired".into())
        );
        assert!(ended["uses"].as_u64().unwrap() > 20);
        assert_none_after(&host, "grant.ended", Some(ALICE));
    });
}

#[test]
fn a_grant_outlives_the_daemon_and_not_the_boot_and_can_be_revoked() {
    in_network(|net| {
        let mut host = Host::start(net, &setup(""));
        let json = order(
            &host,
            &[
                "grant", "--user", "4001", "--path", "@role", "--for", "1h", "--reason", "t",
                "--json",
            ],
        );
        let done: Value = serde_json::from_str(&json).unwrap();
        let id = done["id"].as_str().unwrap();
        assert_eq!(credentials(ALICE), 200);
        // Explained by the same function, and judged so behind a new policy.
        let words = ["explain", "--user", "alice", CREDENTIALS];
        assert!(order(&host, &words).contains(&format!("\"grant {id}\" decides")));
        host.write_policy(&POLICY.replace("user:bob", "user:cwagent"));
        order(&host, &["reload"]);
        assert_eq!((credentials(ALICE), credentials(BOB)), (200, 403));
        host.kill_daemon();
        host.start_daemon();
        assert_eq!(credentials(ALICE), 200, "the daemon was started again");
        let status = status(&host);
        let grant = &status["daemon"]["grants"][0];
        assert_eq!(grant["id"], id);
        assert!(grant["left_s"].as_u64().unwrap() > 3500);
        order(&host, &["revoke", id]);
        assert_eq!(credentials(ALICE), 403);
        let again = run(&host, &["revoke", id]);
        assert_eq!(again.status.code(), Some(1));
        let ended = &host.events("grant.ended")[0]["detail"];
        assert_eq!(
            (&ended["why"], &ended["by"]["uid"]),
            (&"revoked".into(), &0.into())
        );

        order(
            &host,
            &[
                "grant", "--user", "alice", "--path", "@role", "--for", "1h", "--reason", "t",
            ],
        );
        assert_eq!(credentials(ALICE), 200);
        host.stop_daemon();
        // As if the host had been started again.
        let file = host.path("state/orders.json");
        let kept = fs::read_to_string(&file).unwrap();
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        fs::write(&file, kept.replace(boot.trim(), "another")).unwrap();
        host.start_daemon();
        assert_eq!(credentials(ALICE), 403);
        let ended = host.events("grant.ended").pop().unwrap();
        assert_eq!(ended["detail"]["why"], "reboot");

        for (words, says) in [
            (
                vec!["--user", "nobody-there", "--path", "@role"],
                "no account",
            ),
            (vec!["--user", "alice", "--path", "@rolle"], "did you mean"),
            (vec!["--user", "alice", "--path", "user-data"], "expected"),
        ] {
            let mut all = vec!["grant", "--for", "1h", "--reason", "t"];
            all.extend(words);
            let output = run(&host, &all);
            assert!(!output.status.success());
            assert!(
                String::from_utf8_lossy(&output.stderr).contains(says),
                "{output:?}"
            );
        }
    });
}

#[test]
fn under_a_bypass_everybody_is_answered_and_recorded_and_it_ends_by_itself() {
    in_network(|net| {
        let mut host = Host::start(net, &setup(""));
        let user_data = |user| get(user, V4, "/latest/user-data", None).status;
        assert_eq!((credentials(ALICE), user_data(CWAGENT)), (403, 401));
        let said = order(
            &host,
            &["bypass", "on", "--for", "1h", "--reason", "at night"],
        );
        assert!(said.contains("the policy is off until"), "{said}");
        assert_eq!(credentials(ALICE), 200);
        let record = recorded(&host, "bypassed");
        assert_eq!(
            (&record["verdict"], &record["decision"]),
            (&"deny".into(), &"allow".into())
        );
        assert_eq!(record["detail"], "default");
        // Also what is denied where the mode is observe.
        let token = token(CWAGENT, V4, 60);
        assert_eq!(
            get(CWAGENT, V4, "/latest/user-data", Some(&token)).status,
            200
        );
        host.kill_daemon();
        host.start_daemon();
        assert_eq!(credentials(ALICE), 200);
        order(&host, &["bypass", "off"]);
        assert_eq!(credentials(ALICE), 403);
        order(
            &host,
            &["bypass", "on", "--for", "1s", "--reason", "at night"],
        );
        let start = Instant::now();
        wait_for("its end", || (credentials(ALICE) == 403).then_some(()));
        assert!(start.elapsed() < Duration::from_millis(1500));
        let whys: Vec<_> = wait_for("its record", || {
            let ended = host.events("bypass.ended");
            (ended.len() == 2).then_some(ended)
        });
        let whys: Vec<_> = whys.iter().map(|it| it["detail"]["why"].clone()).collect();
        assert_eq!(whys, ["revoked", "expired"]);
        let started = &host.events("bypass.started")[0]["detail"];
        assert_eq!(
            (&started["hard"], &started["reason"]),
            (&false.into(), &"at night".into())
        );
    });
}

#[test]
fn status_says_how_it_stands() {
    in_network(|net| {
        let mut host = Host::start(net, &setup(""));
        assert_eq!((credentials(BOB), credentials(ALICE)), (200, 403));
        order(
            &host,
            &[
                "grant", "--user", "alice", "--path", "@role", "--for", "1h", "--reason",
                "a ticket",
            ],
        );
        assert_eq!(credentials(ALICE), 200);
        let shown = order(&host, &["status"]);
        println!("{shown}");
        assert!(
            shown.lines().all(|line| line.chars().count() <= 80),
            "{shown}"
        );
        let all = status(&host);
        let daemon = &all["daemon"];
        assert_eq!(all["rules"]["in_force"], true);
        assert_eq!(all["rules"]["backend"], "table inet imdsfw");
        assert_eq!(daemon["counts"]["role"]["name"], "web");
        assert!(
            daemon["counts"]["role"]["expiration"]
                .as_str()
                .unwrap()
                .ends_with('Z')
        );
        assert_eq!(daemon["counts"]["failed"], Value::Null);
        assert_eq!(daemon["witness"], true);
        assert_eq!(daemon["watcher"]["heard_ms"], Value::Null);
        let users = daemon["counts"]["by_uid"].as_array().unwrap();
        let alice = users.iter().find(|it| it["uid"] == ALICE.uid).unwrap();
        assert_eq!(
            (&alice["allowed"], &alice["denied"]),
            (&3.into(), &1.into())
        );
        assert_eq!(daemon["grants"][0]["uses"], 1);

        host.stop_service();
        assert_eq!(credentials(BOB), 502);
        let removed = Command::new(BINARY).args(["rules", "remove"]).status();
        assert!(removed.unwrap().success());
        let output = run(&host, &["status"]);
        assert_eq!(output.status.code(), Some(1));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("FAILING: upstream_unreachable"), "{shown}");
        assert!(shown.contains("NOT AS THEY MUST BE"), "{shown}");
        host.kill_daemon();
        let output = run(&host, &["status"]);
        assert_eq!(output.status.code(), Some(1));
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(shown.contains("no daemon can be asked"), "{shown}");
    });
}
