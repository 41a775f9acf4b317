//! Role credentials that rotate, in the service's own form.
//!
//! They are well-formed and marked `EXAMPLE`: no AWS endpoint will accept
//! them, and nobody should take them for real.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use hmac::{Hmac, Mac};
use sha2::Sha256;

use crate::utc;

/// How long a set of credentials lives and how often a new one appears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    life: Duration,
    every: Duration,
}

/// A rotation that would break the service's promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RotationError {
    /// A life or an interval below one second, the resolution of the dates.
    TooShort,
    /// New credentials would appear too late; holds the longest interval
    /// that this life allows.
    TooLate(Duration),
}

impl std::error::Error for RotationError {}

impl std::fmt::Display for RotationError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::TooShort => f.write_str(
                "credentials must live, and stand between rotations, for one second or more",
            ),
            Self::TooLate(longest) => write!(
                f,
                "new credentials must appear before the old ones expire: rotate every {} or \
                 more often, or let them live longer",
                humantime::format_duration(*longest)
            ),
        }
    }
}

impl Rotation {
    /// New credentials appear at least this long before the old ones expire
    /// (EC2 user guide, "Retrieve security credentials").
    const OVERLAP: Duration = Duration::from_secs(5 * 60);
    /// How often EC2 is seen to hand out a new set.
    const USUAL_INTERVAL: Duration = Duration::from_secs(60 * 60);
    /// How long a set is seen to live.
    const USUAL_LIFE: Duration = Duration::from_secs((6 * 60 + 20) * 60);

    /// Without `every`, once an hour, or as often as a shorter `life` needs.
    /// The overlap is five minutes, for lives under ten minutes half the life.
    pub fn new(life: Duration, every: Option<Duration>) -> Result<Self, RotationError> {
        let longest = life.saturating_sub(Self::OVERLAP.min(life / 2));
        let every = every.unwrap_or(Self::USUAL_INTERVAL.min(longest));
        if life.as_secs() == 0 || every.as_secs() == 0 {
            return Err(RotationError::TooShort);
        }
        if every > longest {
            return Err(RotationError::TooLate(longest));
        }
        Ok(Self { life, every })
    }
}

impl Default for Rotation {
    fn default() -> Self {
        Self {
            life: Self::USUAL_LIFE,
            every: Self::USUAL_INTERVAL,
        }
    }
}

/// One set of credentials.
#[derive(Clone)]
pub(super) struct Issued {
    /// The document as served.
    pub(super) body: Bytes,
    /// When this set appeared.
    pub(super) last_updated: SystemTime,
}

/// Issues one principal's credentials: a new set per interval, all derived
/// from one secret.
pub(super) struct Issuer {
    mac: Hmac<Sha256>,
    rotation: Rotation,
    epoch: Epoch,
    /// The set in force and the interval it belongs to.
    latest: Mutex<(u128, Issued)>,
}

/// One moment on both clocks: intervals are counted on the monotonic one and
/// shown on the other.
#[derive(Clone, Copy)]
pub(super) struct Epoch {
    pub(super) monotonic: Instant,
    pub(super) civil: SystemTime,
}

impl Issuer {
    /// `mac` must be keyed with a secret and already fed the principal, so
    /// that no two principals share credentials.
    pub(super) fn new(mac: Hmac<Sha256>, rotation: Rotation, epoch: Epoch) -> Self {
        let first = issue(&mac, 0, epoch.civil, rotation.life);
        Self {
            mac,
            rotation,
            epoch,
            latest: Mutex::new((0, first)),
        }
    }

    /// The newest set at `now`.
    pub(super) fn current(&self, now: Instant) -> Issued {
        let since = now.saturating_duration_since(self.epoch.monotonic);
        let interval = since.as_nanos() / self.rotation.every.as_nanos();
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if latest.0 != interval {
            let into = since.as_nanos() % self.rotation.every.as_nanos();
            let begun = since - Duration::from_nanos(u64::try_from(into).unwrap_or(u64::MAX));
            let appeared = self.epoch.civil + begun;
            *latest = (
                interval,
                issue(&self.mac, interval, appeared, self.rotation.life),
            );
        }
        latest.1.clone()
    }
}

fn issue(mac: &Hmac<Sha256>, interval: u128, last_updated: SystemTime, life: Duration) -> Issued {
    let derive = |purpose: u8| {
        mac.clone()
            .chain_update(interval.to_be_bytes())
            .chain_update([purpose])
            .finalize()
            .into_bytes()
    };
    let key_id: String = derive(0).iter().take(9).map(|b| base32_char(*b)).collect();
    let secret: Vec<u8> = derive(1).into_iter().take(24).collect();
    let token: Vec<u8> = (2..26).flat_map(derive).collect();
    let body = format!(
        r#"{{
  "Code" : "Success",
  "LastUpdated" : "{}",
  "Type" : "AWS-HMAC",
  "AccessKeyId" : "ASIAEXAMPLE{key_id}",
  "SecretAccessKey" : "EXAMPLE/{}",
  "Token" : "IQoJb3JpZ2luX2VjEXAMPLE{}",
  "Expiration" : "{}"
}}"#,
        utc::rfc3339_seconds(last_updated),
        STANDARD.encode(secret),
        STANDARD.encode(token),
        utc::rfc3339_seconds(last_updated + life),
    );
    Issued {
        body: body.into(),
        last_updated,
    }
}

