//! The one secret of a running simulation, new at every start.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::Error;

/// Keys everything the simulation hands out.
pub(super) struct Secret(Hmac<Sha256>);

impl Secret {
    pub(super) fn new() -> Result<Self, Error> {
        // SHA-256's block: the size at which HMAC takes a key as it is.
        let mut key = [0; 64];
        getrandom::fill(&mut key).map_err(Error::Random)?;
        Ok(Self(Hmac::new(&key.into())))
    }

    /// A MAC whose outputs are unrelated to those for any other purpose.
    pub(super) fn mac(&self, purpose: &str) -> Hmac<Sha256> {
        self.0.clone().chain_update(purpose).chain_update([0])
    }
}
