//! The scenes: who asks for what, with which token, and what must come of it.

use serde_json::Value;

use super::stage::{ALICE, Person, ROOT};

const CREDENTIALS: &str = "/latest/meta-data/iam/security-credentials/web";

pub(super) struct Scene {
    pub(super) title: &'static str,
    pub(super) who: Person,
    pub(super) token: Token,
    /// `http://ADDRESS` and a path.
    pub(super) address: &'static str,
    pub(super) path: &'static str,
    pub(super) expected: Expected,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    Own,
    Roots,
    None,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// A status, and the reason that the audit record must give.
    Answer(u16, &'static str),
    /// No connection at all.
    Refused,
}

pub(super) const SCENES: &[Scene] = &[
    Scene {
        title: "root reads the role's credentials",
        who: ROOT,
        token: Token::Own,
        address: "169.254.169.254",
        path: CREDENTIALS,
        expected: Expected::Answer(200, "allowed"),
    },
    Scene {
        title: "a user may not",
        who: ALICE,
        token: Token::Own,
        address: "169.254.169.254",
        path: CREDENTIALS,
        expected: Expected::Answer(403, "default"),
    },
    Scene {
        title: "but reads what is no secret",
        who: ALICE,
        token: Token::Own,
        address: "169.254.169.254",
        path: "/latest/meta-data/instance-id",
        expected: Expected::Answer(200, "allowed"),
    },
    Scene {
        title: "an IMDSv1 client, without a token, gets nothing, root's included",
        who: ROOT,
        token: Token::None,
        address: "169.254.169.254",
        path: "/latest/meta-data/instance-id",
        expected: Expected::Answer(401, "token_missing"),
    },
    Scene {
        title: "root's token, stolen, is worthless in a user's hands",
        who: ALICE,
        token: Token::Roots,
        address: "169.254.169.254",
        path: CREDENTIALS,
        expected: Expected::Answer(401, "token_invalid"),
    },
    Scene {
        title: "writing the path another way does not help",
        who: ALICE,
        token: Token::Own,
        address: "169.254.169.254",
        path: "//2021-03-23//meta-data/iam/%73ecurity-credentials/web/",
        expected: Expected::Answer(403, "default"),
    },
    Scene {
        title: "nor does a path that two programs could read differently",
        who: ALICE,
        token: Token::Own,
        address: "169.254.169.254",
        path: "/latest/meta-data/x/../iam/security-credentials/web",
        expected: Expected::Answer(400, "malformed"),
    },
    Scene {
        title: "IPv6 is no way around",
        who: ALICE,
        token: Token::Own,
        address: "[fd00:ec2::254]",
        path: CREDENTIALS,
        expected: Expected::Answer(403, "default"),
    },
    Scene {
        title: "nor is the daemon's own port; the kernel refuses",
        who: ALICE,
        token: Token::None,
        address: "127.0.0.1:253",
        path: CREDENTIALS,
        expected: Expected::Refused,
    },
];

/// What came of a scene.
pub(super) struct Ending {
    /// The status, or `None` where there was no answer.
    pub(super) status: Option<u16>,
    /// What the client is told, without secrets.
    pub(super) said: String,
    /// The audit record behind it.
    pub(super) record: Option<Value>,
}

impl Ending {
    /// Whether that is what was expected.
    pub(super) fn is(&self, expected: Expected) -> bool {
        match (expected, &self.record) {
            (Expected::Refused, None) => self.status.is_none(),
            (Expected::Answer(status, reason), Some(record)) => {
                self.status == Some(status) && record.get("reason") == Some(&reason.into())
            }
            _ => false,
        }
    }
}
