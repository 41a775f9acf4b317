//! The demo as a newcomer meets it: it plays, alone and twice at once, and
//! leaves nothing behind, however it ends.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, geteuid};

/// What the demo leaves behind is seen on the whole host: one test at a time.
static HOST: Mutex<()> = Mutex::new(());

fn demo() -> Command {
    assert!(
        geteuid().is_root(),
        "the demo makes network namespaces: run the tests as root, with `.ci/test`"
    );
    let mut demo = Command::new(env!("CARGO_BIN_EXE_imdsfw"));
    demo.arg("demo").stdin(Stdio::null());
    demo
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Named network namespaces, this one's links and rules, mounts, and the
/// processes that run our binary.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    commands: Vec<String>,
    mounts: usize,
    processes: BTreeSet<String>,
}

fn traces() -> Traces {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().unwrap();
        assert!(output.status.success(), "{program}: {output:?}");
        text(&output)
    };
    Traces {
        commands: vec![
            said("ip", &["netns", "list"]),
            said("ip", &["-brief", "link"]),
            said("nft", &["list", "ruleset"]),
        ],
        mounts: fs::read_to_string("/proc/self/mountinfo")
            .unwrap()
            .lines()
            .count(),
        processes: demo_processes(),
    }
}

/// Processes of a demo: the only ones that run in a process namespace other
/// than ours and with our binary.
fn demo_processes() -> BTreeSet<String> {
    let own = fs::read_link("/proc/self/ns/pid").unwrap();
    fs::read_dir("/proc")
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| fs::read_link(path.join("ns/pid")).is_ok_and(|namespace| namespace != own))
        .filter(|path| {
            let binary = fs::read_link(path.join("exe")).unwrap_or_default();
            binary.as_os_str() == env!("CARGO_BIN_EXE_imdsfw")
        })
        .map(|path| path.display().to_string())
        .collect()
}

#[test]
fn plays_twice_at_once_and_leaves_nothing() {
    let _host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces();
    let demos: Vec<Child> = (0..2)
        .map(|_| demo().stdout(Stdio::piped()).spawn().unwrap())
        .collect();
    for demo in demos {
        let output = demo.wait_with_output().unwrap();
        let said = text(&output);
        assert!(output.status.success(), "{said}");
        assert!(said.contains("All 9 scenes ended as stated."), "{said}");
        assert!(
            !said.contains("SecretAccessKey") && !said.contains('\x1b'),
            "{said}"
        );
        let wide = said.lines().filter(|line| line.chars().count() > 80);
        assert!(
            wide.clone().all(|line| line.contains("http://")),
            "{:?}",
            wide.collect::<Vec<_>>()
        );
        for reason in [
            "allowed",
            "default",
            "token_missing",
            "token_invalid",
            "malformed",
        ] {
            assert!(
                said.contains(&format!(" {reason} user=")),
                "{reason}: {said}"
            );
        }
    }
    assert_eq!(traces(), before);
}

#[test]
fn ends_at_once_and_leaves_nothing_when_interrupted() {
    let _host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces();
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut demo = demo()
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Daemon and simulator are among them when there are three.
        wait_until(|| demo_processes().len() >= 3);
        kill(Pid::from_raw(demo.id().try_into().unwrap()), signal).unwrap();
        assert!(!demo.wait().unwrap().success());
        wait_until(|| demo_processes().is_empty());
        assert_eq!(traces(), before, "{signal}");
    }
}

#[test]
fn the_shell_is_inside_and_its_end_is_the_end() {
    let _host = HOST.lock().unwrap_or_else(PoisonError::into_inner);
    let before = traces();
    let mut demo = demo()
        .arg("--shell")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = demo.stdin.take().unwrap();
    std::io::Write::write_all(
        &mut stdin,
        b"id alice; nft list tables; imdsfw rules verify --config imdsfw.toml; as alice id -u\n",
    )
    .unwrap();
    drop(stdin);
    let output = demo.wait_with_output().unwrap();
    let said = text(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("uid=4001(alice) gid=4100(alice)"), "{said}");
    assert!(said.contains("table inet imdsfw"), "{said}");
    assert_eq!(traces(), before);
}

#[test]
fn without_root_it_says_why_it_wants_sudo() {
    // Where the build directory is closed to others, so is the binary.
    let directory = tempfile::tempdir().unwrap();
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let copy = directory.path().join("imdsfw");
    // By a process of its own: a descriptor open for writing, inherited by what
    // another thread starts meanwhile, would keep it from being run.
    let copied = Command::new("cp")
        .args([Path::new(env!("CARGO_BIN_EXE_imdsfw")), &copy])
        .status()
        .unwrap();
    assert!(copied.success());
    let output = Command::new(copy)
        .arg("demo")
        .current_dir("/")
        .uid(4001)
        .gid(4100)
        .env("PATH", "/nonexistent")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1));
    assert!(said.contains("that takes root. Trying sudo"), "{said}");
    assert!(said.contains("sudo cannot be run"), "{said}");
}

fn wait_until(holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(10), "waited in vain");
        std::thread::yield_now();
    }
}
