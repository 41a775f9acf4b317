//! Our rules as the kernel holds them, to be loaded again as they were: for
//! who has no config to make them of.

use super::iptables::kernel::{Dump, Variant};
use super::nft;
use super::tool::InterceptError;
use super::{Backend, loaded};

/// What one back end held.
#[derive(Debug)]
pub struct Saved(Held);

#[derive(Debug)]
enum Held {
    Nft(String),
    Iptables(Variant, Vec<Dump>),
}

/// What every back end holds; empty where no rules are loaded. No account is
/// looked up for it.
///
/// # Errors
/// [`InterceptError`] when the tool is missing or not permitted.
pub fn save() -> Result<Vec<Saved>, InterceptError> {
    let holding: Vec<Backend> = loaded(None)?;
    let saved = holding.into_iter().map(|backend| {
        Ok(Saved(match Variant::of(backend) {
            None => Held::Nft(nft::kernel::dump()?),
            Some(variant) => Held::Iptables(variant, variant.dump()?),
        }))
    });
    saved.collect()
}

impl Saved {
    /// Loads them, in the place of what is there by now.
    ///
    /// # Errors
    /// [`InterceptError`].
    pub fn load(&self) -> Result<(), InterceptError> {
        match &self.0 {
            Held::Nft(script) => nft::kernel::load_dump(script),
            Held::Iptables(variant, dumps) => variant.load_dumps(dumps),
        }
    }
}
