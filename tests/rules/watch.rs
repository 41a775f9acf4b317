//! `imdsfw rules watch` without a daemon: loads, restores, and leaves alone
//! what is not its own.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use imdsfw::intercept::Backend;
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
        let pid = nix::unistd::Pid::from_raw(watcher.pid() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();
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
