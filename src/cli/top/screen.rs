//! What is on the screen, and what keys do to it. Everything that a record
//! says passes through [`plain_text`] before it is drawn.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::keys::Key as Press;
use crate::adoption::grouped;
use crate::audit::digest::{Counts, Outcome};
use crate::audit::window::{Key, Row, SECONDS, Window};
use crate::cli::audit::{begin_of, end_of};
use crate::diagnose::plain_text;
use crate::sorted;
use crate::utc;

/// Lines that are not for rows: two above the head, the head, and the keys.
const LINES_OTHERWISE: usize = 4;
/// Columns from which on there is room for the time of the last request.
const WIDE: usize = 100;
const FILTER_MAX: usize = 60;

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Sort {
    #[default]
    Refused,
    Requests,
    Latest,
    User,
}

impl Sort {
    fn next(self) -> Self {
        match self {
            Self::Refused => Self::Requests,
            Self::Requests => Self::Latest,
            Self::Latest => Self::User,
            Self::User => Self::Refused,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Requests => "requests",
            Self::Latest => "latest",
            Self::User => "user",
        }
    }
}

/// A row, at one moment.
#[derive(Clone, Debug)]
pub(super) struct View {
    pub(super) key: Key,
    pub(super) row: Row,
    pub(super) counts: Counts,
}

