//! Bytes → canonical request. Pure: knows no socket, clock or runtime.
//!
//! Everything from outside passes here before anything else reads it. It must
//! never repair a request: what is ambiguous is refused by name.

mod path;

pub use path::{CanonicalPath, PathError};
