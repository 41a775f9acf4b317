//! The audit log: the record, and how it reaches the disk.
//!
//! Exactly one record per request, whatever becomes of it. No token,
//! credential or body may ever be written: the schema has no place for one.

mod denials;
pub mod digest;
mod file;
mod histogram;
mod host;
mod id;
mod life;
mod log;
pub mod ocsf;
pub mod reading;
mod record;
mod request;
mod tally;
#[cfg(test)]
mod tests;
pub mod window;

#[cfg(any(test, fuzzing))]
pub(crate) use file::repair;
pub use histogram::Histogram;
pub use host::{Host, InstanceFacts};
pub use life::{Principal, Sighting, Standing as CredentialsLife, Why as Stale};
pub use log::{Backlog, Log, Writer};
pub use record::{CredentialRecord, Decision, Event, Reason, SCHEMA};
pub use request::{Ending, Facts, Held, Pending, connection_refused};
pub use tally::{Count, Counted, Failed, Measured, OfUser, Role};
