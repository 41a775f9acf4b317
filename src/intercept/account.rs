//! From the `user` of the config to the one uid that the rules exempt.
//!
//! Must never answer with root, nor guess: the uid found here is the only one
//! that reaches the metadata service unjudged.

use std::fmt;

use nix::errno::Errno;
use nix::unistd::User;

use crate::ids::Uid;

/// Why a `user` names no uid that could be exempted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AccountError {
    /// No account has this name.
    Missing {
        /// As the config has it.
        user: String,
    },
    /// The account database could not be asked.
    Lookup {
        /// As the config has it.
        user: String,
        /// What NSS failed with.
        errno: Errno,
    },
    /// A number that is no uid.
    OutOfRange {
        /// As the config has it.
        user: String,
    },
    /// Uid 0, by name or number.
    Root {
        /// As the config has it.
        user: String,
    },
}

/// The uid of an account, asked of NSS by its name. A `user` of digits alone
/// is that uid, whether an account has it or not.
///
/// # Errors
/// [`AccountError`] when there is no such account, or it is root's.
pub fn daemon_uid(user: &str) -> Result<Uid, AccountError> {
    let uid = if !user.is_empty() && user.bytes().all(|byte| byte.is_ascii_digit()) {
        number(user)?
    } else {
        named(user)?
    };
    if uid == Uid::ROOT {
        return Err(AccountError::Root { user: user.into() });
    }
    Ok(uid)
}

fn number(user: &str) -> Result<Uid, AccountError> {
    match user.parse() {
        // (uid_t)-1 means "no uid" to the kernel.
        Ok(u32::MAX) | Err(_) => Err(AccountError::OutOfRange { user: user.into() }),
        Ok(uid) => Ok(Uid(uid)),
    }
}

fn named(user: &str) -> Result<Uid, AccountError> {
    match User::from_name(user) {
        Ok(Some(account)) => Ok(Uid(account.uid.as_raw())),
        Ok(None) => Err(AccountError::Missing { user: user.into() }),
        Err(errno) => Err(AccountError::Lookup {
            user: user.into(),
            errno,
        }),
    }
}

impl fmt::Display for AccountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing { user } => write!(
                f,
                "there is no account {user:?}, as which the daemon is to run; create it with \
                 `useradd --system --no-create-home --shell /usr/sbin/nologin {user}` \
                 (or systemd-sysusers), or name another as `user` in the config"
            ),
            Self::Lookup { user, errno } => write!(
                f,
                "the account {user:?} could not be looked up: {}; see `getent passwd {user}`",
                errno.desc()
            ),
            Self::OutOfRange { user } => write!(
                f,
                "`user = \"{user}\"` is no uid; uids are numbers from 1 to 4294967294"
            ),
            Self::Root { user } => write!(
                f,
                "`user = \"{user}\"` is root, and the daemon must not run as root: its uid \
                 reaches the metadata service unjudged; give it an account of its own"
            ),
        }
    }
}

impl std::error::Error for AccountError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_the_uid_whether_an_account_has_it_or_not() {
        assert_eq!(daemon_uid("3999999"), Ok(Uid(3_999_999)));
    }

    #[test]
    fn root_is_refused_by_name_and_by_number() {
        for user in ["root", "0", "000"] {
            assert_eq!(
                daemon_uid(user),
                Err(AccountError::Root { user: user.into() })
            );
        }
    }

    #[test]
    fn numbers_that_are_no_uid_are_refused() {
        for user in ["4294967295", "4294967296", "99999999999999999999"] {
            assert_eq!(
                daemon_uid(user),
                Err(AccountError::OutOfRange { user: user.into() })
            );
        }
    }

    #[test]
    fn a_missing_account_comes_with_the_way_to_create_it() {
        for user in ["no-such-account-here", "", "-1", "1000x"] {
            let error = daemon_uid(user).unwrap_err();
            assert_eq!(error, AccountError::Missing { user: user.into() });
            assert!(error.to_string().contains("useradd --system"), "{error}");
        }
    }
}
