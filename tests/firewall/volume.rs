//! Many requests of many users at once: each recorded once, as its own
//! user's, and none reaches the service that was not allowed to. And what the
//! firewall costs, printed for the reader.

use std::collections::HashSet;
use std::fs;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, V6, connect, get, read_answer, rest, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, CWAGENT, DAEMON, INSTANCE_CONNECT, ROOT, STRANGER, User};

const AMI: &str = "/latest/meta-data/ami-id";
const USER_DATA: &str = "/latest/user-data";

/// Two more without account.
const NOBODY: User = User {
    uid: 4010,
    gid: 4910,
};
const NOBODY_ELSE: User = User {
    uid: 4011,
    gid: 4911,
};

/// What one user has sent, and how much of it the service has to see.
#[derive(Default)]
struct Sent {
    requests: usize,
    reads: usize,
}

/// Sends `count` requests, some on connections with others, some on their
/// own. `modest` users ask for nothing that anybody may have.
fn send(user: User, count: usize, modest: bool) -> Sent {
    let mut sent = Sent::default();
    for to in [V4, V6].into_iter().cycle() {
        let mut stream = connect(user, to);
        let mut session = Session {
            user,
            host: to.trim_end_matches(":80"),
            token: String::new(),
        };
        stream.write_all(session.mint().as_bytes()).unwrap();
        session.token = read_answer(&mut stream).unwrap().body;
        sent.requests += 1;
        let open = if modest { USER_DATA } else { AMI };
        for round in 0..22 {
            let (asked, status) = match round % 4 {
                0 => (session.get("", AMI, ""), 401),
                1 => (session.get(&session.token, USER_DATA, ""), 403),
                _ => (
                    session.get(&session.token, open, ""),
                    if modest { 403 } else { 200 },
                ),
            };
            let status = if user == ROOT && status == 403 {
                200
            } else {
                status
            };
            stream.write_all(asked.as_bytes()).unwrap();
            assert_eq!(read_answer(&mut stream).unwrap().status, status, "{asked}");
            sent.requests += 1;
            sent.reads += usize::from(status == 200);
        }
        stream
            .write_all(session.get("", "/?", "").as_bytes())
            .unwrap();
        assert_eq!(rest(&mut stream)[0].status, 400);
        let mut stream = connect(user, to);
        let asked = session.get(&session.token, open, "Connection: close\r\n");
        stream.write_all(asked.as_bytes()).unwrap();
        let answers = rest(&mut stream);
        sent.requests += 2;
        sent.reads += usize::from(answers[0].status == 200);
        if sent.requests >= count {
            return sent;
        }
    }
    unreachable!()
}

struct Session {
    user: User,
    host: &'static str,
    token: String,
}

impl Session {
    fn mint(&self) -> String {
        format!(
            "PUT /latest/api/token HTTP/1.1\r\nHost: {}\r\nUser-Agent: uid {}\r\n\
             X-aws-ec2-metadata-token-ttl-seconds: 600\r\n\r\n",
            self.host, self.user.uid
        )
    }

    fn get(&self, token: &str, path: &str, headers: &str) -> String {
        let mut head = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nUser-Agent: uid {}\r\n{headers}",
            self.host, self.user.uid
        );
        if !token.is_empty() {
            head += &format!("X-aws-ec2-metadata-token: {token}\r\n");
        }
        head + "\r\n"
    }
}

#[test]
fn of_20_000_requests_by_8_users_each_is_recorded_once_as_its_own_users() {
    const EACH: usize = 2500;
    let users = [
        (ROOT, false),
        (ALICE, false),
        (BOB, true),
        (INSTANCE_CONNECT, false),
        (CWAGENT, false),
        (STRANGER, false),
        (NOBODY, true),
        (NOBODY_ELSE, false),
    ];
    in_network(move |net| {
        let mut host = Host::start(net, &Setup::default());
        let start = Instant::now();
        let sent: Vec<Sent> = thread::scope(|scope| {
            users
                .map(|(user, modest)| scope.spawn(move || send(user, EACH, modest)))
                .map(|thread| thread.join().unwrap())
                .into()
        });
        let took = start.elapsed().as_secs_f32();
        let status = fs::read_to_string(format!("/proc/{}/status", host.daemon_pid())).unwrap();
        let memory: Vec<_> = status
            .lines()
            .filter(|line| line.starts_with("VmRSS") || line.starts_with("VmHWM"))
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        host.stop_daemon();

        let requests: usize = sent.iter().map(|it| it.requests).sum();
        let reads: usize = sent.iter().map(|it| it.reads).sum();
        assert!(requests >= 20_000);
        println!(
            "{requests} requests, {reads} of them for the service, in {took:.1} s: {:.0}/s; {}",
            requests as f32 / took,
            memory.join(", ")
        );

        let audit = host.audit();
        for (record, seq) in audit.iter().zip(1u64..) {
            assert_eq!(record["seq"], seq);
        }
        let records: Vec<_> = audit.iter().filter(|it| it["event"] == "request").collect();
        assert_eq!(records.len(), requests);
        let ids: HashSet<_> = records.iter().map(|it| it["id"].as_str()).collect();
        assert_eq!(ids.len(), requests);
        for ((user, _), sent) in users.iter().zip(&sent) {
            let agent = format!("uid {}", user.uid);
            let own = records.iter().filter(|it| it["caller"]["uid"] == user.uid);
            let own: Vec<_> = own.collect();
            assert_eq!(own.len(), sent.requests, "{agent}");
            assert!(
                own.iter().all(|it| it["request"]["user_agent"] == agent),
                "{agent}"
            );
        }

        let seen = host.seen_by_service("request");
        let (tokens, seen): (Vec<_>, Vec<_>) = seen.iter().partition(|it| it["method"] == "PUT");
        assert_eq!(seen.len(), reads);
        assert_eq!(tokens.len(), 2, "the daemon's own, one an address");
    });
}

/// Direct is by the daemon's account, which the rules let through.
#[test]
fn a_fresh_connection_through_the_firewall_takes_not_much_longer() {
    const ROUNDS: usize = 300;
    in_network(|net| {
        let _host = Host::start(net, &Setup::default());
        let ways = [
            (ALICE, token(ALICE, V4, 600)),
            (DAEMON, token(DAEMON, V4, 600)),
        ];
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..ROUNDS {
            for ((user, token), times) in ways.iter().zip(&mut times) {
                let start = Instant::now();
                let answer = get(*user, V4, AMI, Some(token));
                times.push(start.elapsed());
                assert_eq!(answer.status, 200);
            }
        }
        let [through, direct] = times.map(median);
        let ratio = through.as_secs_f32() / direct.as_secs_f32();
        println!("one GET: {through:?} through the firewall, {direct:?} direct: {ratio:.2} times");
        assert!(ratio < 50.0);
    });
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times[times.len() / 2]
}
