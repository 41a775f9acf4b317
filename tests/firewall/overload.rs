//! Out of descriptors, the daemon waits instead of spinning, and recovers.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::common::host::{BINARY, Host, Setup, wait_for};
use crate::common::http::{V4, get, hold, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB};

const AMI: &str = "/latest/meta-data/ami-id";

/// The processor time of a process, in hundredths of a second.
fn ticks(pid: nix::unistd::Pid) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, fields) = stat.rsplit_once(") ").unwrap();
    let fields: Vec<_> = fields.split(' ').collect();
    let time = |at: usize| fields[at].parse::<u64>().unwrap();
    // utime and stime, proc_pid_stat(5), counted behind the name.
    time(11) + time(12)
}

#[test]
fn out_of_descriptors_accepting_pauses_and_recovers() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.run("rules apply");
        // Most of the few it may have came with it, and the daemon, which
        // takes no more connections than it has descriptors for, errs.
        let mut command = Command::new("bash");
        command.args([
            "-c",
            "ulimit -n 160; for fd in {10..129}; do eval \"exec $fd</dev/null\"; done
             exec \"$0\" run --config \"$1\"",
            BINARY,
        ]);
        command.arg(host.config());
        host.start_daemon_by(command);
        let pid = host.daemon_pid();
        // What it keeps for its next start takes descriptors for a moment.
        wait_for("what it keeps", || {
            host.path("state/orders.json").exists().then_some(())
        });
        let token = token(BOB, V4, 60);
        assert_eq!(get(BOB, V4, AMI, Some(&token)).status, 200);

        for _ in 0..2 {
            let clients: Vec<_> = (0..40).map(|_| hold(ALICE)).collect();
            wait_for("the last descriptor", || {
                (host.descriptors() >= 160).then_some(())
            });
            wait_for("the record of it", || {
                (!host.events("daemon.overloaded").is_empty()).then_some(())
            });
            let before = ticks(pid);
            std::thread::sleep(Duration::from_millis(300));
            let used = ticks(pid) - before;
            assert!(used < 10, "{used} of 30 hundredths of a second: it spins");
            drop(clients);
            assert_eq!(get(BOB, V4, AMI, Some(&token)).status, 200);
        }
        let events = host.events("daemon.overloaded");
        assert_eq!(events.len(), 1, "an overload that comes and goes is one");
        assert!(events[0]["detail"]["error"].is_string());
    });
}
