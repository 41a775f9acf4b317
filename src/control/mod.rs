//! What root may change while the daemon runs, and how: a socket whose other
//! end the kernel names, the orders that are in force, and the little that
//! outlives the daemon.
//!
//! ```text
//! imdsfw reload … ─► client ═══ socket ═══ server ─► desk ─► Standing ─► proxy
//!                                                      └──► state directory
//! ```
//!
//! A change is in force whole or not at all, and recorded. Nobody but root may
//! change anything, and nobody may hold up who serves: files are read, and
//! policies made, on threads of their own.

mod acceptor;
mod client;
pub mod clock;
mod desk;
mod follow;
mod grants;
mod look;
mod orders;
mod protocol;
mod refusals;
mod server;
mod snapshot;
mod state;
mod status;

pub use acceptor::{Acceptor, Peer};
pub(crate) use client::login;
pub use client::{AskError, ask, root_socket};
pub use desk::{Desk, Parts, record_rejected};
pub use follow::follow;
pub use grants::{Kept, ahead_of};
pub use orders::{By, Bypass, Grant, Lockdown, Orders, Standing, compose};
pub use protocol::{Ask, Done, Judged, Refused, Reply, Why};
pub use server::serve;
pub use snapshot::Snapshot;
pub use state::{StateError, Store};
pub use status::{From, OnDisk, Status, Vitals};
