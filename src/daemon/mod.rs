//! The daemon's life: what must hold before it serves (start), serving until
//! a signal ends it (serve), and what it is in touch with meanwhile.
//!
//! As root it verifies the kernel rules, binds its ports and starts the
//! witness; then it drops to its own user for good. Started as that user by a
//! service manager, it takes the listeners that it is handed, feels for the
//! rules, which it cannot read, and hears a witness that is started apart.
//! Either way it enters its sandbox, and only then opens the log, starts
//! threads and accepts. It must never serve without the whole rule set, nor read a byte
//! from outside while it holds a privilege.

mod error;
mod events;
mod guards;
mod listeners;
mod serve;
mod signals;
mod start;
mod witness;

use std::path::Path;

pub use error::StartError;
pub use listeners::HandedError;

use crate::config::Config;

/// Serves until SIGTERM or SIGINT. `path` is where `config` was read.
///
/// # Errors
/// [`StartError`]; nobody was served then, or no longer.
pub fn run(config: &Config, path: &Path) -> Result<(), StartError> {
    serve::serve(start::start(config, path)?)
}
