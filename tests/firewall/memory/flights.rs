//! One request to the service for all who ask the same at once.

use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{AMI, CREDENTIALS, ON, body_of_credentials, gets, in_hours, scripted};
use crate::common::fake::{Act, Fake};
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, connect, get, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, CWAGENT, ROOT, User};

/// Live, so that no memory has it.
const LIVE: &str = "/latest/meta-data/public-ipv4";
const CLIENTS: usize = 20;

/// Holds answers back until the test lets them go.
#[derive(Clone, Default)]
pub(crate) struct Gate(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    open: bool,
    passed: usize,
}

impl Gate {
    pub(crate) fn open(&self) {
        self.0.0.lock().unwrap().open = true;
        self.0.1.notify_all();
    }

    /// Waits until it is open. Whether this was the first to come.
    pub(crate) fn passes_first(&self) -> bool {
        let mut state = self.0.0.lock().unwrap();
        state.passed += 1;
        let first = state.passed == 1;
        let patience = Duration::from_secs(20);
        let waited = self.0.1.wait_timeout_while(state, patience, |it| !it.open);
        assert!(!waited.unwrap().1.timed_out(), "nobody opens the gate");
        first
    }
}

/// Begins to ask, on a connection of its own.
pub(crate) fn ask(user: User, path: &str, token: &str) -> TcpStream {
    let mut stream = connect(user, V4);
    let get = request("GET", V4, path, Some(token), "keep-alive");
    stream.write_all(get.as_bytes()).unwrap();
    stream
}

/// Waits until the daemon has read all that was sent to it on so many
/// connections. It goes on with what it has read before it reads more.
pub(crate) fn await_read(connections: usize) {
    wait_for("the daemon to read what was asked", || {
        let tcp = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
        // Its end of established connections: 127.0.0.1:253 in hexadecimal.
        let queues: Vec<_> = tcp
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|fields| fields[1] == "0100007F:00FD" && fields[3] == "01")
            .map(|fields| fields[4].split_once(':').unwrap().1.to_owned())
            .collect();
        let all_read = queues.iter().all(|unread| unread == "00000000");
        (queues.len() >= connections && all_read).then_some(())
    });
}

#[test]
fn many_at_once_are_one_to_the_service_and_each_has_its_record() {
    in_network(|net| {
        let host = Host::start(net, &scripted());
        let gate = Gate::default();
        let held = gate.clone();
        let service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            held.passes_first();
            Act::ok(&body_of_credentials("ASIA1", in_hours(6)))
        });
        let users = [ROOT, CWAGENT];
        let tokens = users.map(|user| token(user, V4, 60));
        let bobs = token(BOB, V4, 60);
        let mut clients: Vec<_> = (0..CLIENTS)
            .map(|at| ask(users[at % 2], CREDENTIALS, &tokens[at % 2]))
            .collect();
        await_read(CLIENTS);
        // Who may not have it waits for nothing, and is not let in by the
        // others.
        let start = Instant::now();
        let denied = get(BOB, V4, CREDENTIALS, Some(&bobs));
        assert_eq!(denied.status, 403);
        assert!(start.elapsed() < Duration::from_secs(5));
        gate.open();
        for client in &mut clients {
            let answer = read_answer(client).unwrap();
            assert_eq!(answer.status, 200);
            assert!(answer.body.contains("ASIA1"));
        }
        assert_eq!(gets(&service, CREDENTIALS), 1);
        let mut records = host.records(3 + 1 + CLIENTS);
        records.retain(|it| it["request"]["method"] == "GET");
        assert_eq!(records.len(), 1 + CLIENTS);
        let of = |user: User| {
            records
                .iter()
                .filter(move |it| it["caller"]["uid"] == user.uid)
        };
        assert_eq!(of(BOB).count(), 1);
        for user in users {
            assert_eq!(of(user).count(), CLIENTS / 2);
            for record in of(user) {
                assert_eq!(record["status"], 200);
                assert_eq!(record["credential"]["access_key_id"], "ASIA1");
            }
        }
    });
}

/// Of the many requests of one user only some are let through to the service
/// at once; by the time of the others, the answer is there.
#[test]
fn who_waited_for_others_to_be_served_finds_what_they_brought() {
    in_network(|net| {
        let setup = Setup {
            config: format!("{ON}\nlimits.enabled = true"),
            ..scripted()
        };
        let host = Host::start(net, &setup);
        let gate = Gate::default();
        let held = gate.clone();
        let service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            held.passes_first();
            Act::ok("ami-1")
        });
        let token = token(ALICE, V4, 60);
        let mut clients: Vec<_> = (0..2 * CLIENTS).map(|_| ask(ALICE, AMI, &token)).collect();
        await_read(2 * CLIENTS);
        gate.open();
        for client in &mut clients {
            assert_eq!(read_answer(client).unwrap().status, 200);
        }
        assert_eq!(gets(&service, AMI), 1);
        let records = host.records(1 + 2 * CLIENTS);
        let from_memory = records.iter().filter(|it| it["served"] == "memory");
        assert!(from_memory.count() >= CLIENTS);
    });
}

