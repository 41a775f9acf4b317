//! Bytes from a terminal → keys.

/// What was pressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    Up,
    Down,
    PageUp,
    PageDown,
    Enter,
    Escape,
    Backspace,
    /// Everything before the cursor goes.
    Erase,
    Char(char),
}

/// What came at once; sequences that are not known are passed over.
pub(super) fn parse(bytes: &[u8]) -> Vec<Key> {
    let text = String::from_utf8_lossy(bytes);
    let mut chars = text.chars().peekable();
    let mut keys = Vec::new();
    while let Some(char) = chars.next() {
        keys.push(match char {
            '\x1b' => match chars.next_if(|next| matches!(next, '[' | 'O')) {
                None => Key::Escape,
                Some(_) => {
                    let mut number = String::new();
                    let end = loop {
                        match chars.next() {
                            Some(it @ ('0'..='9' | ';')) => number.push(it),
                            end => break end,
                        }
                    };
                    match (number.as_str(), end) {
                        (_, Some('A')) => Key::Up,
                        (_, Some('B')) => Key::Down,
                        ("5", Some('~')) => Key::PageUp,
                        ("6", Some('~')) => Key::PageDown,
                        _ => continue,
                    }
                }
            },
            '\r' | '\n' => Key::Enter,
            '\x7f' | '\x08' => Key::Backspace,
            '\x15' => Key::Erase,
            char if char.is_control() => continue,
            char => Key::Char(char),
        });
    }
    keys
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_told_apart_and_what_is_not_known_is_passed_over() {
        for (bytes, expected) in [
            (&b"q"[..], vec![Key::Char('q')]),
            (b"\x1b", vec![Key::Escape]),
            (b"\x1b[A\x1bOB", vec![Key::Up, Key::Down]),
            (b"\x1b[5~\x1b[6~", vec![Key::PageUp, Key::PageDown]),
            (b"\x1b[200~\x1b[1;5C\x01", vec![]),
            (b"\r\x7f\x15", vec![Key::Enter, Key::Backspace, Key::Erase]),
            ("é\u{9b}".as_bytes(), vec![Key::Char('é')]),
            (b"\x1b[", vec![]),
        ] {
            assert_eq!(parse(bytes), expected, "{bytes:?}");
        }
    }
}
