//! How long the witness takes to find who holds a socket, and that many
//! questions at once take no longer than one. Prints what it measured; more
//! with `WITNESS_PROCESSES=2000 cargo test --release --test witness_scale --
//! --nocapture`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::io::Read as _;
use std::net::TcpListener;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, recv, send, setsockopt, socketpair, sockopt,
};
use nix::sys::time::TimeVal;
use nix::unistd::{Pid, geteuid};
use serde_json::Value;

const DESCRIPTORS_EACH: usize = 15;
const QUESTIONS: usize = 200;

/// Sleeping processes, each with so many descriptors; gone when dropped.
struct Crowd(Child);

impl Crowd {
    fn new(processes: usize) -> Self {
        let script = format!(
            "for fd in {{3..{}}}; do eval \"exec $fd</dev/null\"; done\n\
             for ((at = 1; at < {processes}; at++)); do sleep 600 & done\n\
             echo; exec sleep 600",
            DESCRIPTORS_EACH - 1
        );
        let mut child = Command::new("bash")
            .args(["-c", &script])
            .process_group(0)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut begun = [0];
        let stdout = child.stdout.as_mut().unwrap();
        stdout.read_exact(&mut begun).unwrap();
        Self(child)
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.id().try_into().unwrap());
        killpg(group, Signal::SIGKILL).unwrap();
        self.0.wait().unwrap();
    }
}

fn witness() -> (OwnedFd, Child) {
    let (ours, theirs) = socketpair(
        AddressFamily::Unix,
        SockType::SeqPacket,
        None,
        SockFlag::SOCK_CLOEXEC,
    )
    .unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_imdsfw"))
        .args(["witness", "--uid", "65533", "--gid", "65533"])
        .stdin(Stdio::from(theirs))
        .spawn()
        .unwrap();
    setsockopt(&ours, sockopt::ReceiveTimeout, &TimeVal::new(10, 0)).unwrap();
    let mut ready = [0; 5];
    recv(ours.as_raw_fd(), &mut ready, MsgFlags::empty()).unwrap();
    assert_eq!(&ready, b"ready");
    (ours, child)
}

/// Asks so many questions at once; how long until the last answer. Each must
/// name this process and no other.
fn ask(witness: &OwnedFd, questions: usize, inode: u32) -> Duration {
    let start = Instant::now();
    for id in 0..questions {
        let mut question = u64::try_from(id).unwrap().to_le_bytes().to_vec();
        question.extend(inode.to_le_bytes());
        question.extend(1_u32.to_le_bytes());
        send(witness.as_raw_fd(), &question, MsgFlags::empty()).unwrap();
    }
    let mut bytes = vec![0; 65536];
    for _ in 0..questions {
        let len = recv(witness.as_raw_fd(), &mut bytes, MsgFlags::empty()).unwrap();
        let answer: Value = serde_json::from_slice(&bytes[..len]).unwrap();
        let holders = answer["answer"]["seen"]["holders"].as_array().unwrap();
        assert_eq!(holders.len(), 1, "{answer}");
        assert_eq!(holders[0]["pid"], std::process::id());
    }
    start.elapsed()
}

#[test]
fn two_hundred_questions_are_answered_by_a_look_or_two() {
    assert!(geteuid().is_root(), "run as root: `sudo -E cargo test`");
    let processes = std::env::var("WITNESS_PROCESSES").map_or(300, |it| it.parse().unwrap());
    let _crowd = Crowd::new(processes);
    let (witness, mut child) = witness();
    let held = TcpListener::bind("127.0.0.1:0").unwrap();
    let link = std::fs::read_link(format!("/proc/self/fd/{}", held.as_raw_fd())).unwrap();
    let link = link.to_str().unwrap();
    let inode = link.trim_matches(|it: char| !it.is_ascii_digit());
    let inode: u32 = inode.parse().unwrap();

    let mut ones: Vec<_> = (0..5).map(|_| ask(&witness, 1, inode)).collect();
    ones.sort();
    let one = ones[2];
    let many = ask(&witness, QUESTIONS, inode);
    println!(
        "{processes} more processes with {} descriptors: one question {one:?}, {QUESTIONS} at \
         once {many:?}",
        processes * DESCRIPTORS_EACH
    );
    assert!(many < one * 20, "{many:?} for {QUESTIONS}, {one:?} for one");
    drop(witness);
    assert!(child.wait().unwrap().success(), "it ends with its daemon");
}
