//! The timeline: answers upward, refusals downward, each on a scale of its
//! own, since a handful of refusals among thousands of answers is what is
//! looked for.

use std::fmt::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};

use super::html::number;
use crate::adoption::grouped;
use crate::audit::digest::{Column, Digest};
use crate::utc;

/// Bars of the picture, and rows of the table behind it.
const BARS: u64 = 170;
const ROWS: u64 = 50;
/// The height of a lane, in units of the picture.
const HEIGHT: u64 = 1000;
/// The least height of a bar that stands for anything.
const LEAST: u64 = 14;
const PITCH: u64 = 10;
const LABELS: u64 = 4;

pub(super) fn timeline(out: &mut String, digest: &Digest) -> fmt::Result {
    out.push_str(
        "<section id=\"time\" aria-labelledby=\"time-h\"><h2 id=\"time-h\">When</h2>\n\
         <p class=\"soft\">Answers and refusals over time (UTC), each lane on a scale of its own.</p>\n",
    );
    let (width, columns) = digest.timeline.columns(BARS);
    if columns.is_empty() {
        return out.write_str("<p class=\"none\">No request is in this log.</p></section>\n");
    }
    let answered = |it: &Column| it.counts.allowed + it.counts.observed;
    let up = columns.iter().map(answered).max().unwrap_or(0);
    let down = columns.iter().map(|it| it.counts.denied).max().unwrap_or(0);
    let each = duration(width);
    out.push_str("<div class=\"lanes\">");
    write!(
        out,
        "<div class=\"lane up\"><p>{}</p>",
        scale(up, "answered", &each)
    )?;
    lane(out, &columns, width, "Answered", |column| {
        let height = scaled(answered(column), up);
        let watched = match answered(column) {
            0 => 0,
            all => (height * column.counts.observed / all).max(match column.counts.observed {
                0 => 0,
                _ => LEAST,
            }),
        };
        vec![
            ("bar-allow", HEIGHT - height, height),
            ("bar-watch", HEIGHT - watched, watched),
        ]
    })?;
    write!(
        out,
        "</div><div class=\"lane down\"><p>{}</p>",
        scale(down, "refused", &each)
    )?;
    lane(out, &columns, width, "Refused", |column| {
        vec![("bar-deny", 0, scaled(column.counts.denied, down))]
    })?;
    out.push_str("</div></div>\n");
    axis(out, &columns, width)?;
    legend(out);
    table(out, digest)?;
    out.write_str("</section>\n")
}

fn scale(most: u64, what: &str, each: &str) -> String {
    match most {
        0 => format!("none {what}"),
        _ => format!("up to {} {what} in {each}", grouped(most)),
    }
}

