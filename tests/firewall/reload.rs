//! A policy that changes while the daemon serves: taken whole or not at all,
//! by every way that there is.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::{Command, Output};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, CWAGENT, ROOT, User};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

/// Credentials for these alone.
fn policy(who: &str) -> String {
    format!(
        "schema = 1\n[[rule]]\nname = \"role\"\naction = \"allow\"\nwho = [{who}]\n\
         paths = [\"@role\"]\n\n[[rule]]\nname = \"facts\"\naction = \"allow\"\n\
         who = [\"any\"]\npaths = [\"@routine\"]\n"
    )
}

const ROOT_ALONE: &str = "\"user:root\"";
const ROOT_AND_ALICE: &str = "\"user:root\", \"user:alice\"";

fn setup(config: &str) -> Setup {
    Setup {
        policy: policy(ROOT_ALONE),
        config: config.into(),
        ..Setup::default()
    }
}

fn credentials(user: User) -> u16 {
    get(user, V4, CREDENTIALS, Some(&token(user, V4, 60))).status
}

fn run(host: &Host, words: &str) -> Output {
    host.command(words).output().unwrap()
}

fn said(output: &Output) -> String {
    let both = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8(both).unwrap()
}

fn status(host: &Host) -> Value {
    let output = run(host, "status --json");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn on_disk(host: &Host) -> String {
    let state = &status(host)["daemon"]["policy"]["on_disk"]["state"];
    state.as_str().unwrap().to_owned()
}

#[test]
fn a_good_policy_is_taken_and_a_bad_one_is_not() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        assert_eq!(credentials(ALICE), 403);
        assert_eq!(on_disk(&host), "same");
        host.write_policy(&policy(ROOT_AND_ALICE));
        assert_eq!(on_disk(&host), "differs");
        assert_eq!(credentials(ALICE), 403, "not before it is told");
        let output = run(&host, "reload");
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(credentials(ALICE), 200);
        assert_eq!(on_disk(&host), "same");

        // Tests of its own that fail count as much as what cannot be read.
        let lies = "\n[[test]]\nas = { uid = 4001, user = \"alice\" }\n\
                    path = \"/latest/user-data\"\nexpect = \"allow\"\n";
        for broken in [
            policy(ROOT_ALONE) + "[[rule",
            policy(ROOT_ALONE) + lies,
            policy("\"user:root\", \"alice\""),
        ] {
            host.write_policy(&broken);
            let output = run(&host, "reload");
            assert_eq!(output.status.code(), Some(1));
            assert!(said(&output).contains("50-test.toml:"), "{}", said(&output));
            assert_eq!(credentials(ALICE), 200, "what runs stays");
            assert_eq!(on_disk(&host), "refused");
        }
        let rejected = host.events("policy.rejected");
        assert_eq!(rejected.len(), 3);
        let detail = &rejected[1]["detail"];
        assert_eq!(detail["from"], "reload");
        assert_eq!(detail["by"]["uid"], 0);
        assert!(detail["by"]["pid"].as_u64().unwrap() > 1);
        let message = detail["errors"][0]["message"].as_str().unwrap();
        assert!(message.contains("this test fails"), "{message}");

        // The same rules in other words are no change.
        host.write_policy(&format!("# a word\n{}", policy(ROOT_AND_ALICE)));
        assert!(said(&run(&host, "reload")).contains("unchanged"));
        let loaded = host.events("policy.loaded");
        let from: Vec<_> = loaded
            .iter()
            .map(|it| it["detail"]["from"].clone())
            .collect();
        assert_eq!(from, ["start", "reload"]);
        assert_eq!(detail["running"], loaded[1]["detail"]["policy"]);
        assert_eq!(loaded[1]["detail"]["before"], loaded[0]["detail"]["policy"]);
    });
}

