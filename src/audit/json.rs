//! Writing JSON for the record of a request, which is made for each of them: a
//! serializer for whatever may come takes four times as long.
//!
//! Only compact JSON, and only what a record has. Text is escaped by serde_json
//! wherever a byte of it has to be.

use super::record::Event;
use crate::eights::{below, equal};

/// What stands before a member's value, where it is not the first.
macro_rules! key {
    ($name:literal) => {
        concat!(",\"", $name, "\":")
    };
}
pub(super) use key;

/// Something that is written as a JSON value.
pub(super) trait Value {
    fn put(&self, to: &mut Vec<u8>);
}

/// A word of this program's, in which nothing is to be escaped.
pub(super) struct Word<'w>(pub(super) &'w str);

/// Text from wherever.
pub(super) struct Text<'t>(pub(super) &'t str);

/// A member, but for the first; `key` is made by [`key!`].
pub(super) fn member(to: &mut Vec<u8>, key: &'static str, value: impl Value) {
    to.extend_from_slice(key.as_bytes());
    value.put(to);
}

/// The same, where there is anything to say.
pub(super) fn present(to: &mut Vec<u8>, key: &'static str, value: Option<impl Value>) {
    if let Some(value) = value {
        member(to, key, value);
    }
}

impl<V: Value> Value for Option<V> {
    fn put(&self, to: &mut Vec<u8>) {
        match self {
            Some(value) => value.put(to),
            None => to.extend_from_slice(b"null"),
        }
    }
}

impl Value for Word<'_> {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(b'"');
        to.extend_from_slice(self.0.as_bytes());
        to.push(b'"');
    }
}

impl Value for Text<'_> {
    fn put(&self, to: &mut Vec<u8>) {
        if stands_as_it_is(self.0.as_bytes()) {
            Word(self.0).put(to);
        } else {
            // Into memory, and of text: that cannot fail.
            let _ = serde_json::to_writer(to, self.0);
        }
    }
}

/// What serde_json writes without looking for anything to escape.
macro_rules! as_serialized {
    ($($plain:ty),*) => {$(
        impl Value for $plain {
            fn put(&self, to: &mut Vec<u8>) {
                // Into memory, and of a number or a word: that cannot fail.
                let _ = serde_json::to_writer(to, self);
            }
        }
    )*};
}
as_serialized!(u16, u32, u64, usize, i64, Event);

/// Whether no byte is a quotation mark, a backslash or a control (RFC 8259, 7),
/// eight at a time.
fn stands_as_it_is(text: &[u8]) -> bool {
    let (eights, rest) = text.as_chunks::<8>();
    let found = eights.iter().fold(0, |found, eight| {
        let eight = u64::from_ne_bytes(*eight);
        found | below(eight, b' ') | equal(eight, b'"') | equal(eight, b'\\')
    });
    let plain = |byte: &u8| !matches!(byte, 0..b' ' | b'"' | b'\\');
    found == 0 && rest.iter().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(value: impl Value) -> String {
        let mut to = Vec::new();
        value.put(&mut to);
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn text_is_as_serde_json_has_it_wherever_a_byte_stands() {
        for around in 0..20 {
            for char in (0..=0x2ff).filter_map(char::from_u32) {
                for text in [
                    format!("{}{char}", "x".repeat(around)),
                    format!("{char}{}", "\u{7f}".repeat(around)),
                    format!("é{char}{}é", " ".repeat(around)),
                ] {
                    let expected = serde_json::to_string(&text).unwrap();
                    assert_eq!(written(Text(&text)), expected);
                }
            }
        }
    }

    #[test]
    fn numbers_are_whole() {
        for number in [0, 1, 9, 10, 99, 100, 1_000_000, u64::MAX - 1, u64::MAX] {
            assert_eq!(written(number), number.to_string());
        }
        for number in [0, -1, i64::MIN, i64::MAX] {
            assert_eq!(written(number), number.to_string());
        }
        assert_eq!(written(Some(7_u16)), "7");
        assert_eq!(written(None::<u32>), "null");
    }
}
