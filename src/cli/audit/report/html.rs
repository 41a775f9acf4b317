//! Text → HTML: nothing that a record says gets onto the page but through
//! [`Text`].

use std::fmt;

use crate::adoption::grouped;
use crate::audit::digest::{Counts, Digest, Seen, Word};
use crate::audit::reading::When;
use crate::diagnose::plain_text;

/// Text from outside, harmless within an element and within a quoted
/// attribute: what would steer or reorder it is replaced, what is HTML is
/// escaped.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for char in plain_text(self.0).chars() {
            match char {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                char => fmt::Write::write_char(f, char)?,
            }
        }
        Ok(())
    }
}

/// A point in time, without the day where that is everywhere the same.
pub(super) struct Time<'a> {
    pub(super) at: &'a str,
    pub(super) of: &'a When,
}

impl fmt::Display for Time<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let begin = |text: &str, len| text.chars().take(len).collect::<String>();
        let is_one_day = begin(&self.of.first, 10) == begin(&self.of.last, 10);
        let shown = begin(self.at, 19).replace('T', " ");
        let shown = match shown.split_once(' ') {
            Some((_, time)) if is_one_day => time,
            _ => &shown,
        };
        write!(f, "{}", Text(shown))
    }
}

/// From when to when something was seen.
pub(super) fn span(when: &When, of: &When) -> String {
    let time = |at| Time { at, of }.to_string();
    let (first, last) = (time(&when.first), time(&when.last));
    match first == last {
        true => first,
        false => format!("{first} – {last}"),
    }
}

/// A cell with a count of what it says, where no head is above it.
pub(super) fn number(count: u64, tone: &str, what: &str) -> String {
    match count {
        0 => "<td class=\"num zero\">–</td>".to_owned(),
        _ => format!(
            "<td class=\"num {tone}\" data-is=\"{what}\">{}</td>",
            grouped(count)
        ),
    }
}

/// What a filter by decision finds it by.
pub(super) fn decisions(counts: &Counts) -> String {
    let words = [
        (counts.allowed, "allow"),
        (counts.observed, "observed"),
        (counts.denied, "deny"),
    ];
    let words = words.iter().filter(|(count, _)| *count > 0);
    let words: Vec<_> = words.map(|(_, word)| *word).collect();
    words.join("&#10;")
}

/// The account, and its uid where that says more.
pub(super) fn who(digest: &Digest, account: crate::audit::digest::AccountId) -> String {
    let name = digest.name(account);
    let name = Text(&name);
    match digest.uid(account) {
        Some(uid) => format!("{name} <span class=\"sub\">uid {uid}</span>"),
        None => name.to_string(),
    }
}

/// A program.
pub(super) fn program(digest: &Digest, exe: Word) -> String {
    match digest.exe(exe) {
        Some(exe) => format!("<code>{}</code>", Text(exe)),
        None => "<span class=\"soft\">program not known</span>".to_owned(),
    }
}

/// How often.
pub(super) fn times(seen: &Seen) -> String {
    format!("{}×", grouped(seen.count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_nothing_but_text() {
        let hostile = "</td><script>alert(\"1\")</script>&amp;'\n\u{1b}[31m\u{202e}\u{9b}";
        let shown = Text(hostile).to_string();
        assert_eq!(
            shown,
            "&lt;/td&gt;&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;&amp;amp;&#39; \
             \u{fffd}[31m\u{fffd}\u{fffd}"
        );
    }

    #[test]
    fn times_are_as_short_as_the_log_allows() {
        let day = When {
            first: "2026-11-21T00:00:00.000000Z".into(),
            last: "2026-11-21T23:00:00.000000Z".into(),
        };
        let days = When {
            last: "2026-11-22T23:00:00.000000Z".into(),
            ..day.clone()
        };
        let seen = When {
            first: "2026-11-21T21:40:00.123456Z".into(),
            last: "2026-11-21T21:40:01.123456Z".into(),
        };
        assert_eq!(span(&seen, &day), "21:40:00 – 21:40:01");
        assert!(span(&seen, &days).starts_with("2026-11-21 21:40:00 – 2026-11-21"));
        let at = "<b>éé";
        assert_eq!(Time { at, of: &day }.to_string(), "&lt;b&gt;éé");
    }
}
