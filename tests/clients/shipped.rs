//! Clients under the policies that are shipped for them, each as the account
//! that it has: they get all they ask for, as without a firewall, and that
//! account gets nothing that they do not ask for.

use serde_json::Value;

use crate::agents::CRAWL;
use crate::common::net::in_network;
use crate::common::user::{ALICE, CWAGENT, ROOT, User};
use crate::desk::{Desk, Kind, Printed, lines};
use crate::sdk::{AS_ROLE, RESOLVE, resolved};

const APT: User = User {
    uid: 4005,
    gid: 4500,
};
const SLURM: User = User {
    uid: 4006,
    gid: 4600,
};
const PCLUSTER: User = User {
    uid: 4007,
    gid: 4700,
};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";
const INSTANCE_CREDENTIALS: &str =
    "/latest/meta-data/identity-credentials/ec2/security-credentials/ec2-instance";
const PKCS7: &str = "/latest/dynamic/instance-identity/pkcs7";
const USER_DATA: &str = "/latest/user-data";

/// What `client` printed, the same before and under the firewall; then that
/// `user` may read none of `refused`. Gives what the client asked for.
fn same_as_without(
    kind: Kind,
    user: User,
    user_agents: &'static [&'static str],
    client: impl Fn(&Desk) -> Printed + Send + 'static,
    refused: &'static [&'static str],
) -> (Printed, Vec<String>) {
    in_network(move |net| {
        let mut desk = Desk::of_kind(net, &kind);
        let before = client(&desk);
        assert_eq!(before.status, Some(0), "{before:?}");
        desk.put_up_firewall();
        assert_eq!(client(&desk), before);
        for path in refused {
            assert_eq!(desk.status(user, path), "403", "{}: {path}", kind.base);
        }
        let mut records = desk.records(user, &[user_agents, &["curl/"]].concat());
        // A token and a refusal for each.
        records.truncate(records.len() - 2 * refused.len());
        assert!(records.iter().all(|it| it["decision"] == "allow"));
        (before, lines(&records))
    })
}

#[test]
fn cloud_init_crawls_where_root_reads_nothing_else() {
    let kind = Kind {
        base: "agents-only.toml",
        agents: &["70-cloud-init.toml"],
        items: &["meta-data/outpost-arn=arn:aws:outposts:eu-west-1:123456789012:outpost/op-0"],
        ..Kind::default()
    };
    let crawl = |desk: &Desk| desk.python(ROOT, CRAWL);
    let agents = &["Cloud-Init/", "python-requests/"];
    let refused = &[CREDENTIALS, INSTANCE_CREDENTIALS];
    let (printed, asked) = same_as_without(kind, ROOT, agents, crawl, refused);
    let found: Value = serde_json::from_str(&printed.out).unwrap();
    assert_eq!(found["meta-data"]["tags"]["instance"]["Name"], "web-1");
    assert_eq!(found["meta-data"]["iam"]["info"]["Code"], "Success");
    assert!(found["meta-data"]["outpost-arn"].is_string());
    let identity = &found["dynamic"]["instance-identity"];
    assert_eq!(identity["document"]["region"], "eu-west-1", "{identity}");
    assert!(asked.len() > 50, "{asked:#?}");
    // Nothing a second time, as it does when it gets no answer, but the item by
    // which it first finds the service.
    let mut reads: Vec<_> = asked.iter().filter(|it| it.starts_with("GET ")).collect();
    assert!(reads.remove(0).contains("/meta-data/instance-id "));
    let all = reads.len();
    reads.sort_unstable();
    reads.dedup();
    assert_eq!(reads.len(), all, "{asked:#?}");
}

