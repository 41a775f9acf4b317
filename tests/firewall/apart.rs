//! A witness that the daemon did not start: it connects to a socket that a
//! service manager holds, finds the daemon again after either was started
//! anew, and nobody else is taken for it, or it for anybody else's.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::sys::socket::SockType;
use nix::unistd::Pid;
use serde_json::Value;

use crate::activation::Holder;
use crate::common::host::{Host, Running, Setup, copy_program, listening_at, wait_for};
use crate::common::http::{V4, get, token};
use crate::common::net::{Net, in_network};
use crate::common::shown::shown;
use crate::common::user::{ALICE, BOB, DAEMON, ROOT, User};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const AMI: &str = "/latest/meta-data/ami-id";

/// A host whose daemon a service manager has started, and what that holds.
fn managed<'n>(net: &'n Net, setup: &Setup) -> (Host<'n>, Holder) {
    let mut host = Host::prepare(net, setup);
    host.run("rules apply");
    let holder = Holder::new();
    holder.start(&mut host);
    (host, holder)
}

fn credentials() -> u16 {
    get(ROOT, V4, CREDENTIALS, Some(&token(ROOT, V4, 60))).status
}

fn end(child: &mut Child) -> bool {
    child.wait().unwrap().success()
}

#[test]
fn credentials_are_served_while_there_is_a_witness_whichever_it_is() {
    in_network(|net| {
        let (mut host, holder) = managed(net, &Setup::default());
        let mut first = host.start_witness();
        assert_eq!(credentials(), 200);
        first.0.kill().unwrap();
        first.0.wait().unwrap();

        let begun = Instant::now();
        assert_eq!(credentials(), 403);
        assert!(
            begun.elapsed() < Duration::from_secs(1),
            "no client gives up"
        );
        let record = host.records(4).pop().unwrap();
        assert_eq!(record["reason"], "witness_gone", "{record}");
        assert_eq!(record["detail"], "gone", "{record}");
        assert_eq!(record["verdict"], "allow", "{record}");
        // Once nobody expects it back, nobody waits for it.
        wait_for("its record", || host.events("daemon.witness_gone").pop());
        let begun = Instant::now();
        assert_eq!(credentials(), 403);
        assert!(begun.elapsed() < Duration::from_millis(400), "{begun:?}");
        let ami = get(ALICE, V4, AMI, Some(&token(ALICE, V4, 60)));
        assert_eq!(ami.status, 200);

        // The daemon need not be told.
        let mut second = host.start_witness();
        wait_for("its record", || host.events("daemon.witness_back").pop());
        assert_eq!(credentials(), 200);
        let speaker = host.records(10).pop().unwrap();
        assert_eq!(speaker["caller"]["pid"], std::process::id());

        // It ends with its daemon, and is there for the next one, also when it
        // is started first.
        host.stop_daemon();
        assert!(end(&mut second.0));
        let mut third = host.start_witness();
        holder.start(&mut host);
        assert_eq!(credentials(), 200);
        host.kill_daemon();
        assert!(end(&mut third.0));
        holder.start(&mut host);
        let fourth = host.start_witness();
        assert_eq!(credentials(), 200);

        // The last one to come is the one that is asked.
        let _fifth = host.start_witness();
        let mut fourth = fourth;
        assert!(end(&mut fourth.0));
        assert_eq!(credentials(), 200);
    });
}

#[test]
fn no_restart_of_either_costs_anybody_the_credentials() {
    in_network(|net| {
        let (mut host, holder) = managed(net, &Setup::default());
        // As the unit has it.
        let manager = format!(
            "while :; do {} witness --connect {} --config {} & echo $!; wait; sleep 0.1; done",
            host.path("imdsfw").display(),
            host.path("witness.sock").display(),
            host.config().display(),
        );
        let started = host.path("started");
        let manager = Command::new("sh")
            .args(["-c", &manager])
            .stdout(fs::File::create(&started).unwrap())
            .process_group(0)
            .spawn()
            .unwrap();
        let _manager = Group(Running(manager));
        let witness = |at: usize| -> i32 {
            wait_for("a witness", || {
                let pids = fs::read_to_string(&started).unwrap();
                pids.lines().nth(at)?.parse().ok()
            })
        };
        for at in 0..6 {
            assert_eq!(credentials(), 200, "{at}");
            let pid = Pid::from_raw(witness(at));
            match at % 3 {
                0 => host.stop_daemon(),
                1 => host.kill_daemon(),
                _ => kill(pid, Signal::SIGKILL).unwrap(),
            }
            wait_for("its end", || {
                (!Path::new(&format!("/proc/{pid}")).exists()).then_some(())
            });
            if at % 3 < 2 {
                holder.start(&mut host);
            }
        }
        assert_eq!(host.events("daemon.witness_gone").len(), 0);
    });
}

