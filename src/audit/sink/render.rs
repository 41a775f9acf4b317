//! In which form a record leaves.

use std::borrow::Cow;

use crate::config::sinks::Format;

/// A line of the log as `format` has it, without an end.
pub(super) fn render(line: &[u8], format: Format) -> Cow<'_, [u8]> {
    match format {
        Format::Native => Cow::Borrowed(line),
    }
}
