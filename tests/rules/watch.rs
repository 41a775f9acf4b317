//! `imdsfw rules watch` without a daemon: loads, restores, and leaves alone
//! what is not its own.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, Instant};

use imdsfw::intercept::Backend;
use nix::sys::signal::{Signal, kill};
use tempfile::TempDir;

use crate::common::host::wait_for;
use crate::common::iptables;
use crate::common::net::{families, in_network};
use crate::common::nft;
use crate::common::user::{ALICE, DAEMON, listen};
use crate::common::watcher::Watcher;
use crate::kernel::{Kernel, NFT, on_each};

const HELD: &str = "table inet imdsfw_held\n";

fn config(kernel: Kernel, more: &str) -> (TempDir, PathBuf) {
    let name = match kernel.0 {
        Backend::Nft => "nft",
        Backend::Iptables => "iptables",
        Backend::IptablesLegacy => "iptables-legacy",
    };
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("imdsfw.toml");
    let text = format!(
        "schema = 1\nuser = \"{}\"\ncontrol.socket = \"{}/control.sock\"\n\
         limits.enabled = false\nrules.backend = \"{name}\"\n{more}\n",
        DAEMON.uid,
        directory.path().display()
    );
    fs::write(&file, text).unwrap();
    (directory, file)
}

fn flush(kernel: Kernel) {
    match kernel.0 {
        Backend::Nft => nft::load("flush ruleset\n"),
        backend => {
            let tools = iptables::tools(backend);
            for (tool, table) in tools
                .iter()
                .flat_map(|tool| ["nat", "mangle", "filter"].map(|table| (tool, table)))
            {
                iptables::run(&format!("{tool} -w -t {table} -F"));
            }
        }
    }
}

fn await_restored(kernel: Kernel) -> Duration {
    let start = Instant::now();
    wait_for("the rules", || kernel.drift().is_empty().then_some(()));
    start.elapsed()
}

#[test]
fn it_loads_rules_that_are_absent_and_restores_those_that_are_flushed() {
    on_each(|_, kernel| {
        let (_directory, config) = config(kernel, "");
        let capabilities = match kernel.0 {
            Backend::IptablesLegacy => "+net_admin,+net_raw",
            _ => "+net_admin",
        };
        let watcher = Watcher::start_with(capabilities, &config);
        assert_eq!(kernel.drift(), []);
        for _ in 0..3 {
            flush(kernel);
            let took = await_restored(kernel);
            println!("with {kernel:?}: restored within {took:?}");
            assert!(took < Duration::from_secs(1), "{took:?}");
        }
        watcher.kill();
        assert_eq!(kernel.drift(), [], "they stay when it ends");
    });
}

#[test]
fn a_flush_passes_its_own_table_by_which_denies_all_but_the_daemon_and_ends_with_it() {
    in_network(|net| {
        let (_directory, config) = config(NFT, "");
        let watcher = Watcher::start(&config);
        let _services = families().map(|it| net.service(|| listen(it.service)));
        // It stands still, so that nothing is restored.
        kill(watcher.pid(), Signal::SIGSTOP).unwrap();
        nft::load("flush ruleset\n");
        assert_eq!(nft::output(&["list", "tables"]), HELD);
        for family in families() {
            let outcome = ALICE.connect(family.service);
            assert_eq!(outcome.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
            DAEMON.connect(family.service).unwrap();
            // Whatever else is reached there is nobody's concern.
            let _elsewhere = net.service(|| listen(family.elsewhere));
            ALICE.connect(family.elsewhere).unwrap();
        }
        watcher.kill();
        wait_for("the table to go", || {
            nft::output(&["list", "tables"]).is_empty().then_some(())
        });
        for family in families() {
            ALICE.connect(family.service).unwrap();
        }
    });
}

#[test]
fn its_own_table_can_be_turned_off() {
    in_network(|_| {
        let (_directory, config) = config(NFT, "rules.egress_deny = false");
        let _watcher = Watcher::start(&config);
        assert_eq!(nft::output(&["list", "tables"]), "table inet imdsfw\n");
    });
}

#[test]
fn it_has_one_capability_and_no_way_to_more() {
    in_network(|_| {
        let (_directory, config) = config(NFT, "");
        let watcher = Watcher::start(&config);
        let status = fs::read_to_string(format!("/proc/{}/status", watcher.pid())).unwrap();
        // CAP_NET_ADMIN is the twelfth.
        let only = format!("{:016x}", 1 << 12);
        for line in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(status.contains(&format!("{line}:\t{only}\n")), "{status}");
        }
        assert!(status.contains("NoNewPrivs:\t1\n"), "{status}");
        // With which all of it works.
        assert!(NFT.drift().is_empty());
        assert!(nft::output(&["list", "tables"]).contains(HELD));
    });
}

