//! What `explain`, `test`, `audit replay` and the daemon say of one request is the same: for
//! callers, paths, methods and versions at random, also where no name can be
//! looked up.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::net::TcpStream;

use serde_json::Value;

use crate::common::host::{Host, Setup};
use crate::common::http::{V4, connect, read_answer, request, token};
use crate::common::net::{Net, in_network};
use crate::common::user::User;

/// Of each path, caller, method and version together; `AGREEMENT=10000` asks
/// for so many.
const REQUESTS: usize = 900;
const POLICIES: usize = 3;
/// Accounts of this test, a third of whom NSS will not name.
const PEOPLE: u32 = 60;
const FIRST: u32 = 6000;
const GROUPS: u32 = 8;

/// xorshift64: what was asked can be asked again.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(bound).unwrap()).unwrap()
    }

    fn of<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.below(words.len())]
    }
}

/// Paths of every class but credentials, which hang on the witness as well.
const PATHS: [&str; 16] = [
    "",
    "meta-data/",
    "meta-data/instance-id",
    "meta-data/mac",
    "meta-data/placement/region",
    "meta-data/iam/",
    "meta-data/iam/info",
    "meta-data/iam/security-credentials/",
    "meta-data/tags/instance/Name",
    "meta-data/public-keys/0/openssh-key",
    "meta-data/spot/",
    "meta-data/not-known-yet",
    "dynamic/instance-identity/document",
    "dynamic/instance-identity/pkcs7",
    "user-data",
    "user-data/",
];
const SETS: [&str; 10] = [
    "@routine",
    "@live",
    "@secrets",
    "@identity",
    "@ssh",
    "@role",
    "@unclassified",
    "/**",
    "/meta-data/*",
    "/user-data",
];
const VERSIONS: [&str; 4] = ["latest", "2021-03-23", "1.0", "2016-09-02"];

/// Rules about users, groups and numbers at random, with exceptions.
fn policy(dice: &mut Dice) -> String {
    let principal = |dice: &mut Dice| match dice.below(7) {
        0 => "any".to_owned(),
        1 => format!("user:person{}", dice.below(60)),
        2 | 3 => format!("group:group{}", dice.below(8)),
        4 => format!("gid:{}", 7100 + dice.below(3)),
        5 => format!("uid:{}", 6000 + dice.below(60)),
        _ => format!("uid:{}-", 6000 + dice.below(60)),
    };
    let mut text = String::new();
    for at in 0..40 {
        let action = dice.of(&["allow", "allow", "deny"]);
        let (who, paths) = (principal(dice), dice.of(&SETS));
        write!(
            text,
            "[[rule]]\nname = \"r{at}\"\naction = \"{action}\"\nwho = [\"{who}\"]\n\
             paths = [\"{paths}\"]\n"
        )
        .unwrap();
        if dice.below(3) == 0 {
            writeln!(text, "except = [\"{}\"]", principal(dice)).unwrap();
        }
        if dice.below(4) == 0 {
            writeln!(text, "methods = [\"{}\"]", dice.of(&["GET", "HEAD"])).unwrap();
        }
        if action == "allow" && dice.below(2) == 0 {
            text += "imdsv1 = true\n";
        }
    }
    text
}

#[derive(Clone, Debug)]
struct Case {
    uid: u32,
    /// As NSS has them, where it has them.
    account: Option<(String, Vec<u32>)>,
    path: String,
    method: &'static str,
    v1: bool,
}

fn groups_of(uid: u32) -> Vec<u32> {
    (0..GROUPS)
        .filter(|group| uid.is_multiple_of(group + 2))
        .collect()
}

/// Whom NSS will not name: an account that is not there could be anybody's.
fn is_nameless(uid: u32) -> bool {
    uid.is_multiple_of(3)
}

