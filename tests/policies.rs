//! Every shipped policy keeps its promise: it loads without a word of
//! complaint, alone and with any other that is meant to stand beside it, its
//! own tests pass, and nobody gets from it what its header does not name.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use imdsfw::config::Action;
use imdsfw::diagnose::{Diagnostics, Source};
use imdsfw::ids::{Gid, Uid};
use imdsfw::policy::{Account, AccountFacts, Draft, Name, Policy, Query, Subject};
use imdsfw::provider::{Class, Provider};
use imdsfw::request::{CanonicalPath, ReadMethod};

/// Complete policies, of which a host has one.
const BASES: [&str; 7] = [
    "agents-only.toml",
    "ci-runner.toml",
    "hpc-head-node.toml",
    "jupyterhub.toml",
    "multi-user.toml",
    "root-only.toml",
    "shell-host.toml",
];

const ROLE: [&str; 3] = [
    "meta-data/iam/security-credentials",
    "meta-data/iam/security-credentials/web",
    "meta-data/iam/security-credentials-extended/web",
];
const INSTANCE: &str = "meta-data/identity-credentials/ec2/security-credentials/ec2-instance";
const DOCUMENT: &str = "dynamic/instance-identity/document";

/// What no rule of these policies may give to everyone.
const GUARDED: [Class; 5] = [
    Class::Credentials,
    Class::Secrets,
    Class::Identity,
    Class::Ssh,
    Class::Unclassified,
];

/// What there is to read, by any of its clients.
const PATHS: [&str; 44] = [
    "",
    "user-data",
    "dynamic",
    "dynamic/fws/instance-monitoring",
    DOCUMENT,
    "dynamic/instance-identity/pkcs7",
    "dynamic/instance-identity/rsa2048",
    "dynamic/instance-identity/signature",
    "meta-data",
    "meta-data/ami-id",
    "meta-data/autoscaling/target-lifecycle-state",
    "meta-data/block-device-mapping/root",
    "meta-data/events/maintenance/scheduled",
    "meta-data/events/recommendations/rebalance",
    "meta-data/hibernation/configured",
    "meta-data/hostname",
    "meta-data/iam/info",
    ROLE[0],
    ROLE[1],
    ROLE[2],
    "meta-data/identity-credentials/ec2/info",
    INSTANCE,
    "meta-data/instance-id",
    "meta-data/instance-type",
    "meta-data/local-hostname",
    "meta-data/local-ipv4",
    "meta-data/mac",
    "meta-data/managed-ssh-keys/active-keys/root",
    "meta-data/managed-ssh-keys/signer-cert",
    "meta-data/managed-ssh-keys/signer-ocsp/0a1b",
    "meta-data/network/interfaces/macs",
    "meta-data/network/interfaces/macs/0e:00:00:00:00:01/local-ipv4s",
    "meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-ipv4-cidr-block",
    "meta-data/not-known-yet",
    "meta-data/outpost-arn",
    "meta-data/placement/availability-zone",
    "meta-data/placement/availability-zone-id",
    "meta-data/placement/region",
    "meta-data/public-ipv4",
    "meta-data/public-keys/0/openssh-key",
    "meta-data/security-groups",
    "meta-data/services/domain",
    "meta-data/spot/instance-action",
    "meta-data/tags/instance/Name",
];

