//! Credentials: for seconds, with time left, and never an older set after a
//! newer one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::{CREDENTIALS, ON, body_of_credentials, gets, in_hours, scripted};
use crate::common::fake::{Act, Asked, Fake};
use crate::common::host::{Host, Setup, wait_for};
use crate::common::http::{V4, V6, get, token};
use crate::common::net::{Net, in_network};
use crate::common::user::{CWAGENT, ROOT};

const EXTENDED: &str = "/latest/meta-data/iam/security-credentials-extended/web";
const OLDER_VERSION: &str = "/2021-03-23/meta-data/iam/security-credentials/web/";
/// SDKs take less than about 25 minutes left for an outage.
const HALF_AN_HOUR: Duration = Duration::from_secs(30 * 60);
/// What memory wants besides, for the answer's way to its reader.
const ON_THE_WAY: Duration = Duration::from_secs(5);

/// A service whose credentials the test changes as it goes.
#[derive(Clone)]
struct Role(Arc<Mutex<(&'static str, SystemTime)>>);

impl Role {
    fn new(id: &'static str, ends: SystemTime) -> Self {
        Self(Arc::new(Mutex::new((id, ends))))
    }

    fn rotate(&self, id: &'static str, ends: SystemTime) {
        *self.0.lock().unwrap() = (id, ends);
    }

    fn serve(&self, net: &Net, address: &str) -> Fake {
        let role = self.clone();
        Fake::start_at(net, address, move |asked: &Asked| {
            let (id, ends) = *role.0.lock().unwrap();
            match asked.is_put() {
                true => Act::token("t", 21600),
                false => Act::ok(&body_of_credentials(id, ends)),
            }
        })
    }
}

fn key_id(body: &str) -> String {
    let document: Value = serde_json::from_str(body).unwrap();
    document["AccessKeyId"].as_str().unwrap().to_owned()
}

#[test]
fn they_are_kept_for_seconds() {
    in_network(|net| {
        let host = Host::start(net, &scripted());
        let service = Role::new("ASIA1", in_hours(6)).serve(net, V4);
        let token = token(ROOT, V4, 60);
        let start = Instant::now();
        let mut read = 0;
        wait_for("the service to be asked again", || {
            assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
            read += 1;
            (gets(&service, CREDENTIALS) == 2).then_some(())
        });
        let took = start.elapsed();
        assert!(took >= Duration::from_secs(4), "{took:?}");
        assert!(took < Duration::from_secs(7), "{took:?}");
        let records = host.records(1 + read);
        let records: Vec<_> = records
            .iter()
            .filter(|it| it["status"] == 200)
            .skip(1)
            .collect();
        let served = |it: &&&Value| it["served"] == "memory";
        assert_eq!(records.iter().filter(served).count(), read - 2);
        for record in records {
            assert_eq!(record["request"]["class"], "credentials");
            assert_eq!(record["credential"]["access_key_id"], "ASIA1");
            assert_eq!(record["credential"]["role"], "web");
        }
    });
}

#[test]
fn with_half_an_hour_left_or_less_they_are_the_services_alone() {
    in_network(|net| {
        let _host = Host::start(net, &scripted());
        let role = Role::new("ASIA1", SystemTime::now() + HALF_AN_HOUR + ON_THE_WAY);
        let service = role.serve(net, V4);
        let token = token(ROOT, V4, 60);
        for count in 1..4 {
            assert_eq!(get(ROOT, V4, CREDENTIALS, Some(&token)).status, 200);
            assert_eq!(gets(&service, CREDENTIALS), count);
        }
        // One that has more than that for the next two seconds and some.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let last = SystemTime::UNIX_EPOCH + Duration::from_secs(now.unwrap().as_secs() + 3);
        role.rotate("ASIA2", last + HALF_AN_HOUR + ON_THE_WAY);
        let mut from_memory = 0;
        loop {
            let (start, before) = (SystemTime::now(), gets(&service, CREDENTIALS));
            let answer = get(ROOT, V4, CREDENTIALS, Some(&token));
            assert_eq!(key_id(&answer.body), "ASIA2");
            if gets(&service, CREDENTIALS) == before {
                assert!(start < last, "from memory, and its time is over");
                from_memory += 1;
            } else if start >= last {
                break;
            }
        }
        assert!(from_memory > 0);
        // Three times before, once for this set, and at the end, which may have
        // come between our look at the clock and the daemon's.
        let asked = gets(&service, CREDENTIALS);
        assert!((5..=6).contains(&asked), "asked {asked} times");
    });
}

#[test]
fn after_a_newer_set_the_older_one_is_not_given_again_under_any_name() {
    in_network(|net| {
        let _host = Host::start(net, &scripted());
        let (older, newer) = (in_hours(5), in_hours(6));
        let (v4, v6) = (Role::new("OLD", older), Role::new("OLD", older));
        let services = (v4.serve(net, V4), v6.serve(net, V6));
        let token = (token(ROOT, V4, 600), token(ROOT, V6, 600));
        let read = |to: &str, path: &str| {
            let token = if to == V4 { &token.0 } else { &token.1 };
            let answer = get(ROOT, to, path, Some(token));
            assert_eq!(answer.status, 200, "{answer:?}");
            key_id(&answer.body)
        };
        let names = [CREDENTIALS, EXTENDED, OLDER_VERSION];
        for path in names {
            for _ in 0..2 {
                assert_eq!(read(V4, path), "OLD");
            }
            assert_eq!(gets(&services.0, path), 1, "{path} is kept");
        }
        // Seen at the other address alone.
        v6.rotate("NEW", newer);
        assert_eq!(read(V6, CREDENTIALS), "NEW");
        v4.rotate("NEW", newer);
        for path in names {
            assert_eq!(read(V4, path), "NEW");
            assert_eq!(read(V4, path), "NEW");
            assert_eq!(gets(&services.0, path), 2, "{path} is kept again");
        }

        // A service that goes back for good is believed, and asked each time:
        // twice, since the first answer might just have been on its way.
        v4.rotate("BACK", older);
        v6.rotate("BACK", older);
        wait_for("the newer set to be forgotten", || {
            (read(V4, CREDENTIALS) == "BACK").then_some(())
        });
        let before = gets(&services.0, CREDENTIALS);
        for _ in 0..3 {
            assert_eq!(read(V4, CREDENTIALS), "BACK");
        }
        assert_eq!(gets(&services.0, CREDENTIALS), before + 6);
    });
}

#[test]
fn an_older_set_that_was_on_its_way_when_a_newer_came_is_asked_for_anew() {
    in_network(|net| {
        let host = Host::start(net, &scripted());
        let (older, newer) = (in_hours(5), in_hours(6));
        let gate = super::flights::Gate::default();
        let held = gate.clone();
        // Its first answer is made before the rotation, and arrives after it.
        let slow = Fake::start(net, move |asked| {
            let first = !asked.is_put() && held.passes_first();
            match (asked.is_put(), first) {
                (true, _) => Act::token("t", 21600),
                (_, true) => Act::ok(&body_of_credentials("OLD", older)),
                _ => Act::ok(&body_of_credentials("NEW", newer)),
            }
        });
        let _fast = Role::new("NEW", newer).serve(net, V6);
        let tokens = (token(ROOT, V4, 60), token(ROOT, V6, 60));
        let late = thread::scope(|scope| {
            let late = scope.spawn(|| get(ROOT, V4, CREDENTIALS, Some(&tokens.0)));
            wait_for("the first", || {
                (gets(&slow, CREDENTIALS) == 1).then_some(())
            });
            let new = get(ROOT, V6, CREDENTIALS, Some(&tokens.1));
            assert_eq!(key_id(&new.body), "NEW");
            gate.open();
            late.join().unwrap()
        });
        assert_eq!(key_id(&late.body), "NEW");
        assert_eq!(gets(&slow, CREDENTIALS), 2);
        let record = host.records(4).pop().unwrap();
        assert_eq!(record["credential"]["access_key_id"], "NEW");
    });
}

/// A set as its reader knows it: its end, which tells it from others.
fn ends(body: &str) -> SystemTime {
    let document: Value = serde_json::from_str(body).unwrap();
    humantime::parse_rfc3339(document["Expiration"].as_str().unwrap()).unwrap()
}

#[test]
fn under_load_nobody_gets_an_older_set_after_a_newer_one() {
    in_network(|net| {
        // Memory wants five seconds more than half an hour: each set has that
        // for a second or two, and for one no more.
        let setup = Setup {
            config: ON.into(),
            sim: vec!["--rotate-every", "3s", "--credential-life", "30m7s"],
            ..Setup::default()
        };
        let host = Host::start(net, &setup);
        let newest = Mutex::new(SystemTime::UNIX_EPOCH);
        let over = AtomicBool::new(false);
        let read: usize = thread::scope(|scope| {
            let ways = [
                (ROOT, V4, CREDENTIALS),
                (ROOT, V6, CREDENTIALS),
                (CWAGENT, V4, OLDER_VERSION),
                (
                    ROOT,
                    V6,
                    "/2011-05-01/meta-data/iam/security-credentials/web",
                ),
            ];
            let (newest, over) = (&newest, &over);
            let clients = ways.map(|(user, to, path)| {
                scope.spawn(move || {
                    let token = token(user, to, 60);
                    let mut read = 0;
                    while !over.load(Ordering::Relaxed) {
                        let before = *newest.lock().unwrap();
                        let answer = get(user, to, path, Some(&token));
                        assert_eq!(answer.status, 200, "{answer:?}");
                        let got = ends(&answer.body);
                        assert!(got >= before, "older than what was served before");
                        let mut newest = newest.lock().unwrap();
                        *newest = got.max(*newest);
                        read += 1;
                    }
                    read
                })
            });
            let first = wait_for("the first set", || {
                Some(*newest.lock().unwrap()).filter(|it| *it != SystemTime::UNIX_EPOCH)
            });
            wait_for("two rotations", || {
                let far = *newest.lock().unwrap() >= first + Duration::from_secs(6);
                let failed = clients.iter().any(|it| it.is_finished());
                (far || failed).then_some(())
            });
            over.store(true, Ordering::Relaxed);
            clients.map(|it| it.join().unwrap()).iter().sum()
        });
        let mut records = host.records(4 + read);
        records.retain(|it| it.get("served").is_some());
        assert!(records.len() > 3, "{} from memory", records.len());
        for record in records {
            let time = |it: &Value| humantime::parse_rfc3339(it.as_str().unwrap()).unwrap();
            let left = time(&record["credential"]["expiration"]);
            let left = left.duration_since(time(&record["time"]));
            assert!(left.unwrap() > HALF_AN_HOUR, "{record}");
        }
    });
}
