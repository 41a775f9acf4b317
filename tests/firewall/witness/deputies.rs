//! Programs that lend their rights to a user, by accident or by design.

use super::*;
use crate::common::net::Net;
use crate::common::shown::shown;

/// What the holders are is recorded, and refuses nobody: the policy, which
/// allows uid 0 the credentials, decides by the socket alone.
fn unenforced() -> Setup {
    Setup {
        config: "policy.mode = \"observe\"".into(),
        ..Setup::default()
    }
}

/// That the policy allowed it, and nothing but the holders would have refused.
#[track_caller]
fn assert_passed(record: &Value) {
    assert_eq!(record["caller"]["uid"], 0, "{record}");
    assert_eq!(record["verdict"], "allow", "{record}");
    assert_eq!(record["reason"], "observed", "{record}");
    assert_eq!(record["detail"], "holders", "{record}");
    assert_eq!(record["status"], 200, "{record}");
    assert!(record["credential"].is_object(), "{record}");
}

const UNENFORCED: &str = "who holds it only recorded (`mode = \"observe\"`): 200 with credentials";

#[test]
fn a_setuid_program_reads_no_credentials_for_another_user() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let program = setuid_curl(&host, "cu\x1brl");

        let (said, pid) = curl(&program, ALICE, CREDENTIALS);
        assert!(
            said.ends_with(" 403") && said.contains("is withheld"),
            "{said}"
        );
        assert!(!said.contains("SecretAccessKey"), "{said}");
        let record = host.records(2).pop().unwrap();
        assert_withheld(&record, "uid");
        let caller = &record["caller"];
        assert_eq!(caller["pid"], pid);
        assert_eq!(caller["comm"], "cu\\x1brl");
        let exe = caller["exe"].as_str().unwrap();
        assert!(exe.ends_with("/cu\\x1brl"), "{exe}");
        assert!(
            caller["loginuid"].is_i64() && caller["ses"].is_i64(),
            "{caller}"
        );

        // By root itself it reads them, and for alice what is not a secret.
        let (said, _) = curl(&program, ROOT, CREDENTIALS);
        assert!(
            said.ends_with(" 200") && said.contains("SecretAccessKey"),
            "{said}"
        );
        let (said, _) = curl(&program, ALICE, AMI);
        assert!(said.ends_with(" 200"), "{said}");
    });
    in_network(|net| {
        let host = Host::start(net, &unenforced());
        let program = setuid_curl(&host, "curl");
        let (said, _) = curl(&program, ALICE, CREDENTIALS);
        assert!(
            said.ends_with(" 200") && said.contains("SecretAccessKey"),
            "{said}"
        );
        assert_passed(&host.records(2).pop().unwrap());
    });
    shown(
        "A user runs a setuid-root program that reads the credentials.",
        "403 (`holders`, `uid`), though the policy allows them to the socket's uid 0; root gets \
         200",
        UNENFORCED,
    );
}

#[test]
fn a_connection_that_root_left_to_a_user_brings_no_credentials() {
    // Kept over setuid(2) and execve(2), as a server's child may.
    let left = |user, stream: TcpStream, request: &str| {
        let script = "kill -STOP $$; printf %s \"$0\" >&0; exec cat";
        let child = start(user, "sh", &["-c", script, request], stream.into());
        // This process holds the connection no longer: now the child may ask.
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        wait_for("the child to stop", || {
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
            stat.contains(") T ").then_some(())
        });
        kill(pid, Signal::SIGCONT).unwrap();
        child
    };
    in_network(move |net| withheld_from(ALICE, net, left));
    in_network(move |net| passed_to(ALICE, net, left));
    shown(
        "A server of root's connects, becomes a user, and the user's program asks.",
        "403 (`holders`, `uid`), though the policy allows them to the socket's uid 0; root's own \
         gets 200",
        UNENFORCED,
    );
}

/// `hand_over` gives a connection of root's to a user, who asks on it.
fn withheld_from(user: User, net: &Net, hand_over: impl Fn(User, TcpStream, &str) -> Child) {
    let host = Host::start(net, &Setup::default());
    for (user, status, records) in [(user, "403", 2), (ROOT, "200", 4)] {
        let child = hand_over(user, connect(ROOT, V4), &credentials_request());
        let pid = child.id();
        let said = said(child.wait_with_output().unwrap());
        assert!(said.starts_with(&format!("HTTP/1.1 {status}")), "{said}");
        let record = host.records(records).pop().unwrap();
        assert_eq!(record["caller"]["pid"], pid);
        if user != ROOT {
            assert_withheld(&record, "uid");
        }
    }
}

fn passed_to(user: User, net: &Net, hand_over: impl Fn(User, TcpStream, &str) -> Child) {
    let host = Host::start(net, &unenforced());
    let child = hand_over(user, connect(ROOT, V4), &credentials_request());
    let said = said(child.wait_with_output().unwrap());
    assert!(said.contains("SecretAccessKey"), "{said}");
    assert_passed(&host.records(2).pop().unwrap());
}

fn pass_on(stream: TcpStream, to: &UnixStream) {
    let fds = [stream.as_raw_fd()];
    let message = [IoSlice::new(b"x")];
    let rights = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(to.as_raw_fd(), &message, &rights, MsgFlags::empty(), None).unwrap();
}

/// Takes a connection from standard input, asks on it and prints the answer.
const RECEIVER: &str = "\
import socket, sys
given = socket.recv_fds(socket.socket(fileno=0), 1, 1)[1][0]
connection = socket.socket(fileno=given)
connection.sendall(sys.argv[1].encode())
print(connection.makefile().read())
";

#[test]
fn a_connection_that_root_passed_on_brings_no_credentials() {
    let passed = |user, stream, request: &str| {
        let (ours, theirs) = UnixStream::pair().unwrap();
        pass_on(stream, &ours);
        let words = ["-Ic", RECEIVER, request];
        start(user, "/usr/bin/python3", &words, theirs.into())
    };
    in_network(move |net| withheld_from(ALICE, net, passed));
    in_network(move |net| passed_to(ALICE, net, passed));
    shown(
        "Root passes a connection of its own to a user's program, which asks (SCM_RIGHTS).",
        "403 (`holders`, `uid`), though the policy allows them to the socket's uid 0; root's own \
         gets 200",
        UNENFORCED,
    );
}

#[test]
fn a_connection_that_no_process_holds_brings_no_credentials() {
    in_network(|net| assert_withheld(&asked_and_in_flight(net, &Setup::default()), "none"));
    in_network(|net| assert_passed(&asked_and_in_flight(net, &unenforced())));
    shown(
        "A connection of root's is on its way between two processes when the credentials come.",
        "403 (`holders`, `none`): held by nobody, it brings none",
        UNENFORCED,
    );
}

/// The record of a request on a connection that no process holds meanwhile.
fn asked_and_in_flight(net: &Net, setup: &Setup) -> Value {
    let host = Host::start(net, setup);
    let witness = host.witness_pid();
    let mut stream = connect(ROOT, V4);
    let request = credentials_request();
    // So that it looks only once the connection is in flight.
    kill(witness, Signal::SIGSTOP).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    wait_for("the request at the service", || {
        let seen = host.seen_by_service("request");
        seen.iter()
            .any(|it| it["path"] == CREDENTIALS)
            .then_some(())
    });
    let (ours, theirs) = UnixStream::pair().unwrap();
    pass_on(stream, &ours);
    kill(witness, Signal::SIGCONT).unwrap();
    let record = host.records(2).pop().unwrap();
    assert_eq!(record["caller"]["pid"], Value::Null);
    drop(theirs);
    record
}