fn cases(dice: &mut Dice, count: usize) -> Vec<Case> {
    (0..count)
        .map(|_| {
            let uid = FIRST + u32::try_from(dice.below(PEOPLE as usize)).unwrap();
            let account =
                (!is_nameless(uid)).then(|| (format!("person{}", uid - FIRST), groups_of(uid)));
            Case {
                uid,
                account,
                path: format!("/{}/{}", dice.of(&VERSIONS), dice.of(&PATHS)),
                method: dice.of(&["GET", "GET", "HEAD"]),
                v1: dice.below(4) == 0,
            }
        })
        .collect()
}

/// What each of the ways to a verdict says of one request.
type Said = Vec<(bool, Option<String>)>;

/// The accounts behind the uids, in the mount namespace of the host.
fn provide_people() {
    let passwd = fs::read_to_string("/etc/passwd").unwrap();
    let group = fs::read_to_string("/etc/group").unwrap();
    let people = (FIRST..FIRST + PEOPLE).filter(|uid| !is_nameless(*uid));
    let passwd = people.clone().fold(passwd, |text, uid| {
        text + &format!(
            "person{}:x:{uid}:{}::/:/bin/sh\n",
            uid - FIRST,
            uid + 20_000
        )
    });
    let group = (0..GROUPS).fold(group, |text, group| {
        let members: Vec<_> = people
            .clone()
            .filter(|uid| groups_of(*uid).contains(&group))
            .map(|uid| format!("person{}", uid - FIRST))
            .collect();
        text + &format!("group{group}:x:{}:{}\n", 7100 + group, members.join(","))
    });
    // In place of what the host put there: the same file, filled anew.
    fs::write("/etc/passwd", passwd).unwrap();
    fs::write("/etc/group", group).unwrap();
}

fn by_daemon(host: &Host, cases: &[Case]) -> Said {
    let mut tokens = HashMap::new();
    let mut streams: HashMap<u32, TcpStream> = HashMap::new();
    for case in cases {
        let user = User {
            uid: case.uid,
            gid: case.uid + 20_000,
        };
        let token = tokens
            .entry(case.uid)
            .or_insert_with(|| token(user, V4, 21_600));
        let token = (!case.v1).then_some(token.as_str());
        let bytes = request(case.method, V4, &case.path, token, "keep-alive");
        // An answer to HEAD has no body, whatever its length says.
        if case.method == "HEAD" {
            let bytes = request(case.method, V4, &case.path, token, "close");
            crate::common::http::raw(user, V4, bytes.as_bytes());
            continue;
        }
        let stream = streams.entry(case.uid).or_insert_with(|| connect(user, V4));
        std::io::Write::write_all(stream, bytes.as_bytes()).unwrap();
        read_answer(stream).unwrap();
    }
    drop(streams);
    let mut records = host.records(cases.len() + tokens.len());
    records.retain(|it| it["request"]["method"] != "PUT");
    assert_eq!(records.len(), cases.len());
    records
        .iter()
        .zip(cases)
        .map(|(record, case)| {
            assert_eq!(record["caller"]["uid"], case.uid, "{record}");
            let forwarded = !matches!(record["status"].as_u64(), Some(401 | 403));
            let allowed = record["verdict"] == "allow";
            assert_eq!(forwarded, allowed, "{record}");
            (allowed, record["rule"].as_str().map(str::to_owned))
        })
        .collect()
}

/// As `[[test]]` tables, each of which says what the others were told.
fn by_test(host: &Host, policy: &str, cases: &[Case]) -> Said {
    let mut text = policy.to_owned();
    for case in cases {
        let caller = match &case.account {
            None => String::new(),
            Some((user, groups)) => {
                let names = groups
                    .iter()
                    .flat_map(|group| [format!("\"group{group}\""), (7100 + group).to_string()]);
                let own = (case.uid + 20_000).to_string();
                let groups: Vec<_> = [own].into_iter().chain(names).collect();
                format!(", user = \"{user}\", groups = [{}]", groups.join(", "))
            }
        };
        writeln!(
            text,
            "[[test]]\nas = {{ uid = {}{caller} }}\npath = \"{}\"\nmethod = \"{}\"\nv1 = {}\n\
             expect = \"allow\"",
            case.uid, case.path, case.method, case.v1
        )
        .unwrap();
    }
    let file = host.path("tested.toml");
    fs::write(&file, text).unwrap();
    let output = host.command("test --json").arg(&file).output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let tests = said["tests"].as_array().unwrap();
    let said = tests.iter().map(|test| {
        let why = test["why"].as_str().unwrap();
        let rule = why
            .strip_prefix("by rule \"")
            .and_then(|rest| rest.split('"').next());
        (test["got"] == "allow", rule.map(str::to_owned))
    });
    said.collect()
}