#[test]
fn with_memory_off_each_is_one_to_the_service() {
    in_network(|net| {
        let setup = Setup {
            config: "memory.enabled = false".into(),
            ..scripted()
        };
        let _host = Host::start(net, &setup);
        let gate = Gate::default();
        let held = gate.clone();
        let service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            held.passes_first();
            Act::ok("10.0.0.1")
        });
        let token = token(ALICE, V4, 60);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| ask(ALICE, LIVE, &token)).collect();
        wait_for("all of them", || {
            (gets(&service, LIVE) == CLIENTS).then_some(())
        });
        gate.open();
        for client in &mut clients {
            assert_eq!(read_answer(client).unwrap().status, 200);
        }
    });
}

#[test]
fn when_the_first_leaves_the_others_are_served() {
    in_network(|net| {
        let host = Host::start(net, &scripted());
        // What is asked first is never answered.
        let asked_before = Mutex::new(false);
        let service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            match std::mem::replace(&mut *asked_before.lock().unwrap(), true) {
                false => Act::Silence,
                true => Act::ok("10.0.0.1"),
            }
        });
        let token = token(ALICE, V4, 60);
        let first = ask(ALICE, LIVE, &token);
        wait_for("the first", || (gets(&service, LIVE) == 1).then_some(()));
        let mut others: Vec<_> = (0..CLIENTS).map(|_| ask(ALICE, LIVE, &token)).collect();
        await_read(1 + CLIENTS);
        assert_eq!(gets(&service, LIVE), 1);
        drop(first);
        for other in &mut others {
            let answer = read_answer(other).unwrap();
            assert_eq!((answer.status, answer.body.as_str()), (200, "10.0.0.1"));
        }
        assert_eq!(gets(&service, LIVE), 2);
        let records = host.records(2 + CLIENTS);
        let left: Vec<_> = records
            .iter()
            .filter(|it| it["reason"] == "client_gone")
            .collect();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0]["status"], Value::Null);
    });
}

#[test]
fn a_failure_is_shared_with_those_who_waited_and_not_with_the_next() {
    in_network(|net| {
        let host = Host::start(net, &scripted());
        let gate = Gate::default();
        let held = gate.clone();
        let service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            match held.passes_first() {
                true => Act::Close(b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n10.".to_vec()),
                false => Act::ok("10.0.0.1"),
            }
        });
        let token = token(ALICE, V4, 60);
        let mut clients: Vec<_> = (0..CLIENTS).map(|_| ask(ALICE, LIVE, &token)).collect();
        await_read(CLIENTS);
        gate.open();
        for client in &mut clients {
            assert_eq!(read_answer(client).unwrap().status, 502);
        }
        assert_eq!(gets(&service, LIVE), 1);
        assert_eq!(get(ALICE, V4, LIVE, Some(&token)).status, 200);
        assert_eq!(gets(&service, LIVE), 2);
        let records = host.records(2 + CLIENTS);
        let failed = records.iter().filter(|it| it["detail"] == "cut_short");
        assert_eq!(failed.count(), CLIENTS);
    });
}

#[test]
fn who_has_time_left_does_not_fail_with_who_has_none() {
    const TIMEOUT: Duration = Duration::from_millis(1000);
    in_network(|net| {
        let setup = Setup {
            config: format!("{ON}\nupstream.timeout = \"1s\""),
            ..scripted()
        };
        let _host = Host::start(net, &setup);
        let asked_before = Mutex::new(false);
        let service = Fake::start(net, move |asked| {
            if asked.is_put() {
                return Act::token("t", 21600);
            }
            match std::mem::replace(&mut *asked_before.lock().unwrap(), true) {
                false => Act::Silence,
                true => Act::ok("10.0.0.1"),
            }
        });
        let token = token(ALICE, V4, 60);
        let start = Instant::now();
        let mut first = ask(ALICE, LIVE, &token);
        wait_for("half of its time to be over", || {
            (start.elapsed() > TIMEOUT / 2).then_some(())
        });
        let mut second = ask(ALICE, LIVE, &token);
        await_read(2);
        assert_eq!(gets(&service, LIVE), 1);
        assert_eq!(read_answer(&mut first).unwrap().status, 504);
        assert_eq!(read_answer(&mut second).unwrap().status, 200);
        assert_eq!(gets(&service, LIVE), 2);
    });
}
