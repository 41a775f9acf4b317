//! What the pure parts take, each alone: `cargo bench --bench parts`. What a
//! request costs whole is measured by the bench `service`.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::fmt::Write as _;
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;

use divan::Bencher;
use imdsfw::audit::{Decision, Ending, Host, Log, Pending, Reason};
use imdsfw::config::{Action, Mode};
use imdsfw::diagnose::{Diagnostics, Source};
use imdsfw::ids::{ClientAddr, Gid, Uid};
use imdsfw::policy::{Account, AccountFacts, Group, Policy, Query, Subject};
use imdsfw::provider::{Class, Provider};
use imdsfw::request::{
    CanonicalPath, CanonicalRequest, Intent, PresentedToken, ReadMethod, Scan, Service, Ttl, scan,
};
use imdsfw::token::{Moment, TokenKey};

const PATH: &str = "/latest/meta-data/iam/security-credentials/web";
const CALLER: Uid = Uid(4004);
const NONCE: [u8; 8] = [7; 8];

fn main() {
    divan::main();
}

/// As botocore asks.
fn head(token: &str) -> String {
    format!(
        "GET {PATH} HTTP/1.1\r\nHost: 169.254.169.254\r\nAccept-Encoding: identity\r\n\
         User-Agent: Botocore/1.34.0 md/Botocore#1.34.0 ua/2.0 os/linux lang/python#3.11.2\r\n\
         X-aws-ec2-metadata-token: {token}\r\n\r\n"
    )
}

fn service() -> Service {
    Service {
        provider: Provider::Aws,
        addresses: Provider::Aws.addresses(),
    }
}

fn canonicalise(service: &Service, bytes: &[u8]) -> CanonicalRequest {
    match scan(bytes) {
        Scan::Whole { head, .. } => CanonicalRequest::parse(service, &head).unwrap(),
        _ => panic!("not a whole request"),
    }
}

/// Bytes to a request with one meaning.
#[divan::bench]
fn canonicalise_head(bencher: Bencher) {
    let (service, head) = (service(), head(&"A".repeat(56)));
    bencher.bench(|| canonicalise(&service, black_box(head.as_bytes())));
}

/// The policy that comes with it, behind so many rules about other callers.
fn policy(rules: usize) -> Policy {
    let mut text = String::from("schema = 1\n");
    for number in 0..rules {
        writeln!(
            text,
            "[[rule]]\nname = \"{number}\"\naction = \"allow\"\nwho = [\"user:user{number}\"]\n\
             paths = [\"@role\"]"
        )
        .unwrap();
    }
    let shipped = include_str!("../policies/multi-user.toml");
    let sources = [
        Source::new("10-site.toml", &text),
        Source::new("90-base.toml", shipped),
    ];
    let mut found = Diagnostics::new();
    Policy::parse(&sources, Provider::Aws, Action::Deny, &mut found)
        .unwrap_or_else(|| panic!("{found}"))
}

fn caller() -> Subject {
    let group = |gid: u32, name: &str| Group {
        gid: Gid(gid),
        name: Some(name.into()),
    };
    Subject {
        uid: CALLER,
        account: Account::Known(AccountFacts {
            user: "cwagent".into(),
            gid: Gid(4400),
            groups: vec![group(4400, "cwagent"), group(7000, "ops")],
        }),
    }
}

/// A request to a verdict, with so many rules that do not matter.
#[divan::bench(args = [0, 10_000])]
fn decide(bencher: Bencher, rules: usize) {
    let (policy, caller) = (policy(rules), caller());
    let path = CanonicalPath::parse(Provider::Aws, PATH.as_bytes()).unwrap();
    assert_eq!(
        policy
            .decide(&Query::new(&caller, ReadMethod::Get, &path))
            .action(),
        Action::Allow
    );
    bencher.bench(|| policy.decide(black_box(&Query::new(&caller, ReadMethod::Get, &path))));
}

/// The same for a caller whose names are not known.
#[divan::bench(args = [0, 10_000])]
fn decide_undecidable(bencher: Bencher, rules: usize) {
    let policy = policy(rules);
    let caller = Subject {
        account: Account::Undecidable,
        ..caller()
    };
    let path = CanonicalPath::parse(Provider::Aws, PATH.as_bytes()).unwrap();
    bencher.bench(|| policy.decide(black_box(&Query::new(&caller, ReadMethod::Get, &path))));
}

fn key() -> TokenKey {
    TokenKey::new(&[1; 64])
}

fn mint(key: &TokenKey) -> String {
    let ttl = Ttl::parse(b"21600").unwrap();
    key.mint(CALLER, ttl, Moment(0), NONCE).into_body()
}

#[divan::bench]
fn mint_token(bencher: Bencher) {
    let key = key();
    bencher.bench(|| mint(black_box(&key)));
}

#[divan::bench]
fn verify_token(bencher: Bencher) {
    let key = key();
    let token = presented(&mint(&key));
    assert!(key.verify(&token, CALLER, Moment(0)).is_ok());
    bencher.bench(|| key.verify(black_box(&token), CALLER, Moment(0)));
}

fn presented(token: &str) -> PresentedToken {
    match canonicalise(&service(), head(token).as_bytes()).intent() {
        Intent::Read(read) => read.token.clone().unwrap(),
        Intent::Mint(_) => panic!("not a read"),
    }
}

/// A request's record, from nothing to the queue of the thread that writes.
/// Many of them in a row: one alone would have to wake that thread.
#[divan::bench(sample_size = 100)]
fn record(bencher: Bencher) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.jsonl");
    let (log, writer) = Log::open(path, Host::read(), 1).unwrap();
    let subject = Arc::new(caller());
    let address = ClientAddr::new(SocketAddr::from(([10, 77, 0, 2], 40112)));
    let [rule, policy]: [Arc<str>; 2] = ["the agent acts as the role".into(), "sha256:…".into()];
    bencher.bench(|| {
        let mut record = Pending::new(&log, address, Mode::Enforce);
        record.facts.subject = Some(Arc::clone(&subject));
        record.facts.method = Some("GET".into());
        record.facts.path = Some(PATH.into());
        record.facts.class = Some(Class::Credentials);
        record.facts.imds = Some("v2");
        record.facts.policy = Some(Arc::clone(&policy));
        record.facts.verdict = Some(Decision::Allow);
        record.facts.rule = Some(Arc::clone(&rule));
        record.finish(Ending {
            decision: Decision::Allow,
            reason: Reason::Allowed,
            detail: None,
            status: Some(200),
            bytes: 1200,
        });
    });
    drop(log);
    writer.close();
}
