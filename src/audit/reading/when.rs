//! A span of time, in the words of records.

/// From the first record to the last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct When {
    /// As recorded; empty where there was none.
    pub first: String,
    /// As recorded.
    pub last: String,
}

impl When {
    /// One more.
    pub fn add(&mut self, time: &str) {
        if self.first.is_empty() || time < self.first.as_str() {
            time.clone_into(&mut self.first);
        }
        if time > self.last.as_str() {
            time.clone_into(&mut self.last);
        }
    }
}
