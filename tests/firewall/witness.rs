//! Programs that speak on a connection which is not theirs alone: setuid
//! programs, connections that root made and passed on. Their socket says uid 0
//! and would be allowed by that, which each record here shows as its verdict;
//! who holds the connection is what refuses them.

mod deputies;

use std::fs::{self, Permissions};
use std::io::{IoSlice, Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::unistd::{Pid, gettid};
use serde_json::Value;

use crate::common::host::{BINARY, Host, Setup, copy_program, wait_for};
use crate::common::http::{V4, connect, get, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, DAEMON, ROOT, User};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const AMI: &str = "/latest/meta-data/ami-id";

/// A copy of curl that runs as root whoever starts it.
pub(crate) fn setuid_curl(host: &Host, name: &str) -> PathBuf {
    let copy = host.path(name);
    copy_program("/usr/bin/curl", &copy);
    fs::set_permissions(&copy, Permissions::from_mode(0o4755)).unwrap();
    assert_eq!(fs::metadata(&copy).unwrap().uid(), 0);
    copy
}

/// `user` reads `path` with that curl; the status and body, and curl's pid.
pub(crate) fn curl(program: &Path, user: User, path: &str) -> (String, u32) {
    let child = Command::new(program)
        .args(["-s", "-w", " %{http_code}", "-H"])
        .arg(format!("X-aws-ec2-metadata-token: {}", token(ROOT, V4, 60)))
        .arg(format!("http://169.254.169.254{path}"))
        .uid(user.uid)
        .gid(user.gid)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = child.id();
    (said(child.wait_with_output().unwrap()), pid)
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn credentials_request() -> String {
    request("GET", V4, CREDENTIALS, Some(&token(ROOT, V4, 60)), "close")
}

/// That the socket's uid alone would have allowed it, and its holders did not.
#[track_caller]
pub(crate) fn assert_withheld(record: &Value, detail: &str) {
    assert_eq!(record["caller"]["uid"], 0, "{record}");
    assert_eq!(record["verdict"], "allow", "{record}");
    assert_eq!(record["decision"], "deny", "{record}");
    assert_eq!(record["reason"], "holders", "{record}");
    assert_eq!(record["detail"], detail, "{record}");
    assert_eq!(record["status"], 403, "{record}");
    assert_eq!(record.get("credential"), None, "{record}");
}

#[test]
fn credentials_under_another_name_are_withheld_as_well() {
    in_network(|net| {
        let setup = Setup {
            service: false,
            ..Setup::default()
        };
        let mut host = Host::prepare(net, &setup);
        let user_data = host.path("user-data");
        fs::write(&user_data, "{\"SecretAccessKey\": \"hidden-here\"}").unwrap();
        host.start_service(&["--user-data", user_data.to_str().unwrap()]);
        host.run("rules apply");
        host.start_daemon();
        let program = setuid_curl(&host, "curl");
        let (said, _) = curl(&program, ALICE, "/latest/user-data");
        assert!(
            said.ends_with(" 403") && !said.contains("hidden-here"),
            "{said}"
        );
        assert_withheld(&host.records(2).pop().unwrap(), "uid");
        assert!(
            curl(&program, ROOT, "/latest/user-data")
                .0
                .ends_with(" 200")
        );
    });
}

/// Starts `program` as `user` with `input` as its standard input.
fn start(user: User, program: &str, arguments: &[&str], input: OwnedFd) -> Child {
    Command::new(program)
        .args(arguments)
        .uid(user.uid)
        .gid(user.gid)
        .stdin(Stdio::from(input))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_thread_with_descriptors_of_its_own_is_found() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        // As every test's, this thread's table is its own: the connection is
        // not in the process's.
        unshare(CloneFlags::CLONE_FILES).unwrap();
        let mut stream = connect(ROOT, V4);
        let own = format!("self/task/{}/fd/{}", gettid(), stream.as_raw_fd());
        let link = fs::read_link(format!("/proc/{own}")).unwrap();
        let of_process = fs::read_dir("/proc/self/fd").unwrap();
        let mut links = of_process.filter_map(|it| fs::read_link(it.unwrap().path()).ok());
        assert!(links.all(|it| it != link));
        let get = request("GET", V4, CREDENTIALS, Some(&token), "close");
        stream.write_all(get.as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 200);
        let record = host.records(2).pop().unwrap();
        assert_eq!(record["caller"]["pid"], std::process::id());
    });
}