pub(super) fn sorted(window: &Window, sort: Sort) -> Vec<View> {
    let mut views: Vec<_> = window
        .rows()
        .map(|(key, row, counts)| View {
            key: key.clone(),
            row: row.clone(),
            counts,
        })
        .collect();
    sorted::by(&mut views, |one, other| {
        let by = |it: &View| match sort {
            Sort::Refused => (it.counts.denied, it.counts.observed),
            Sort::Requests => (it.counts.total(), 0),
            Sort::Latest | Sort::User => (0, 0),
        };
        let ordered = by(other).cmp(&by(one));
        match sort {
            Sort::User => one.key.cmp(&other.key),
            _ => ordered
                .then_with(|| other.row.time.cmp(&one.row.time))
                .then_with(|| one.key.cmp(&other.key)),
        }
    });
    views
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reaction {
    On,
    End,
}

#[derive(Default)]
pub(super) struct Screen {
    sort: Sort,
    filter: String,
    is_typing: bool,
    /// What is shown while paused.
    paused: Option<Vec<View>>,
    /// The row that is selected: it stays so while others move.
    selected: Option<Key>,
    whole: Option<Whole>,
    /// Rows that were last drawn at once.
    page: usize,
}

/// One record, whole.
struct Whole {
    lines: Vec<String>,
    top: usize,
}

impl Screen {
    pub(super) fn press(&mut self, key: Press, window: &Window) -> Reaction {
        if let Some(whole) = &mut self.whole {
            let last = whole.lines.len().saturating_sub(self.page);
            match key {
                Press::Up => whole.top = whole.top.saturating_sub(1),
                Press::Down => whole.top = (whole.top + 1).min(last),
                Press::PageUp => whole.top = whole.top.saturating_sub(self.page),
                Press::PageDown => whole.top = (whole.top + self.page).min(last),
                Press::Enter | Press::Escape | Press::Char('q') => self.whole = None,
                _ => {}
            }
            return Reaction::On;
        }
        if self.is_typing {
            match key {
                Press::Enter => self.is_typing = false,
                Press::Escape => {
                    self.is_typing = false;
                    self.filter.clear();
                }
                Press::Backspace => {
                    self.filter.pop();
                }
                Press::Erase => self.filter.clear(),
                Press::Char(char) if self.filter.chars().count() < FILTER_MAX => {
                    self.filter.push(char);
                }
                _ => {}
            }
            return Reaction::On;
        }
        match key {
            Press::Char('q') => return Reaction::End,
            Press::Char('/') => self.is_typing = true,
            Press::Escape => self.filter.clear(),
            Press::Char('p' | ' ') => {
                self.paused = match self.paused {
                    None => Some(sorted(window, self.sort)),
                    Some(_) => None,
                };
            }
            Press::Char('s') => {
                self.sort = self.sort.next();
                self.selected = None;
            }
            Press::Up | Press::Char('k') => self.move_by(window, false, 1),
            Press::Down | Press::Char('j') => self.move_by(window, true, 1),
            Press::PageUp => self.move_by(window, false, self.page),
            Press::PageDown => self.move_by(window, true, self.page),
            Press::Enter => {
                let views = self.views(window);
                let at = self.at(&views);
                self.whole = views.get(at).map(|view| Whole::new(&view.row.line));
            }
            _ => {}
        }
        Reaction::On
    }

    fn move_by(&mut self, window: &Window, is_down: bool, by: usize) {
        let views = self.views(window);
        let at = self.at(&views);
        let to = match is_down {
            true => (at + by).min(views.len().saturating_sub(1)),
            false => at.saturating_sub(by),
        };
        self.selected = views.get(to).map(|view| view.key.clone());
    }

    fn at(&self, views: &[View]) -> usize {
        let of = |key: &Key| views.iter().position(|view| view.key == *key);
        self.selected.as_ref().and_then(of).unwrap_or(0)
    }

    fn views(&self, window: &Window) -> Vec<View> {
        let mut views = match &self.paused {
            Some(views) => views.clone(),
            None => sorted(window, self.sort),
        };
        let words = self.filter.to_lowercase();
        let words: Vec<_> = words.split_whitespace().collect();
        views.retain(|view| {
            let text = cells(view).join(" ").to_lowercase();
            words.iter().all(|word| text.contains(word))
        });
        views
    }

    /// A whole frame.
    pub(super) fn draw(
        &mut self,
        window: &Window,
        source: &str,
        (columns, lines): (usize, usize),
    ) -> String {
        let is_plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let mut frame = Frame {
            out: "\x1b[H".to_owned(),
            columns,
            is_plain,
        };
        self.page = lines.saturating_sub(LINES_OTHERWISE).max(1);
        frame.line(&title(window, source, self.paused.is_some()), "1");
        frame.line(&event(window), "36");
        if let Some(whole) = &self.whole {
            frame.line(
                " the last record of this row, or the last that was refused",
                "7",
            );
            for at in 0..self.page {
                let line = whole.lines.get(whole.top + at);
                frame.line(line.map_or("", String::as_str), "");
            }
            frame.end(" Enter, q: back   ↑ ↓: the rest");
            return frame.out;
        }
        let views = self.views(window);
        let at = self.at(&views);
        frame.line(&head(columns), "7");
        // The selected row is always in sight.
        let top = (at + 1).saturating_sub(self.page);
        for number in top..top + self.page {
            match views.get(number) {
                Some(view) => {
                    let tone = match (number == at, view.row.outcome) {
                        (true, _) => "7",
                        (false, Outcome::Denied) => "31",
                        (false, Outcome::Observed) => "33",
                        (false, Outcome::Allowed) => "",
                    };
                    frame.line(&line(view, columns), tone);
                }
                None if number == 0 => frame.line(&self.nothing(), ""),
                None => frame.line("", ""),
            }
        }
        frame.end(&self.foot());
        frame.out
    }

    fn nothing(&self) -> String {
        match self.filter.is_empty() {
            true => format!(" Nobody asked for anything in the last {SECONDS} seconds."),
            false => " Nothing fits the filter; Escape clears it.".to_owned(),
        }
    }

    fn foot(&self) -> String {
        if self.is_typing {
            return format!(
                " filter: {}_   Enter: keep   Escape: none",
                plain_text(&self.filter)
            );
        }
        let mut foot = format!(
            " q: end  /: filter  p: {}  s: by {}  ↑ ↓ Enter: whole record",
            if self.paused.is_some() {
                "go on"
            } else {
                "pause"
            },
            self.sort.name()
        );
        if !self.filter.is_empty() {
            let _ = write!(foot, "  [{}]", plain_text(&self.filter));
        }
        foot
    }
}

impl Whole {
    /// Laid out, if it is JSON, which it is.
    fn new(line: &str) -> Self {
        let text = serde_json::from_str::<serde_json::Value>(line)
            .and_then(|value| serde_json::to_string_pretty(&value))
            .unwrap_or_else(|_| {
                "The record is too long to be kept; `imdsfw audit query` has it.".into()
            });
        Self {
            lines: text
                .lines()
                .map(|line| format!(" {}", plain_text(line)))
                .collect(),
            top: 0,
        }
    }
}

struct Frame {
    out: String,
    columns: usize,
    is_plain: bool,
}

impl Frame {
    fn line(&mut self, text: &str, tone: &str) {
        self.put(text, tone);
        self.out += "\r\n";
    }

    /// The last one: nothing follows, or the screen would scroll.
    fn end(&mut self, text: &str) {
        self.put(text, "2");
        self.out += "\x1b[J";
    }

    fn put(&mut self, text: &str, tone: &str) {
        let text = begin_of(text, self.columns);
        // Reverse is no colour, and tells what is selected.
        let tone = if self.is_plain && tone != "7" {
            ""
        } else {
            tone
        };
        let width = self.columns;
        self.out += &match tone {
            "" => format!("{text}\x1b[K"),
            "7" => format!("\x1b[7m{text:width$}\x1b[0m\x1b[K"),
            tone => format!("\x1b[{tone}m{text}\x1b[0m\x1b[K"),
        };
    }
}

/// One look, for scripts and for people who scroll.
pub(super) fn once(window: &Window) -> String {
    const COLUMNS: usize = 80;
    let event = event(window);
    let mut lines = vec![title(window, "log", false)];
    lines.extend((!event.is_empty()).then_some(event));
    lines.push(head(COLUMNS));
    lines.extend(
        sorted(window, Sort::Refused)
            .iter()
            .map(|view| line(view, COLUMNS)),
    );
    let lines = lines.iter().map(|line| begin_of(line, COLUMNS));
    lines
        .map(|line| line.trim_end().to_owned() + "\n")
        .collect()
}

fn title(window: &Window, source: &str, is_paused: bool) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(window.now()));
    let time = utc::rfc3339_seconds(at.unwrap_or(UNIX_EPOCH));
    let counts = window.counts();
    let mut title = format!(
        "{}  [{}]  {}  {SECONDS} s: {} refused, {} answered",
        begin_of(&plain_text(window.host.as_deref().unwrap_or("imdsfw")), 24),
        if is_paused { "PAUSED" } else { source },
        time.chars().skip(11).collect::<String>(),
        grouped(counts.denied),
        grouped(counts.allowed + counts.observed),
    );
    if counts.observed > 0 {
        let _ = write!(title, " ({} against policy)", grouped(counts.observed));
    }
    title
}

