//! What the daemon and `imdsfw-names` say to each other: a question is a uid,
//! an answer says of which uid it is, each one message on a SOCK_SEQPACKET.

use serde::{Deserialize, Serialize};

use crate::ids::{Borrower, Gid, Uid};
use crate::policy::{Account, AccountFacts, Group};

/// A uid in the byte order of this machine.
pub(super) const QUESTION_LEN: usize = size_of::<u32>();
/// More than the largest message that a socket takes by default
/// (net.core.wmem_max, 208 KiB): some thousand groups.
pub(super) const ANSWER_MAX: usize = 256 * 1024;

/// One answer.
#[derive(Serialize, Deserialize)]
pub(super) struct Answer {
    pub(super) uid: Uid,
    account: Option<Facts>,
    /// Who was lent a uid without account.
    #[serde(default)]
    borrowers: Vec<Borrower>,
}

#[derive(Serialize, Deserialize)]
struct Facts {
    user: String,
    gid: Gid,
    groups: Vec<(Gid, Option<String>)>,
}

impl Answer {
    pub(super) fn new(uid: Uid, account: Account) -> Self {
        let mut borrowers = Vec::new();
        let account = match account {
            Account::Known(facts) => Some(Facts {
                user: facts.user,
                gid: facts.gid,
                groups: facts
                    .groups
                    .into_iter()
                    .map(|group| (group.gid, group.name))
                    .collect(),
            }),
            Account::Undecidable => None,
            Account::Subordinate(lent_to) => {
                borrowers = lent_to;
                None
            }
        };
        Self {
            uid,
            account,
            borrowers,
        }
    }

    pub(super) fn account(self) -> Account {
        match self.account {
            Some(facts) => Account::Known(AccountFacts {
                user: facts.user,
                gid: facts.gid,
                groups: facts
                    .groups
                    .into_iter()
                    .map(|(gid, name)| Group { gid, name })
                    .collect(),
            }),
            None if self.borrowers.is_empty() => Account::Undecidable,
            None => Account::Subordinate(self.borrowers),
        }
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        // Types with string keys only cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// `None` for what is no answer.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }
}
