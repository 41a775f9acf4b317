//! Paths that a front and the service behind it could read in two ways: sent
//! to the firewall, and to a front as one writes it at first.

use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, connect, request, token};
use crate::common::net::in_network;
use crate::common::shown::shown;
use crate::common::user::ALICE;

const BELOW: &str = "/latest/meta-data/iam/security-credentials/";
const FRONT: &str = "127.0.0.1:8080";

/// Targets that mean the role's credentials to somebody, and what to call them.
const SPELLINGS: [(&str, &str); 9] = [
    ("as it is", "/latest/meta-data/iam/security-credentials/web"),
    (
        "doubled slash",
        "/latest//meta-data/iam/security-credentials/web",
    ),
    (
        "leading slash",
        "//latest/meta-data/iam/security-credentials/web",
    ),
    (
        "other version",
        "/2021-03-23/meta-data/iam/security-credentials/web",
    ),
    (
        "absolute form",
        "http://169.254.169.254/latest/meta-data/iam/security-credentials/web",
    ),
    ("escape", "/latest/meta-data/iam/%73ecurity-credentials/web"),
    (
        "double escape",
        "/latest/meta-data/iam/%2573ecurity-credentials/web",
    ),
    (
        "dot segments",
        "/latest/meta-data/x/../iam/security-credentials/web",
    ),
    (
        "path parameter",
        "/latest/meta-data/iam;x/security-credentials/web",
    ),
];
/// Behind a request that everybody may make, on the same connection.
const BEHIND_ANOTHER: &str = "second request";

/// Compares the target as sent with the pattern to be denied, and passes the
/// client's bytes on.
struct NaiveFront(JoinHandle<()>);

impl NaiveFront {
    /// For so many connections.
    fn start(connections: usize) -> Self {
        let listener = TcpListener::bind(FRONT).unwrap();
        Self(thread::spawn(move || {
            for _ in 0..connections {
                pass(listener.accept().unwrap().0);
            }
        }))
    }
}

fn pass(mut client: TcpStream) {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    while !head.windows(4).any(|it| it == b"\r\n\r\n") {
        let len = client.read(&mut chunk).unwrap();
        head.extend(&chunk[..len]);
    }
    let text = String::from_utf8_lossy(&head);
    if text.split(' ').nth(1).unwrap().starts_with(BELOW) {
        let refusal = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        return client.write_all(refusal).unwrap();
    }
    let service: SocketAddr = V4.parse().unwrap();
    let mut service = TcpStream::connect(service).unwrap();
    service.write_all(&head).unwrap();
    service.shutdown(Shutdown::Write).unwrap();
    let _ = io::copy(&mut service, &mut client);
}

fn attempts(token: &str) -> Vec<(&'static str, String)> {
    let get = |target| request("GET", V4, target, Some(token), "close");
    let mut attempts: Vec<_> = SPELLINGS.map(|(name, target)| (name, get(target))).into();
    let harmless = request(
        "GET",
        V4,
        "/latest/meta-data/ami-id",
        Some(token),
        "keep-alive",
    );
    attempts.push((BEHIND_ANOTHER, harmless + &get(SPELLINGS[0].1)));
    attempts
}

/// All that is answered on a connection of alice's own.
fn ask(to: &str, bytes: &str) -> String {
    let mut stream = connect(ALICE, to);
    stream.write_all(bytes.as_bytes()).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8(said).unwrap()
}

/// Names of the spellings that brought credentials.
fn fetched(to: &str, attempts: &[(&'static str, String)]) -> Vec<&'static str> {
    let brings = |bytes: &str| ask(to, bytes).contains("SecretAccessKey");
    let fetched = attempts.iter().filter(|(_, bytes)| brings(bytes));
    fetched.map(|(name, _)| *name).collect()
}

#[test]
fn no_spelling_of_a_path_leads_around_its_rule() {
    let (judged, malformed) = in_network(|net| {
        let host = Host::start(net, &Setup::default());
        let attempts = attempts(&token(ALICE, V4, 60));
        assert_eq!(fetched(V4, &attempts), Vec::<&str>::new());
        // The token, each of them, and the one before the last.
        let total = 2 + attempts.len();
        let records = host.records(total).split_off(1);
        assert_eq!(records.len(), total - 1);
        let refused: Vec<_> = records
            .iter()
            .filter(|it| it["request"]["path"] != "/latest/meta-data/ami-id")
            .collect();
        assert!(refused.iter().all(|it| it["decision"] == "deny"));
        let judged = refused.iter().filter(|it| {
            it["request"]["class"] == "credentials"
                && it["reason"] == "default"
                && it["status"] == 403
        });
        let malformed = refused
            .iter()
            .filter(|it| it["reason"] == "malformed" && it["status"] == 400);
        let counts = (judged.count(), malformed.count());
        assert_eq!(counts.0 + counts.1, attempts.len());
        for seen in host.seen_by_service("request") {
            assert!(!seen["path"].as_str().unwrap().contains("iam"), "{seen}");
        }
        counts
    });
    let fetched = in_network(|net| {
        let _host = Host::service_alone(net);
        let attempts = attempts(&token(ALICE, V4, 60));
        let front = NaiveFront::start(attempts.len());
        let fetched = fetched(FRONT, &attempts);
        front.0.join().unwrap();
        fetched
    });
    assert_eq!(
        fetched,
        [
            "doubled slash",
            "leading slash",
            "other version",
            "absolute form",
            BEHIND_ANOTHER
        ]
    );
    shown(
        "A user spells the path to the credentials in ten ways.",
        format!(
            "{judged} are 403 by the rule for credentials, {malformed} are 400 (`malformed`); the \
             service sees none"
        ),
        format!(
            "a front that compares the target as sent and passes the bytes on: credentials by {}",
            fetched.join(", ")
        ),
    );
}
