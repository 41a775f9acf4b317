//! Ids of records: ULIDs, so that they sort by time and never repeat.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Crockford's base 32.
const ALPHABET: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

/// Makes ids: 48 bits of Unix milliseconds, 32 bits random for this run, 48
/// bits counting up. Unlike one random number each, this asks the kernel for
/// nothing; an id is a name, not a secret.
pub(super) struct Ids {
    run: u32,
    count: AtomicU64,
}

impl Ids {
    pub(super) fn new(run: u32) -> Self {
        Self {
            run,
            count: AtomicU64::new(0),
        }
    }

    pub(super) fn next(&self, now: SystemTime) -> String {
        let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let count = self.count.fetch_add(1, Ordering::Relaxed) & 0xffff_ffff_ffff;
        let bits = since.as_millis() << 80 | u128::from(self.run) << 48 | u128::from(count);
        let mut id = String::with_capacity(26);
        for at in (0..26).rev() {
            let digit = usize::try_from(bits >> (at * 5) & 31).unwrap_or(0);
            id.extend(ALPHABET.get(digit).map(|byte| char::from(*byte)));
        }
        id
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn is_a_ulid_that_sorts_by_time() {
        let ids = Ids::new(u32::MAX);
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        let made: Vec<_> = [1, 1, 2, 1_795_300_000].map(|it| ids.next(at(it))).into();
        assert!(
            made.is_sorted() && made.iter().all(|id| id.len() == 26),
            "{made:?}"
        );
        assert_eq!(made[0], "00000000Z8ZZZZZZR000000000");
    }
}
