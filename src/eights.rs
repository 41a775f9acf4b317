//! Looking through text eight bytes at a time: what is read or written for each
//! request is looked through in all its bytes.
//!
//! Of each byte that is found, the highest bit is set; it may be also in bytes
//! that stand above it, never anywhere where there is none.

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGHS: u64 = u64::from_ne_bytes([0x80; 8]);

/// Bytes below this, which is at most 0x80.
pub(crate) fn below(eight: u64, than: u8) -> u64 {
    eight.wrapping_sub(ONES * u64::from(than)) & !eight & HIGHS
}

/// Bytes that are this one.
pub(crate) fn equal(eight: u64, byte: u8) -> u64 {
    below(eight ^ (ONES * u64::from(byte)), 1)
}
