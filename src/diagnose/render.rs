//! Findings as text. An error shows the line and a caret under the word; a
//! warning is one sentence, so that many of them do not bury the errors.

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};

use super::{Diagnostic, Severity};

/// Width for which everything is laid out.
const COLUMNS: usize = 80;

/// Whether colours may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Text alone.
    Plain,
    /// With terminal colours.
    Coloured,
}

pub(super) fn render(found: &[Diagnostic], style: Style) -> String {
    let renderer = match style {
        Style::Plain => Renderer::plain(),
        Style::Coloured => Renderer::styled(),
    }
    .term_width(COLUMNS);
    let mut out = String::new();
    let mut before = None;
    for finding in found {
        // Sentences stand line by line, everything else apart.
        let sentences = [before, Some(finding.severity)] == [Some(Severity::Warning); 2];
        if before.is_some() && !sentences {
            out.push('\n');
        }
        match finding.severity {
            Severity::Error => out.push_str(&renderer.render(&[group(finding)])),
            Severity::Warning => out.push_str(&sentence(finding, style)),
        }
        out.push('\n');
        before = Some(finding.severity);
    }
    out
}

fn sentence(finding: &Diagnostic, style: Style) -> String {
    let mark = "warning:";
    let mut text = format!(
        "{mark} {}: {}: {}",
        finding.place, finding.message, finding.expected
    );
    if let Some(help) = &finding.help {
        text.push_str("; ");
        text.push_str(help);
    }
    let text = wrap(&plain_text(&text), COLUMNS - 2).replace('\n', "\n  ");
    match (style, text.strip_prefix(mark)) {
        (Style::Coloured, Some(rest)) => format!("\x1b[1;33m{mark}\x1b[0m{rest}"),
        _ => text,
    }
}

fn group(finding: &Diagnostic) -> Group<'static> {
    if finding.place.is_of_file() {
        return whole_file(finding);
    }
    let source = &finding.place.source;
    let (number, start, line) = source.line_at(finding.place.span.start);
    // Only the first line of a longer stretch is shown. The pieces are cleaned
    // one by one, so that the caret still stands under the cleaned word.
    let from = (finding.place.span.start - start).min(line.len());
    let to = (finding.place.span.end - start).clamp(from, line.len());
    let before = plain_text(line.get(..from).unwrap_or_default());
    let word = plain_text(line.get(from..to).unwrap_or_default());
    let after = plain_text(line.get(to..).unwrap_or_default());
    let span = before.len()..before.len() + word.len();

    let expected = plain_text(&finding.expected);
    let gutter = number.to_string().len() + " | ".len();
    let beside_caret = gutter
        + before.chars().count()
        + word.chars().count().max(1)
        + 1
        + expected.chars().count()
        <= COLUMNS;
    let annotation = AnnotationKind::Primary.span(span);
    let annotation = if beside_caret {
        annotation.label(expected.clone())
    } else {
        annotation
    };
    let snippet = Snippet::source(before + &word + &after)
        .line_start(number)
        .path(plain_text(source.name()))
        .annotation(annotation);

    let title_indent = "error: ".len();
    let note_indent = gutter + "= note: ".len();
    let mut group = Level::ERROR
        .primary_title(wrap(&plain_text(&finding.message), COLUMNS - title_indent))
        .element(snippet);
    if !beside_caret {
        group = group.element(Level::NOTE.message(wrap(&expected, COLUMNS - note_indent)));
    }
    with_help(group, finding, note_indent)
}

/// Of a file that was not read there is no line to show.
fn whole_file(finding: &Diagnostic) -> Group<'static> {
    let (title_indent, note_indent) = ("error: ".len(), "  = note: ".len());
    let group = Level::ERROR
        .primary_title(wrap(&plain_text(&finding.message), COLUMNS - title_indent))
        .element(
            Origin::path(plain_text(finding.place.source.name()))
                .line(1)
                .char_column(1),
        )
        .element(Level::NOTE.message(wrap(&plain_text(&finding.expected), COLUMNS - note_indent)));
    with_help(group, finding, note_indent)
}

