//! Who is asking: the account and groups behind a uid.

pub mod accounts;
