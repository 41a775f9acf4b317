//! Path → what stands there: listings and fixed items rendered once, live
//! documents by name.
//!
//! It reads paths as the service is known to (repeated slashes collapse, a
//! trailing slash changes nothing) and must never share that reading with
//! the firewall in front of it: two readers are how a difference shows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::SystemTime;

use bytes::Bytes;

use super::{Error, Item, instance};
use crate::sorted;

/// What a path leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    /// Fixed plain text: an item, or the listing of a directory.
    Text(Bytes),
    /// The user data, bytes of any kind.
    UserData(Bytes),
    /// A document that changes with the credentials' rotation.
    Live(Live),
}

/// Documents rendered when asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Live {
    /// `iam/info`
    ProfileInfo,
    /// `iam/security-credentials/{role}`
    RoleCredentials,
    /// `identity-credentials/ec2/info`
    IdentityInfo,
    /// `identity-credentials/ec2/security-credentials/ec2-instance`
    IdentityCredentials,
}

/// The same tree below every API version.
pub(super) struct Tree {
    versions: Bytes,
    /// By path below the version, without outer slashes.
    nodes: HashMap<String, Node>,
}

impl Tree {
    pub(super) fn new(
        role: Option<&str>,
        user_data: Bytes,
        items: Vec<Item>,
        launched: SystemTime,
    ) -> Result<Self, Error> {
        let mut leaves = leaves(role, user_data, launched);
        leaves.extend(
            items
                .into_iter()
                .map(|item| (item.path, Node::Text(item.value.into()))),
        );
        refuse_leaves_below_leaves(&leaves)?;
        let mut nodes: HashMap<_, _> = listings(leaves.keys())
            .into_iter()
            .map(|(directory, listing)| (directory, Node::Text(listing.into())))
            .collect();
        nodes.extend(leaves);
        Ok(Self {
            versions: instance::VERSIONS.join("\n").into(),
            nodes,
        })
    }

    /// What stands at an absolute path, the version segment included.
    pub(super) fn find(&self, path: &str) -> Option<Node> {
        let mut segments = path.split('/').filter(|segment| !segment.is_empty());
        let Some(version) = segments.next() else {
            return Some(Node::Text(self.versions.clone()));
        };
        if !instance::VERSIONS.contains(&version) {
            return None;
        }
        let resource = segments.collect::<Vec<_>>().join("/");
        self.nodes.get(&resource).cloned()
    }
}

fn leaves(role: Option<&str>, user_data: Bytes, launched: SystemTime) -> BTreeMap<String, Node> {
    let text = |text: String| Node::Text(text.into());
    let fixed = instance::FIXED
        .iter()
        .map(|(path, value)| ((*path).to_owned(), Node::Text((*value).into())));
    let interface = instance::INTERFACE.iter().map(|(item, value)| {
        let path = format!("{}/{item}", instance::INTERFACE_ROOT);
        (path, Node::Text((*value).into()))
    });
    let live = [
        ("identity-credentials/ec2/info", Live::IdentityInfo),
        (
            "identity-credentials/ec2/security-credentials/ec2-instance",
            Live::IdentityCredentials,
        ),
    ]
    .map(|(path, live)| (format!("meta-data/{path}"), Node::Live(live)));
    let dynamic = [
        ("document", instance::identity_document(launched)),
        // The sizes of an RSA-1024 signature and of the two PKCS #7 messages.
        ("signature", instance::placeholder_signature(128)),
        ("pkcs7", instance::placeholder_signature(960)),
        ("rsa2048", instance::placeholder_signature(1180)),
    ]
    .map(|(name, value)| (format!("dynamic/instance-identity/{name}"), text(value)));

    let mut leaves = sorted::map(fixed.chain(interface).chain(live).chain(dynamic));
    leaves.insert(
        "meta-data/managed-ssh-keys/signer-cert".into(),
        text(instance::placeholder_signature(960)),
    );
    leaves.insert("user-data".into(), Node::UserData(user_data));
    if let Some(role) = role {
        leaves.insert("meta-data/iam/info".into(), Node::Live(Live::ProfileInfo));
        leaves.insert(
            format!("meta-data/iam/security-credentials/{role}"),
            Node::Live(Live::RoleCredentials),
        );
    }
    leaves
}