#[test]
fn who_had_no_descriptor_is_looked_at_again() {
    // Told to, it asks for itself; it fails if it is refused.
    const ASKS: &str = r#"
        use IO::Socket::INET; use POSIX;
        $SIG{USR1} = sub {
            my $service = IO::Socket::INET->new("169.254.169.254:80") or _exit(9);
            print $service $ARGV[0];
            _exit(<$service> !~ / 200 /);
        };
        POSIX::close($_) for 0..1023;
        sleep 60"#;
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        let mut child = Command::new("perl")
            .args(["-e", ASKS, &credentials_request()])
            .spawn()
            .unwrap();
        let descriptors = format!("/proc/{}/fd", child.id());
        let count = || fs::read_dir(&descriptors).unwrap().count();
        wait_for("it to have none", || (count() == 0).then_some(()));
        // By now each thread of the witness has met it.
        for _ in 0..8 {
            assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
        }
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        kill(pid, Signal::SIGUSR1).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let record = host.records(11).pop().unwrap();
        assert_eq!(record["caller"]["pid"], child.id());
    });
}

#[test]
fn several_holders_are_all_judged_and_none_is_guessed_to_speak() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let mut records = 0;
        for (other, status) in [(ROOT, 200), (ALICE, 403)] {
            let mut stream = connect(ROOT, V4);
            let copy = OwnedFd::from(stream.try_clone().unwrap());
            let mut holder = start(other, "sh", &["-c", "echo; exec sleep 60"], copy);
            let mut begun = [0];
            holder
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut begun)
                .unwrap();
            stream.write_all(credentials_request().as_bytes()).unwrap();
            let answer = read_answer(&mut stream).unwrap();
            holder.kill().unwrap();
            holder.wait().unwrap();
            assert_eq!(answer.status, status, "{answer:?}");
            records += 2;
            let record = host.records(records).pop().unwrap();
            // Of root's and alice's, only root's could have made it.
            let speaker = match other {
                ROOT => Value::Null,
                _ => std::process::id().into(),
            };
            assert_eq!(record["caller"]["pid"], speaker);
        }
    });
}

/// Root's program reads credentials so many times, each time right after it has
/// forked a child that becomes alice and takes so long to call exec; what became
/// of it, and the records. Until its exec, a child has all that its parent has.
fn beside_a_child(times: usize, seconds: &'static str, check: fn(&str, &[Value], u32)) {
    const STARTS: &str = r#"
        use IO::Socket::INET; use POSIX;
        my ($request, $times, $seconds, $uid, $gid) = @ARGV;
        for (1..$times) {
            my $service = IO::Socket::INET->new("169.254.169.254:80") or die;
            pipe(my $hears, my $tells) or die;
            my $child = fork;
            if (!$child) {
                setgid($gid); setuid($uid) or _exit(9);
                syswrite($tells, "x");
                select(undef, undef, undef, $seconds);
                exec "true";
            }
            sysread($hears, my $told, 1);
            syswrite($service, $request);
            print <$service> =~ / 200 / ? "given " : "refused ";
            kill 9, $child;
            waitpid($child, 0);
        }"#;
    in_network(move |net| {
        let host = Host::start(net, &Setup::default());
        let child = Command::new("perl")
            .args(["-e", STARTS, &credentials_request()])
            .args([&times.to_string(), seconds])
            .args([ALICE.uid, ALICE.gid].map(|id| id.to_string()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = child.id();
        let outcome = said(child.wait_with_output().unwrap());
        let records = host.records(1 + times);
        check(&outcome, &records[1..], pid);
    });
}

#[test]
fn a_program_that_starts_others_for_users_gets_its_credentials_meanwhile() {
    beside_a_child(8, "0.05", |outcome, records, pid| {
        assert_eq!(outcome, "given ".repeat(8));
        for record in records {
            assert_eq!(record["reason"], "allowed", "{record}");
            assert_eq!(record["caller"]["pid"], pid, "{record}");
        }
        let seen = |record: &&Value| record["detail"] == "let_go";
        assert!(records.iter().any(|it| seen(&it)), "{records:?}");
    });
}

#[test]
fn a_child_that_keeps_its_parents_connection_keeps_credentials_back() {
    beside_a_child(1, "5", |outcome, records, pid| {
        assert_eq!(outcome, "refused ");
        assert_withheld(&records[0], "uid");
        assert_eq!(records[0]["caller"]["pid"], pid);
    });
}

#[test]
fn a_program_of_another_user_is_not_waited_for() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        for _ in 0..4 {
            let mut stream = connect(ROOT, V4);
            let copy = OwnedFd::from(stream.try_clone().unwrap());
            let mut holder = start(ALICE, "sh", &["-c", "echo; exec sleep 60"], copy);
            let mut begun = [0];
            let stdout = holder.stdout.as_mut().unwrap();
            stdout.read_exact(&mut begun).unwrap();
            stream.write_all(credentials_request().as_bytes()).unwrap();
            let let_go = std::thread::spawn(move || {
                std::thread::sleep(std::time::Duration::from_millis(50));
                holder.kill().unwrap();
                holder.wait().unwrap();
            });
            let answer = read_answer(&mut stream).unwrap();
            let_go.join().unwrap();
            assert_eq!(answer.status, 403, "{answer:?}");
        }
        assert_withheld(&host.records(8).pop().unwrap(), "uid");
    });
}

