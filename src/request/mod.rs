//! Bytes → canonical request. Pure: knows no socket, clock or runtime.
//!
//! Everything from outside passes here before anything else reads it. It must
//! never repair a request: what is ambiguous is refused by name.

mod agreement;
mod canonical;
mod head;
mod host;
mod malformed;
mod path;
#[cfg(test)]
mod tests;

pub use agreement::parsers_agree;
pub use canonical::{
    CanonicalRequest, Intent, PresentedToken, Read, ReadMethod, Rejected, Rejection, TOKEN_PATH,
    TTL_MAX, Ttl, escaped,
};
pub use head::{
    HEADER_COUNT_MAX, HEADERS_MAX, HttpVersion, Persistence, REQUEST_LINE_MAX, RawHead, Scan, scan,
};
pub use host::Service;
pub use malformed::Malformed;
pub use path::{CanonicalPath, PathError, path_of_url};
