//! Listeners that outlive the daemon: handed over by whoever holds them, taken
//! if they are right, and lost by nobody while the daemon is away.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use imdsfw::config::BACKENDS;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{setsockopt, sockopt};

use crate::common::host::{Host, Setup, refused, wait_for};
use crate::common::http::{Answer, V4, V6, get, read_answer, request, token};
use crate::common::net::{in_network, sysctl};
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, CWAGENT, DAEMON, ROOT, STRANGER, User};

const MARK: u32 = 0x61;
const LISTENERS: [&str; 2] = ["127.0.0.1:253", "[::1]:253"];
const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const AMI: &str = "/latest/meta-data/ami-id";

/// What is said, on one line.
fn unwrapped(said: &str) -> String {
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a service manager holds for the daemon.
pub(crate) struct Holder(TcpListener, TcpListener);

impl Holder {
    pub(crate) fn new() -> Self {
        Self(marked(LISTENERS[0], MARK), marked(LISTENERS[1], MARK))
    }

    pub(crate) fn start(&self, host: &mut Host) {
        host.start_daemon_by(host.activated(DAEMON, &self.0, &self.1));
    }
}

fn marked(address: &str, mark: u32) -> TcpListener {
    let listener = TcpListener::bind(address).unwrap();
    setsockopt(&listener, sockopt::Mark, &mark).unwrap();
    listener
}

fn credentials(user: User, to: &str) -> Answer {
    get(user, to, CREDENTIALS, Some(&token(user, to, 60)))
}

#[test]
fn handed_its_listeners_it_serves_without_having_been_root() {
    for (backend, _) in BACKENDS {
        in_network(move |net| {
            let setup = Setup {
                config: format!("rules.backend = \"{backend}\""),
                ..Setup::default()
            };
            let mut host = Host::prepare(net, &setup);
            host.run("rules apply");
            Holder::new().start(&mut host);
            let _witness = host.start_witness();
            for to in [V4, V6] {
                assert_eq!(credentials(ROOT, to).status, 200);
                assert_eq!(credentials(ALICE, to).status, 403);
            }
            // The socket for the watcher came by the same way.
            let mut watcher = UnixStream::connect(host.path("watch.sock")).unwrap();
            let broken = b"{\"report\":\"broken\",\"why\":\"a test\"}\n";
            watcher.write_all(broken).unwrap();
            wait_for("the end of serving", || {
                (get(ALICE, V4, AMI, None).status == 0).then_some(())
            });
            host.stop_daemon();
        });
    }
}

#[test]
fn without_root_it_feels_for_the_rules_and_serves_nobody_without_them() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        let holder = Holder::new();
        let refusal = |host: &Host| refused(host.activated(DAEMON, &holder.0, &holder.1));
        let assert_says = |said: String, words: &[&str]| {
            let said = unwrapped(&said);
            for word in ["nobody is served", "imdsfw rules apply"]
                .iter()
                .chain(words)
            {
                assert!(said.contains(word), "no {word:?} in:\n{said}");
            }
        };
        let straight = "straight to the listener 127.0.0.1:253 was established";
        assert_says(refusal(&host), &[straight]);

        host.run("rules apply");
        nft::delete_commented("bound for the daemon");
        assert_says(refusal(&host), &[straight]);

        // The service itself refuses this port, which is not to be taken for
        // a refusal by the rules.
        host.run("rules apply");
        nft::delete_commented("bound for the metadata service");
        nft::delete_commented("opened to the metadata service");
        let other_port = "another port of the metadata address, 169.254.169.254:81,";
        assert_says(refusal(&host), &[other_port]);

        assert!(fs::read_dir(host.path("log")).unwrap().next().is_none());
        host.run("rules apply");
        holder.start(&mut host);
    });
}