#[test]
fn the_mode_of_the_config_is_taken_with_it_and_the_rest_is_named() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        host.write_config("policy.mode = \"observe\"");
        assert!(run(&host, "reload").status.success());
        assert_eq!(credentials(ALICE), 200);
        let last = host.events("policy.loaded").pop().unwrap();
        assert_eq!(last["detail"]["mode"], "observe");
        host.write_config("limits.tokens_per_minute = 7");
        let output = run(&host, "reload");
        assert!(said(&output).contains("started again"), "{}", said(&output));
        assert_eq!(credentials(ALICE), 403);
        host.write_config("policy.mood = \"observe\"");
        assert_eq!(run(&host, "reload").status.code(), Some(1));
    });
}

#[test]
fn a_signal_reloads_and_says_so_to_the_manager() {
    in_network(|net| {
        let mut host = Host::prepare(net, &setup(""));
        host.run("rules apply");
        let manager = host.start_daemon_by(host.command("run"));
        host.write_policy(&policy(ROOT_AND_ALICE));
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        let mut state = [0; 128];
        let mut told = || {
            let len = manager.recv(&mut state).unwrap();
            String::from_utf8(state[..len].to_vec()).unwrap()
        };
        assert!(told().starts_with("RELOADING=1\nMONOTONIC_USEC="));
        assert_eq!(told(), "READY=1");
        assert_eq!(credentials(ALICE), 200, "in force by then");
        let last = host.events("policy.loaded").pop().unwrap();
        assert_eq!(last["detail"]["from"], "signal");
        assert_eq!(host.events("audit.reopened").len(), 1);
    });
}

/// How many more a change takes until it is in force.
fn until_in_force(host: &Host, change: impl FnOnce()) -> Duration {
    let before = wait_for("the first policy", || {
        let loaded = host.events("policy.loaded").len();
        (loaded > 0).then_some(loaded)
    });
    change();
    let start = Instant::now();
    wait_for("the changed policy", || {
        (host.events("policy.loaded").len() > before).then_some(())
    });
    start.elapsed()
}

#[test]
fn changed_files_are_taken_by_themselves_however_they_are_changed() {
    in_network(|net| {
        let mut host = Host::prepare(net, &setup("policy.watch = true"));
        let file = host.path("policy.d/50-test.toml");
        host.run("rules apply");
        host.start_daemon();
        let (one, other) = (policy(ROOT_ALONE), policy(ROOT_AND_ALICE));
        let beside = host.path("policy.d/.50-test.toml.swp");
        let mut took: Vec<(&str, Duration)> = Vec::new();
        // In place, as `echo >`; by a rename within, as editors do; by `mv`.
        took.push((
            "written",
            until_in_force(&host, || fs::write(&file, &other).unwrap()),
        ));
        took.push((
            "renamed",
            until_in_force(&host, || {
                fs::write(&beside, &one).unwrap();
                fs::rename(&beside, &file).unwrap();
            }),
        ));
        let elsewhere = host.path("new.toml");
        fs::write(&elsewhere, &other).unwrap();
        took.push((
            "mv",
            until_in_force(&host, || {
                let moved = Command::new("mv").arg(&elsewhere).arg(&file).status();
                assert!(moved.unwrap().success());
            }),
        ));
        // A file more, a file less, and one that was nobody else's to write.
        let extra = host.path("policy.d/10-extra.toml");
        let deny = "schema = 1\n[[rule]]\nname = \"none\"\naction = \"deny\"\n\
                    who = [\"any\"]\npaths = [\"@role\"]\n";
        took.push((
            "added",
            until_in_force(&host, || fs::write(&extra, deny).unwrap()),
        ));
        took.push((
            "removed",
            until_in_force(&host, || fs::remove_file(&extra).unwrap()),
        ));
        for (how, time) in &took {
            println!("{how}: in force, and in the log, after {time:?}");
            assert!(*time < Duration::from_millis(500), "{how}: {time:?}");
        }
        // A bad one is refused, and a mended one taken, by themselves too.
        fs::write(&file, "schema = 2").unwrap();
        wait_for("a refusal", || {
            (!host.events("policy.rejected").is_empty()).then_some(())
        });
        assert_eq!(credentials(ALICE), 200);
        until_in_force(&host, || fs::write(&file, &one).unwrap());
        assert_eq!(credentials(ALICE), 403);
    });
}

