//! The audit log: the record, and how it reaches the disk.
//!
//! Exactly one record per request, whatever becomes of it. No token,
//! credential or body may ever be written: the schema has no place for one.

mod chain;
mod denials;
pub mod digest;
mod file;
mod head;
mod histogram;
mod host;
mod id;
mod json;
mod life;
mod lines;
mod log;
pub mod ocsf;
mod plain;
pub mod reading;
mod recent;
mod record;
mod request;
mod resume;
mod rotate;
mod sink;
mod tally;
#[cfg(test)]
mod tests;
pub mod window;
mod writing;

pub use chain::{Digest, Link};
#[cfg(any(test, fuzzing))]
pub(crate) use file::repair;
pub use head::{Head, read as read_head};
pub use histogram::Histogram;
pub use host::{Host, InstanceFacts};
pub use life::{Principal, Sighting, Standing as CredentialsLife, Why as Stale};
pub use log::{Backlog, Log, Options, Writer};
pub use plain::harmless;
pub use record::{CredentialRecord, Decision, Event, Reason, SCHEMA};
pub use request::{Ending, Facts, Held, Pending, connection_refused};
pub use sink::Sink;
pub use tally::{Count, Counted, Failed, Measured, OfUser, Role};
