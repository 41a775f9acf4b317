//! The simulated metadata service as its clients see it, through the real
//! binary on loopback. Each test is named after the statement it proves about
//! the EC2 service that is simulated.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice
)]

mod content;
mod credentials;
mod harness;
mod options;
mod tokens;
mod wire;
