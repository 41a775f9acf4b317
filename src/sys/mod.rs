//! The only code that may be `unsafe`: calls for which no safe wrapper is at
//! hand. Each block says why it is sound. And what several modules read and
//! write of the kernel's own formats.

pub mod activation;
pub mod kcmp;
pub mod listener;
#[forbid(unsafe_code)]
pub mod netlink;
pub mod privilege;
pub mod sandbox;
