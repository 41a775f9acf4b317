//! What an answer passing by says: whether it carries credentials, whatever
//! its path, and facts about this machine. Only names are taken from it.

use bytes::Bytes;
use hyper::StatusCode;
use serde::Deserialize;

use crate::audit::{CredentialRecord, InstanceFacts, Principal, Sighting};
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
    #[serde(rename = "InstanceProfileArn")]
    profile: Option<String>,
}

/// What an answer says of the instance's role.
pub(super) enum OfRole {
    Name(Option<String>),
    Profile(String),
}

impl OfRole {
    pub(super) fn sighting(&self) -> Sighting<'_> {
        match self {
            Self::Name(name) => Sighting::Role(name.as_deref()),
            Self::Profile(arn) => Sighting::Profile(arn),
        }
    }
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

/// The role that is listed, or the profile that brings it.
pub(super) fn role(path: &CanonicalPath, answer: &Answer) -> Option<OfRole> {
    let found = answer.status().is_success() && !answer.body().is_empty();
    match path.resource() {
        "/meta-data/iam/security-credentials" if answer.status() == StatusCode::NOT_FOUND => {
            Some(OfRole::Name(None))
        }
        "/meta-data/iam/security-credentials" if found => {
            // One line: an instance has one role.
            let name = std::str::from_utf8(answer.body()).ok()?.trim_end();
            Some(OfRole::Name(Some(plain(name.to_owned())?)))
        }
        "/meta-data/iam/info" if found => {
            let arn = document(answer.body()).profile.and_then(plain)?;
            Some(OfRole::Profile(arn))
        }
        _ => None,
    }
}

/// Whose the credentials at this path are.
pub(super) fn principal(path: &CanonicalPath) -> Principal {
    let of_instance = [
        "/meta-data/iam/security-credentials/",
        "/meta-data/iam/security-credentials-extended/",
    ];
    let resource = path.resource();
    match of_instance.iter().any(|above| resource.starts_with(above)) {
        true => Principal::Instance,
        false => Principal::Other,
    }
}

fn document(body: &Bytes) -> Document {
    serde_json::from_slice(body).unwrap_or_default()
}

fn plain(text: String) -> Option<String> {
    let fits = text.len() <= VALUE_MAX && text.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(text)
}
