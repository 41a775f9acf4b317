//! Rules that ask for more than a uid: the unit in which a socket was made,
//! the program that holds it, and who logged in.

use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::common::host::{Host, Running, Setup, wait_for};
use crate::common::http::{V4, connect, get, read_answer, request, token};
use crate::common::net::in_network;
use crate::common::user::{ALICE, BOB, ROOT, User};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const USER_DATA: &str = "/latest/user-data";
const AMI: &str = "/latest/meta-data/ami-id";

fn narrowed(who: &str, narrow: &str) -> Setup {
    let policy = format!(
        "[[rule]]\nname = \"narrow\"\naction = \"allow\"\nwho = [\"{who}\"]\n{narrow}\n\
         paths = [\"@role\", \"@secrets\"]\n\
         [[rule]]\nname = \"all\"\naction = \"allow\"\nwho = [\"any\"]\npaths = [\"@routine\"]\n"
    );
    Setup {
        policy,
        ..Setup::default()
    }
}

/// curl by root, with what stands before it in the shell.
fn curl(before: &str, path: &str) -> String {
    let token = token(ROOT, V4, 60);
    let command = format!(
        "{before} exec curl -s -o /dev/null -w '%{{http_code}}' \
         -H 'X-aws-ec2-metadata-token: {token}' http://169.254.169.254{path}"
    );
    let output = Command::new("sh").args(["-c", &command]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn read(user: User, path: &str) -> u16 {
    get(user, V4, path, Some(&token(user, V4, 60))).status
}

/// The newest record of a path.
fn last(host: &Host, path: &str, count: usize) -> Value {
    let of_path = |it: &Value| it["request"]["path"] == path;
    wait_for("the records", || {
        let mut records = host.events("request");
        records.retain(of_path);
        (records.len() == count).then(|| records.pop().unwrap())
    })
}

fn why(record: &Value) -> (&str, &str) {
    let word = |key: &str| record[key].as_str().unwrap_or("-");
    (word("reason"), word("detail"))
}

#[test]
fn the_program_that_holds_the_connection_decides() {
    let exe = fs::canonicalize("/usr/bin/curl").unwrap();
    let setup = narrowed("user:root", &format!("exe = [{exe:?}]"));
    in_network(move |net| {
        let host = Host::start(net, &setup);
        for path in [USER_DATA, CREDENTIALS] {
            assert_eq!(curl("", path), "200");
            let record = last(&host, path, 1);
            assert_eq!(record["rule"], "narrow");
            assert_eq!(record["caller"]["exe"], exe.to_str().unwrap());
            // This test is another program, and was seen to be.
            assert_eq!(read(ROOT, path), 403);
            let record = last(&host, path, 2);
            assert_eq!(why(&record), ("default", "-"));
        }
        // Nobody else gets near it by any program.
        assert_eq!(read(BOB, USER_DATA), 403);
    });
}

#[test]
fn a_connection_that_two_programs_hold_is_of_neither() {
    let exe = fs::canonicalize("/usr/bin/sleep").unwrap();
    let test = std::env::current_exe().unwrap();
    for narrow in [format!("[{exe:?}]"), format!("[{test:?}]")] {
        let setup = narrowed("user:root", &format!("exe = {narrow}"));
        in_network(move |net| {
            let host = Host::start(net, &setup);
            let token = token(ROOT, V4, 60);
            let mut stream = connect(ROOT, V4);
            fcntl(&stream, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            let sleeping = Command::new("/usr/bin/sleep").arg("60").spawn().unwrap();
            let sleeping = Running(sleeping);
            let held = format!("/proc/{}/fd/{}", sleeping.0.id(), stream.as_raw_fd());
            let exe = format!("/proc/{}/exe", sleeping.0.id());
            wait_for("it to become that program", || {
                (fs::read_link(&exe).ok()?.ends_with("sleep") && Path::new(&held).exists())
                    .then_some(())
            });
            let get = request("GET", V4, USER_DATA, Some(&token), "close");
            std::io::Write::write_all(&mut stream, get.as_bytes()).unwrap();
            assert_eq!(read_answer(&mut stream).unwrap().status, 403);
            assert_eq!(why(&last(&host, USER_DATA, 1)), ("holders", "differ"));
        });
    }
}

#[test]
fn who_logged_in_decides() {
    in_network(|net| {
        let host = Host::start(net, &narrowed("any", "loginuid = [\"user:alice\"]"));
        let by = |uid: u32| format!("echo {uid} > /proc/self/loginuid &&");
        // As through `sudo`: root now, but alice came in.
        assert_eq!(curl(&by(ALICE.uid), USER_DATA), "200");
        assert_eq!(last(&host, USER_DATA, 1)["caller"]["loginuid"], ALICE.uid);
        assert_eq!(curl(&by(ALICE.uid), CREDENTIALS), "200");
        assert_eq!(curl(&by(BOB.uid), USER_DATA), "403");
        assert_eq!(curl("", USER_DATA), "403");
        assert_eq!(why(&last(&host, USER_DATA, 3)), ("default", "-"));
        // An account that nobody has could be called anything.
        assert_eq!(curl(&by(4999), USER_DATA), "403");
        assert_eq!(why(&last(&host, USER_DATA, 4)), ("account_unknown", "-"));
    });
}

/// A unit that is gone when this is dropped.
struct Unit(PathBuf);

impl Unit {
    fn new(name: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let mut lines = mounts.lines();
        let mount = lines.find(|line| line.contains(" - cgroup2 "));
        let mount = mount.expect("cgroup v2").split(' ').nth(4).unwrap();
        let path = Path::new(mount).join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs &&", self.0.display())
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

#[test]
fn the_unit_in_which_the_socket_was_made_decides() {
    let name = format!("imdsfw-narrow-{}", std::process::id());
    let setup = narrowed("user:root", &format!("unit = [\"{name}-*.service\"]"));
    in_network(move |net| {
        let host = Host::start(net, &setup);
        assert_eq!(curl("", USER_DATA), "403");
        assert_eq!(why(&last(&host, USER_DATA, 1)), ("default", "-"));
        // Units begun since the last look, the second within a second of it.
        for (at, path) in [USER_DATA, CREDENTIALS].into_iter().enumerate() {
            let unit = Unit::new(&format!("{name}-{at}.service"));
            assert_eq!(curl(&unit.enter(), path), "200", "{path}");
        }
        let other = Unit::new(&format!("{name}.service"));
        assert_eq!(curl(&other.enter(), USER_DATA), "403");
        assert_eq!(why(&last(&host, USER_DATA, 3)), ("default", "-"));
    });
}

#[test]
fn only_who_hangs_on_the_witness_waits_for_it() {
    let exe = fs::canonicalize("/usr/bin/curl").unwrap();
    let setup = narrowed("user:root", &format!("exe = [{exe:?}]"));
    in_network(move |net| {
        let host = Host::start(net, &setup);
        let witness = host.witness_pid();
        kill(witness, Signal::SIGSTOP).unwrap();
        let root = token(ROOT, V4, 60);
        let start = Instant::now();
        for (user, path, status) in [(ROOT, AMI, 200), (BOB, AMI, 200), (BOB, USER_DATA, 403)] {
            assert_eq!(read(user, path), status);
        }
        // Without a token, no rule is asked, and so nobody either.
        assert_eq!(get(ROOT, V4, USER_DATA, None).status, 401);
        assert!(start.elapsed() < Duration::from_millis(500), "{start:?}");
        assert_eq!(get(ROOT, V4, USER_DATA, Some(&root)).status, 403);
        assert_eq!(why(&last(&host, USER_DATA, 3)), ("witness_gone", "slow"));
        kill(witness, Signal::SIGKILL).unwrap();
        wait_for("the daemon to notice", || {
            host.events("daemon.witness_gone").pop()
        });
        assert_eq!(curl("", USER_DATA), "403");
        assert_eq!(why(&last(&host, USER_DATA, 4)), ("witness_gone", "gone"));
        assert_eq!(read(ROOT, AMI), 200);
    });
}

#[test]
fn a_method_that_a_rule_leaves_out_is_not_its_affair() {
    in_network(|net| {
        let host = Host::start(net, &narrowed("user:root", "methods = [\"HEAD\"]"));
        let token = token(ROOT, V4, 60);
        for (method, status) in [("HEAD", 200), ("GET", 403)] {
            let head = request(method, V4, USER_DATA, Some(&token), "close");
            let answer = crate::common::http::raw(ROOT, V4, head.as_bytes());
            assert_eq!(answer.status, status, "{method}");
        }
        assert_eq!(last(&host, USER_DATA, 2)["reason"], "default");
    });
}

/// What check and explain predict, and the daemon does.
#[test]
fn explain_asks_for_what_it_does_not_know() {
    in_network(|net| {
        let setup = narrowed(
            "user:root",
            "unit = [\"backup.service\"]\nexe = [\"/bin/a\"]",
        );
        let host = Host::prepare(net, &setup);
        let explain = |more: &[&str]| {
            let mut command = host.command("explain --user root");
            let output = command.args(more).arg(USER_DATA).uid(0).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            (output.status.code(), text)
        };
        let (code, said) = explain(&[]);
        assert_eq!(code, Some(1));
        let flowing = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            flowing.contains("hang on the unit, the program or login, which is not known here"),
            "{said}"
        );
        let (code, said) = explain(&["--unit", "backup.service", "--exe", "/bin/a"]);
        assert_eq!(code, Some(0), "{said}");
        let (code, said) = explain(&["--unit", "other.service"]);
        assert_eq!(code, Some(1));
        assert!(
            said.contains("\"narrow\" is about other units: backup.service"),
            "{said}"
        );
    });
}
