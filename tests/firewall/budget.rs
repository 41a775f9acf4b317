//! The host's share of the service: who floods uses turns of its own, and
//! what the service refuses is everybody's to heed.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::common::fake::{Act, Asked, Fake};
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, connect, get, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, ROOT, User};
use crate::memory::flights::{Gate, ask, await_read};

/// Live, and so never the same answer twice.
const LIVE: &str = "/latest/meta-data/spot";
/// Most clients of the service wait no longer; what is asked in turn has to be
/// well below.
const CLIENTS_PATIENCE: Duration = Duration::from_secs(1);
const FLOODERS: usize = 24;

/// With so many requests a second for the host.
fn sharing(per_second: u32) -> Setup {
    Setup {
        config: format!(
            "limits.enabled = true\nlimits.host_upstream_requests_per_second = {per_second}"
        ),
        service: false,
        ..Setup::default()
    }
}

/// Answers whatever it is asked, and notes when that was.
fn punctual(times: &Arc<Mutex<Vec<Instant>>>) -> impl Fn(&Asked) -> Act + use<> {
    let times = Arc::clone(times);
    move |asked| {
        times.lock().unwrap().push(Instant::now());
        match asked.is_put() {
            true => Act::token("t", 21600),
            false => Act::ok("something"),
        }
    }
}

/// Asks for one thing after the other, each another, until it is over; the
/// answers by status.
fn flood(users: &[User], over: &AtomicBool) -> BTreeMap<u16, usize> {
    let asked = AtomicUsize::new(0);
    thread::scope(|scope| {
        let connections: Vec<_> = (0..FLOODERS)
            .map(|at| {
                let user = users[at % users.len()];
                let (token, asked) = (token(user, V4, 600), &asked);
                scope.spawn(move || {
                    let mut stream = connect(user, V4);
                    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
                    while !over.load(Ordering::Relaxed) {
                        let path = format!("{LIVE}/{}", asked.fetch_add(1, Ordering::Relaxed));
                        let get = request("GET", V4, &path, Some(&token), "keep-alive");
                        stream.write_all(get.as_bytes()).unwrap();
                        let status = read_answer(&mut stream).unwrap().status;
                        *statuses.entry(status).or_default() += 1;
                    }
                    statuses
                })
            })
            .collect();
        let mut all: BTreeMap<u16, usize> = BTreeMap::new();
        for connection in connections {
            for (status, count) in connection.join().unwrap() {
                *all.entry(status).or_default() += count;
            }
        }
        all
    })
}

/// While those flood: how often each of the others is answered with 200 out of
/// so many times, and how long it waited at most.
fn beside_a_flood(
    flooding: &[User],
    others: &[User],
    times: usize,
) -> (BTreeMap<u16, usize>, Vec<(usize, Duration)>) {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let flooding = scope.spawn(|| flood(flooding, &over));
        // Until it has used up what there was at once.
        let first = token(others[0], V4, 600);
        wait_for("the flood to be felt", || {
            let start = Instant::now();
            let path = format!("{LIVE}/felt");
            let answer = get(others[0], V4, &path, Some(&first));
            (answer.status != 200 || start.elapsed() > Duration::from_millis(20)).then_some(())
        });
        let asking: Vec<_> = others
            .iter()
            .map(|user| {
                scope.spawn(move || {
                    let token = token(*user, V4, 600);
                    let (mut served, mut longest) = (0, Duration::ZERO);
                    for at in 0..times {
                        let path = format!("{LIVE}/of-{}-{at}", user.uid);
                        let start = Instant::now();
                        let answer = get(*user, V4, &path, Some(&token));
                        served += usize::from(answer.status == 200);
                        longest = longest.max(start.elapsed());
                    }
                    (served, longest)
                })
            })
            .collect();
        let asked = asking.into_iter().map(|it| it.join().unwrap()).collect();
        over.store(true, Ordering::Relaxed);
        (flooding.join().unwrap(), asked)
    })
}