/// A host on which a rule denies credentials to all but root.
fn for_root_alone(deny: &str, mode: &str) -> Setup {
    let policy = format!(
        "schema = 1\n\
         [[rule]]\nname = \"root\"\naction = \"allow\"\nwho = [\"user:root\"]\n\
         paths = [\"/**\"]\n\
         [[rule]]\nname = \"others\"\naction = \"deny\"\nwho = [\"any\"]\n\
         paths = [\"@role\"]\n{deny}\n"
    );
    Setup {
        policy,
        config: format!("policy.mode = \"{mode}\""),
        ..Setup::default()
    }
}

/// Alice's setuid curl reads credentials in mode observe; the record of it.
fn observed(deny: &'static str, status: &'static str, check: fn(&Value)) {
    in_network(move |net| {
        let host = Host::start(net, &for_root_alone(deny, "observe"));
        let program = setuid_curl(&host, "curl");
        let (said, _) = curl(&program, ALICE, CREDENTIALS);
        assert!(said.ends_with(status), "{said}");
        check(&host.records(2).pop().unwrap());
    });
}

#[test]
fn in_observe_holders_are_recorded() {
    observed("", " 200", |record| {
        assert_eq!(record["verdict"], "allow");
        assert_eq!(record["decision"], "allow");
        assert_eq!(record["reason"], "observed");
        assert_eq!(record["detail"], "holders");
    });
}

#[test]
fn in_observe_a_rule_that_is_enforced_refuses_holders() {
    observed("enforce = true", " 403", |record| {
        assert_withheld(record, "uid")
    });
}

#[test]
fn a_crowd_of_holders_hides_nobody_from_a_rule_that_is_enforced() {
    const CROWD: &str = "$| = 1; setpgrp; fork or do { sleep 60; exit } for 1..20; \
                         print qq(x\\n); sleep 60";
    for (deny, mode, status) in [
        ("enforce = true", "observe", 403),
        ("", "observe", 200),
        ("", "enforce", 403),
    ] {
        in_network(move |net| {
            let host = Host::start(net, &for_root_alone(deny, mode));
            let mut stream = connect(ROOT, V4);
            let copy = OwnedFd::from(stream.try_clone().unwrap());
            let mut crowd = start(ALICE, "perl", &["-e", CROWD], copy);
            let stdout = crowd.stdout.as_mut().unwrap();
            stdout.read_exact(&mut [0]).unwrap();
            stream.write_all(credentials_request().as_bytes()).unwrap();
            let answer = read_answer(&mut stream).unwrap();
            let group = Pid::from_raw(i32::try_from(crowd.id()).unwrap());
            killpg(group, Signal::SIGKILL).unwrap();
            crowd.wait().unwrap();
            assert_eq!(answer.status, status, "{deny} {mode}: {answer:?}");
            let record = host.records(2).pop().unwrap();
            match status {
                403 => assert_withheld(&record, "too_many"),
                _ => assert_eq!(record["detail"], "holders", "{record}"),
            }
        });
    }
}