#[test]
fn a_config_map_is_swapped_by_its_link() {
    in_network(|net| {
        let mut host = Host::prepare(net, &setup("policy.watch = true"));
        let at = |name: &str| host.path("policy.d").join(name);
        let provide = |version: &str, who: &str| {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("50-test.toml"), policy(who)).unwrap();
        };
        fs::remove_file(at("50-test.toml")).unwrap();
        provide("..one", ROOT_ALONE);
        symlink("..one", at("..data")).unwrap();
        symlink("..data/50-test.toml", at("50-test.toml")).unwrap();
        host.run("rules apply");
        host.start_daemon();
        assert_eq!(credentials(ALICE), 403);
        let time = until_in_force(&host, || {
            let at = |name: &str| host.path("policy.d").join(name);
            fs::create_dir(at("..two")).unwrap();
            fs::write(at("..two").join("50-test.toml"), policy(ROOT_AND_ALICE)).unwrap();
            symlink("..two", at("..data_tmp")).unwrap();
            fs::rename(at("..data_tmp"), at("..data")).unwrap();
            fs::remove_dir_all(at("..one")).unwrap();
        });
        println!("a ConfigMap's swap: in force after {time:?}");
        assert!(time < Duration::from_millis(500), "{time:?}");
        assert_eq!(credentials(ALICE), 200);
    });
}

/// Reloads; more by `IMDSFW_TEST_RELOADS`.
fn reloads() -> usize {
    let asked = std::env::var("IMDSFW_TEST_RELOADS").ok();
    asked.map_or(60, |it| it.parse().unwrap())
}

fn rss_kib(host: &Host) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).unwrap();
    let mut lines = status.lines();
    let rss = lines.find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    rss.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn reloads_under_load_fail_no_request_and_every_record_is_of_a_whole_policy() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        let total = reloads();
        let (going, asked) = (AtomicBool::new(true), AtomicUsize::new(0));
        let mut sizes = Vec::new();
        let users = [ROOT, ALICE, BOB, CWAGENT];
        let apart = Barrier::new(users.len() + 1);
        thread::scope(|scope| {
            for user in users {
                let (going, asked, apart) = (&going, &asked, &apart);
                scope.spawn(move || {
                    // Else root's connections are also those of who makes a
                    // socket as alice just then.
                    unshare(CloneFlags::CLONE_FILES).unwrap();
                    apart.wait();
                    let token = token(user, V4, 3600);
                    while going.load(Ordering::SeqCst) {
                        // What every policy there is allows everybody.
                        let path = "/latest/meta-data/ami-id";
                        assert_eq!(get(user, V4, path, Some(&token)).status, 200);
                        let answer = get(user, V4, CREDENTIALS, Some(&token));
                        let (status, said) = (answer.status, answer.body);
                        assert!(status == 200 || status == 403, "{status} {said}");
                        assert!(user != ROOT || status == 200, "{said}");
                        asked.fetch_add(2, Ordering::SeqCst);
                    }
                });
            }
            // Nothing that is opened from here on, as a pipe, is theirs too.
            apart.wait();
            for reload in 0..total {
                let whole = match reload % 4 {
                    0 => policy(ROOT_AND_ALICE),
                    2 => policy(ROOT_ALONE),
                    // Cut short in the middle, and one whose test fails.
                    1 => {
                        let whole = policy(ROOT_ALONE);
                        whole[..whole.len() - 5].to_owned()
                    }
                    _ => {
                        policy("\"any\"")
                            + "[[test]]\nas = { uid = 1, user = \"x\" }\n\
                               path = \"/latest/user-data\"\nexpect = \"allow\"\n"
                    }
                };
                host.write_policy(&whole);
                let output = run(&host, "reload");
                assert_eq!(
                    output.status.success(),
                    reload % 2 == 0,
                    "{}",
                    said(&output)
                );
                sizes.push(rss_kib(&host));
            }
            going.store(false, Ordering::SeqCst);
        });
        let loaded = host.events("policy.loaded");
        let whole: Vec<_> = loaded.iter().map(|it| &it["detail"]["policy"]).collect();
        assert_eq!(loaded.len(), 1 + total / 2);
        assert_eq!(host.events("policy.rejected").len(), total / 2);
        let records = host.records(asked.load(Ordering::SeqCst));
        let mut by_hash = std::collections::BTreeMap::new();
        for record in &records {
            assert!(whole.contains(&&record["policy"]), "{record}");
            *by_hash.entry(record["policy"].to_string()).or_insert(0) += 1;
        }
        assert_eq!(by_hash.len(), 2);
        println!(
            "{total} reloads, half of them broken, {} requests, none failed; records by hash: \
             {by_hash:?}; RSS {} KiB after the first tenth, {} at the end",
            records.len(),
            sizes[total / 10],
            sizes[total - 1]
        );
        assert!(sizes[total - 1] < sizes[total / 10] + 4096, "{sizes:?}");
    });
}

