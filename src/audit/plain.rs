//! A record's text for whoever shows it as it is: nothing in it steers a
//! terminal, and it stays the same JSON.

use std::borrow::Cow;
use std::fmt::Write as _;

use crate::diagnose::plain_text;

/// A record's line, with what could steer a terminal escaped, as JSON has it.
pub fn harmless(line: &str) -> Cow<'_, str> {
    if line.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return line.into();
    }
    let mut out = String::with_capacity(line.len());
    for char in line.chars() {
        let text = char.encode_utf8(&mut [0; 4]).to_owned();
        if char.is_ascii_control() && char != '\x7f' {
            // Between the parts of the object; within a text none can be.
            out.push(' ');
        } else if plain_text(&text) == text {
            out.push(char);
        } else {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.into()
}
