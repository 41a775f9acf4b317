//! In which form a record leaves.

use std::borrow::Cow;

use crate::audit::{harmless, ocsf};
use crate::config::sinks::Format;

/// A line of the log as `format` has it, without an end. A record that has no
/// place there stays as it is: none may be left out.
pub(super) fn render(line: &[u8], format: Format) -> Cow<'_, [u8]> {
    let event = match format {
        Format::Native => None,
        Format::Ocsf => str::from_utf8(line).ok().and_then(ocsf::from_native),
    };
    match event {
        Some(event) => Cow::Owned(harmless(&event).into_owned().into_bytes()),
        None => Cow::Borrowed(line),
    }
}
