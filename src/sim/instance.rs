//! The facts of the simulated instance.
//!
//! Ids, account and addresses are those that the AWS guides and the RFCs keep
//! for examples. Must never hold anything that could be taken for, or used
//! as, a real secret.

use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::utc;

/// The API versions, oldest first.
pub(super) const VERSIONS: &[&str] = &[
    "1.0",
    "2007-01-19",
    "2007-03-01",
    "2007-08-29",
    "2007-10-10",
    "2007-12-15",
    "2008-02-01",
    "2008-09-01",
    "2009-04-04",
    "2011-01-01",
    "2011-05-01",
    "2012-01-12",
    "2014-02-25",
    "2014-11-05",
    "2015-10-20",
    "2016-04-19",
    "2016-06-30",
    "2016-09-02",
    "2018-03-28",
    "2018-08-17",
    "2018-09-24",
    "2019-10-01",
    "2020-10-27",
    "2021-01-03",
    "2021-03-23",
    "2021-07-15",
    "2022-09-24",
    "2024-04-11",
    "latest",
];

/// What an instance launched without user data of its own gets here, so that
/// there is something to protect.
pub(super) const DEFAULT_USER_DATA: &str = "\
#cloud-config
# A simulated instance. On a real one, passwords and join tokens often stand here.
{}
";

/// The key pair's public half; the private half was never kept.
const OPENSSH_KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIO+7cLonnE4TVpaBggkXlQd8qsW7iMfWdK+SkKvwFl12 web\n";

/// Names the key pair in the listing of public keys.
pub(super) const KEY_NAME: &str = "web";

/// Items fixed for the life of the instance, by their path below the version.
pub(super) const FIXED: &[(&str, &str)] = &[
    ("meta-data/ami-id", "ami-0abcdef1234567890"),
    ("meta-data/ami-launch-index", "0"),
    ("meta-data/ami-manifest-path", "(unknown)"),
    ("meta-data/autoscaling/target-lifecycle-state", "InService"),
    ("meta-data/block-device-mapping/ami", "/dev/xvda"),
    ("meta-data/block-device-mapping/root", "/dev/xvda"),
    ("meta-data/events/maintenance/history", "[]"),
    ("meta-data/events/maintenance/scheduled", "[]"),
    ("meta-data/hibernation/configured", "false"),
    ("meta-data/hostname", LOCAL_HOSTNAME),
    ("meta-data/instance-action", "none"),
    ("meta-data/instance-id", "i-1234567890abcdef0"),
    ("meta-data/instance-life-cycle", "on-demand"),
    ("meta-data/instance-type", "t3.micro"),
    ("meta-data/local-hostname", LOCAL_HOSTNAME),
    ("meta-data/local-ipv4", "10.0.0.5"),
    ("meta-data/mac", "06:00:00:00:00:05"),
    (
        "meta-data/metrics/vhostmd",
        r#"<?xml version="1.0" encoding="UTF-8"?>"#,
    ),
    ("meta-data/placement/availability-zone", "eu-west-1a"),
    ("meta-data/placement/availability-zone-id", "euw1-az1"),
    ("meta-data/placement/region", "eu-west-1"),
    ("meta-data/profile", "default-hvm"),
    ("meta-data/public-hostname", PUBLIC_HOSTNAME),
    ("meta-data/public-ipv4", "203.0.113.25"),
    ("meta-data/public-keys/0/openssh-key", OPENSSH_KEY),
    ("meta-data/reservation-id", "r-1234567890abcdef0"),
    ("meta-data/security-groups", "default\nweb"),
    ("meta-data/services/domain", "amazonaws.com"),
    ("meta-data/services/partition", "aws"),
    ("meta-data/system", "nitro"),
    ("meta-data/tags/instance/Build", "2026.11.1"),
    ("meta-data/tags/instance/Name", "web-1"),
];

/// Items of the one network interface, below `…/macs/{mac}`.
pub(super) const INTERFACE: &[(&str, &str)] = &[
    ("device-number", "0"),
    ("interface-id", "eni-1234567890abcdef0"),
    ("ipv4-associations/203.0.113.25", "10.0.0.5"),
    ("local-hostname", LOCAL_HOSTNAME),
    ("local-ipv4s", "10.0.0.5"),
    ("mac", "06:00:00:00:00:05"),
    ("owner-id", "123456789012"),
    ("public-hostname", PUBLIC_HOSTNAME),
    ("public-ipv4s", "203.0.113.25"),
    (
        "security-group-ids",
        "sg-1234567890abcdef0\nsg-1234567890abcdef1",
    ),
    ("security-groups", "default\nweb"),
    ("subnet-id", "subnet-1234567890abcdef0"),
    ("subnet-ipv4-cidr-block", "10.0.0.0/24"),
    ("vpc-id", "vpc-1234567890abcdef0"),
    ("vpc-ipv4-cidr-block", "10.0.0.0/16"),
    ("vpc-ipv4-cidr-blocks", "10.0.0.0/16"),
];

/// Where [`INTERFACE`] stands.
pub(super) const INTERFACE_ROOT: &str = "meta-data/network/interfaces/macs/06:00:00:00:00:05";

const LOCAL_HOSTNAME: &str = "ip-10-0-0-5.eu-west-1.compute.internal";
const PUBLIC_HOSTNAME: &str = "ec2-203-0-113-25.eu-west-1.compute.amazonaws.com";

/// The instance identity document, in AWS's layout.
pub(super) fn identity_document(launched: SystemTime) -> String {
    format!(
        r#"{{
  "accountId" : "123456789012",
  "architecture" : "x86_64",
  "availabilityZone" : "eu-west-1a",
  "billingProducts" : null,
  "devpayProductCodes" : null,
  "marketplaceProductCodes" : null,
  "imageId" : "ami-0abcdef1234567890",
  "instanceId" : "i-1234567890abcdef0",
  "instanceType" : "t3.micro",
  "kernelId" : null,
  "pendingTime" : "{}",
  "privateIp" : "10.0.0.5",
  "ramdiskId" : null,
  "region" : "eu-west-1",
  "version" : "2017-09-30"
}}"#,
        utc::rfc3339_seconds(launched)
    )
}

/// Bytes in the place and of the size of a signature, which says in clear
/// that it signs nothing.
pub(super) fn placeholder_signature(len: usize) -> String {
    let bytes: Vec<u8> = b"EXAMPLE, signs nothing. "
        .iter()
        .copied()
        .cycle()
        .take(len)
        .collect();
    STANDARD
        .encode(bytes)
        .as_bytes()
        .chunks(64)
        .map(String::from_utf8_lossy)
        .collect::<Vec<_>>()
        .join("\n")
}

/// `iam/info`: the instance profile that carries the role.
pub(super) fn profile_info(role: &str, last_updated: SystemTime) -> String {
    format!(
        r#"{{
  "Code" : "Success",
  "LastUpdated" : "{}",
  "InstanceProfileArn" : "arn:aws:iam::123456789012:instance-profile/{role}",
  "InstanceProfileId" : "AIPAEXAMPLE2345672345"
}}"#,
        utc::rfc3339_seconds(last_updated)
    )
}

/// `identity-credentials/ec2/info`.
pub(super) fn identity_credentials_info(last_updated: SystemTime) -> String {
    format!(
        r#"{{
  "Code" : "Success",
  "LastUpdated" : "{}",
  "AccountId" : "123456789012"
}}"#,
        utc::rfc3339_seconds(last_updated)
    )
}
