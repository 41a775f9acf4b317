//! IMDSv2 tokens of our own: minted for a uid, worthless to any other.
//!
//! Pure: key, nonce and time are handed in. A token is a right to ask, never
//! an identity: the caller's uid always comes from the caller's socket. It
//! must never print a key or a token.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::ids::Uid;
use crate::request::{PresentedToken, Ttl};

/// A token's bytes: 40, which padded base64url makes the 56 characters of the
/// service's own tokens.
///
/// | bytes | hold |
/// | --- | --- |
/// | 4 | uid, big-endian |
/// | 8 | expiry, milliseconds on [`Moment`]'s clock, big-endian |
/// | 8 | nonce, so that no two tokens are alike |
/// | 20 | HMAC-SHA-256 over the above, cut to 160 bits |
const LEN: usize = 40;
const SIGNED: usize = 20;

/// A point on a clock that never goes back and also counts the time a host
/// spends suspended, in milliseconds since some start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Moment(pub u64);

/// The key of one run of the daemon. With it goes every token it signed.
pub struct TokenKey(Hmac<Sha256>);

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(…)")
    }
}

/// A token just minted; shown to its caller and nobody else.
pub struct MintedToken(String);

impl MintedToken {
    /// The body of the answer.
    pub fn into_body(self) -> String {
        self.0
    }
}

impl fmt::Debug for MintedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MintedToken(…)")
    }
}

/// Why a token presented is not the caller's right to ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenError {
    /// Not signed with this run's key: altered, made up, of an earlier run,
    /// or the service's own.
    Foreign,
    /// Its time is over.
    Expired,
    /// Minted for another uid, and otherwise good.
    OtherUid {
        /// The seconds it has left.
        left: u32,
    },
}

impl TokenKey {
    /// From as many random bytes as one block of SHA-256 takes.
    pub fn new(random: &[u8; 64]) -> Self {
        Self(Hmac::new(random.into()))
    }

    /// Mints a token that `uid` may use for `ttl`.
    pub fn mint(&self, uid: Uid, ttl: Ttl, now: Moment, nonce: [u8; 8]) -> MintedToken {
        let expires = now.0.saturating_add(u64::from(ttl.seconds()) * 1000);
        let mut bytes = Vec::with_capacity(LEN);
        bytes.extend(uid.0.to_be_bytes());
        bytes.extend(expires.to_be_bytes());
        bytes.extend(nonce);
        let mac = self.0.clone().chain_update(&bytes).finalize().into_bytes();
        bytes.extend(mac.iter().take(LEN - SIGNED));
        MintedToken(URL_SAFE.encode(bytes))
    }

    /// The seconds a token presented by `uid` has left, as the service counts
    /// them in its TTL header: full when fresh, never 0 while good.
    pub fn verify(&self, token: &PresentedToken, uid: Uid, now: Moment) -> Result<u32, TokenError> {
        let bytes: [u8; LEN] = URL_SAFE
            .decode(token.as_str())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(TokenError::Foreign)?;
        let (signed, mac) = bytes.split_at(SIGNED);
        self.0
            .clone()
            .chain_update(signed)
            .verify_truncated_left(mac)
            .map_err(|_| TokenError::Foreign)?;
        let (owner, rest) = signed.split_first_chunk().ok_or(TokenError::Foreign)?;
        let (expires, _nonce) = rest.split_first_chunk().ok_or(TokenError::Foreign)?;
        let left = u64::from_be_bytes(*expires)
            .saturating_sub(now.0)
            .div_ceil(1000);
        if left == 0 {
            return Err(TokenError::Expired);
        }
        let left = u32::try_from(left).map_err(|_| TokenError::Foreign)?;
        if Uid(u32::from_be_bytes(*owner)) != uid {
            return Err(TokenError::OtherUid { left });
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::Provider;
    use crate::request::{CanonicalRequest, Intent, Scan, Service, scan};
    use proptest::prelude::*;

    const ALICE: Uid = Uid(4001);

    fn key(byte: u8) -> TokenKey {
        TokenKey::new(&[byte; 64])
    }

    fn ttl(seconds: u32) -> Ttl {
        Ttl::parse(seconds.to_string().as_bytes()).unwrap()
    }

    fn presented(token: &str) -> PresentedToken {
        let text = format!("GET / HTTP/1.0\r\nX-aws-ec2-metadata-token: {token}\r\n\r\n");
        let Scan::Whole { head, .. } = scan(text.as_bytes()) else {
            panic!("{text}")
        };
        let service = Service {
            provider: Provider::Aws,
            addresses: vec![],
        };
        let request = CanonicalRequest::parse(&service, &head).unwrap();
        let Intent::Read(read) = request.intent() else {
            panic!()
        };
        read.token.clone().unwrap()
    }

    fn mint(seconds: u32, at: u64) -> String {
        key(1)
            .mint(ALICE, ttl(seconds), Moment(at), [7; 8])
            .into_body()
    }

    #[test]
    fn has_the_shape_of_the_services_own() {
        let token = mint(21_600, 5);
        assert_eq!(token.len(), 56);
        assert!(token.ends_with('=') && !token.contains(['+', '/']));
    }

    #[test]
    fn counts_down_to_the_last_second_and_then_is_nothing() {
        let token = presented(&mint(60, 1_000));
        let left = |now| key(1).verify(&token, ALICE, Moment(now));
        assert_eq!(left(1_000), Ok(60));
        assert_eq!(left(1_999), Ok(60));
        assert_eq!(left(2_000), Ok(59));
        assert_eq!(left(60_999), Ok(1));
        assert_eq!(left(61_000), Err(TokenError::Expired));
        assert_eq!(left(u64::MAX), Err(TokenError::Expired));
    }

    #[test]
    fn is_worthless_to_another_uid_and_under_another_key() {
        let token = presented(&mint(60, 0));
        for other in [Uid(4002), Uid::ROOT, Uid(4100)] {
            assert_eq!(
                key(1).verify(&token, other, Moment(0)),
                Err(TokenError::OtherUid { left: 60 })
            );
        }
        assert_eq!(
            key(2).verify(&token, ALICE, Moment(0)),
            Err(TokenError::Foreign)
        );
    }

    #[test]
    fn nothing_that_holds_a_secret_prints_it() {
        let minted = key(1).mint(ALICE, ttl(60), Moment(0), [7; 8]);
        assert_eq!(
            format!("{:?} {minted:?}", key(1)),
            "TokenKey(…) MintedToken(…)"
        );
    }

    proptest! {
        #[test]
        fn any_altered_character_makes_it_foreign(at in 0usize..56, with in "[A-Za-z0-9_=-]") {
            let token = mint(60, 0);
            let mut altered = token.clone();
            altered.replace_range(at..=at, &with);
            prop_assume!(altered != token);
            prop_assert_eq!(
                key(1).verify(&presented(&altered), ALICE, Moment(0)),
                Err(TokenError::Foreign)
            );
        }

        #[test]
        fn total_on_any_token(token in "[A-Za-z0-9_=-]{0,80}") {
            prop_assert_eq!(
                key(1).verify(&presented(&token), ALICE, Moment(0)),
                Err(TokenError::Foreign)
            );
        }
    }
}
