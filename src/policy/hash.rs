//! One name for what a policy means.

use std::fmt::Write;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::Action;
use super::names::Names;
use super::narrow::{Condition, Methods};
use super::principal::Principal;
use super::rule::Rule;
use crate::provider::Provider;

/// Raised when the same rules come to mean something else.
const LANGUAGE: u32 = 1;

pub(super) fn hash(rules: &[Rule], names: &Names, provider: Provider, default: Action) -> String {
    let rules: Vec<_> = rules
        .iter()
        .map(|rule| {
            let mut meaning = json!({
                "name": *rule.name,
                "action": rule.action,
                "who": principals(&rule.who, names),
                "except": principals(&rule.except, names),
                "classes": rule.paths.classes().collect::<Vec<_>>(),
                "patterns": rule.paths.patterns().map(ToString::to_string).collect::<Vec<_>>(),
                "imdsv1": rule.imdsv1,
                "enforce": rule.enforce,
            });
            // Left out where there is none, so that policies without are called
            // as they were before there were any.
            let is_narrowed = rule.narrow.is_some() || rule.methods != Methods::ALL;
            if let (Value::Object(meaning), true) = (&mut meaning, is_narrowed) {
                meaning.extend(narrowed(rule));
            }
            meaning
        })
        .collect();
    let meaning = json!({
        "language": LANGUAGE,
        "provider": provider.as_str(),
        "classes": provider.class_revision(),
        "default": default,
        "rules": rules,
    });
    let mut out = String::from("sha256:");
    for byte in Sha256::digest(meaning.to_string()) {
        // Writing to a String cannot fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

fn narrowed(rule: &Rule) -> impl Iterator<Item = (String, Value)> {
    let methods = (rule.methods != Methods::ALL).then(|| vec![rule.methods.to_string()]);
    let narrow = rule.narrow.as_deref();
    let texts = |list: Option<Vec<String>>| {
        list.filter(|list| !list.is_empty()).map(|mut list| {
            list.sort();
            list.dedup();
            list
        })
    };
    [
        ("methods", methods),
        ("unit", texts(narrow.map(|it| all(&it.unit)))),
        ("exe", texts(narrow.map(|it| all(&it.exe)))),
        ("loginuid", texts(narrow.map(|it| all(&it.loginuid)))),
    ]
    .into_iter()
    .filter_map(|(key, list)| Some((key.to_owned(), list?.into())))
}

fn all<T: ToString>(conditions: &[Condition<T>]) -> Vec<String> {
    conditions.iter().map(|it| it.test.to_string()).collect()
}

/// Sorted: their order means nothing.
fn principals(principals: &[Principal], names: &Names) -> Vec<String> {
    let mut texts: Vec<_> = principals
        .iter()
        .map(|principal| principal.text(names))
        .collect();
    texts.sort();
    texts.dedup();
    texts
}
