//! Amazon EC2: addresses, versions and path classes.
//!
//! Source: the EC2 user guide's instance metadata categories; versions are
//! matched by shape because the list differs from instance to instance.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::{Class, Keep};

pub(super) const HOST_NAMES: &[&str] = &["instance-data.ec2.internal", "instance-data"];

pub(super) const ROOTS: &[&str] = &["meta-data", "dynamic", "user-data"];

/// `@role`: what an SDK reads to act as the machine's role: the listing that
/// gives the role's name, and the credentials below it.
pub(super) const PATH_SETS: &[(&str, &[&str])] = &[(
    "role",
    &[
        "/meta-data/iam/security-credentials/**",
        "/meta-data/iam/security-credentials-extended/**",
    ],
)];

/// See [`super::Provider::class_revision`].
pub(super) const CLASS_REVISION: u32 = 1;

pub(super) fn addresses() -> Vec<SocketAddr> {
    vec![
        (Ipv4Addr::new(169, 254, 169, 254), 80).into(),
        (Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), 80).into(),
    ]
}

/// `latest`, `1.0` or the shape `YYYY-MM-DD`.
pub(super) fn is_version(segment: &str) -> bool {
    segment == "latest" || segment == "1.0" || is_date(segment.as_bytes())
}

fn is_date(bytes: &[u8]) -> bool {
    bytes.len() == 10
        && bytes.iter().enumerate().all(|(at, byte)| match at {
            4 | 7 => *byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

/// Sensitive leaves also claim what stands below them: the service answers a
/// leaf with a trailing slash, and what it does further down is not known.
pub(super) fn classify(segments: &[&str]) -> Class {
    // Whatever stands around it: new listings of credentials have appeared
    // under new parents before.
    if let Some(at) = segments
        .iter()
        .position(|s| s.starts_with("security-credentials"))
    {
        return if at + 1 < segments.len() {
            Class::Credentials
        } else {
            Class::Identity
        };
    }
    match segments {
        [] => Class::Routine,
        ["user-data", ..] => Class::Secrets,
        ["dynamic", rest @ ..] => dynamic(rest),
        ["meta-data", rest @ ..] => meta_data(rest),
        _ => Class::Unclassified,
    }
}

/// All that are known; a value must never be taken for one.
pub(super) fn is_listing(segments: &[&str]) -> bool {
    let is_of_credentials = |word: &str| word.starts_with("security-credentials");
    match segments {
        [] | ["dynamic"] | ["dynamic", "instance-identity" | "fws"] | ["meta-data"] => true,
        ["meta-data", .., last] if is_of_credentials(last) => true,
        ["meta-data", rest @ ..] => match rest {
            [
                "autoscaling"
                | "block-device-mapping"
                | "events"
                | "iam"
                | "identity-credentials"
                | "managed-ssh-keys"
                | "metrics"
                | "network"
                | "placement"
                | "public-keys"
                | "services"
                | "spot"
                | "tags",
            ]
            | ["events", "maintenance" | "recommendations"]
            | ["identity-credentials", "ec2"]
            | ["managed-ssh-keys", "active-keys"]
            | ["network", "interfaces"]
            | ["network", "interfaces", "macs"]
            | ["network", "interfaces", "macs", _]
            | ["network", "interfaces", "macs", _, "ipv4-associations"]
            | ["public-keys", _]
            | ["tags", "instance"] => true,
            [ecs] => ecs.starts_with("iam-ecs-"),
            _ => false,
        },
        _ => false,
    }
}

/// Public keys are listed as `0=name`, and read by the number alone.
pub(super) fn listed_name<'e>(listing: &[&str], entry: &'e [u8]) -> &'e [u8] {
    match listing {
        ["meta-data", "public-keys"] => entry.split(|byte| *byte == b'=').next().unwrap_or(entry),
        _ => entry,
    }
}

/// Leaves alone: what stands in a listing can grow.
pub(super) fn keep(segments: &[&str]) -> Keep {
    match segments {
        _ if classify(segments) == Class::Credentials => Keep::Briefly,
        ["user-data"]
        | [
            "dynamic",
            "instance-identity",
            "document" | "signature" | "pkcs7" | "rsa2048" | "dsa2048",
        ]
        | ["meta-data", "public-keys", _, "openssh-key"]
        | [
            "meta-data",
            "placement" | "services" | "block-device-mapping",
            _,
        ]
        | ["meta-data", "metrics", "vhostmd"] => Keep::Boot,
        // A directory.
        ["meta-data", leaf] if leaf.starts_with("iam-ecs-") => Keep::Never,
        ["meta-data", leaf] if is_routine_leaf(leaf) => Keep::Boot,
        _ => Keep::Never,
    }
}

fn dynamic(segments: &[&str]) -> Class {
    match segments {
        [] | ["instance-identity"] | ["instance-identity", "document"] => Class::Routine,
        [
            "instance-identity",
            "signature" | "pkcs7" | "rsa2048" | "dsa2048",
            ..,
        ] => Class::Identity,
        ["fws", ..] => Class::Live,
        _ => Class::Unclassified,
    }
}

fn meta_data(segments: &[&str]) -> Class {
    match segments {
        ["iam", "info", ..] | ["identity-credentials", "ec2", "info", ..] => Class::Identity,
        ["tags"] | ["tags", "instance", ..] => Class::Secrets,
        ["managed-ssh-keys" | "public-keys", ..] => Class::Ssh,
        ["spot" | "events" | "autoscaling", ..]
        | ["network"]
        | ["network", "interfaces"]
        | ["network", "interfaces", "macs", ..]
        | ["public-ipv4" | "public-hostname" | "ipv6" | "security-groups"] => Class::Live,
        // Directories of mixed content, and facts fixed for a boot.
        []
        | ["iam"]
        | ["identity-credentials"]
        | ["identity-credentials", "ec2"]
        | ["placement" | "services" | "block-device-mapping" | "metrics"]
        | ["placement" | "services" | "block-device-mapping", _]
        | ["metrics", "vhostmd"] => Class::Routine,
        [leaf] if is_routine_leaf(leaf) => Class::Routine,
        _ => Class::Unclassified,
    }
}

fn is_routine_leaf(leaf: &str) -> bool {
    leaf.starts_with("ami-")
        || leaf.starts_with("iam-ecs-")
        || matches!(
            leaf,
            "ancestor-ami-ids"
                | "hostname"
                | "instance-id"
                | "instance-life-cycle"
                | "instance-type"
                | "kernel-id"
                | "local-hostname"
                | "local-ipv4"
                | "mac"
                | "product-codes"
                | "profile"
                | "ramdisk-id"
                | "reservation-id"
                | "system"
        )
}

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest, Sha256};

    fn class(path: &str) -> Class {
        let segments: Vec<_> = path.split('/').filter(|s| !s.is_empty()).collect();
        classify(&segments)
    }

    #[test]
    fn credentials_are_credentials_whatever_stands_around_them() {
        for path in [
            "meta-data/iam/security-credentials/web",
            "meta-data/iam/security-credentials-extended/web",
            "meta-data/identity-credentials/ec2/security-credentials/ec2-instance",
            "meta-data/iam-ecs-abc/security-credentials/x",
            "somewhere/new/security-credentials-v9/x/y",
            "security-credentials/x/security-credentials",
        ] {
            assert_eq!(class(path), Class::Credentials, "{path}");
        }
    }

    #[test]
    fn the_role_name_listing_is_identity() {
        assert_eq!(class("meta-data/iam/security-credentials"), Class::Identity);
        assert_eq!(
            class("meta-data/identity-credentials/ec2/security-credentials"),
            Class::Identity
        );
    }

    #[test]
    fn every_row_of_the_class_table() {
        for (class_, paths) in [
            (
                Class::Secrets,
                &[
                    "user-data",
                    "meta-data/tags/instance/Name",
                    "meta-data/tags",
                ][..],
            ),
            (
                Class::Identity,
                &[
                    "dynamic/instance-identity/pkcs7",
                    "meta-data/iam/info",
                    "meta-data/identity-credentials/ec2/info",
                ],
            ),
            (
                Class::Ssh,
                &[
                    "meta-data/managed-ssh-keys/active-keys/bob",
                    "meta-data/public-keys/0/openssh-key",
                ],
            ),
            (
                Class::Live,
                &[
                    "meta-data/spot/instance-action",
                    "meta-data/network/interfaces/macs/0e/ipv6s",
                    "meta-data/network",
                ],
            ),
            (
                Class::Routine,
                &[
                    "",
                    "meta-data",
                    "meta-data/iam",
                    "meta-data/ami-id",
                    "meta-data/placement/region",
                    "dynamic",
                    "dynamic/instance-identity/document",
                    "meta-data/metrics/vhostmd",
                ],
            ),
            (
                Class::Unclassified,
                &[
                    "Latest/meta-data",
                    "user-database",
                    "meta-data/hibernation/configured",
                    "latest",
                ],
            ),
        ] {
            for path in paths {
                assert_eq!(class(path), class_, "{path}");
            }
        }
    }

    /// Fails when a class changes: raise [`CLASS_REVISION`], then write the
    /// new fingerprint here.
    #[test]
    fn the_revision_follows_the_classes() {
        let words = [
            "meta-data",
            "dynamic",
            "user-data",
            "iam",
            "info",
            "security-credentials",
            "identity-credentials",
            "ec2",
            "instance-identity",
            "document",
            "signature",
            "pkcs7",
            "rsa2048",
            "dsa2048",
            "fws",
            "tags",
            "instance",
            "managed-ssh-keys",
            "public-keys",
            "spot",
            "events",
            "autoscaling",
            "network",
            "interfaces",
            "macs",
            "public-ipv4",
            "public-hostname",
            "ipv6",
            "security-groups",
            "placement",
            "services",
            "block-device-mapping",
            "metrics",
            "vhostmd",
            "ami-id",
            "iam-ecs-x",
            "hostname",
            "ancestor-ami-ids",
            "instance-id",
            "instance-life-cycle",
            "instance-type",
            "kernel-id",
            "local-hostname",
            "local-ipv4",
            "mac",
            "product-codes",
            "profile",
            "ramdisk-id",
            "reservation-id",
            "system",
            "other",
        ];
        let mut fingerprint = Sha256::new();
        for a in words {
            for b in words {
                for c in words {
                    for segments in [&[a][..], &[a, b], &[a, b, c], &[a, b, c, "x"]] {
                        fingerprint.update(classify(segments).as_str());
                    }
                }
            }
        }
        fingerprint.update(format!("{PATH_SETS:?}"));
        let fingerprint = fingerprint.finalize()[..8].to_vec();
        assert_eq!(
            (CLASS_REVISION, fingerprint),
            (1, vec![106, 114, 27, 225, 147, 167, 1, 84])
        );
    }

    /// Values, as the user guide lists them, are none.
    #[test]
    fn listings_are_told_from_values() {
        let said = |path: &str| {
            let segments: Vec<_> = path.split('/').filter(|s| !s.is_empty()).collect();
            is_listing(&segments)
        };
        for listing in [
            "",
            "meta-data",
            "meta-data/iam/security-credentials",
            "meta-data/identity-credentials/ec2/security-credentials",
            "meta-data/network/interfaces/macs/0e:00",
            "meta-data/public-keys/0",
            "meta-data/tags/instance",
        ] {
            assert!(said(listing), "{listing}");
        }
        for value in [
            "user-data",
            "meta-data/instance-id",
            "meta-data/mac",
            "meta-data/iam/info",
            "meta-data/iam/security-credentials/web",
            "meta-data/network/interfaces/macs/0e:00/mac",
            "meta-data/public-keys/0/openssh-key",
            "meta-data/tags/instance/Name",
            "meta-data/spot/instance-action",
            "dynamic/instance-identity/document",
        ] {
            assert!(!said(value), "{value}");
        }
        assert_eq!(listed_name(&["meta-data", "public-keys"], b"0=web"), b"0");
        assert_eq!(listed_name(&["meta-data", "tags"], b"a=b"), b"a=b");
    }

    #[test]
    fn versions_are_matched_by_shape() {
        for yes in ["latest", "1.0", "2007-01-19", "2099-12-31"] {
            assert!(is_version(yes), "{yes}");
        }
        for no in [
            "Latest",
            "1.1",
            "2007-1-19",
            "2007-01-19 ",
            "20070119",
            "meta-data",
            "",
        ] {
            assert!(!is_version(no), "{no}");
        }
    }
}
