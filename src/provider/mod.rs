//! What a metadata service is: its addresses and names, the shape of its
//! versions, what its paths hold and the headers it asks for.
//!
//! Knows facts only; it must never decide who may read what.

mod aws;

use std::net::SocketAddr;

/// What a path holds, and so how much harm its answer can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Class {
    /// Keys that act as the machine's role.
    Credentials,
    /// What the owner of the machine put there: user data and tags.
    Secrets,
    /// Proofs and names of who the machine is.
    Identity,
    /// Keys with which people log in.
    Ssh,
    /// Facts that change while the machine runs.
    Live,
    /// Facts fixed for a boot.
    Routine,
    /// Everything the provider profile does not know.
    Unclassified,
}

impl Class {
    /// All classes, the most harmful first.
    pub const ALL: [Self; 7] = [
        Self::Credentials,
        Self::Secrets,
        Self::Identity,
        Self::Ssh,
        Self::Live,
        Self::Routine,
        Self::Unclassified,
    ];

    /// The word used in policies (behind an `@`) and in audit records.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Secrets => "secrets",
            Self::Identity => "identity",
            Self::Ssh => "ssh",
            Self::Live => "live",
            Self::Routine => "routine",
            Self::Unclassified => "unclassified",
        }
    }

    /// Whether an answer of this class must not leave unrecorded.
    pub fn is_sensitive(self) -> bool {
        matches!(self, Self::Credentials | Self::Secrets)
    }
}

/// How long an answer holds that was given once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Keep {
    /// It may be another the next time, or there may be one where there was
    /// none.
    Never,
    /// Credentials: for some seconds.
    Briefly,
    /// As long as the machine runs.
    Boot,
}

/// A cloud's metadata service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Provider {
    /// Amazon EC2, IMDSv1 and IMDSv2.
    Aws,
}

impl Provider {
    /// The provider a config names, or `None` for a word that names none.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "aws" => Some(Self::Aws),
            _ => None,
        }
    }

    /// The word a config names it by.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aws => "aws",
        }
    }

    /// Where the service listens.
    pub fn addresses(self) -> Vec<SocketAddr> {
        match self {
            Self::Aws => aws::addresses(),
        }
    }

    /// Names by which clients reach the service, lower case.
    pub fn host_names(self) -> &'static [&'static str] {
        match self {
            Self::Aws => aws::HOST_NAMES,
        }
    }

    /// Whether the first segment of a path names an API version.
    pub fn is_version(self, segment: &str) -> bool {
        match self {
            Self::Aws => aws::is_version(segment),
        }
    }

    /// The first segments that paths below the version have.
    pub fn roots(self) -> &'static [&'static str] {
        match self {
            Self::Aws => aws::ROOTS,
        }
    }

    /// The class of a path, given by its segments below the version.
    pub fn classify(self, segments: &[&str]) -> Class {
        match self {
            Self::Aws => aws::classify(segments),
        }
    }

    /// How long what stands at a path holds, given by the same segments.
    pub fn keep(self, segments: &[&str]) -> Keep {
        match self {
            Self::Aws => aws::keep(segments),
        }
    }

    /// Whether what stands at a path, given by the same segments, lists what
    /// stands below it, an entry a line, directories with a slash behind.
    pub fn is_listing(self, segments: &[&str]) -> bool {
        match self {
            Self::Aws => aws::is_listing(segments),
        }
    }

    /// The part of a listing's entry by which it is read.
    pub fn listed_name<'e>(self, listing: &[&str], entry: &'e [u8]) -> &'e [u8] {
        match self {
            Self::Aws => aws::listed_name(listing, entry),
        }
    }

    /// Raised with every change of what [`Provider::classify`] or
    /// [`Provider::path_sets`] says, so that the same policy text over other
    /// classes counts as another policy.
    pub fn class_revision(self) -> u32 {
        match self {
            Self::Aws => aws::CLASS_REVISION,
        }
    }

    /// Path sets that are not a class of their own: name (without `@`) and
    /// patterns in the policy's language.
    pub fn path_sets(self) -> &'static [(&'static str, &'static [&'static str])] {
        match self {
            Self::Aws => aws::PATH_SETS,
        }
    }
}