#[test]
fn apt_reads_packages_from_s3_as_its_own_account() {
    let kind = Kind {
        base: "shell-host.toml",
        agents: &["55-apt-transport-s3.toml"],
        accounts: &[("_apt", APT)],
        ..Kind::default()
    };
    let get_ready = |desk: &Desk| {
        let method = desk.client("debian/usr/lib/apt/methods/s3");
        desk.python(APT, &["-c", include_str!("apt.py"), &method])
    };
    let refused = &[INSTANCE_CREDENTIALS, PKCS7, USER_DATA];
    let (printed, asked) = same_as_without(kind, APT, &["Python-urllib/"], get_ready, refused);
    assert!(printed.out.starts_with("100 Capabilities\n"), "{printed:?}");
    assert!(printed.out.contains("s3.eu-west-1.amazonaws.com"));
    assert_eq!(
        asked,
        [
            "PUT /latest/api/token 200",
            "GET /latest/dynamic/instance-identity/document 200",
            "GET /latest/meta-data/iam/security-credentials/ 200",
            "GET /latest/meta-data/iam/security-credentials/web 200",
        ]
    );
}

#[test]
fn ec2_net_utils_set_up_a_second_interface() {
    let kind = Kind {
        base: "agents-only.toml",
        agents: &["50-ec2-net-utils.toml"],
        items: &[
            "meta-data/network/interfaces/macs/06:00:00:00:00:06/device-number=1",
            "meta-data/network/interfaces/macs/06:00:00:00:00:06/interface-id=eni-06",
            "meta-data/network/interfaces/macs/06:00:00:00:00:06/ipv6s=2001:db8::6",
            "meta-data/network/interfaces/macs/06:00:00:00:00:06/local-ipv4s=10.0.1.6\n10.0.1.7",
        ],
        ..Kind::default()
    };
    let set_up = |desk: &Desk| {
        let library = desk.client("debian/usr/share/amazon-ec2-net-utils/lib.sh");
        let script = include_str!("interface.sh");
        let arguments = ["-c", script, "bash", &library, "eth0", "06:00:00:00:00:06"];
        desk.run(ROOT, "/usr/bin/bash", &arguments)
    };
    let refused = &[
        CREDENTIALS,
        USER_DATA,
        PKCS7,
        "/latest/meta-data/spot/instance-action",
    ];
    let (printed, asked) = same_as_without(kind, ROOT, &["curl/"], set_up, refused);
    for written in ["From=10.0.1.7", "From=2001:db8::6", "Address=10.0.1.7/32"] {
        assert!(printed.out.contains(written), "{printed:?}");
    }
    let mut reads: Vec<_> = asked.iter().filter(|it| it.starts_with("GET ")).collect();
    reads.sort_unstable();
    reads.dedup();
    let interface = "GET /latest/meta-data/network/interfaces/macs/06:00:00:00:00:06";
    assert_eq!(
        reads,
        [
            "GET /latest/meta-data/mac 200",
            &format!("{interface}/device-number 200"),
            &format!("{interface}/interface-id 200"),
            &format!("{interface}/ipv4-prefix 404"),
            &format!("{interface}/ipv6-prefix 404"),
            &format!("{interface}/ipv6s 200"),
            &format!("{interface}/local-ipv4s 200"),
        ]
    );
}

/// Agents that are not packaged here resolve credentials as any SDK does.
#[test]
fn agents_act_as_the_role_and_read_no_user_data() {
    for (base, agents, accounts, user) in [
        (
            "hpc-head-node.toml",
            &[][..],
            &[("slurm", SLURM)][..],
            SLURM,
        ),
        (
            "hpc-head-node.toml",
            &["60-parallelcluster.toml"],
            &[("pcluster-admin", PCLUSTER)],
            PCLUSTER,
        ),
        (
            "shell-host.toml",
            &["60-cloudwatch-agent.toml"],
            &[],
            CWAGENT,
        ),
        ("agents-only.toml", &["60-cloudwatch-agent.toml"], &[], ROOT),
        ("agents-only.toml", &["60-ssm-agent.toml"], &[], ROOT),
        ("agents-only.toml", &["60-ecs-agent.toml"], &[], ROOT),
        ("agents-only.toml", &["60-aws-node.toml"], &[], ROOT),
        ("agents-only.toml", &["56-efs-utils.toml"], &[], ROOT),
        ("agents-only.toml", &["55-gitlab-runner.toml"], &[], ROOT),
    ] {
        let kind = Kind {
            base,
            agents,
            accounts,
            items: &[],
        };
        let refused = &[USER_DATA, PKCS7];
        // How long it took is never the same.
        let resolve = move |desk: &Desk| {
            let mut printed = desk.python(user, RESOLVE);
            printed.out = resolved(&printed).1.to_string();
            printed
        };
        let (printed, asked) = same_as_without(kind, user, &["Botocore/"], resolve, refused);
        assert!(printed.out.contains("iam-role"), "{base}: {printed:?}");
        assert_eq!(asked, AS_ROLE, "{base}");
    }
}

