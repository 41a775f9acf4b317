//! What the network tests share: namespaces of their own, and sockets of
//! whatever user the test speaks of.

// Each test crate uses its own part of it.
#![allow(dead_code)]

pub(crate) mod again;
pub(crate) mod fake;
pub(crate) mod host;
pub(crate) mod http;
pub(crate) mod iptables;
pub(crate) mod login;
pub(crate) mod logs;
pub(crate) mod naive;
pub(crate) mod net;
pub(crate) mod nft;
pub(crate) mod schema;
pub(crate) mod shown;
pub(crate) mod user;
pub(crate) mod watcher;
