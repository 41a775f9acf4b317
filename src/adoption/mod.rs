//! From a host without the firewall to one that lives with it: what was asked
//! for (`learn`), what a policy would change (`replay`), and the steps in and
//! out (`enable`, `enforce`, `confirm`, `disable`).
//!
//! Nothing here may grant what nobody has said yes to: what is learnt is a
//! draft, and says on the line where it would hand out credentials.

mod draft;
mod error;
pub mod learn;
mod processes;
pub mod recorded;
pub mod replay;
mod services;
pub mod session;
mod state;
mod steps;
#[cfg(test)]
mod tests;

pub use error::AdoptionError;
pub use steps::{Done, confirm, disable, enable, enforce, undo_when_due};

/// How people read numbers: 12,345.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