#[test]
fn a_flood_uses_its_own_turns_and_others_have_theirs_in_time() {
    const PER_SECOND: u32 = 20;
    in_network(|net| {
        let mut host = Host::start(net, &sharing(PER_SECOND));
        let times = Arc::new(Mutex::new(Vec::new()));
        let _service = Fake::start(net, punctual(&times));
        let (flood, others) = beside_a_flood(&[ALICE], &[BOB, ROOT], 15);
        for (served, longest) in others {
            assert_eq!(served, 15);
            assert!(longest < CLIENTS_PATIENCE / 2, "{longest:?}");
        }
        let (served, refused) = (flood[&200], flood[&503]);
        assert_eq!(flood.len(), 2, "{flood:?}");
        assert!(served >= 5, "{flood:?}");

        // A quarter of what is everybody's may come at once, and root's tenth;
        // and three that were late in being noted.
        let times = times.lock().unwrap();
        let most = PER_SECOND + 18 / 4 + 2 + 3;
        for (at, from) in times.iter().enumerate() {
            let later = times[at..].iter();
            let within = later.filter(|it| **it - *from < Duration::from_millis(990));
            let count = within.count();
            assert!(count <= most as usize, "{count} in a second");
        }

        host.stop_daemon();
        let mut records = host.audit();
        records.retain(|it| it["caller"]["uid"] == ALICE.uid && it["request"]["method"] == "GET");
        assert_eq!(records.len(), served + refused);
        records.retain(|it| it["status"] == 503);
        assert_eq!(records.len(), refused);
        for record in records {
            assert_eq!(record["reason"], "host_budget");
            assert_eq!(record["verdict"], "allow");
            assert_eq!(record["decision"], "deny");
            let took = Duration::from_micros(record["latency_us"].as_u64().unwrap());
            // Others of the same user go first, on their own time.
            assert!(took < 3 * CLIENTS_PATIENCE, "{took:?}");
        }
    });
}

#[test]
fn subordinate_uids_have_one_turn_with_their_owner() {
    in_network(|net| {
        let mut host = Host::prepare(net, &sharing(20));
        host.provide_subuid("alice:300000:65536\n");
        host.run("rules apply");
        host.start_daemon();
        let _service = Fake::start(net, punctual(&Arc::default()));
        let subordinates: Vec<User> = (0..FLOODERS as u32)
            .map(|at| User {
                uid: 300_000 + at,
                gid: 300_900,
            })
            .collect();
        let (_, others) = beside_a_flood(&subordinates, &[BOB], 15);
        let (served, longest) = others[0];
        assert_eq!(served, 15);
        assert!(longest < CLIENTS_PATIENCE / 2, "{longest:?}");
    });
}

#[test]
fn who_wants_the_same_as_a_flood_does_not_wait_in_its_queue() {
    in_network(|net| {
        let setup = sharing(10);
        let setup = Setup {
            config: format!("{}\nmemory.enabled = true", setup.config),
            ..setup
        };
        let _host = Host::start(net, &setup);
        let times = Arc::new(Mutex::new(Vec::new()));
        let service = Fake::start(net, punctual(&times));
        let (alices, bobs) = (token(ALICE, V4, 60), token(BOB, V4, 60));
        let mut queued: Vec<_> = (0..15)
            .map(|at| ask(ALICE, &format!("{LIVE}/{at}"), &alices))
            .collect();
        await_read(queued.len());
        let same = format!("{LIVE}/same");
        queued.push(ask(ALICE, &same, &alices));
        await_read(queued.len());
        let start = Instant::now();
        let answer = get(BOB, V4, &same, Some(&bobs));
        let took = start.elapsed();
        assert_eq!(answer.status, 200);
        assert!(took < CLIENTS_PATIENCE / 2, "{took:?}");
        let mut last = queued.pop().unwrap();
        assert_eq!(read_answer(&mut last).unwrap().status, 200, "by bob's turn");
        let asked = service.asked();
        let asked = asked.iter().filter(|it| it.head.contains(&same));
        assert_eq!(asked.count(), 1);
    });
}