#[test]
fn rollback_returns_to_the_one_before_and_the_next_reload_takes_the_files() {
    in_network(|net| {
        let host = Host::start(net, &setup(""));
        let output = run(&host, "rollback");
        assert_eq!(output.status.code(), Some(1));
        assert!(
            said(&output).contains("no policy before"),
            "{}",
            said(&output)
        );
        host.write_policy(&policy(ROOT_AND_ALICE));
        assert!(run(&host, "reload").status.success());
        assert_eq!(credentials(ALICE), 200);
        let output = run(&host, "rollback");
        assert!(output.status.success(), "{}", said(&output));
        assert!(said(&output).contains("next reload"), "{}", said(&output));
        assert_eq!(credentials(ALICE), 403);
        assert_eq!(on_disk(&host), "differs");
        let last = host.events("policy.loaded").pop().unwrap();
        assert_eq!(last["detail"]["from"], "rollback");
        // There and back again.
        assert!(run(&host, "rollback").status.success());
        assert_eq!(credentials(ALICE), 200);
        assert!(run(&host, "rollback").status.success());
        assert!(run(&host, "reload").status.success());
        assert_eq!(credentials(ALICE), 200, "what the files say");
    });
}

#[test]
fn at_boot_the_last_good_policy_stands_in_for_a_bad_one_loudly() {
    in_network(|net| {
        let mut host = Host::start(net, &setup(""));
        host.write_policy(&policy(ROOT_AND_ALICE));
        assert!(run(&host, "reload").status.success());
        host.stop_daemon();
        host.write_policy("schema = 1\n[[rule]]\n");
        host.start_daemon();
        assert_eq!(credentials(ALICE), 200, "by the last good one");
        assert_eq!(credentials(BOB), 403);
        let last = host.events("policy.loaded").pop().unwrap();
        assert_eq!(last["detail"]["from"], "snapshot");
        assert_eq!(host.events("policy.rejected").len(), 1);
        let status = status(&host);
        assert_eq!(status["daemon"]["policy"]["from"], "snapshot");
        assert_eq!(status["daemon"]["policy"]["on_disk"]["state"], "refused");
        host.stop_daemon();
        // One that others could have written is none.
        let snapshot = host.path("state/policy.json");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&snapshot, open).unwrap();
        let said = host.refused();
        assert!(said.contains("mode 0666"), "{said}");
        fs::remove_file(&snapshot).unwrap();
        fs::remove_file(host.path("state/policy.before.json")).unwrap();
        assert!(host.refused().contains("the policy is refused"));
    });
}