#[test]
fn sockets_that_are_not_its_listeners_are_refused() {
    in_network(|net| {
        let host = Host::prepare(net, &Setup::default());
        host.run("rules apply");
        let right = marked(LISTENERS[0], MARK);
        let udp = UdpSocket::bind("127.0.0.1:253").unwrap();
        let client = ALICE.client("127.0.0.1:1".parse().unwrap());
        let client = client.bound("127.0.0.1:254".parse().unwrap());
        let elsewhere = marked("10.77.0.2:253", MARK);
        let other_port = marked("[::1]:254", MARK);
        let unmarked = marked(LISTENERS[1], 0);
        let file = fs::File::open("/dev/null").unwrap();
        let table: [(&dyn AsFd, &str); 7] = [
            (&udp, "socket 1 is a socket of"),
            (&client, "socket 1 is a TCP socket that does not listen"),
            (&elsewhere, "one listens on 10.77.0.2:253"),
            (&other_port, "one listens on [::1]:254"),
            (&right, "two listen on 127.0.0.1:253"),
            (&file, "socket 1 is no socket"),
            (&unmarked, "`Mark=97`"),
        ];
        for (wrong, words) in table {
            let said = unwrapped(&refused(host.activated(DAEMON, &right, wrong)));
            assert!(said.contains(words), "no {words:?} in:\n{said}");
        }
        assert!(fs::read_dir(host.path("log")).unwrap().next().is_none());
    });
}

#[test]
fn nobody_but_its_own_user_takes_them_without_root() {
    in_network(|net| {
        let host = Host::prepare(net, &Setup::default());
        host.run("rules apply");
        let Holder(v4, v6) = Holder::new();
        let said = unwrapped(&refused(host.activated(ALICE, &v4, &v6)));
        assert!(said.contains("started as uid 4001"), "{said}");
    });
}

/// What `user` gets who tries to listen in the daemon's place.
fn hijack(user: User) -> Vec<bool> {
    let script = "import socket\n\
        for family, host in ((socket.AF_INET, '127.0.0.1'), (socket.AF_INET6, '::1')):\n\
        \x20 for options in ((), (socket.SO_REUSEADDR, socket.SO_REUSEPORT)):\n\
        \x20   s = socket.socket(family)\n\
        \x20   for option in options: s.setsockopt(socket.SOL_SOCKET, option, 1)\n\
        \x20   try: s.bind((host, 253)); s.listen(); print('taken')\n\
        \x20   except OSError as error: print(error)\n\
        \x20   s.close()\n";
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-c", script]).uid(user.uid).gid(user.gid);
    let output = python.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    let taken: Vec<_> = said.lines().map(|line| line == "taken").collect();
    assert_eq!(taken.len(), 4, "{said}");
    taken
}

#[test]
fn while_the_daemon_is_down_nobody_takes_its_place() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.run("rules apply");
        let holder = Holder::new();
        holder.start(&mut host);
        host.kill_daemon();
        assert_eq!(hijack(ALICE), [false; 4]);
        sysctl("net/ipv4/ip_unprivileged_port_start", "0");
        assert_eq!(hijack(ALICE), [false; 4]);
        // Not held, the port is anybody's to take.
        drop(holder);
        assert_eq!(hijack(ALICE), [true; 4]);
    });
    shown(
        "With the daemon killed, a user binds and listens on its port, also with SO_REUSEPORT.",
        "refused on 127.0.0.1 and [::1], with ip_unprivileged_port_start = 0 too",
        "listeners that nobody holds meanwhile: taken, on both",
    );
}

/// Everybody reads the AMI without a token.
fn open_to_all() -> Setup {
    let policy = "schema = 1\n\n[[rule]]\nname = \"all\"\naction = \"allow\"\nwho = [\"any\"]\n\
                  paths = [\"/meta-data/ami-id\"]\nimdsv1 = true\n";
    Setup {
        policy: policy.into(),
        ..Setup::default()
    }
}

