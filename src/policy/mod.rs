//! Text → rules → verdict. Pure: knows no file, clock or runtime.
//!
//! A policy with any error is refused whole; absence and unknown are errors
//! or denials here, never "any".

mod subject;

pub use subject::{Account, AccountFacts, Group, Subject};

mod verdict;

pub use verdict::{DenyCause, Verdict};