/// Each drop-in, each account that it speaks of, and which of [`PATHS`] that
/// account reads by it. `@role` is short for [`ROLE`], `@all` for all paths.
const AGENTS: &[(&str, &[&str], &[&str])] = &[
    (
        "50-ec2-instance-connect.toml",
        &["ec2-instance-connect"],
        &[
            "meta-data/instance-id",
            "meta-data/managed-ssh-keys/active-keys/root",
            "meta-data/managed-ssh-keys/signer-cert",
            "meta-data/managed-ssh-keys/signer-ocsp/0a1b",
            "meta-data/placement/availability-zone",
            "meta-data/services/domain",
        ],
    ),
    (
        "50-ec2-net-utils.toml",
        &["root"],
        &[
            "meta-data/local-hostname",
            "meta-data/mac",
            "meta-data/network/interfaces/macs",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/local-ipv4s",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-ipv4-cidr-block",
        ],
    ),
    (
        "50-hibinit.toml",
        &["root"],
        &["meta-data/hibernation/configured"],
    ),
    (
        "50-landscape.toml",
        &["landscape"],
        &[
            "meta-data/ami-id",
            "meta-data/instance-id",
            "meta-data/instance-type",
        ],
    ),
    (
        "50-rhui.toml",
        &["root"],
        &[DOCUMENT, "dynamic/instance-identity/signature"],
    ),
    (
        "50-ubuntu-pro.toml",
        &["root"],
        &[DOCUMENT, "dynamic/instance-identity/pkcs7"],
    ),
    ("55-apt-transport-s3.toml", &["_apt"], &["@role", DOCUMENT]),
    ("55-gitlab-runner.toml", &["root"], &["@role", DOCUMENT]),
    (
        "56-efs-utils.toml",
        &["root"],
        &[
            "@role",
            DOCUMENT,
            "meta-data/instance-id",
            "meta-data/placement/availability-zone-id",
        ],
    ),
    (
        "60-aws-node.toml",
        &["root"],
        &[
            "@role",
            DOCUMENT,
            "meta-data/instance-id",
            "meta-data/instance-type",
            "meta-data/local-ipv4",
            "meta-data/mac",
            "meta-data/network/interfaces/macs",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/local-ipv4s",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-ipv4-cidr-block",
            "meta-data/placement/availability-zone",
        ],
    ),
    (
        "60-cloudwatch-agent.toml",
        &["root", "cwagent"],
        &[
            "@role",
            DOCUMENT,
            "meta-data/hostname",
            "meta-data/instance-id",
            "meta-data/tags/instance/Name",
        ],
    ),
    (
        "60-ecs-agent.toml",
        &["root"],
        &[
            "@role",
            DOCUMENT,
            "dynamic/instance-identity/signature",
            "meta-data/autoscaling/target-lifecycle-state",
            "meta-data/instance-id",
            "meta-data/local-ipv4",
            "meta-data/mac",
            "meta-data/network/interfaces/macs",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/local-ipv4s",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-ipv4-cidr-block",
            "meta-data/outpost-arn",
            "meta-data/placement/availability-zone-id",
            "meta-data/placement/region",
            "meta-data/public-ipv4",
            "meta-data/spot/instance-action",
        ],
    ),
    (
        "60-parallelcluster.toml",
        &["root"],
        &[
            "@role",
            DOCUMENT,
            "meta-data/block-device-mapping/root",
            "meta-data/instance-id",
            "meta-data/local-ipv4",
            "meta-data/mac",
            "meta-data/network/interfaces/macs",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/local-ipv4s",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-ipv4-cidr-block",
            "meta-data/placement/region",
        ],
    ),
    (
        "60-parallelcluster.toml",
        &["pcluster-admin"],
        &[
            "@role",
            DOCUMENT,
            "meta-data/autoscaling/target-lifecycle-state",
            "meta-data/instance-id",
            "meta-data/placement/region",
        ],
    ),
    (
        "60-parallelcluster.toml",
        &["dcv"],
        &["@role", DOCUMENT, "meta-data/placement/region"],
    ),
    (
        "60-ssm-agent.toml",
        &["root"],
        &[
            "@role",
            INSTANCE,
            DOCUMENT,
            "meta-data",
            "meta-data/instance-id",
            "meta-data/instance-type",
            "meta-data/network/interfaces/macs",
            "meta-data/network/interfaces/macs/0e:00:00:00:00:01/vpc-ipv4-cidr-block",
            "meta-data/placement/availability-zone",
            "meta-data/placement/availability-zone-id",
            "meta-data/services/domain",
        ],
    ),
    ("70-cloud-init.toml", &["root"], &["@all", "!credentials"]),
];

fn policies() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/policies"))
}

fn names_in(directory: &Path) -> BTreeSet<String> {
    let names = fs::read_dir(directory).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.into_string().unwrap()
    });
    names.filter(|name| name.ends_with(".toml")).collect()
}

fn drop_ins() -> BTreeSet<String> {
    names_in(&policies().join("agents"))
}