/// One request on a connection of its own: its status, 0 where the connection
/// was reset.
fn ask(user: User, path: &str) -> Option<u16> {
    let to: SocketAddr = V4.parse().unwrap();
    let mut stream = user.connect(to).ok()?;
    stream
        .set_read_timeout(Some(std::time::Duration::from_secs(10)))
        .ok()?;
    let sent = stream.write_all(request("GET", V4, path, None, "close").as_bytes());
    sent.and_then(|()| read_answer(&mut stream))
        .ok()
        .map(|it| it.status)
}

/// Requests in the loop below; more by `IMDSFW_TEST_REQUESTS`.
fn requests() -> usize {
    let asked = std::env::var("IMDSFW_TEST_REQUESTS").ok();
    asked.map_or(3000, |it| it.parse().unwrap())
}

#[test]
fn restarts_lose_no_request() {
    in_network(|net| {
        let mut host = Host::prepare(net, &open_to_all());
        host.run("rules apply");
        let holder = Holder::new();
        holder.start(&mut host);
        let total = requests();
        let (asked, cut) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let orderly = AtomicBool::new(true);
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        thread::scope(|scope| {
            for user in [ALICE, BOB, CWAGENT, STRANGER] {
                let (asked, cut, orderly, namespace) = (&asked, &cut, &orderly, &namespace);
                scope.spawn(move || {
                    let net = nix::sched::CloneFlags::CLONE_NEWNET;
                    nix::sched::setns(namespace, net).unwrap();
                    while asked.fetch_add(1, Ordering::SeqCst) < total {
                        let answer = ask(user, AMI);
                        if answer == Some(200) {
                            continue;
                        }
                        // What a killed daemon had in hand is reset; asked
                        // again, as every client does, it is answered.
                        let killed = !orderly.load(Ordering::SeqCst);
                        assert!(killed, "{answer:?} across an orderly restart");
                        assert_eq!(ask(user, AMI), Some(200));
                        cut.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for restart in 0..20 {
                let due = total * (restart + 1) / 22;
                wait_for("requests", || {
                    (asked.load(Ordering::SeqCst) >= due).then_some(())
                });
                if restart < 10 {
                    host.stop_daemon();
                } else {
                    orderly.store(false, Ordering::SeqCst);
                    host.kill_daemon();
                }
                holder.start(&mut host);
            }
        });
        let cut = cut.into_inner();
        println!("{total} requests, 20 restarts; {cut} in the hands of a killed daemon");
        assert!(cut <= 10 * 4, "at most one a client and kill: {cut}");
    });
}

#[test]
fn killed_over_and_over_it_serves_when_it_is_started_again() {
    in_network(|net| {
        let mut host = Host::prepare(net, &open_to_all());
        host.run("rules apply");
        let holder = Holder::new();
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        thread::scope(|scope| {
            for kills in 1..=3 {
                holder.start(&mut host);
                assert_eq!(ask(ALICE, AMI), Some(200));
                host.kill_daemon();
                // Who comes meanwhile waits for the one that stays.
                let namespace = &namespace;
                scope.spawn(move || {
                    let net = nix::sched::CloneFlags::CLONE_NEWNET;
                    nix::sched::setns(namespace, net).unwrap();
                    let answer = ask(BOB, AMI);
                    // Its daemon may be killed in its turn.
                    let cut = kills < 3 && matches!(answer, None | Some(0));
                    assert!(answer == Some(200) || cut, "{answer:?}");
                });
                wait_for("a client that waits", || {
                    let waiting = fs::read_to_string("/proc/thread-self/net/tcp").unwrap();
                    let ours =
                        |line: &&str| line.contains(" 0100007F:00FD ") && line.contains(" 01 ");
                    waiting.lines().find(ours).map(|_| ())
                });
            }
            holder.start(&mut host);
            assert_eq!(ask(ALICE, AMI), Some(200));
            assert_eq!(credentials(ALICE, V6).status, 403);
        });
        wait_for("the helpers of the killed ones to end", || {
            (helpers_on(&namespace) == 1).then_some(())
        });
    });
}

/// How many processes that look names up for a daemon run on this network.
fn helpers_on(network: &fs::File) -> usize {
    let inode = network.metadata().unwrap().ino();
    let processes = fs::read_dir("/proc").unwrap().map(|it| it.unwrap().path());
    let helpers = processes.filter(|process| {
        let comm = fs::read_to_string(process.join("comm"));
        let net = fs::metadata(process.join("ns/net"));
        comm.is_ok_and(|it| it == "imdsfw-names\n") && net.is_ok_and(|it| it.ino() == inode)
    });
    helpers.count()
}

#[test]
fn a_daemon_killed_under_load_lets_nothing_through() {
    in_network(|net| {
        let mut host = Host::prepare(net, &open_to_all());
        host.run("rules apply");
        let namespace = fs::File::open("/proc/thread-self/ns/net").unwrap();
        for held in [true, false] {
            let holder = held.then(Holder::new);
            match &holder {
                Some(holder) => holder.start(&mut host),
                None => host.start_daemon(),
            }
            let (going, asked) = (AtomicBool::new(true), AtomicUsize::new(0));
            thread::scope(|scope| {
                for user in [ALICE, BOB, CWAGENT, STRANGER] {
                    let (going, asked, namespace) = (&going, &asked, &namespace);
                    scope.spawn(move || {
                        let net = nix::sched::CloneFlags::CLONE_NEWNET;
                        nix::sched::setns(namespace, net).unwrap();
                        while going.load(Ordering::SeqCst) {
                            let answer = ask(user, CREDENTIALS);
                            assert!(matches!(answer, None | Some(0 | 401)), "{answer:?}");
                            asked.fetch_add(1, Ordering::SeqCst);
                        }
                    });
                }
                let more = |by: usize| {
                    let due = asked.load(Ordering::SeqCst) + by;
                    wait_for("load", || {
                        (asked.load(Ordering::SeqCst) >= due).then_some(())
                    });
                };
                more(50);
                host.kill_daemon();
                if !held {
                    more(50);
                }
                match &holder {
                    Some(holder) => holder.start(&mut host),
                    None => host.start_daemon(),
                }
                assert_eq!(ask(ALICE, AMI), Some(200), "the next request");
                going.store(false, Ordering::SeqCst);
            });
            host.kill_daemon();
        }
        for seen in host.seen_by_service("request") {
            assert_ne!(seen["path"], CREDENTIALS, "{seen}");
        }
    });
}

#[test]
fn its_heart_beats_while_it_serves_and_not_while_it_does_not() {
    in_network(|net| {
        let mut host = Host::prepare(net, &Setup::default());
        host.run("rules apply");
        let mut command = host.command("run");
        command.env("WATCHDOG_USEC", "100000");
        let notify = host.start_daemon_by(command);
        let mut state = [0; 128];
        let mut heard = || {
            let len = notify.recv(&mut state).ok()?;
            Some(String::from_utf8(state[..len].to_vec()).unwrap())
        };
        for _ in 0..3 {
            assert_eq!(heard().as_deref(), Some("WATCHDOG=1"));
        }
        kill(host.daemon_pid(), Signal::SIGHUP).unwrap();
        let mut but_beats = || loop {
            match heard() {
                Some(state) if state == "WATCHDOG=1" => {}
                other => return other,
            }
        };
        let reloading = but_beats().unwrap();
        assert!(
            reloading.starts_with("RELOADING=1\nMONOTONIC_USEC="),
            "{reloading}"
        );
        assert_eq!(but_beats().as_deref(), Some("READY=1"));

        kill(host.daemon_pid(), Signal::SIGSTOP).unwrap();
        let half_a_second = std::time::Duration::from_millis(500);
        notify.set_read_timeout(Some(half_a_second)).unwrap();
        assert_eq!(but_beats(), None, "stopped, it is silent for five periods");
    });
}
