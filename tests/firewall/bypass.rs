//! A hard bypass: the rules out of the kernel and back, with whatever is left
//! of the host's firewall.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use imdsfw::config::{BACKENDS, Backend};
use nix::mount::{MsFlags, mount};
use serde_json::Value;

use crate::common::host::{BINARY, Host, Setup, copy_program, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::iptables;
use crate::common::net::in_network;
use crate::common::nft;
use crate::common::user::{ALICE, ROOT};
use crate::common::watcher::Watcher;

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

/// Where the order stands is the host's own.
fn own_run() {
    let none: Option<&str> = None;
    let flags = MsFlags::empty();
    mount(Some("tmpfs"), "/run", Some("tmpfs"), flags, none).unwrap();
}

fn run(host: &Host, words: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(words).arg("--config").arg(host.config());
    command.output().unwrap()
}

fn hard(host: &Host, time: &str, reason: &str) -> String {
    let words = ["bypass", "on", "--hard", "--for", time, "--reason", reason];
    let output = run(host, &words);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn credentials() -> u16 {
    get(ALICE, V4, CREDENTIALS, Some(&token(ALICE, V4, 60))).status
}

/// Without what the rules have counted, and of whom.
fn ruleset() -> String {
    nft::ruleset(&["-s", "-t"])
}

fn verify(host: &Host) -> bool {
    run(host, &["rules", "verify"]).status.success()
}

/// Since when the kernel log is this test's.
fn kernel_says(mark: &str) -> String {
    let output = Command::new("dmesg").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let after = said.rsplit_once(mark).map_or("", |(_, after)| after);
    after.to_owned()
}

fn await_event(host: &Host, event: &str) -> Value {
    wait_for(event, || host.events(event).pop())["detail"].clone()
}

#[test]
fn the_watcher_heeds_it_and_puts_the_rules_back_when_it_ends() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        own_run();
        let watcher = Watcher::start(&host.config());
        assert_eq!(credentials(), 403);
        let before = ruleset();
        let start = Instant::now();
        let said = hard(&host, "3s", "it is in the way");
        assert!(said.contains("out of the kernel until"), "{said}");
        assert!(ruleset().is_empty(), "{}", ruleset());
        println!("out of the kernel after {:?}", start.elapsed());
        assert_eq!(credentials(), 200, "straight from the service");
        // One that is started meanwhile heeds it as well.
        watcher.stop();
        let watcher = Watcher::start_by(
            Watcher::command("+net_admin", &host.config()),
            &host.config(),
        );
        watcher.await_told("READY=1");
        assert!(ruleset().is_empty());
        let started = await_event(&host, "bypass.started");
        assert_eq!(
            (&started["hard"], &started["reason"]),
            (&true.into(), &"it is in the way".into())
        );
        assert_eq!(started["by"]["uid"], 0);
        wait_for("the rules", || verify(&host).then_some(()));
        let back = start.elapsed();
        println!("back, as they must be, after {back:?}, of which 3 s were ordered");
        assert!(
            back > Duration::from_secs(3) && back < Duration::from_secs(9),
            "{back:?}"
        );
        watcher.await_told("STATUS=the rules are in force");
        assert_eq!(
            nft::output(&["-s", "list", "table", "inet", "imdsfw"]).trim(),
            before
                .split("\ntable inet imdsfw_held")
                .next()
                .unwrap()
                .trim()
        );
        assert_eq!(await_event(&host, "bypass.ended")["why"], "expired");
        wait_for("the daemon again", || (credentials() == 403).then_some(()));
        assert_eq!(host.events("rules.drift"), [Value::Null; 0]);
        assert_eq!(host.events("rules.unguarded"), [Value::Null; 0]);

        hard(&host, "1h", "again");
        assert!(ruleset().is_empty());
        let output = run(&host, &["bypass", "off"]);
        assert!(output.status.success(), "{output:?}");
        assert!(verify(&host));
    });
}

#[test]
fn it_needs_no_daemon_no_config_no_log_and_no_watcher_and_ends_by_itself() {
    for (word, backend) in BACKENDS {
        in_network(move |net| {
            let setup = Setup {
                config: format!("rules.backend = \"{word}\""),
                ..Setup::default()
            };
            let mut host = Host::prepare(net, &setup);
            own_run();
            host.mount_small_log(64);
            host.run("rules apply");
            host.start_daemon();
            assert_eq!(credentials(), 403);
            host.kill_daemon();
            let filled = fs::write(host.path("log/filler"), vec![0; 128 * 1024]);
            assert!(filled.is_err(), "the disk is full");
            let config = fs::read_to_string(host.config()).unwrap();
            fs::write(host.config(), "schema = [").unwrap();
            let before = loaded(backend);
            let mark = format!("imdsfw-test {}\n", host.path("x").display());
            fs::write("/dev/kmsg", &mark).unwrap();

            let start = Instant::now();
            hard(&host, "2s", "nothing else works");
            let out = start.elapsed();
            let rest = loaded(backend);
            assert!(
                !rest.contains("imdsfw") && !rest.contains("IMDSFW"),
                "{rest}"
            );
            assert_eq!(credentials(), 200, "straight from the service");
            let kernel = kernel_says(mark.trim());
            assert!(
                kernel.contains("HARD BYPASS until") && kernel.contains("nothing else works"),
                "{kernel}"
            );
            await_rules(backend, &before);
            let back = start.elapsed();
            println!("{word}: out after {out:?}, back, byte for byte, after {back:?}");
            assert!(
                back > Duration::from_secs(2) && back < Duration::from_secs(4),
                "{back:?}"
            );
            wait_for("the kernel log", || {
                kernel_says(mark.trim())
                    .contains("in force again")
                    .then_some(())
            });
            fs::write(host.config(), config).unwrap();
            assert!(verify(&host), "{word}");
            // Whoever kept it tells the daemon that comes.
            fs::remove_file(host.path("log/filler")).unwrap();
            host.start_daemon();
            assert_eq!(credentials(), 403);
        });
    }
}

