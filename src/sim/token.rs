//! The service's session tokens: minted on PUT, presented on GET.
//!
//! A token carries its own expiry under a MAC, so nothing is remembered per
//! token. It dies with the process that minted it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// How long a token may live, in seconds: 1 to 21600 (six hours), as the EC2
/// user guide has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ttl(u16);

impl Ttl {
    const MAX: u16 = 21_600;

    /// Reads the header's value: decimal digits and nothing else.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let seconds = std::str::from_utf8(text).ok()?.parse().ok()?;
        (1..=Self::MAX).contains(&seconds).then_some(Self(seconds))
    }

    pub(super) fn as_secs(self) -> u64 {
        self.0.into()
    }
}

/// Real tokens begin with these bytes (`AQAA…` once encoded).
const PREFIX: [u8; 4] = [1, 0, 0, 0];
/// Bytes of the MAC that travel; with prefix, expiry and serial number they
/// make the 40 that a real token has.
const TAG_LEN: usize = 20;

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Mints and verifies tokens.
pub(super) struct Tokens {
    mac: Hmac<Sha256>,
    epoch: Instant,
    minted: AtomicU64,
}

impl Tokens {
    /// `mac` must be keyed with a secret; expiries count from `epoch`.
    pub(super) fn new(mac: Hmac<Sha256>, epoch: Instant) -> Self {
        Self {
            mac,
            epoch,
            minted: AtomicU64::new(0),
        }
    }

    /// A new token of 56 characters, padded base64url.
    pub(super) fn mint(&self, ttl: Ttl, now: Instant) -> String {
        let lifetime = ttl.as_secs() * NANOS_PER_SECOND;
        let expiry = self.nanos(now).saturating_add(lifetime);
        let serial = self.minted.fetch_add(1, Ordering::Relaxed);
        let mut raw = Vec::with_capacity(40);
        raw.extend(PREFIX);
        raw.extend(expiry.to_be_bytes());
        raw.extend(serial.to_be_bytes());
        let tag = self.mac.clone().chain_update(&raw).finalize().into_bytes();
        raw.extend(tag.iter().take(TAG_LEN));
        URL_SAFE.encode(raw)
    }

    /// The seconds a token has left, rounded up; `None` when it is not one of
    /// ours, was altered or has expired.
    pub(super) fn remaining(&self, token: &[u8], now: Instant) -> Option<u64> {
        let raw = URL_SAFE.decode(token).ok()?;
        let (claims, tag) = raw.split_last_chunk::<TAG_LEN>()?;
        self.mac
            .clone()
            .chain_update(claims)
            .verify_truncated_left(tag)
            .ok()?;
        let (_prefix, rest) = claims.split_first_chunk::<{ PREFIX.len() }>()?;
        let expiry = u64::from_be_bytes(*rest.first_chunk()?);
        match expiry.checked_sub(self.nanos(now))? {
            0 => None,
            left => Some(left.div_ceil(NANOS_PER_SECOND)),
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.epoch);
        // 64 bits of nanoseconds last for centuries.
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hmac::KeyInit;

    use super::*;

    fn tokens(key: &[u8], epoch: Instant) -> Tokens {
        Tokens::new(Hmac::new_from_slice(key).unwrap(), epoch)
    }

    #[test]
    fn a_ttl_is_digits_from_1_to_21600() {
        for good in ["1", "21600", "0060"] {
            assert!(Ttl::parse(good.as_bytes()).is_some(), "{good}");
        }
        for bad in [
            "",
            "0",
            "21601",
            "-1",
            "+5",
            " 5",
            "5 ",
            "1e3",
            "6h",
            "99999999999999999999",
        ] {
            assert!(Ttl::parse(bad.as_bytes()).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn a_token_is_56_characters_of_padded_base64url_and_no_two_are_alike() {
        let now = Instant::now();
        let tokens = tokens(b"k", now);
        let one = tokens.mint(Ttl(60), now);
        assert_eq!(one.len(), 56);
        assert!(one.starts_with("AQAA") && one.ends_with("=="), "{one}");
        assert_ne!(one, tokens.mint(Ttl(60), now));
    }

    #[test]
    fn the_remaining_time_counts_down_to_refusal() {
        let start = Instant::now();
        let tokens = tokens(b"k", start);
        let token = tokens.mint(Ttl(10), start);
        let left = |after| tokens.remaining(token.as_bytes(), start + Duration::from_millis(after));
        assert_eq!(left(0), Some(10));
        assert_eq!(left(1), Some(10));
        assert_eq!(left(9_001), Some(1));
        assert_eq!(left(9_999), Some(1));
        assert_eq!(left(10_000), None);
        assert_eq!(left(10_001), None);
    }

    #[test]
    fn altered_shortened_and_foreign_tokens_are_refused() {
        let now = Instant::now();
        let ours = tokens(b"k", now);
        let token = ours.mint(Ttl(60), now);
        assert!(ours.remaining(token.as_bytes(), now).is_some());
        assert!(
            tokens(b"other", now)
                .remaining(token.as_bytes(), now)
                .is_none()
        );
        for at in 0..54 {
            let mut altered = token.clone().into_bytes();
            altered[at] = if altered[at] == b'B' { b'C' } else { b'B' };
            assert!(ours.remaining(&altered, now).is_none(), "byte {at}");
        }
        for bad in ["", "AQAA", &token[..52], &token[..54], "not a token"] {
            assert!(ours.remaining(bad.as_bytes(), now).is_none(), "{bad:?}");
        }
    }
}