/// The alphabet of access key ids: `A-Z2-7`.
fn base32_char(byte: u8) -> char {
    char::from(match byte & 31 {
        letter @ 0..26 => b'A' + letter,
        digit => b'2' + (digit - 26),
    })
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use hmac::KeyInit;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn issuer(rotation: Rotation, start: Instant) -> Issuer {
        let epoch = Epoch {
            monotonic: start,
            civil: UNIX_EPOCH + Duration::from_secs(1_795_297_200),
        };
        Issuer::new(Hmac::new_from_slice(b"k").unwrap(), rotation, epoch)
    }

    fn fields(issued: &Issued) -> serde_json::Map<String, serde_json::Value> {
        serde_json::from_slice(&issued.body).unwrap()
    }

    #[test]
    fn the_document_has_the_services_form() {
        let start = Instant::now();
        let issued = issuer(Rotation::default(), start).current(start);
        let text = std::str::from_utf8(&issued.body).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "{");
        assert_eq!(lines[1], r#"  "Code" : "Success","#);
        assert_eq!(lines[2], r#"  "LastUpdated" : "2026-11-21T21:40:00Z","#);
        assert_eq!(lines[3], r#"  "Type" : "AWS-HMAC","#);
        assert!(lines[4].starts_with(r#"  "AccessKeyId" : "ASIAEXAMPLE"#));
        assert!(lines[5].starts_with(r#"  "SecretAccessKey" : "EXAMPLE/"#));
        assert!(lines[6].starts_with(r#"  "Token" : "IQoJb3JpZ2luX2VjEXAMPLE"#));
        assert_eq!(lines[7], r#"  "Expiration" : "2026-11-22T04:00:00Z""#);
        assert_eq!(lines[8..], ["}"]);
        assert!(!text.ends_with('\n'));

        let fields = fields(&issued);
        let key_id = fields["AccessKeyId"].as_str().unwrap();
        assert_eq!(key_id.len(), 20);
        assert!(
            key_id
                .bytes()
                .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit())
        );
        assert_eq!(fields["SecretAccessKey"].as_str().unwrap().len(), 40);
    }

    #[test]
    fn a_new_set_appears_on_time_and_well_before_the_old_one_expires() {
        let start = Instant::now();
        let issuer = issuer(Rotation::default(), start);
        let first = issuer.current(start);
        let last_of_first = issuer.current(start + HOUR - Duration::from_nanos(1));
        assert_eq!(first.body, last_of_first.body);
        let second = issuer.current(start + HOUR);
        for field in ["AccessKeyId", "SecretAccessKey", "Token"] {
            assert_ne!(fields(&first)[field], fields(&second)[field]);
        }
        assert_eq!(second.last_updated, first.last_updated + HOUR);
        assert_eq!(fields(&second)["LastUpdated"], "2026-11-21T22:40:00Z");
        assert_eq!(fields(&second)["Expiration"], "2026-11-22T05:00:00Z");
    }

    #[test]
    fn skipped_intervals_do_not_move_the_dates() {
        let start = Instant::now();
        let issuer = issuer(Rotation::default(), start);
        let third = issuer.current(start + HOUR * 2 + Duration::from_secs(900));
        assert_eq!(fields(&third)["LastUpdated"], "2026-11-21T23:40:00Z");
    }

    #[test]
    fn a_rotation_that_would_serve_expired_credentials_is_refused() {
        let minutes = |m: u64| Duration::from_secs(m * 60);
        assert!(Rotation::new(HOUR, Some(minutes(55))).is_ok());
        assert_eq!(
            Rotation::new(HOUR, Some(minutes(56))),
            Err(RotationError::TooLate(minutes(55)))
        );
        assert_eq!(Rotation::new(HOUR, None).map(|r| r.every), Ok(minutes(55)));
        let short = Duration::from_secs(8);
        assert_eq!(Rotation::new(short, None).map(|r| r.every), Ok(short / 2));
        assert_eq!(
            Rotation::new(Duration::ZERO, None),
            Err(RotationError::TooShort)
        );
        assert_eq!(
            Rotation::new(HOUR, Some(Duration::ZERO)),
            Err(RotationError::TooShort)
        );
    }
}