/// A process and those it has started.
struct Group(Running);

impl Drop for Group {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.0.0.id().try_into().unwrap());
        let _ = killpg(group, Signal::SIGKILL);
    }
}

/// Connects and answers every question with root alone; prints how many.
const LIAR: &str = "\
import json, socket, struct, sys
asked = 0
daemon = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
daemon.connect(sys.argv[1])
root = dict(pid=1, ids=dict(real=0, effective=0, saved=0, fs=0), exe=None, comm=None,
    loginuid=None, ses=None, unit=None, started=1)
while question := daemon.recv(64):
    asked += 1
    seen = dict(seen=dict(holders=[root], shielded=[]))
    daemon.send(json.dumps(dict(id=struct.unpack('<QII', question)[0], answer=seen)).encode())
print('asked', asked)
";

fn python(user: User, script: &str, arguments: &[&str]) -> Command {
    let mut python = Command::new("/usr/bin/python3");
    python.args(["-Ic", script]).args(arguments);
    python.uid(user.uid).gid(user.gid).stdout(Stdio::piped());
    python
}

fn said(output: Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn who_is_not_the_witness_is_not_believed() {
    // Configured as the witness, alice would be.
    for (witness_user, believed) in [("imdsfw-witness", false), ("alice", true)] {
        in_network(move |net| {
            let setup = Setup {
                config: format!("witness_user = \"{witness_user}\""),
                ..Setup::default()
            };
            let (host, _holder) = managed(net, &setup);
            let socket = host.path("witness.sock");
            let mut liar = python(ALICE, LIAR, &[socket.to_str().unwrap()]);
            let _liar = match believed {
                true => Some(Running(liar.spawn().unwrap())),
                false => {
                    assert_eq!(said(liar.output().unwrap()), "asked 0\n");
                    None
                }
            };
            // What she wants it for: a program of root's that she runs.
            let program = host.path("curl");
            copy_program("/usr/bin/curl", &program);
            fs::set_permissions(&program, Permissions::from_mode(0o4755)).unwrap();
            let curl = Command::new(&program)
                .args(["-s", "-w", " %{http_code}", "-H"])
                .arg(format!("X-aws-ec2-metadata-token: {}", token(ROOT, V4, 60)))
                .arg(format!("http://169.254.169.254{CREDENTIALS}"))
                .uid(ALICE.uid)
                .gid(ALICE.gid)
                .output()
                .unwrap();
            let answer = said(curl);
            assert_eq!(answer.contains("SecretAccessKey"), believed, "{answer}");
            let record = host.records(2).pop().unwrap();
            let reason = if believed { "allowed" } else { "witness_gone" };
            assert_eq!(record["reason"], reason, "{record}");
        });
    }
    shown(
        "A user connects in the witness's place, and says that root alone holds her connection.",
        "her connection is closed before a question; 403 (`witness_gone`)",
        "she is configured as `witness_user`: she is asked, and gets 200 with credentials",
    );
}

/// Connects as fast as can be, and keeps each connection as long as it may.
const FLOOD: &str = "\
import socket, sys
print('flooding', flush=True)
while True:
    try:
        stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stranger.connect(sys.argv[1])
        stranger.send(b'x' * 1024)
    except OSError:
        pass
";

const KNOCK: &str = "\
import socket, sys
try:
    socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])
    print('connected')
except OSError as error:
    print(type(error).__name__)
";

#[test]
fn a_flood_of_strangers_keeps_nobody_from_service() {
    in_network(|net| {
        let (host, _holder) = managed(net, &Setup::default());
        let mut witness = host.start_witness();
        assert_eq!(credentials(), 200);
        let before = host.descriptors();
        let socket = host.path("witness.sock");
        let flood = |user: User| {
            let mut flood = python(user, FLOOD, &[socket.to_str().unwrap()])
                .spawn()
                .unwrap();
            let mut begun = [0];
            flood
                .stdout
                .as_mut()
                .unwrap()
                .read_exact(&mut begun)
                .unwrap();
            Running(flood)
        };
        let _floods = [flood(ALICE), flood(ALICE), flood(ALICE), flood(DAEMON)];

        for _ in 0..20 {
            let ami = get(BOB, V4, AMI, Some(&token(BOB, V4, 60)));
            assert_eq!(ami.status, 200);
            assert_eq!(credentials(), 200);
            // One stranger, the clients of this test, and their requests.
            assert!(
                host.descriptors() <= before + 8,
                "{} after {before}",
                host.descriptors()
            );
        }
        assert_eq!(host.events("daemon.witness_gone").len(), 0);

        // Among them all, the next witness gets through.
        witness.0.kill().unwrap();
        witness.0.wait().unwrap();
        let begun = Instant::now();
        let _witness = host.start_witness();
        wait_for("the next witness", || (credentials() == 200).then_some(()));
        println!("found among strangers after {:?}", begun.elapsed());

        // With owner and mode as in the unit, they do not even get so far.
        chown(&socket, Some(0), Some(ALICE.gid)).unwrap();
        fs::set_permissions(&socket, Permissions::from_mode(0o660)).unwrap();
        for (user, gets) in [(ALICE, "connected\n"), (BOB, "PermissionError\n")] {
            let knock = python(user, KNOCK, &[socket.to_str().unwrap()]).output();
            assert_eq!(said(knock.unwrap()), gets);
        }
    });
}

