//! What is said on the control socket: one question and one answer a
//! connection, each a frame of JSON with a version.
//!
//! A frame is its length, four bytes big-endian, and so many bytes of JSON.
//! What is longer than [`QUESTION_MAX`] is never read.

use std::io;

use serde::{Deserialize, Serialize};

use super::status::Status;
use crate::policy::Action;

/// Of what is said here. A daemon answers its own version alone.
pub const VERSION: u32 = 1;
/// No question is longer: principals, paths and a reason.
pub const QUESTION_MAX: u32 = 64 * 1024;
/// No answer is longer: all errors of a policy, or all that status says.
pub const ANSWER_MAX: u32 = 8 * 1024 * 1024;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// [`VERSION`].
    pub v: u32,
    /// Who logged in (/proc/self/loginuid), in root's own words: for records.
    #[serde(default)]
    pub login: Option<i64>,
    /// For what.
    pub ask: Ask,
}

/// Everything that can be asked.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// How things stand.
    Status,
    /// To take what the files say now.
    Reload,
    /// To go back to the policy before.
    Rollback,
    /// Credentials for nobody, but for these; or again for all who may.
    Lockdown {
        /// On, or off.
        on: bool,
        /// Principals.
        #[serde(default)]
        except: Vec<String>,
        /// For records.
        #[serde(default)]
        reason: Option<String>,
    },
    /// A rule for a while, ahead of all others.
    Grant {
        /// Principals.
        who: Vec<String>,
        /// Patterns and `@sets`.
        paths: Vec<String>,
        /// From now on.
        seconds: u64,
        /// For records.
        reason: String,
    },
    /// The end of a grant before its time.
    Revoke {
        /// Its id.
        id: String,
    },
    /// The policy off for a while, or on again.
    Bypass {
        /// On, or off.
        on: bool,
        /// From now on.
        #[serde(default)]
        seconds: u64,
        /// For records.
        #[serde(default)]
        reason: String,
    },
    /// What the asker would get: all that others than root may ask.
    Verdict {
        /// As a client sends it.
        path: String,
    },
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub struct Answer {
    /// [`VERSION`].
    pub v: u32,
    /// What came of it.
    pub reply: Reply,
}

/// What came of a question.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum Reply {
    /// It is so from now on.
    Done(Done),
    /// How things stand.
    Status(Box<Status>),
    /// What the asker would get.
    Verdict(Judged),
    /// Nothing has changed.
    Refused(Refused),
}

/// What has changed.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Done {
    /// In a sentence.
    pub said: String,
    /// What the admin should know of it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The hash of the policy, where that is what it was about.
    #[serde(default)]
    pub policy: Option<String>,
    /// The id of a grant.
    #[serde(default)]
    pub id: Option<String>,
    /// Whether anything is other than before.
    pub changed: bool,
}

/// A verdict of the running daemon.
#[derive(Debug, Serialize, Deserialize)]
pub struct Judged {
    /// Allow or deny.
    pub verdict: Action,
    /// As in records.
    pub reason: String,
    /// The rule or grant that decides.
    pub rule: Option<String>,
    /// The hash of the policy.
    pub policy: String,
}

/// Why nothing has changed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Refused {
    /// One word for scripts.
    pub why: Why,
    /// For people.
    pub message: String,
}

/// Why a question is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// Not for this asker.
    Forbidden,
    /// No question of this version.
    Malformed,
    /// Too many are being answered.
    Busy,
    /// What it would put in force has errors.
    Invalid,
    /// There is no such thing.
    Missing,
}

impl Why {
    /// As in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Forbidden => "forbidden",
            Self::Malformed => "malformed",
            Self::Busy => "busy",
            Self::Invalid => "invalid",
            Self::Missing => "missing",
        }
    }
}

impl Reply {
    pub(super) fn refused(why: Why, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::Refused(Refused { why, message })
    }
}

/// A frame of this.
pub(super) fn framed<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, value)?;
    let len = u32::try_from(frame.len() - 4).map_err(io::Error::other)?;
    if let Some(head) = frame.get_mut(..4) {
        head.copy_from_slice(&len.to_be_bytes());
    }
    Ok(frame)
}

/// How long the frame is that begins so, where that is not too long.
pub(super) fn length(head: [u8; 4], most: u32) -> Option<usize> {
    let len = u32::from_be_bytes(head);
    usize::try_from(len).ok().filter(|_| len <= most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_its_length_and_its_json() {
        let question = Question {
            v: VERSION,
            login: None,
            ask: Ask::Reload,
        };
        let frame = framed(&question).unwrap();
        let head = frame[..4].try_into().unwrap();
        assert_eq!(length(head, QUESTION_MAX), Some(frame.len() - 4));
        assert_eq!(
            &frame[4..],
            br#"{"v":1,"login":null,"ask":{"do":"reload"}}"#
        );
        assert_eq!(length([0, 1, 0, 1], QUESTION_MAX), None);
        assert_eq!(length([0xff; 4], ANSWER_MAX), None);
    }

    #[test]
    fn what_is_not_known_is_no_question() {
        for text in [
            "{}",
            r#"{"v":1,"ask":{"do":"format"}}"#,
            r#"{"v":1,"ask":{"do":"revoke"}}"#,
            r#"{"v":1,"ask":{"do":"revoke","id":"x","also":1}}"#,
            r#"{"v":1,"ask":{"do":"reload"},"also":1}"#,
        ] {
            assert!(serde_json::from_str::<Question>(text).is_err(), "{text}");
        }
    }
}