fn event(window: &Window) -> String {
    window.event.as_ref().map_or_else(String::new, |it| {
        let time: String = it.time.chars().skip(11).take(8).collect();
        let (event, detail) = (plain_text(&it.event), plain_text(&it.detail));
        format!("{} {event} {detail}", plain_text(&time))
    })
}

/// Widths of all but the last column.
fn widths(columns: usize) -> [usize; 6] {
    match columns < WIDE {
        true => [7, 8, 0, 10, 12, 13],
        false => [8, 9, 8, 14, 18, 15],
    }
}

fn head(columns: usize) -> String {
    let names = [
        "REFUSED", "ANSWERED", "LAST", "USER", "PROGRAM", "REASON", "WHAT",
    ];
    laid_out(&names.map(str::to_owned), columns)
}

fn line(view: &View, columns: usize) -> String {
    laid_out(&cells(view), columns)
}

fn cells(view: &View) -> [String; 7] {
    let View { key, row, counts } = view;
    let count = |count| match count {
        0 => "-".to_owned(),
        _ => grouped(count),
    };
    let user = match (&key.user, key.uid) {
        (Some(user), _) => plain_text(user),
        (None, Some(uid)) => format!("uid {uid}"),
        (None, None) => "-".to_owned(),
    };
    let text = |text: &Option<String>| plain_text(text.as_deref().unwrap_or("-"));
    let what = match (&key.path, &key.class) {
        (Some(path), _) => {
            let path = plain_text(path);
            path.strip_prefix("/latest")
                .map_or(path.clone(), str::to_owned)
        }
        (None, Some(class)) => format!("({})", plain_text(class)),
        (None, None) => "-".to_owned(),
    };
    let exe = text(&key.exe);
    [
        count(counts.denied),
        count(counts.allowed + counts.observed),
        plain_text(&row.time).chars().skip(11).take(8).collect(),
        user,
        exe.rsplit('/').next().unwrap_or_default().to_owned(),
        text(&row.reason),
        what,
    ]
}

fn laid_out(cells: &[String; 7], columns: usize) -> String {
    let widths = widths(columns);
    let [refused, answered, last, user, program, reason, what] = cells;
    let [w_refused, w_answered, w_last, w_user, w_program, w_reason] = widths;
    let mut out = format!("{refused:>w_refused$} {answered:>w_answered$} ");
    if w_last > 0 {
        let _ = write!(out, "{:w_last$} ", begin_of(last, w_last));
    }
    let _ = write!(
        out,
        "{:w_user$} {:w_program$} {:w_reason$} ",
        begin_of(user, w_user),
        begin_of(program, w_program),
        begin_of(reason, w_reason),
    );
    let left = columns.saturating_sub(out.chars().count());
    out + &end_of(what, left)
}
