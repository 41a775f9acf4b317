//! The audit log: the record, and how it reaches the disk.
//!
//! Exactly one record per request, whatever becomes of it. No token,
//! credential or body may ever be written: the schema has no place for one.

mod denials;
mod file;
mod find;
mod host;
mod id;
mod log;
mod record;
mod request;
#[cfg(test)]
mod tests;

#[cfg(any(test, fuzzing))]
pub(crate) use file::repair;
pub use find::find;
pub use host::{Host, InstanceFacts};
pub use log::{Log, Writer};
pub use record::{CredentialRecord, Decision, Event, Reason, SCHEMA};
pub use request::{Ending, Facts, Held, Pending, connection_refused};
