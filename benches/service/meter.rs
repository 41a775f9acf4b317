//! What processes used: processor time, memory, system calls.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Time on a processor of all threads of these processes, so far.
pub(crate) fn processor_time(processes: &[i32]) -> Duration {
    let nanoseconds = processes.iter().map(|pid| {
        let tasks = fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten();
        tasks
            .filter_map(|task| {
                let text = fs::read_to_string(task.ok()?.path().join("schedstat")).ok()?;
                text.split(' ').next()?.parse::<u64>().ok()
            })
            .sum::<u64>()
    });
    Duration::from_nanos(nanoseconds.sum())
}

/// The processes that this one has started, and that stay: what a daemon has
/// loaded to compare the rules with is still taken out when it is ready.
pub(crate) fn children(of: i32) -> Vec<i32> {
    let path = format!("/proc/{of}/task/{of}/children");
    let text = fs::read_to_string(path).unwrap_or_default();
    let stays = |pid: &i32| {
        let name = fs::read_to_string(format!("/proc/{pid}/comm"));
        name.is_ok_and(|name| name.trim_end() != "nft")
    };
    text.split_whitespace()
        .map(|it| it.parse().unwrap())
        .filter(stays)
        .collect()
}

/// Memory that is in use, in KiB.
pub(crate) fn resident(process: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let (_, rest) = status.split_once("VmRSS:").unwrap();
    rest.split_whitespace().next().unwrap().parse().unwrap()
}

/// System calls that these processes make while `f` runs.
pub(crate) fn system_calls<T>(processes: &[i32], f: impl FnOnce() -> T) -> (u64, T) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new("strace");
    command
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(file.path());
    for pid in processes {
        command.args(["-p", &pid.to_string()]);
    }
    let mut strace = command
        .stderr(Stdio::null())
        .spawn()
        .expect("strace; run `.ci/bench`");
    for pid in processes {
        await_traced(*pid);
    }
    let result = f();
    kill(
        Pid::from_raw(strace.id().try_into().unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    strace.wait().unwrap();
    let said = fs::read_to_string(file.path()).unwrap();
    if std::env::var_os("IMDSFW_BENCH_CALLS").is_some() {
        eprintln!("{said}");
    }
    let total = said
        .lines()
        .find(|line| line.ends_with("total"))
        .unwrap_or_else(|| panic!("{said}"));
    (
        total.split_whitespace().next().unwrap().parse().unwrap(),
        result,
    )
}

fn await_traced(pid: i32) {
    loop {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        if !status.contains("TracerPid:\t0\n") {
            return;
        }
        std::thread::yield_now();
    }
}
