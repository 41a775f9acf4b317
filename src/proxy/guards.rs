//! Whether the kernel rules stand, as far as anybody says otherwise.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Set by who hears of the rules, asked for every request. They stand until
/// somebody says that they do not.
#[derive(Clone, Debug, Default)]
pub struct Guards(Arc<AtomicBool>);

impl Guards {
    /// From now on nobody is served, or again everybody.
    pub fn set_gone(&self, gone: bool) {
        self.0.store(gone, Ordering::Release);
    }

    /// Whether nobody may be served.
    pub fn are_gone(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}
