//! The only code that may be `unsafe`: calls for which no safe wrapper is at
//! hand. Each block says why it is sound.

pub mod activation;
pub mod kcmp;
pub mod privilege;
pub mod sandbox;