/// Every file, by its path below `policies`.
fn shipped() -> Vec<String> {
    let agents = drop_ins().into_iter().map(|name| format!("agents/{name}"));
    BASES.map(str::to_owned).into_iter().chain(agents).collect()
}

fn text(name: &str) -> String {
    fs::read_to_string(policies().join(name)).unwrap()
}

fn source(name: &str) -> Arc<Source> {
    Source::new(name, text(name))
}

/// As on a host: the drop-ins in their order, the base behind them.
fn together(base: &str, agents: &[&str]) -> Vec<Arc<Source>> {
    let agents = agents.iter().map(|name| source(&format!("agents/{name}")));
    agents.chain([source(base)]).collect()
}

fn load(sources: &[Arc<Source>]) -> Policy {
    let mut found = Diagnostics::new();
    let policy = Policy::parse(sources, Provider::Aws, Action::Deny, &mut found);
    assert!(found.is_empty(), "{found}");
    policy.unwrap()
}

fn path(resource: &str) -> CanonicalPath {
    CanonicalPath::parse(Provider::Aws, format!("/latest/{resource}").as_bytes()).unwrap()
}

/// Somebody of that name, who is not root by number unless by name.
fn account(user: &str) -> Subject {
    Subject {
        uid: Uid(if user == "root" { 0 } else { 3_000_000_001 }),
        account: Account::Known(AccountFacts {
            user: user.to_owned(),
            gid: Gid(3_000_000_002),
            groups: Vec::new(),
        }),
    }
}

/// What of [`PATHS`] a policy lets somebody read.
fn readable(policy: &Policy, by: &Subject) -> BTreeSet<&'static str> {
    let allowed = |resource: &&str| {
        policy
            .decide(&Query::new(by, ReadMethod::Get, &path(resource)))
            .action()
            == Action::Allow
    };
    PATHS.into_iter().filter(allowed).collect()
}

#[test]
fn there_is_no_file_that_these_tests_do_not_know() {
    assert_eq!(names_in(policies()), BASES.map(str::to_owned).into());
    let known = AGENTS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(drop_ins(), known);
}

#[test]
fn the_readme_names_every_base() {
    let (_, table) = include_str!("../README.md")
        .split_once("<!-- policies -->\n")
        .unwrap();
    let (table, _) = table.split_once("\n\n").unwrap();
    let rows = table.lines().skip(2).map(|row| {
        let (name, _) = row.strip_prefix("| [`").unwrap().split_once("`](").unwrap();
        assert!(row.contains(&format!("(policies/{name})")), "{row}");
        name.to_owned()
    });
    assert_eq!(
        rows.collect::<BTreeSet<_>>(),
        BASES.map(str::to_owned).into()
    );
}

#[test]
fn every_shipped_policy_loads_and_proves_itself() {
    for name in shipped() {
        let source = [source(&name)];
        load(&source);
        let mut found = Diagnostics::new();
        let draft = Draft::parse(&source, Provider::Aws, Action::Deny, &mut found).unwrap();
        let count = |action| draft.proofs().filter(|(it, _)| it.expect == action).count();
        assert!(
            count(Action::Allow) >= 1 && count(Action::Deny) >= 2,
            "{name}"
        );
        // Its tests must notice when what they forbid becomes allowed.
        assert!(Policy::parse(&source, Provider::Aws, Action::Allow, &mut found).is_none());
    }
}

/// For whom it is, who reads what by it, and what to edit.
#[test]
fn every_shipped_policy_says_what_it_is_for() {
    for name in shipped() {
        let text = text(&name);
        let header: Vec<_> = text
            .lines()
            .take_while(|line| line.starts_with('#'))
            .collect();
        assert!(header[0].starts_with("# For "), "{name}");
        assert!(header.iter().any(|line| line.starts_with("#   ")), "{name}");
        assert!(
            header.iter().any(|line| line.starts_with("# Edit: ")),
            "{name}"
        );
        let wide = header.iter().find(|line| line.chars().count() > 80);
        assert_eq!(wide, None, "{name}");
        let mut found = Diagnostics::new();
        let draft = Draft::parse(&[source(&name)], Provider::Aws, Action::Deny, &mut found);
        for (mentioned, _) in draft.unwrap().mentions() {
            let Name::User(user) = mentioned else {
                panic!("{name}: {mentioned}")
            };
            assert!(
                header.iter().any(|line| line.contains(user)),
                "{name}: {user}"
            );
        }
    }
}

