//! The kernel rules: what sends every connection for the metadata address to
//! the daemon, and what refuses all that would slip past it.
//!
//! ```text
//! Config ─► RuleSet (model) ─► text (nft) ─► the kernel (apply, remove)
//!                                   └──────► compared with the kernel (verify)
//! ```
//!
//! Must never leave a moment without rules while replacing them, touch a table
//! that is not ours, or exempt anybody but the daemon's own uid.

mod account;
mod model;
mod nft;
mod probe;
mod tool;
mod verify;

pub use account::{AccountError, daemon_uid};
pub use model::{ConnMark, DAEMON_CONNECTION, LISTENER_MARK, RuleSet, RuleSetError};
pub use nft::{TABLE, render};
pub use probe::{Met, Open, probe};
pub use tool::InterceptError;
pub use verify::{Drift, DriftKind, verify};

/// Loads the rules, replacing what an earlier run loaded, in one transaction:
/// either all of them are in force afterwards or nothing has changed.
///
/// Connections through the daemon survive a second `apply`; connections older
/// than the first one are refused at their next packet.
///
/// # Errors
/// [`InterceptError`] when nft is missing, not permitted or refuses the rules.
pub fn apply(rules: &RuleSet) -> Result<(), InterceptError> {
    tool::load(&render(rules))
}

/// What [`remove`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removal {
    /// The rules were loaded and are gone.
    Removed,
    /// There was nothing to remove.
    Absent,
}

/// Takes our table, and only ours, out of the kernel. From then on every user
/// of the host reaches the metadata service directly.
///
/// # Errors
/// [`InterceptError`] when nft is missing or not permitted.
pub fn remove() -> Result<Removal, InterceptError> {
    let tables = tool::tables()?;
    verify::clear_leftovers(&tables)?;
    if !tables.iter().any(|table| table == TABLE) {
        return Ok(Removal::Absent);
    }
    // `add` first: the table may have gone since it was listed, and deleting
    // an absent one is an error.
    tool::load(&format!(
        "add table inet {TABLE}\ndelete table inet {TABLE}\n"
    ))?;
    Ok(Removal::Removed)
}
