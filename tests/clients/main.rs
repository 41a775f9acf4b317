//! Clients from outside this project, run for real against the firewall: as
//! root, who must see no difference, and as a user, who must be refused in a
//! way that each of them understands at once. `.ci/setup tests` installs them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_truncation
)]

#[path = "../common/mod.rs"]
mod common;

mod adoption;
mod agents;
mod curl;
mod desk;
mod fleet;
mod ocsf;
mod sdk;
mod shipped;
mod tools;
