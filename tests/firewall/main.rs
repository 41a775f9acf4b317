//! The whole firewall on a host: real kernel, real rules, real daemon, the
//! simulated service behind a veth, and users with sockets of their own.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::cast_possible_wrap,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss
)]

mod activation;
mod agreement;
mod answers;
mod apart;
mod attacks;
mod audit;
mod backends;
mod budget;
mod bypass;
#[path = "../common/mod.rs"]
mod common;
// Its debugger knows one kind of registers.
#[cfg(target_arch = "x86_64")]
mod confine;
mod control;
mod drift;
mod exemption;
mod explained;
mod http_table;
mod identity;
mod limits;
mod listings;
mod log_file;
mod memory;
mod names;
mod narrow;
mod observe;
mod overload;
mod readme;
mod reload;
mod scenes;
mod sinks;
mod spellings;
mod start;
mod tokens;
mod upstream;
mod volume;
mod witness;