/// Each by a process of its own.
fn by_explain(host: &Host, _: &str, cases: &[Case]) -> Said {
    let said = cases.iter().map(|case| {
        let mut command = host.command("explain --json");
        command.args(["--user", &case.uid.to_string(), "--method", case.method]);
        if case.v1 {
            command.arg("--v1");
        }
        let output = command.arg(&case.path).output().unwrap();
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        let allowed = said["verdict"] == "allow";
        assert_eq!(output.status.code(), Some(i32::from(!allowed)), "{said}");
        (allowed, said["rule"].as_str().map(str::to_owned))
    });
    said.collect()
}

/// A way to a verdict that is not the daemon's.
type Way = fn(&Host, &str, &[Case]) -> Said;

/// Whatever else says what the rules say belongs here.
const WAYS: [(&str, Way); 2] = [("test", by_test), ("explain", by_explain)];

#[test]
fn whatever_predicts_a_verdict_agrees_with_the_daemon() {
    let asked = std::env::var("AGREEMENT").ok();
    let count = asked.map_or(REQUESTS, |count| count.parse().unwrap());
    let mut dice = Dice(0x1d8e_4e27_c47d_124f);
    let mut seen = HashMap::new();
    for _ in 0..POLICIES {
        let policy = policy(&mut dice);
        let cases = cases(&mut dice, count / POLICIES);
        seen = in_network(move |net| compared(net, policy, &cases, seen));
    }
    // Each kind of caller was allowed something, and refused something.
    for (kind, least) in [
        ((true, true, false), 50),
        ((false, true, false), 50),
        ((true, false, false), 15),
        ((false, false, false), 50),
        ((true, true, true), 3),
        ((false, true, true), 20),
    ] {
        let found = seen.get(&kind).copied().unwrap_or(0);
        assert!(
            found * REQUESTS >= least * count,
            "{kind:?}: {found} of {seen:?}"
        );
    }
    eprintln!("{count} requests, by (allowed, named, v1): {seen:?}");
}

/// The records judged again: what can be, as it was.
fn replayed(host: &Host, count: usize) {
    let mut command = host.command("audit replay --json");
    command.arg("--policy").arg(host.path("policy.d"));
    let output = command.output().unwrap();
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(said["otherwise"], 0, "{said}");
    assert_eq!(output.status.code(), Some(0), "{said}");
    let judged = said["as_recorded"].as_u64().unwrap();
    assert!(usize::try_from(judged).unwrap() > count / 8, "{said}");
}

type Seen = HashMap<(bool, bool, bool), usize>;

fn compared(net: &Net, policy: String, cases: &[Case], mut seen: Seen) -> Seen {
    let setup = Setup {
        policy: policy.clone(),
        ..Setup::default()
    };
    let mut host = Host::prepare(net, &setup);
    provide_people();
    host.run("rules apply");
    host.start_daemon();
    let live = by_daemon(&host, cases);
    for (way, said) in WAYS {
        let said = said(&host, &policy, cases);
        assert_eq!(said.len(), live.len(), "{way}");
        for ((case, live), said) in cases.iter().zip(&live).zip(&said) {
            assert_eq!(live, said, "{case:?}: the daemon, and {way}");
        }
    }
    replayed(&host, cases.len());
    for (case, (allowed, _)) in cases.iter().zip(&live) {
        *seen
            .entry((*allowed, case.account.is_some(), case.v1))
            .or_insert(0) += 1;
    }
    seen
}