fn refuse_leaves_below_leaves(leaves: &BTreeMap<String, Node>) -> Result<(), Error> {
    for below in leaves.keys() {
        let (mut above, _) = split(below);
        while !above.is_empty() {
            if leaves.contains_key(above) {
                return Err(Error::Item {
                    above: above.to_owned(),
                    below: below.clone(),
                });
            }
            (above, _) = split(above);
        }
    }
    Ok(())
}

/// The listing of every directory above the leaves: one entry a line, no
/// final newline, directories with a slash behind.
fn listings<'a>(leaves: impl Iterator<Item = &'a String>) -> BTreeMap<String, String> {
    let mut entries: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for leaf in leaves {
        let (mut path, mut entry) = split(leaf);
        loop {
            entries.entry(path.to_owned()).or_default().insert(entry);
            if path.is_empty() {
                break;
            }
            let (parent, name) = split(path);
            // The entries directly below a version carry no slash.
            let slash = if parent.is_empty() { "" } else { "/" };
            (path, entry) = (parent, format!("{name}{slash}"));
        }
    }
    let joined = |(path, entries)| (path, Vec::from_iter::<BTreeSet<_>>(entries).join("\n"));
    let mut listings = sorted::map(entries.into_iter().map(joined));
    // Public keys are listed by number and name, and read by number alone.
    listings.insert(
        "meta-data/public-keys".into(),
        format!("0={}", instance::KEY_NAME),
    );
    listings
}

/// A path's directory, `""` at the top, and its last segment.
fn split(path: &str) -> (&str, String) {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    (parent, name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(role: Option<&str>) -> Tree {
        Tree::new(role, "data".into(), Vec::new(), SystemTime::UNIX_EPOCH).unwrap()
    }

    fn text(tree: &Tree, path: &str) -> String {
        match tree.find(path) {
            Some(Node::Text(bytes)) => String::from_utf8(bytes.to_vec()).unwrap(),
            other => panic!("{path}: {other:?}"),
        }
    }

    #[test]
    fn listings_name_children_and_mark_directories() {
        let tree = tree(Some("web"));
        assert_eq!(text(&tree, "/latest"), "dynamic\nmeta-data\nuser-data");
        assert_eq!(text(&tree, "/latest/dynamic/"), "instance-identity/");
        assert_eq!(
            text(&tree, "/latest/meta-data/iam/"),
            "info\nsecurity-credentials/"
        );
        assert_eq!(
            text(&tree, "/latest/meta-data/iam/security-credentials"),
            "web"
        );
        assert_eq!(text(&tree, "/latest/meta-data/public-keys/"), "0=web");
        assert_eq!(
            text(&tree, "/latest/meta-data/public-keys/0/"),
            "openssh-key"
        );
    }

    #[test]
    fn without_a_role_nothing_below_iam_exists() {
        let tree = tree(None);
        for path in ["iam", "iam/info", "iam/security-credentials/"] {
            assert_eq!(
                tree.find(&format!("/latest/meta-data/{path}")),
                None,
                "{path}"
            );
        }
        assert!(!text(&tree, "/latest/meta-data/").contains("iam/"));
    }

    #[test]
    fn slashes_do_not_matter_and_case_and_depth_do() {
        let tree = tree(Some("web"));
        for path in [
            "/latest/meta-data/instance-id",
            "/latest/meta-data/instance-id/",
            "//latest//meta-data///instance-id",
            "/2009-04-04/meta-data/instance-id",
            "/1.0/meta-data/instance-id",
        ] {
            assert_eq!(text(&tree, path), "i-1234567890abcdef0", "{path}");
        }
        for path in [
            "/Latest/meta-data/instance-id",
            "/latest/meta-data/instance-id/more",
            "/latest/meta-data/instance-i",
            "/2009-04-05/meta-data/instance-id",
            "/meta-data/instance-id",
        ] {
            assert_eq!(tree.find(path), None, "{path}");
        }
    }
}
