//! The whole firewall on each back end of the rules, and the daemon's place
//! on its port.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use imdsfw::config::BACKENDS;

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, connect, get, token};
use crate::common::iptables;
use crate::common::net::{in_network, sysctl};
use crate::common::nft;
use crate::common::user::{ALICE, ROOT};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

/// A setup whose config has these lines under [rules].
fn with_rules(lines: &[&str]) -> Setup {
    let lines: Vec<_> = lines.iter().map(|line| format!("rules.{line}")).collect();
    Setup {
        config: lines.join("\n"),
        ..Setup::default()
    }
}

fn assert_serves() {
    for to in [V4, V6] {
        let answer = get(ROOT, to, CREDENTIALS, Some(&token(ROOT, to, 60)));
        assert_eq!(answer.status, 200);
        let answer = get(ALICE, to, CREDENTIALS, Some(&token(ALICE, to, 60)));
        assert_eq!(answer.status, 403);
    }
}

#[test]
fn the_daemon_serves_on_each_back_end_and_with_marks_of_the_admins_own() {
    for (name, _) in BACKENDS {
        in_network(move |net| {
            let setup = with_rules(&[
                &format!("backend = \"{name}\""),
                "mark = 0x1000000",
                "listener_mark = 0x2000000",
                "mask = 0xff000000",
            ]);
            let host = Host::start(net, &setup);
            assert_serves();
            let records = host.records(8);
            assert_eq!(records[0]["caller"]["uid"], 0);
            assert_eq!(records[7]["caller"]["uid"], ALICE.uid);
        });
    }
}

#[test]
fn a_guard_that_is_passed_by_keeps_the_daemon_from_serving() {
    in_network(|net| {
        let setup = with_rules(&["backend = \"iptables\""]);
        let mut host = Host::prepare(net, &setup);
        host.run("rules apply");
        // The guards in mangle hold behind this one.
        iptables::run("iptables -I OUTPUT -o lo -j ACCEPT");
        host.start_daemon();
        assert_serves();
        host.stop_daemon();
        iptables::run("iptables -t mangle -I POSTROUTING -d 169.254.0.0/16 -j ACCEPT");
        let said = host.refused();
        assert!(said.contains("accepted before ours"), "{said}");
        assert!(said.contains("-d 169.254.0.0/16 -j ACCEPT"), "{said}");
        host.run("rules apply");
        host.start_daemon();
        assert_serves();
    });
}

/// A program of alice's that waits for the daemon's port, and answers there.
fn hijack() -> Child {
    let program = "
import socket, sys
s = socket.socket()
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(('127.0.0.1', 253))
s.listen(64)
print('listening', flush=True)
while True:
    c, _ = s.accept()
    print('caught', flush=True)
    c.sendall(b'HTTP/1.1 200 OK\\r\\nContent-Length: 6\\r\\n\\r\\nforged')
";
    let mut child = Command::new("/usr/bin/python3")
        .args(["-c", program])
        .uid(ALICE.uid)
        .gid(ALICE.gid)
        .current_dir("/")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let stdout = child.stdout.as_mut().unwrap();
    BufReader::new(stdout).read_line(&mut line).unwrap();
    assert_eq!(line, "listening\n");
    child
}

#[test]
fn nobody_receives_the_answer_of_who_takes_the_port_of_a_killed_daemon() {
    in_network(|net| {
        sysctl("net/ipv4/ip_unprivileged_port_start", "0");
        let mut host = Host::start(net, &Setup::default());
        assert_serves();
        host.kill_daemon();
        let mut hijacker = hijack();
        let asking = ROOT.connect(V4.parse().unwrap());
        assert_eq!(asking.unwrap_err().kind(), ErrorKind::TimedOut);
        nft::delete_commented("another process listens");
        let mut caught = connect(ROOT, V4);
        caught.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut answer = [0; 200];
        let len = caught.read(&mut answer).unwrap();
        assert!(answer[..len].ends_with(b"forged"));
        hijacker.kill().unwrap();
        hijacker.wait().unwrap();
        // Back again, with its own mark.
        host.run("rules apply");
        host.start_daemon();
        assert_serves();
    });
}
