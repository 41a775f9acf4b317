//! Callers whose own numbers are not the host's: root of a user namespace,
//! and root of a container.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use super::*;
use crate::common::host::{BINARY, refused};
use crate::common::http::{connect, connect_from, put, rest};
use crate::common::naive;
use crate::common::net::sysctl;
use crate::common::nft;
use crate::common::shown::shown;
use crate::common::user::assert_refused;

/// Becomes root of a user namespace of its own, once that has been given its
/// ids, and then the command.
const APART: &str = "
import ctypes, os, sys
if ctypes.CDLL(None).unshare(0x10000000) != 0: sys.exit('no user namespaces here')
print('made', flush=True)
sys.stdin.readline()
os.setresgid(0, 0, 0)
os.setresuid(0, 0, 0)
os.execvp(sys.argv[1], sys.argv[1:])
";
/// Who it is in there, and what status it gets for the credentials.
const ASK: &str = r#"
url=http://169.254.169.254/latest
token=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' $url/api/token)
id -u
curl -s -o /dev/null -w '%{http_code}\n' -H "X-aws-ec2-metadata-token: $token" \
    $url/meta-data/iam/security-credentials/web
"#;
/// The kernel's table of sockets, as it is shown in there, while it holds a
/// connection to the service.
const LOOK: &str = "exec 3<>/dev/tcp/169.254.169.254/80; cat /proc/net/tcp";

/// Starts a shell in a user namespace of alice's, with these ids.
fn start_apart(map: &str, script: &str) -> Child {
    let mut child = Command::new("/usr/bin/python3")
        .args(["-Ic", APART, "bash", "-c", script])
        .uid(ALICE.uid)
        .gid(ALICE.gid)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut made = [0; 5];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut made)
        .unwrap();
    assert_eq!(&made, b"made\n");
    for file in ["gid_map", "uid_map"] {
        fs::write(format!("/proc/{}/{file}", child.id()), map).unwrap();
    }
    child.stdin.take().unwrap().write_all(b"\n").unwrap();
    child
}

/// What `script` prints where the host's `ids` are its own from 0 on, as
/// newuidmap(1) lets users have it.
fn apart(ids: &str, script: &str) -> String {
    let child = start_apart(&format!("0 {ids}"), script);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The uids of established connections to the service in proc_net_tcp(5).
fn owners_in(table: &str) -> Vec<u32> {
    table
        .lines()
        .filter(|line| line.contains(" FEA9FEA9:0050 01 "))
        .map(|line| line.split_whitespace().nth(7).unwrap().parse().unwrap())
        .collect()
}

#[test]
fn root_of_a_user_namespace_is_the_user_who_made_it() {
    const SUBORDINATE: u32 = 300_000;
    let seen_within = in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let mut requests = 0;
        let mut seen_within = Vec::new();
        for (ids, uid) in [
            (format!("{} 1", ALICE.uid), ALICE.uid),
            (format!("{SUBORDINATE} 65536"), SUBORDINATE),
        ] {
            assert_eq!(apart(&ids, ASK), "0\n403\n");
            requests += 2;
            let record = host.records(requests).pop().unwrap();
            assert_eq!(record["request"]["path"], CREDENTIALS);
            assert_eq!(record["decision"], "deny");
            let caller = &record["caller"];
            assert_eq!(caller["uid"], uid, "{record}");
            let user = (uid == ALICE.uid).then_some("alice");
            assert_eq!(caller["user"], Value::from(user));
            seen_within.extend(owners_in(&apart(&ids, LOOK)));
        }
        seen_within
    });
    assert_eq!(seen_within, [0, 0], "the namespace's own number for it");
    shown(
        "A user asks as root of a user namespace, mapped to the user's own or a subordinate uid.",
        "403 for the credentials; recorded as uid 4001 (alice), and as uid 300000 without account",
        "asked from within that namespace, the kernel names uid 0 for both sockets",
    );
}

/// As in a unit with `PrivateUsers=`: root is root there, and everybody else
/// nobody.
#[test]
fn a_daemon_in_a_user_namespace_does_not_start() {
    let named = in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let mut root = start_apart("0 0 1", "exec sleep 60");
        let mut within = Command::new("nsenter");
        within.args(["-S", "0", "-G", "0"]);
        within.arg(format!("--user=/proc/{}/ns/user", root.id()));
        within.args([BINARY, "run", "--config"]).arg(host.config());
        let said = refused(within);
        assert!(said.contains("PrivateUsers"), "{said}");
        root.kill().unwrap();
        root.wait().unwrap();
        let _held = [ALICE, BOB].map(|user| connect(user, V4));
        owners_in(&apart("0 1", "cat /proc/net/tcp"))
    });
    assert_eq!(named, [65534; 2]);
    shown(
        "Two users ask a daemon that is confined to a user namespace (`PrivateUsers=`).",
        "it does not start there, and says why",
        "asked from within, the kernel names uid 65534 for both: one's token is the other's",
    );
}

/// A container's root connects from the port on which a service of the host's
/// root listens: of the container's own socket the host knows nothing.
#[test]
fn root_of_a_container_is_not_root_of_the_host() {
    let named = in_network(|net| {
        let mut host = Host::start(net, &Setup::default());
        let [v4, _] = families();
        let _service_of_roots = ROOT.run(|| std::net::TcpListener::bind("0.0.0.0:2222").unwrap());
        let from: SocketAddr = "10.88.0.2:2222".parse().unwrap();
        assert_refused(net.container(|| ROOT.connect_from(from, v4.service)));

        // Every rule that keeps it out is gone, and somebody's redirect takes
        // it to the daemon, as that of a proxy for containers would.
        nft::delete_commented("from a container or another host: not");
        nft::delete_commented("the daemon serves this host alone");
        sysctl("net/ipv4/conf/all/route_localnet", "1");
        nft::load(
            "table ip foreign { chain prerouting {
                type nat hook prerouting priority -100; policy accept;
                iifname ctr0 ip daddr 169.254.169.254 tcp dport 80 dnat to 127.0.0.1:253
             }; }",
        );
        let mut stream = net.container(|| connect_from(ROOT, from, v4.service));
        let named = naive::owner(from, v4.service);
        stream.write_all(put(V4, 60).as_bytes()).unwrap();
        assert_eq!(rest(&mut stream), []);
        host.stop_daemon();
        let records = host.records(1);
        assert_eq!(records.len(), 1);
        let record = &records[0];
        assert_eq!(record["reason"], "caller_unknown", "{record}");
        assert_eq!(record["detail"], "other_socket", "{record}");
        assert_eq!(record["caller"]["uid"], Value::Null);
        assert_eq!(record["status"], Value::Null);
        named
    });
    assert_eq!(named, Some(0), "the listener's owner");
    shown(
        "A container's root asks from the port on which a service of the host's root listens.",
        "a reset; with every rule against it taken out, closed as `caller_unknown`, `other_socket`",
        "the kernel's answer taken as it is: uid 0, the owner of that listener",
    );
}
