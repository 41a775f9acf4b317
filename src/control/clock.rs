//! The clock by which grants, bypasses and tokens end, and the boot that it
//! counts from. It goes on while the host is suspended, and nobody can set it.

use std::fs;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use nix::time::{ClockId, clock_gettime};

use crate::token::Moment;

/// CLOCK_BOOTTIME.
pub fn boottime() -> Moment {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from);
    // The clock exists since Linux 2.6.39; without it everything has ended.
    now.map_or(Moment(u64::MAX), |now| {
        Moment(u64::try_from(now.as_millis()).unwrap_or(u64::MAX))
    })
}

/// From now on.
pub fn in_seconds(seconds: u64) -> Moment {
    let milliseconds = seconds.saturating_mul(1000);
    Moment(boottime().0.saturating_add(milliseconds))
}

/// How long it is until then; nothing where it is over.
pub fn until(end: Moment) -> Duration {
    Duration::from_millis(end.0.saturating_sub(boottime().0))
}

/// When that is by the clock on the wall, as it goes now.
pub fn on_the_wall(end: Moment) -> SystemTime {
    SystemTime::now() + until(end).min(Duration::from_secs(1 << 33))
}

/// Which boot this is; empty where the kernel does not say. Read once: to be
/// called first while that file is still within reach.
pub fn boot_id() -> &'static str {
    static ID: OnceLock<String> = OnceLock::new();
    ID.get_or_init(|| {
        let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
        id.map(|id| id.trim().to_owned()).unwrap_or_default()
    })
}