/// What the back end holds, as its own tool shows it.
fn loaded(backend: Backend) -> String {
    match backend {
        Backend::Nft => ruleset(),
        iptables => iptables::saved(iptables),
    }
}

fn await_rules(backend: Backend, wanted: &str) {
    let start = Instant::now();
    while loaded(backend) != wanted {
        let late = start.elapsed() > Duration::from_secs(20);
        assert!(!late, "{backend:?}: {}\n{wanted}", loaded(backend));
    }
}

/// Tables and chains of ours.
fn nft_of_ours() -> Vec<String> {
    let lines = ruleset();
    let ours = lines
        .lines()
        .filter(|line| line.contains("imdsfw") || line.contains("IMDSFW"));
    ours.map(str::to_owned).collect()
}

#[test]
fn asked_to_end_early_its_keeper_puts_the_rules_back_first() {
    in_network(|net| {
        let host = Host::start(net, &Setup::default());
        own_run();
        let before = ruleset();
        hard(&host, "1h", "x");
        assert_eq!(nft_of_ours(), [""; 0]);
        assert_eq!(credentials(), 200);
        let keeper = keeper();
        let signal = nix::sys::signal::Signal::SIGTERM;
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(keeper), signal).unwrap();
        await_rules(Backend::Nft, &before);
        wait_for("its end", || {
            (!std::path::Path::new(&format!("/proc/{keeper}/exe")).exists()).then_some(())
        });
        // The daemon was told, and serves: it has never had a watcher.
        assert_eq!(await_event(&host, "bypass.started")["hard"], true);
        assert_eq!(await_event(&host, "bypass.ended")["why"], "signal");
        std::thread::sleep(Duration::from_millis(3200));
        assert_eq!(credentials(), 403);

        let output = run(&host, &["bypass", "off"]);
        assert!(output.status.success(), "{output:?}");
        hard(&host, "1h", "x");
        let output = run(&host, &["bypass", "off"]);
        assert!(output.status.success(), "{output:?}");
        assert_eq!(ruleset(), before);
        // Nobody but root, and not where there is nothing to take out.
        let copy = host.path("imdsfw-copy");
        copy_program(BINARY, &copy);
        let words = ["bypass", "on", "--hard", "--for", "1h", "--reason", "x"];
        let refused = Command::new(copy)
            .args(words)
            .uid(ALICE.uid)
            .gid(ALICE.gid)
            .output()
            .unwrap();
        assert_eq!(refused.status.code(), Some(1));
        assert!(
            Command::new(BINARY)
                .args(["rules", "remove"])
                .status()
                .unwrap()
                .success()
        );
        let output = run(&host, &words);
        assert_eq!(output.status.code(), Some(1));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("no rules are loaded"),
            "{output:?}"
        );
        assert_eq!(
            get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60))).status,
            200
        );
    });
}

#[test]
fn where_its_keeper_is_killed_another_puts_the_rules_back_all_the_same() {
    on_each_backend(|host, backend| {
        let before = loaded(backend);
        let kill = |pid| {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
        };
        let start = Instant::now();
        hard(host, "3s", "x");
        kill(keeper());
        assert_eq!(credentials(), 200);
        await_rules(backend, &before);
        assert!(start.elapsed() > Duration::from_secs(3));
        assert_eq!(await_event(host, "bypass.ended")["why"], "expired");

        hard(host, "1h", "x");
        kill(keeper());
        let output = run(host, &["bypass", "off"]);
        assert!(output.status.success(), "{output:?}");
        await_rules(backend, &before);
    });
}

#[test]
fn of_many_at_once_each_comes_after_the_other() {
    on_each_backend(|host, backend| {
        let before = loaded(backend);
        let words = "bypass on --hard --for 1h --reason x";
        let orders: Vec<_> = (0..4)
            .map(|_| host.command(words).stderr(Stdio::piped()).spawn().unwrap())
            .collect();
        for order in orders {
            let output = order.wait_with_output().unwrap();
            assert!(output.status.success(), "{output:?}");
        }
        let rest = loaded(backend);
        assert!(
            !rest.contains("imdsfw") && !rest.contains("IMDSFW"),
            "{rest}"
        );
        // One keeps them, the others are done.
        let off = run(host, &["bypass", "off"]);
        assert!(off.status.success(), "{off:?}");
        await_rules(backend, &before);
    });
}

/// A host that runs, for each backend.
fn on_each_backend(act: fn(&Host, Backend)) {
    for (word, backend) in BACKENDS {
        in_network(move |net| {
            let setup = Setup {
                config: format!("rules.backend = \"{word}\""),
                ..Setup::default()
            };
            let host = Host::start(net, &setup);
            own_run();
            act(&host, backend);
        });
    }
}

/// The process that keeps the rules of this network.
fn keeper() -> i32 {
    let own = fs::read_link("/proc/thread-self/ns/net").unwrap();
    let mut processes = fs::read_dir("/proc").unwrap().filter_map(|entry| {
        let path = entry.unwrap().path();
        let is_it = fs::read_to_string(path.join("comm")).ok()? == "imdsfw-bypass\n"
            && fs::read_link(path.join("ns/net")).ok()? == own;
        is_it.then(|| path.file_name().unwrap().to_str().unwrap().parse().unwrap())
    });
    processes.next().expect("nobody keeps the rules")
}