/// Binds at a path, becomes a user, listens, and asks whoever connects one
/// question: path, uid, gid, inode, form of the question. Prints the answer,
/// or nothing where the witness hung up.
const LISTENER: &str = "\
import os, socket, struct, sys
path, uid, gid, inode, form = sys.argv[1:]
if os.path.exists(path): os.unlink(path)
listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
listener.bind(path)
os.chmod(path, 0o666)
os.setgroups([])
os.setgid(int(gid))
os.setuid(int(uid))
listener.listen()
connection, _ = listener.accept()
try:
    connection.send(struct.pack(form, 7, int(inode), 1))
    print(connection.recv(65536).decode(), end='')
except (BrokenPipeError, ConnectionResetError):
    pass
";

#[test]
fn it_answers_the_daemon_and_nobody_else() {
    in_network(|net| {
        let host = Host::prepare(net, &Setup::default());
        let (socket, complaints) = (host.path("witness.sock"), host.path("complaints"));
        // The connection that is asked about; nobody need listen for it.
        let held = listening_at(&host.path("held.sock"), SockType::Stream);
        let link = fs::read_link(format!("/proc/thread-self/fd/{}", held.as_raw_fd())).unwrap();
        let inode = link.to_str().unwrap();
        let inode = inode.trim_matches(|it: char| !it.is_ascii_digit());
        let asked_by = |user: User, form: &str| {
            let ids = [user.uid, user.gid].map(|id| id.to_string());
            let listener = python(
                ROOT,
                LISTENER,
                &[socket.to_str().unwrap(), &ids[0], &ids[1], inode, form],
            );
            let mut command = host.command(&format!("witness --connect {}", socket.display()));
            command.stderr(fs::File::create(&complaints).unwrap());
            let _witness = Running(command.spawn().unwrap());
            let answer = said({ listener }.output().unwrap());
            if answer.is_empty() && user == ALICE {
                wait_for("what it complains of", || {
                    let said = fs::read_to_string(&complaints).unwrap();
                    said.contains("uid 4001 listens there").then_some(())
                });
            }
            answer
        };
        for user in [ROOT, DAEMON] {
            let answer: Value = serde_json::from_str(&asked_by(user, "<QII")).unwrap();
            assert_eq!(answer["id"], 7);
            let holders = answer["answer"]["seen"]["holders"].as_array().unwrap();
            assert_eq!(holders.len(), 1, "{answer}");
            assert_eq!(holders[0]["pid"], std::process::id());
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19);
            assert_eq!(holders[0]["started"].to_string(), started.unwrap());
        }
        assert_eq!(asked_by(DAEMON, "<QIQ"), "", "a question of another size");
        assert_eq!(asked_by(ALICE, "<QII"), "");
    });
}

#[test]
fn it_goes_no_way_that_others_can_change() {
    in_network(|net| {
        let host = Host::prepare(net, &Setup::default());
        let way = host.path("way");
        fs::create_dir(&way).unwrap();
        let socket = way.join("witness.sock");
        let listener = UnixListener::from(listening_at(&socket, SockType::SeqPacket));
        listener.set_nonblocking(true).unwrap();
        for (owner, mode) in [(ALICE.uid, 0o755), (0, 0o775), (0, 0o1777)] {
            chown(&way, Some(owner), None).unwrap();
            fs::set_permissions(&way, Permissions::from_mode(mode)).unwrap();
            let mut command = host.command(&format!("witness --connect {}", socket.display()));
            let mut witness = Running(command.stderr(Stdio::piped()).spawn().unwrap());
            let mut said = BufReader::new(witness.0.stderr.take().unwrap()).lines();
            let said = said.next().unwrap().unwrap();
            assert!(said.contains("others than root can change"), "{said}");
            assert!(listener.accept().is_err());
            // It tries again, and comes when nobody else can change it.
            chown(&way, Some(0), None).unwrap();
            fs::set_permissions(&way, Permissions::from_mode(0o755)).unwrap();
            wait_for("the witness", || listener.accept().ok());
        }
    });
}
