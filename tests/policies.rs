//! Every shipped policy loads without a word of complaint, and its own tests
//! pass: the same reading that the daemon does.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use imdsfw::config::Action;
use imdsfw::diagnose::{Diagnostics, Source};
use imdsfw::policy::{Draft, Policy};
use imdsfw::provider::Provider;

#[test]
fn every_shipped_policy_loads_and_proves_itself() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    let mut read = Vec::new();
    for entry in directory.read_dir().unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let source = [Source::new(
            name.clone(),
            std::fs::read_to_string(&path).unwrap(),
        )];
        let mut found = Diagnostics::new();
        let policy = Policy::parse(&source, Provider::Aws, Action::Deny, &mut found);
        assert!(policy.is_some() && found.is_empty(), "{found}");
        let draft = Draft::parse(&source, Provider::Aws, Action::Deny, &mut found).unwrap();
        assert!(draft.proofs().count() >= 5, "{name} hardly tests itself");
        // Its tests must notice when what they forbid becomes allowed.
        assert!(Policy::parse(&source, Provider::Aws, Action::Allow, &mut found).is_none());
        read.push(name);
    }
    for name in ["multi-user.toml", "root-only.toml"] {
        assert!(
            read.iter().any(|other| other == name),
            "{name} is missing among {read:?}"
        );
    }
}