/// No name is used twice, no rule keeps another from ever being reached, no
/// file makes another's tests fail.
#[test]
fn any_base_goes_with_any_drop_in_and_with_all_of_them() {
    let agents = drop_ins();
    let all: Vec<_> = agents.iter().map(String::as_str).collect();
    for base in BASES {
        for one in &all {
            load(&together(base, &[one]));
        }
        load(&together(base, &all));
    }
}

#[test]
fn nobody_without_a_name_in_a_policy_reads_what_is_guarded() {
    let agents = drop_ins();
    let all: Vec<_> = agents.iter().map(String::as_str).collect();
    let nameless = Subject {
        uid: Uid(3_000_000_001),
        account: Account::Undecidable,
    };
    for base in BASES {
        let policy = load(&together(base, &all));
        for somebody in [&account("somebody"), &nameless] {
            let read = readable(&policy, somebody);
            let guarded = read.iter().find(|it| GUARDED.contains(&path(it).class()));
            assert_eq!(guarded, None, "{base}");
            assert_eq!(read.is_empty(), base == "root-only.toml", "{base}");
        }
    }
}

#[test]
fn a_drop_in_gives_its_accounts_what_they_ask_for_and_no_more() {
    for (name, users, listed) in AGENTS {
        let policy = load(&[source(&format!("agents/{name}"))]);
        let mut expected: BTreeSet<&str> = listed.iter().copied().collect();
        if expected.remove("@role") {
            expected.extend(ROLE);
        }
        if expected.remove("@all") {
            expected.extend(PATHS);
        }
        if expected.remove("!credentials") {
            expected.retain(|it| path(it).class() != Class::Credentials);
        }
        for user in *users {
            assert_eq!(
                readable(&policy, &account(user)),
                expected,
                "{name}: {user}"
            );
        }
        assert_eq!(readable(&policy, &account("somebody")), BTreeSet::new());
    }
}

/// By the program itself, with warnings for errors, on a host that has every
/// account; and by name what a host lacks that has only root.
#[test]
fn check_strict_has_no_complaint_where_the_accounts_are() {
    let host = tempfile::tempdir().unwrap();
    let directory = host.path().join("policy.d");
    fs::create_dir(&directory).unwrap();
    for name in drop_ins() {
        fs::copy(policies().join("agents").join(&name), directory.join(&name)).unwrap();
    }
    let config = host.path().join("imdsfw.toml");
    let text = format!("schema = 1\n[policy]\ndirectories = [{directory:?}]\n");
    fs::write(&config, text).unwrap();
    let root = "root:x:0:0:root:/root:/bin/sh\n";
    let named = "_apt cwagent dcv ec2-instance-connect landscape pcluster-admin slurm";
    let others = named.split(' ').enumerate();
    let others =
        others.map(|(at, name)| format!("{name}:x:{}:{}::/:/bin/sh\n", 900 + at, 800 + at));
    let others: String = others.collect();
    for base in BASES {
        fs::copy(policies().join(base), directory.join("90-base.toml")).unwrap();
        for (accounts, complaints) in [(format!("{root}{others}"), false), (root.into(), true)] {
            let passwd = host.path().join("passwd");
            fs::write(&passwd, accounts).unwrap();
            let output = Command::new("unshare")
                .args(["--mount", "sh", "-euc"])
                .arg("mount --bind \"$1\" /etc/passwd; exec \"$2\" check --strict --config \"$3\"")
                .arg("sh")
                .args([&passwd, Path::new(env!("CARGO_BIN_EXE_imdsfw")), &config])
                .env("LC_ALL", "C")
                .output()
                .unwrap();
            let said = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.success(), !complaints, "{base}: {said}");
            let each = said
                .lines()
                .filter(|line| line.starts_with("error"))
                .count();
            assert_eq!(said.matches("no account has").count(), each, "{said}");
            assert_eq!(each > 0, complaints, "{said}");
        }
    }
}
