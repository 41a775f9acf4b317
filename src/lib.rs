//! `imdsfw`: a firewall between the users of a host and its instance metadata
//! service. The way of a request, top to bottom, is the way of these modules:
//!
//! ```text
//! kernel redirect ─► accept ─► request ─► caller ─► token gate ─► policy ─► upstream ─► answer
//! (intercept)        (proxy)   (request)  (caller)  (token)       (policy)  (upstream)  (proxy)
//!                    exactly one audit record per request (audit)
//! ```
//!
//! Imports point down this list, never up.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::indexing_slicing,
        clippy::string_slice,
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        clippy::cast_sign_loss
    )
)]

#[forbid(unsafe_code)]
pub mod adoption;
#[forbid(unsafe_code)]
pub mod audit;
#[forbid(unsafe_code)]
pub mod authorize;
#[forbid(unsafe_code)]
pub mod caller;
#[forbid(unsafe_code)]
pub mod cli;
#[forbid(unsafe_code)]
pub mod config;
#[forbid(unsafe_code)]
pub mod control;
#[forbid(unsafe_code)]
pub mod daemon;
#[forbid(unsafe_code)]
pub mod demo;
#[forbid(unsafe_code)]
pub mod diagnose;
#[forbid(unsafe_code)]
pub mod doctor;
#[forbid(unsafe_code)]
mod eights;
#[doc(hidden)]
#[cfg(any(test, fuzzing))]
#[forbid(unsafe_code)]
pub mod fuzzing;
#[forbid(unsafe_code)]
pub mod ids;
#[forbid(unsafe_code)]
pub mod intercept;
#[forbid(unsafe_code)]
pub mod limits;
#[forbid(unsafe_code)]
mod lock;
#[forbid(unsafe_code)]
pub mod metrics;
#[forbid(unsafe_code)]
mod notify;
#[forbid(unsafe_code)]
pub mod policy;
#[forbid(unsafe_code)]
pub mod provider;
#[forbid(unsafe_code)]
pub mod proxy;
#[forbid(unsafe_code)]
pub mod request;
#[forbid(unsafe_code)]
pub mod sim;
#[forbid(unsafe_code)]
mod sorted;
#[allow(unsafe_code)]
pub mod sys;
#[forbid(unsafe_code)]
pub mod token;
#[forbid(unsafe_code)]
pub mod upstream;
#[forbid(unsafe_code)]
pub mod utc;
#[forbid(unsafe_code)]
pub mod watch;