/// In turns, so that all are under way to the service at once.
fn refuse_all_at_once(status: u16, clients: usize) {
    in_network(move |net| {
        let host = Host::start(net, &sharing(300));
        let gate = Gate::default();
        let (held, refusing) = (gate.clone(), Arc::new(AtomicBool::new(true)));
        let times = Arc::new(Mutex::new(Vec::new()));
        let (noted, refuses) = (Arc::clone(&times), Arc::clone(&refusing));
        let _service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            noted.lock().unwrap().push(Instant::now());
            if !refuses.load(Ordering::Relaxed) {
                return Act::ok("something");
            }
            held.passes_first();
            let refusal = "HTTP/1.1 STATUS x\r\nContent-Length: 4\r\nX-Own: yes\r\n\r\nwait";
            Act::Answer(refusal.replace("STATUS", &status.to_string()).into_bytes())
        });
        let users = [ALICE, BOB, ROOT];
        let tokens = users.map(|user| token(user, V4, 60));
        let mut asking: Vec<_> = (0..clients)
            .map(|at| ask(users[at % 3], &format!("{LIVE}/{at}"), &tokens[at % 3]))
            .collect();
        wait_for("all to be asked", || {
            (times.lock().unwrap().len() == clients).then_some(())
        });
        let refused = Instant::now();
        gate.open();
        for client in &mut asking {
            let answer = read_answer(client).unwrap();
            // The service's own words.
            assert_eq!((answer.status, answer.body.as_str()), (status, "wait"));
            assert_eq!(answer.header("X-Own"), Some("yes"));
        }
        let again = times.lock().unwrap()[clients..].to_vec();
        assert_eq!(again.len(), clients, "once more each");
        let soonest = *again.iter().min().unwrap() - refused;
        assert!(soonest >= Duration::from_millis(100), "{soonest:?}");
        let records = host.records(3 + clients);
        let passed_on = records.iter().filter(|it| it["status"] == status);
        let passed_on: Vec<_> = passed_on.collect();
        assert_eq!(passed_on.len(), clients);
        assert!(passed_on.iter().all(|it| it["reason"] == "allowed"));

        // It rests again, and is then asked as before.
        refusing.store(false, Ordering::Relaxed);
        let start = Instant::now();
        for path in ["after", "later"].map(|it| format!("{LIVE}/{it}")) {
            assert_eq!(get(ALICE, V4, &path, Some(&tokens[0])).status, 200);
        }
        assert!(start.elapsed() < CLIENTS_PATIENCE, "{:?}", start.elapsed());
        assert_eq!(times.lock().unwrap().len(), 2 * clients + 2);
    });
}

#[test]
fn when_the_service_has_had_enough_all_wait_together_and_try_once_more() {
    for status in [429, 503] {
        refuse_all_at_once(status, 10);
    }
}

#[test]
fn a_service_that_refuses_once_is_asked_again_and_nobody_notices() {
    in_network(|net| {
        let _host = Host::start(net, &sharing(300));
        let refused = AtomicBool::new(false);
        let service = Fake::start(net, move |asked| {
            match asked.is_put() || refused.swap(true, Ordering::Relaxed) {
                true if asked.is_put() => Act::token("t", 21600),
                true => Act::ok("something"),
                false => Act::status(503),
            }
        });
        let token = token(ALICE, V4, 60);
        let path = format!("{LIVE}/once");
        assert_eq!(get(ALICE, V4, &path, Some(&token)).status, 200);
        let gets = service.asked().iter().filter(|it| !it.is_put()).count();
        assert_eq!(gets, 2);
    });
}

#[test]
fn without_the_hosts_share_a_flood_takes_the_service_from_everybody() {
    const TIMES: usize = 20;
    // With turns a flood is felt as waiting, without them as refusals.
    let served = |config: &str, is_felt: fn(u16, Duration) -> bool| {
        let setup = Setup {
            config: config.into(),
            sim: vec!["--throttle", "30"],
            ..Setup::default()
        };
        in_network(move |net| {
            let _host = Host::start(net, &setup);
            let bobs = token(BOB, V4, 60);
            let ami = "/latest/meta-data/ami-id";
            assert_eq!(get(BOB, V4, ami, Some(&bobs)).status, 200);
            let over = AtomicBool::new(false);
            thread::scope(|scope| {
                let flooding = scope.spawn(|| flood(&[ALICE], &over));
                wait_for("the flood to be felt", || {
                    let start = Instant::now();
                    let answer = get(BOB, V4, ami, Some(&bobs));
                    is_felt(answer.status, start.elapsed()).then_some(())
                });
                let statuses = (0..TIMES).map(|_| get(BOB, V4, ami, Some(&bobs)).status);
                let served = statuses.filter(|status| *status == 200).count();
                over.store(true, Ordering::Relaxed);
                flooding.join().unwrap();
                served
            })
        })
    };
    let limits = "limits.enabled = true\nlimits.host_upstream_requests_per_second = 25";
    let with = served(limits, |_, took| took > Duration::from_millis(20));
    assert_eq!(with, TIMES);
    let without = served("limits.enabled = false", |status, _| status != 200);
    assert!(without < TIMES / 2, "{without} of {TIMES}");
    shown(
        "One user asks for so much that the service throttles the host.",
        "another user's requests have their turn: 20 of 20 are answered",
        "`[limits] enabled = false`: most of them get the service's 503",
    );
}
