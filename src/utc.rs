//! Points in time as RFC 3339 in UTC, the form of audit records and of the
//! metadata service's own documents.
//!
//! Must never panic, whatever the host's clock says: a time outside the years
//! 1970 to 9999, which the form cannot carry, is shown as the nearest it can.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// E.g. `2026-11-21T21:40:00.123456Z`; finer digits are cut off.
pub fn rfc3339_micros(at: SystemTime) -> String {
    humantime::format_rfc3339_micros(representable(at)).to_string()
}

/// E.g. `2026-11-21T21:40:00Z`; fractions are cut off.
pub fn rfc3339_seconds(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(representable(at)).to_string()
}

fn representable(at: SystemTime) -> SystemTime {
    /// 9999-12-31T23:59:59.999999Z.
    const LAST: Duration = Duration::new(253_402_300_799, 999_999_000);
    at.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after_epoch(seconds: u64, nanos: u32) -> SystemTime {
        UNIX_EPOCH + Duration::new(seconds, nanos)
    }

    #[test]
    fn known_instants_read_as_on_a_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339_seconds(after_epoch(seconds, 0)), text);
        }
    }

    #[test]
    fn microseconds_are_always_six_digits_and_never_rounded_up() {
        let second = 1_795_297_200;
        for (nanos, text) in [
            (0, "2026-11-21T21:40:00.000000Z"),
            (1_000, "2026-11-21T21:40:00.000001Z"),
            (123_456_789, "2026-11-21T21:40:00.123456Z"),
            (999_999_999, "2026-11-21T21:40:00.999999Z"),
        ] {
            assert_eq!(rfc3339_micros(after_epoch(second, nanos)), text);
        }
        assert_eq!(
            rfc3339_seconds(after_epoch(second, 999_999_999)),
            "2026-11-21T21:40:00Z"
        );
    }

    #[test]
    fn a_clock_out_of_range_gives_the_nearest_time_and_no_panic() {
        let before = UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(rfc3339_micros(before), "1970-01-01T00:00:00.000000Z");
        let year_10000 = after_epoch(253_402_300_800, 0);
        assert_eq!(rfc3339_micros(year_10000), "9999-12-31T23:59:59.999999Z");
        assert_eq!(rfc3339_seconds(year_10000), "9999-12-31T23:59:59Z");
    }
}