fn with_help(group: Group<'static>, finding: &Diagnostic, note_indent: usize) -> Group<'static> {
    match &finding.help {
        Some(help) => {
            let help = wrap(&plain_text(help), COLUMNS - note_indent);
            group.element(Level::HELP.message(help))
        }
        None => group,
    }
}

/// The text with whatever could steer a terminal or reorder a line replaced,
/// tabs and line feeds by a space.
pub fn plain_text(text: &str) -> String {
    if text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return text.to_owned();
    }
    text.chars()
        .map(|char| match char {
            '\t' | '\n' => ' ',
            // Marks and overrides of writing direction, and invisible joiners.
            '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' => {
                '\u{fffd}'
            }
            '\u{feff}' | '\u{2028}' | '\u{2029}' | '\u{61c}' => '\u{fffd}',
            char if char.is_control() => '\u{fffd}',
            char => char,
        })
        .collect()
}

/// Breaks a text into lines at its spaces; a word longer than the width stands alone.
pub fn wrap(text: &str, width: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push('\n');
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Diagnostics, Place, Source};
    use super::*;

    fn one(text: &str, word: &str, expected: &str) -> String {
        let source = Source::new("/etc/imdsfw/imdsfw.toml", text);
        let at = text.find(word).unwrap();
        let mut found = Diagnostics::new();
        found
            .error(
                Place::new(&source, at..at + word.len()),
                "unknown key `prot`",
                expected,
            )
            .help("did you mean `port`?");
        found.render(Style::Plain)
    }

    #[test]
    fn the_line_the_caret_and_what_was_expected() {
        assert_eq!(
            one(
                "schema = 1\n\n[listen]\nprot = 253\n",
                "prot",
                "expected `port`"
            ),
            "\
error: unknown key `prot`
 --> /etc/imdsfw/imdsfw.toml:4:1
  |
4 | prot = 253
  | ^^^^ expected `port`
  |
  = help: did you mean `port`?
"
        );
    }

    #[test]
    fn a_long_expectation_moves_below_and_lines_stay_within_80_columns() {
        let rendered = one(
            &format!("{} prot = 1 {}", "x".repeat(60), "y".repeat(300)),
            "prot",
            &"expected words ".repeat(12),
        );
        assert!(rendered.contains("^^^^"), "{rendered}");
        assert!(rendered.contains("= note: expected words"), "{rendered}");
        for line in rendered.lines() {
            assert!(line.chars().count() <= COLUMNS, "{line}\n{rendered}");
        }
    }

    #[test]
    fn a_warning_is_a_sentence() {
        let source = Source::new("/etc/imdsfw/policy.d/20-site.toml", "who = [\"user:x\"]");
        let mut found = Diagnostics::new();
        found.warning(
            Place::new(&source, 7..15),
            "no account is called \"x\u{1b}\"",
            "it matches nobody yet",
        );
        assert_eq!(
            found.render(Style::Plain),
            "warning: /etc/imdsfw/policy.d/20-site.toml:1:8: no account is called \"x\u{fffd}\": it\n  \
             matches nobody yet\n"
        );
    }

    #[test]
    fn no_control_character_of_a_file_reaches_the_terminal() {
        let rendered = one("a\u{1b}[31m\u{9b}\u{202e}\rb = prot\r\n", "prot", "x\u{7}y");
        assert!(
            rendered.chars().all(|c| c == '\n' || !c.is_control()),
            "{rendered:?}"
        );
        assert!(!rendered.contains('\u{202e}'));
        let caret = rendered.lines().find(|l| l.contains('^')).unwrap();
        let line = rendered
            .lines()
            .find(|l| l.contains("prot\u{fffd}") || l.ends_with("prot"))
            .unwrap();
        let column = |l: &str, word| l.split(word).next().unwrap().chars().count();
        assert_eq!(column(caret, "^"), column(line, "prot"), "{rendered}");
    }

    #[test]
    fn a_file_as_a_whole_is_shown_without_a_line() {
        let mut found = Diagnostics::new();
        found.error(Place::of_file("/x.toml"), "no such file", "expected a file");
        let rendered = found.render(Style::Plain);
        assert_eq!(
            rendered,
            "error: no such file\n--> /x.toml:1:1\n = note: expected a file\n"
        );
    }
}