/// Bars by their class, top and height.
type Bars = Vec<(&'static str, u64, u64)>;

fn lane(
    out: &mut String,
    columns: &[Column],
    width: u64,
    title: &str,
    bars: impl Fn(&Column) -> Bars,
) -> fmt::Result {
    let count = u64::try_from(columns.len()).unwrap_or(1);
    write!(
        out,
        "<svg viewBox=\"0 0 {} {HEIGHT}\" preserveAspectRatio=\"none\" role=\"img\" \
         aria-label=\"{title} over time; the numbers are in the table below\">",
        count * PITCH
    )?;
    for (column, at) in columns.iter().zip((0..).step_by(10)) {
        for (class, top, height) in bars(column) {
            if height > 0 {
                write!(
                    out,
                    "<rect class=\"{class}\" x=\"{}\" y=\"{top}\" width=\"{}\" height=\"{height}\"/>",
                    at + 1,
                    PITCH - 2
                )?;
            }
        }
        if column.counts.total() > 0 {
            write!(
                out,
                "<rect class=\"hit\" x=\"{at}\" width=\"{PITCH}\" height=\"{HEIGHT}\">\
                 <title>{}</title></rect>",
                said(column, width)
            )?;
        }
    }
    out.write_str("</svg>")
}

fn scaled(count: u64, most: u64) -> u64 {
    match count {
        0 => 0,
        _ => (count.saturating_mul(HEIGHT) / most.max(1)).max(LEAST),
    }
}

fn said(column: &Column, width: u64) -> String {
    let counts = &column.counts;
    let mut said = format!(
        "{} to {}: {} answered",
        time(column.begin),
        time(column.begin.saturating_add(width)),
        grouped(counts.allowed + counts.observed)
    );
    if counts.observed > 0 {
        said += &format!(" ({} against the policy)", grouped(counts.observed));
    }
    said + &format!(", {} refused", grouped(counts.denied))
}

fn axis(out: &mut String, columns: &[Column], width: u64) -> fmt::Result {
    let first = columns.first().map_or(0, |it| it.begin);
    let last = columns
        .last()
        .map_or(0, |it| it.begin)
        .saturating_add(width);
    let is_short = last - first <= 2 * 86_400;
    out.push_str("<div class=\"axis\" aria-hidden=\"true\">");
    for label in 0..=LABELS {
        let at = time(first + (last - first) / LABELS * label);
        let (day, clock) = at.split_once(' ').unwrap_or((&at, ""));
        write!(out, "<span>{}</span>", if is_short { clock } else { day })?;
    }
    out.write_str("</div>\n")
}

fn legend(out: &mut String) {
    out.push_str("<ul class=\"legend\">");
    for (class, what) in [
        ("bar-allow", "answered"),
        (
            "bar-watch",
            "answered although the policy refuses it (observe, bypass)",
        ),
        ("bar-deny", "refused"),
    ] {
        out.push_str(&format!(
            "<li><svg viewBox=\"0 0 9 9\" aria-hidden=\"true\"><rect class=\"{class}\" width=\"9\" \
             height=\"9\" rx=\"2\"/></svg>{what}</li>"
        ));
    }
    out.push_str("</ul>\n");
}

fn table(out: &mut String, digest: &Digest) -> fmt::Result {
    let (width, columns) = digest.timeline.columns(ROWS);
    write!(
        out,
        "<details><summary>The same as a table, by {}</summary><div class=\"scroll\" \
         tabindex=\"0\" role=\"region\" aria-label=\"Timeline as a table\"><table><thead><tr>\
         <th scope=\"col\">From (UTC)</th><th scope=\"col\" class=\"num\">answered</th>\
         <th scope=\"col\" class=\"num\">against the policy</th>\
         <th scope=\"col\" class=\"num\">refused</th></tr></thead><tbody>",
        duration(width)
    )?;
    for column in columns {
        let counts = &column.counts;
        write!(
            out,
            "<tr><th scope=\"row\" class=\"time\">{}</th>{}{}{}</tr>",
            time(column.begin),
            number(counts.allowed + counts.observed, "", "answered"),
            number(counts.observed, "watch", "against the policy"),
            number(counts.denied, "deny", "refused"),
        )?;
    }
    out.write_str("</tbody></table></div></details>\n")
}

/// `2026-11-21 21:40`.
fn time(seconds: u64) -> String {
    let at = UNIX_EPOCH.checked_add(Duration::from_secs(seconds));
    let text = utc::rfc3339_seconds(at.unwrap_or(UNIX_EPOCH));
    let text: String = text.chars().take(16).collect();
    text.replace('T', " ")
}

fn duration(seconds: u64) -> String {
    match seconds {
        60 => "a minute".to_owned(),
        3600 => "an hour".to_owned(),
        86_400 => "a day".to_owned(),
        604_800 => "a week".to_owned(),
        _ if seconds < 3600 => format!("{} minutes", seconds / 60),
        _ if seconds < 86_400 => format!("{} hours", seconds / 3600),
        _ => format!("{} weeks", seconds / 604_800),
    }
}