#[test]
fn without_the_witness_credentials_are_withheld_and_the_rest_goes_on() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
        kill(host.witness_pid(), Signal::SIGKILL).unwrap();
        let answer = get(ROOT, V4, CREDENTIALS, Some(&token));
        assert_eq!(answer.status, 403);
        assert!(answer.body.contains("is withheld"), "{}", answer.body);
        assert_eq!(get(ROOT, V4, AMI, Some(&token)).status, 200);
        let records = host.records(4);
        let (refused, routine) = (&records[2], &records[3]);
        assert_eq!(refused["reason"], "witness_gone");
        assert_eq!(refused["verdict"], "allow");
        assert_eq!(refused["decision"], "deny");
        assert_eq!(routine["reason"], "allowed");
        for field in ["pid", "exe", "comm", "loginuid", "ses"] {
            assert_eq!(routine["caller"][field], Value::Null, "{field}");
        }
        // Nobody is left who could start another one.
        let gone = wait_for("its record", || host.events("daemon.witness_gone").pop());
        assert_eq!(gone["detail"]["until"], "the daemon is started again");
    });
}

#[test]
fn a_witness_that_hangs_is_not_waited_for_longer_than_clients_wait() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        let witness = host.witness_pid();
        kill(witness, Signal::SIGSTOP).unwrap();
        let start = std::time::Instant::now();
        assert_eq!(get(ROOT, V4, AMI, Some(&token)).status, 200);
        let routine = start.elapsed();
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 403);
        assert!(routine.as_millis() < 500, "{routine:?}");
        let record = host.records(3).pop().unwrap();
        assert_eq!(record["reason"], "witness_gone");
        assert_eq!(record["detail"], "slow");
        // Back at work, it is as good as before.
        kill(witness, Signal::SIGCONT).unwrap();
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
    });
}

fn fields<'s>(status: &'s str, name: &str) -> Vec<&'s str> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().split_whitespace().collect()
}

#[test]
fn the_witness_has_two_capabilities_and_no_way_to_more() {
    in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let token = token(ROOT, V4, 60);
        assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
        let witness = host.witness_pid();
        // CAP_DAC_READ_SEARCH is bit 2, CAP_SYS_PTRACE bit 19.
        let two = "0000000000080004";
        let threads = fs::read_dir(format!("/proc/{witness}/task")).unwrap();
        for thread in threads {
            let status = fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            for (set, expected) in [
                ("CapInh:", "0000000000000000"),
                ("CapPrm:", two),
                ("CapEff:", two),
                ("CapBnd:", two),
                ("CapAmb:", "0000000000000000"),
                ("NoNewPrivs:", "1"),
                ("Seccomp:", "2"),
            ] {
                assert_eq!(fields(&status, set), [expected], "{set}");
            }
        }
        let status = fs::read_to_string(format!("/proc/{witness}/status")).unwrap();
        let field = |name| fields(&status, name);
        // One that helps, where there is a processor for it.
        let processors = std::thread::available_parallelism().unwrap().get();
        assert_eq!(field("Threads:"), [processors.min(2).to_string()]);
        assert!(field("Groups:").is_empty());
        let uids = field("Uid:");
        let own: u32 = uids[0].parse().unwrap();
        assert_eq!(uids, vec![uids[0]; 4]);
        assert!(own != 0 && own != DAEMON.uid, "{own}");

        // Its parent's user, and its own, may neither trace it nor read it.
        for uid in [DAEMON.uid, own] {
            for file in ["mem", "environ", "fd/0"] {
                let opened = Command::new("sh")
                    .args(["-c", &format!("exec 3</proc/{witness}/{file}")])
                    .uid(uid)
                    .gid(DAEMON.gid)
                    .stderr(Stdio::null())
                    .status()
                    .unwrap();
                assert!(!opened.success(), "{uid} opens {file}");
            }
        }

        host.kill_daemon();
        wait_for("the end of the witness", || is_over(witness).then_some(()));
    });
}

fn is_over(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

#[test]
fn a_witness_is_no_account_that_could_tamper_with_it() {
    in_network(|net| {
        let setup = Setup {
            config: "witness_user = \"imdsfw\"".into(),
            ..Setup::default()
        };
        let host = Host::prepare(net, &setup);
        host.run("rules apply");
        let said = host.refused();
        assert!(said.contains("witness_user = \"imdsfw\""), "{said}");
        host.write_config("witness_user = \"root\"");
        let said = host.refused();
        assert!(said.contains("not root"), "{said}");
    });
}

#[test]
fn by_hand_it_says_how_it_is_meant_to_be_run() {
    let output = Command::new(BINARY)
        .arg("witness")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("--connect"), "{said}");
}
