//! The kernel rules against a real kernel: what they do, what they stop, and
//! how they are loaded, checked and removed. Each attack is shown to work once
//! the one rule that stops it is taken out.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation
)]

mod beside;
mod cli;
#[path = "../common/mod.rs"]
mod common;
mod escapes;
mod exemption;
mod forwarded;
mod kernel;
mod lifecycle;
mod listener;
mod older;
mod pin;
mod redirect;
mod shares;
mod verify;
mod verify_iptables;
mod watch;