/// So what the drop-ins give is theirs, and not the base's.
#[test]
fn without_a_drop_in_root_acts_as_nobody() {
    in_network(|net| {
        let kind = Kind {
            base: "agents-only.toml",
            ..Kind::default()
        };
        let mut desk = Desk::of_kind(net, &kind);
        desk.put_up_firewall();
        assert_eq!(resolved(&desk.python(ROOT, RESOLVE)).1, Value::Null);
        for path in [
            USER_DATA,
            PKCS7,
            "/latest/meta-data/network/interfaces/macs/",
        ] {
            assert_eq!(desk.status(ROOT, path), "403", "{path}");
        }
    });
}

#[test]
fn a_notebook_learns_where_it_runs_and_not_how_to_act_as_the_machine() {
    in_network(|net| {
        let kind = Kind {
            base: "jupyterhub.toml",
            ..Kind::default()
        };
        let mut desk = Desk::of_kind(net, &kind);
        desk.put_up_firewall();
        let printed = desk.python(ALICE, &["-c", include_str!("region.py")]);
        assert_eq!(
            printed.out, "{\"region\": \"eu-west-1\", \"credentials\": null}\n",
            "{printed:?}"
        );
        assert_eq!(desk.status(ALICE, "/latest/meta-data/instance-id"), "403");
        let asked = lines(&desk.records(ALICE, &["Botocore/", "python-urllib3/", "curl/"]));
        let reads: Vec<_> = asked.iter().filter(|it| it.starts_with("GET ")).collect();
        assert_eq!(
            reads,
            [
                "GET /latest/meta-data/iam/security-credentials/ 403",
                "GET /latest/meta-data/placement/availability-zone/ 200",
                "GET /latest/meta-data/instance-id 403",
            ]
        );
    });
}

#[test]
fn a_job_learns_its_zone_and_nothing_of_the_network() {
    in_network(|net| {
        let kind = Kind {
            base: "ci-runner.toml",
            ..Kind::default()
        };
        let mut desk = Desk::of_kind(net, &kind);
        desk.put_up_firewall();
        let zone = desk.debian(ALICE, "ec2metadata", &["--availability-zone"]);
        assert_eq!(zone.out, "eu-west-1a\n", "{zone:?}");
        let address = desk.debian(ALICE, "ec2metadata", &["--local-ipv4"]);
        assert!(
            address.err.ends_with("HTTP Error 403: Forbidden\n"),
            "{address:?}"
        );
        let id = desk.debian(ALICE, "ec2-metadata", &["-i"]);
        assert_eq!(id.out, "instance-id: i-1234567890abcdef0\n");
    });
}

#[test]
fn a_person_with_a_shell_is_shown_what_the_policy_says() {
    in_network(|net| {
        let kind = Kind {
            base: "shell-host.toml",
            ..Kind::default()
        };
        let mut desk = Desk::of_kind(net, &kind);
        let before = desk.debian(ALICE, "ec2-metadata", &["--all"]);
        desk.put_up_firewall();
        let after = desk.debian(ALICE, "ec2-metadata", &["--all"]);
        assert_eq!(after.status, Some(0), "{after:?}");
        for shown in ["instance-id: ", "public-hostname: ", "placement: "] {
            let line = |printed: &Printed| {
                let mut lines = printed.out.lines();
                lines.find(|it| it.starts_with(shown)).unwrap().to_owned()
            };
            assert_eq!(line(&after), line(&before));
        }
        let records = desk.records(ALICE, &["curl/"]);
        let refused = lines(&records);
        let refused: Vec<_> = refused.iter().filter(|it| it.ends_with(" 403")).collect();
        assert_eq!(
            refused,
            [
                "GET /latest/meta-data/public-keys/ 403",
                "GET /latest/meta-data/security-groups 403",
                "GET /latest/user-data 403",
                "GET /latest/meta-data/tags/instance/ 403",
            ]
        );
    });
}
