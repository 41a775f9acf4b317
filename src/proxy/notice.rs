//! What an answer passing by says: whether it carries credentials, whatever
//! its path, and facts about this machine. Only names are taken from it.

use bytes::Bytes;
use serde::Deserialize;

use crate::audit::{CredentialRecord, InstanceFacts};
use crate::request::CanonicalPath;
use crate::upstream::Answer;

/// Text taken into records is shorter than this.
const VALUE_MAX: usize = 128;

/// Of credentials documents and of identity documents; the rest is not read.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    #[serde(rename = "AccessKeyId")]
    access_key_id: Option<String>,
    #[serde(rename = "Expiration")]
    expiration: Option<String>,
    #[serde(rename = "instanceId")]
    instance_id: Option<String>,
    #[serde(rename = "accountId")]
    account: Option<String>,
    region: Option<String>,
}

/// The credentials in an answer.
pub(super) fn credential(path: &CanonicalPath, answer: &Answer) -> Option<CredentialRecord> {
    if !answer.status().is_success() || !answer.names_a_secret_key() {
        return None;
    }
    let document = document(answer.body());
    Some(CredentialRecord {
        access_key_id: document.access_key_id.and_then(plain),
        role: path.segments().last().map(str::to_owned),
        expiration: document.expiration.and_then(plain),
    })
}

/// What an answer says of the machine.
pub(super) fn instance(path: &CanonicalPath, answer: &Answer) -> Option<InstanceFacts> {
    if !answer.status().is_success() || answer.body().is_empty() {
        return None;
    }
    let text = || {
        String::from_utf8(answer.body().to_vec())
            .ok()
            .and_then(plain)
    };
    match path.resource() {
        "/meta-data/instance-id" => Some(InstanceFacts {
            instance_id: text(),
            ..InstanceFacts::default()
        }),
        "/meta-data/placement/region" => Some(InstanceFacts {
            region: text(),
            ..InstanceFacts::default()
        }),
        "/dynamic/instance-identity/document" => {
            let document = document(answer.body());
            Some(InstanceFacts {
                instance_id: document.instance_id.and_then(plain),
                account: document.account.and_then(plain),
                region: document.region.and_then(plain),
            })
        }
        _ => None,
    }
}

fn document(body: &Bytes) -> Document {
    serde_json::from_slice(body).unwrap_or_default()
}

fn plain(text: String) -> Option<String> {
    let fits = text.len() <= VALUE_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(text)
}