#[test]
fn it_tells_its_manager_how_it_stands_for_as_long_as_it_watches() {
    in_network(|_| {
        let (_directory, config) = config(NFT, "");
        let watcher = Watcher::start(&config);
        let squatter =
            nft::Owner::of("delete table inet imdsfw; add table inet imdsfw { flags owner; }\n");
        let status = watcher.await_told("STATUS=the rules are not in force");
        assert!(status.contains("not permitted"), "{status}");
        // The loop lives all the same.
        watcher.await_told("WATCHDOG=1");
        drop(squatter);
        watcher.await_told("STATUS=the rules are in force");

        watcher.be_patient_for(Duration::from_secs(1));
        kill(watcher.pid(), Signal::SIGSTOP).unwrap();
        while let Some(told) = watcher.tells() {
            assert_eq!(told, "WATCHDOG=1", "of before it stood still");
        }
        kill(watcher.pid(), Signal::SIGCONT).unwrap();
        watcher.await_told("WATCHDOG=1");
    });
}

#[test]
fn told_to_end_it_says_so_and_leaves_the_rules_but_for_its_own_table() {
    in_network(|_| {
        let (_directory, config) = config(NFT, "");
        Watcher::start(&config).stop();
        assert_eq!(nft::output(&["list", "tables"]), "table inet imdsfw\n");
        assert!(NFT.drift().is_empty());
    });
}

#[test]
fn it_is_not_ready_where_the_rules_cannot_be_loaded() {
    in_network(|_| {
        let (_directory, config) = config(NFT, "");
        let _squatter = nft::Owner::of("add table inet imdsfw { flags owner; }\n");
        wait_for("its table", || {
            let tables = nft::output(&["list", "tables"]);
            (!tables.is_empty()).then_some(())
        });
        let mut command = Watcher::command("+net_admin", &config);
        command.stderr(Stdio::null());
        let mut watcher = Watcher::start_by(command, &config);
        assert_eq!(watcher.await_end().code(), Some(1));
        watcher.be_patient_for(Duration::from_millis(1));
        assert_eq!(watcher.tells(), None);
    });
}

#[test]
fn what_is_flushed_while_it_starts_is_restored() {
    in_network(|_| {
        let (directory, config) = config(NFT, "");
        // Flushes once the rules are loaded and verified.
        let nft = directory.path().join("nft");
        let script = "#!/bin/sh\n\
                      PATH=/usr/sbin:/sbin:/usr/bin:/bin\n\
                      if [ \"$1\" = -i ]; then nft flush ruleset; fi\n\
                      exec nft \"$@\"\n";
        fs::write(&nft, script).unwrap();
        fs::set_permissions(&nft, Permissions::from_mode(0o755)).unwrap();
        let mut command = Watcher::command("+net_admin", &config);
        let path = std::env::var("PATH").unwrap();
        command.env("PATH", format!("{}:{path}", directory.path().display()));
        let watcher = Watcher::start_by(command, &config);
        watcher.await_told("READY=1");
        await_restored(NFT);
    });
}
