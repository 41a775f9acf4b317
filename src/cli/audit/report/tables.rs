//! The tables: each is whole without the script, and its rows carry by which
//! user, class and decision they are found.

use std::fmt::{self, Write as _};

use serde_json::Value;

use super::html::{Text, Time, decisions, number, program, span, times, who};
use super::notes::{answered_v1, counted};
use crate::adoption::grouped;
use crate::audit::digest::{Account, AccountId, Counts, Digest, Outcome};
use crate::audit::reading::Tally;
use crate::provider::Class;
use crate::sorted;

/// Rows that a table shows; how many more there are is said.
const ACCOUNTS_MAX: usize = 300;
const KINDS_MAX: usize = 1000;
const PROGRAMS_MAX: usize = 100;
const ROWS_MAX: usize = 500;
const NO_CLASS: &str = "none";

pub(super) fn filters(out: &mut String, digest: &Digest) -> fmt::Result {
    let users = sorted::set(accounts(digest).map(|(id, _)| digest.name(id)));
    let options = |all: &str, values: &mut dyn Iterator<Item = (String, String)>| {
        let mut out = format!("<option value=\"\">{all}</option>");
        for (value, shown) in values {
            out += &format!("<option value=\"{value}\">{shown}</option>");
        }
        out
    };
    let same = |text: &str| (Text(text).to_string(), Text(text).to_string());
    let classes = Class::ALL.map(Class::as_str).into_iter().chain([NO_CLASS]);
    let decisions = [
        ("allow", "answered"),
        ("observed", "against the policy"),
        ("deny", "refused"),
    ];
    writeln!(
        out,
        "<form class=\"filters\" hidden aria-label=\"Narrow the tables down\">\
         <label>User<select name=\"user\">{}</select></label>\
         <label>Path class<select name=\"class\">{}</select></label>\
         <label>Decision<select name=\"decision\">{}</select></label>\
         <label>Text in a row ( / )<input name=\"text\" type=\"search\" autocomplete=\"off\" \
         spellcheck=\"false\" placeholder=\"a path, program, key id, reason …\"></label>\
         <output name=\"shown\" aria-live=\"polite\"></output>\
         <button name=\"clear\" type=\"button\" hidden>Show all</button></form>",
        options("everyone", &mut users.iter().map(|user| same(user))),
        options("all", &mut classes.map(same)),
        options(
            "all",
            &mut decisions
                .iter()
                .map(|(value, shown)| ((*value).into(), (*shown).into()))
        ),
    )
}

/// Those with most refusals first, then those that asked most.
fn accounts(digest: &Digest) -> impl Iterator<Item = (AccountId, &Account)> {
    let mut accounts: Vec<_> = digest.accounts().collect();
    sorted::by_key(&mut accounts, |(id, account)| {
        let counts = sum(account);
        (std::cmp::Reverse((counts.denied, counts.total())), *id)
    });
    accounts.into_iter().take(ACCOUNTS_MAX)
}

fn sum(account: &Account) -> Counts {
    let mut counts = Counts::default();
    for it in account.classes.values() {
        counts += *it;
    }
    counts
}

pub(super) fn matrix(out: &mut String, digest: &Digest) -> fmt::Result {
    begin(
        out,
        "users",
        "User and path class",
        "How often each user was answered, and (✕) refused. ⚠ is answered although the policy \
         refuses it. Users with the most refusals come first.",
    )?;
    let used = digest.accounts();
    let used = sorted::set(used.flat_map(|(_, account)| account.classes.keys().copied()));
    let classes: Vec<_> = (Class::ALL.map(|it| Some(it.as_str())).into_iter())
        .chain([None])
        .filter(|class| used.contains(class))
        .collect();
    let most = (digest.accounts())
        .flat_map(|(_, account)| account.classes.values())
        .map(|it| it.total())
        .max()
        .unwrap_or(0);
    out.push_str(
        "<div class=\"scroll matrix\" tabindex=\"0\" role=\"region\" aria-labelledby=\"users-h\">\
         <table><thead><tr><th scope=\"col\">User</th>",
    );
    for class in &classes {
        write!(out, "<th scope=\"col\">{}</th>", class.unwrap_or("no path"))?;
    }
    out.push_str("</tr></thead><tbody>\n");
    for (id, account) in accounts(digest) {
        let of_account: Vec<_> = account
            .classes
            .keys()
            .map(|class| class.unwrap_or(NO_CLASS))
            .collect();
        write!(
            out,
            "<tr data-user=\"{}\" data-class=\"{}\" data-decision=\"{}\"><th scope=\"row\">{}</th>",
            Text(&digest.name(id)),
            of_account.join("&#10;"),
            decisions(&sum(account)),
            who(digest, id)
        )?;
        for class in &classes {
            cell(out, account.classes.get(class), most)?;
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>");
    more(out, digest.accounts().count(), ACCOUNTS_MAX, "users")?;
    out.write_str("</section>\n")
}

fn cell(out: &mut String, counts: Option<&Counts>, most: u64) -> fmt::Result {
    let Some(counts) = counts.filter(|it| it.total() > 0) else {
        return out.write_str("<td class=\"nothing\">·</td>");
    };
    let (tone, count) = match counts.denied {
        0 => ('a', counts.total()),
        denied => ('d', denied),
    };
    let level = 1 + 3 * count.max(1).ilog2() / most.max(2).ilog2();
    write!(out, "<td class=\"{tone}{level}\">")?;
    for (count, class, sign, said) in [
        (counts.allowed, "allow", "", "answered"),
        (
            counts.observed,
            "watch",
            "⚠ ",
            "answered against the policy",
        ),
        (counts.denied, "deny", "✕ ", "refused"),
    ] {
        if count > 0 {
            let count = grouped(count);
            write!(
                out,
                "<span class=\"{class}\" title=\"{said}\">{sign}{count}</span>"
            )?;
        }
    }
    out.write_str("</td>")
}

pub(super) fn hand_outs(out: &mut String, digest: &Digest) -> fmt::Result {
    begin(
        out,
        "keys",
        "Credentials handed out",
        "CloudTrail names the key behind an API call; these received it. Who used it, the log \
         cannot say: whoever can act as one of them, or was given the key by one, could have.",
    )?;
    let rows = digest.hand_outs();
    if rows.is_empty() {
        return nothing(out, "No credentials were handed out.");
    }
    head(
        out,
        "keys",
        &["Key id", "Role", "To", "By", "!Times", "First – last"],
    )?;
    for (it, seen) in rows.iter().take(ROWS_MAX) {
        let word = |word| Text(digest.key(word).unwrap_or("unknown")).to_string();
        writeln!(
            out,
            "<tr data-user=\"{}\" data-class=\"credentials\" data-decision=\"allow\">\
             <th scope=\"row\" class=\"wide\"><code>{}</code></th><td>{}\
             <span class=\"sub\">until {}</span></td><td class=\"right\">{}</td><td class=\"wide\">{}</td>\
             <td class=\"num\">{}</td><td class=\"time right\">{}</td></tr>",
            Text(&digest.name(it.account)),
            word(it.key),
            word(it.role),
            Time {
                at: digest.key(it.expiration).unwrap_or("?"),
                of: &digest.when
            },
            who(digest, it.account),
            program(digest, it.exe),
            times(seen),
            span(&seen.when, &digest.when),
        )?;
    }
    end(out, rows.len(), ROWS_MAX, "hand-outs")
}

pub(super) fn kinds(out: &mut String, digest: &Digest) -> fmt::Result {
    begin(
        out,
        "requests",
        "Who asked for what",
        "Requests alike are one row: refusals first, then what was answered against the policy, \
         then the rest, each by how often.",
    )?;
    let rows = digest.kinds();
    if rows.is_empty() {
        return nothing(out, "Nobody asked for anything.");
    }
    head(
        out,
        "requests",
        &[
            "User",
            "Program",
            "Path",
            "Outcome",
            "!Times",
            "First – last",
        ],
    )?;
    for (kind, seen) in rows.iter().take(KINDS_MAX) {
        let (value, class, said) = match kind.outcome {
            Outcome::Allowed => ("allow", "allow", "answered"),
            Outcome::Observed => ("observed", "watch", "answered"),
            Outcome::Denied => ("deny", "deny", "refused"),
        };
        let reason = digest.reason(kind.reason).unwrap_or("unknown");
        let reason = match reason {
            "allowed" => String::new(),
            _ => format!("<span class=\"sub reason\">{}</span>", Text(reason)),
        };
        let class_chip = match kind.class {
            Some(class) => format!("<span class=\"chip\">{class}</span> "),
            None => String::new(),
        };
        let path = match digest.path(kind.path) {
            Some(path) => format!("<code>{}</code>", Text(path)),
            None => "<span class=\"soft\">–</span>".to_owned(),
        };
        writeln!(
            out,
            "<tr data-user=\"{}\" data-class=\"{}\" data-decision=\"{value}\">\
             <th scope=\"row\">{}</th><td class=\"right\">{}</td>\
             <td class=\"wide\">{class_chip}{path}</td>\
             <td><span class=\"word {class}\">{said}</span>{reason}</td>\
             <td class=\"num right\">{}</td><td class=\"time wide\">{}</td></tr>",
            Text(&digest.name(kind.account)),
            kind.class.unwrap_or(NO_CLASS),
            who(digest, kind.account),
            program(digest, kind.exe),
            times(seen),
            span(&seen.when, &digest.when),
        )?;
    }
    end(out, rows.len(), KINDS_MAX, "kinds of requests")
}

pub(super) fn programs(out: &mut String, digest: &Digest) -> fmt::Result {
    begin(
        out,
        "programs",
        "Programs",
        "As the kernel names them; where nobody looked in time, a program is not known.",
    )?;
    let rows = digest.programs();
    if rows.is_empty() {
        return nothing(out, "No program asked.");
    }
    head(
        out,
        "programs",
        &[
            "Program",
            "Users",
            "!Answered",
            "!Against the policy",
            "!Refused",
        ],
    )?;
    for (exe, it) in rows.iter().take(PROGRAMS_MAX) {
        let name = |account: &_| Text(&digest.name(*account)).to_string();
        let names = sorted::set(it.accounts.iter().map(name));
        let names: Vec<_> = names.into_iter().collect();
        let more = match names.len().checked_sub(4) {
            None | Some(0) => String::new(),
            Some(more) => format!(" and {more} more"),
        };
        writeln!(
            out,
            "<tr data-user=\"{}\" data-decision=\"{}\"><th scope=\"row\">{}</th>\
             <td class=\"right\">{}{more}</td>{}{}{}</tr>",
            names.join("&#10;"),
            decisions(&it.counts),
            program(digest, *exe),
            names
                .iter()
                .take(4)
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", "),
            number(it.counts.allowed, "", "answered"),
            number(it.counts.observed, "watch", "against the policy"),
            number(it.counts.denied, "deny", "refused"),
        )?;
    }
    end(out, rows.len(), PROGRAMS_MAX, "programs")
}

pub(super) fn v1(out: &mut String, digest: &Digest) -> fmt::Result {
    let said = match answered_v1(digest) {
        0 => {
            "Nobody was answered without a token: as far as this log goes, IMDSv1 can be turned \
             off at the instance."
        }
        _ => {
            "These asked without a token. Those that were answered need a newer client before \
             IMDSv1 can be turned off at the instance; those that were refused already do without."
        }
    };
    begin(out, "v1", "IMDSv1", said)?;
    let rows = digest.v1();
    if rows.is_empty() {
        return nothing(out, "Nobody asked without a token.");
    }
    head(
        out,
        "v1",
        &[
            "User",
            "Program",
            "!Answered",
            "!Against the policy",
            "!Refused",
            "First – last",
        ],
    )?;
    for (account, exe, v1) in rows.iter().take(ROWS_MAX) {
        writeln!(
            out,
            "<tr data-user=\"{}\" data-decision=\"{}\"><th scope=\"row\">{}</th>\
             <td class=\"right\">{}</td>{}{}{}<td class=\"time wide\">{}</td></tr>",
            Text(&digest.name(*account)),
            decisions(&v1.counts),
            who(digest, *account),
            program(digest, *exe),
            number(v1.counts.allowed, "watch", "answered"),
            number(v1.counts.observed, "watch", "against the policy"),
            number(v1.counts.denied, "deny", "refused"),
            span(&v1.when, &digest.when),
        )?;
    }
    end(out, rows.len(), ROWS_MAX, "users and programs")
}

pub(super) fn limits(out: &mut String, digest: &Digest) -> fmt::Result {
    begin(
        out,
        "limits",
        "Limits hit",
        "Who asked for more than a user's share, or found the host's share used up.",
    )?;
    if digest.summarised > 0 {
        write!(
            out,
            "<p>{} so fast that only their count was recorded; every figure here includes them.</p>",
            counted(digest.summarised, "refusal came", "refusals came")
        )?;
    }
    let rows = digest.limits();
    if rows.is_empty() {
        return nothing(out, "No limit was hit.");
    }
    head(out, "limits", &["User", "Limit", "!Times", "First – last"])?;
    for (hit, seen) in rows.iter().take(ROWS_MAX) {
        let limit = match digest.reason(hit.detail) {
            Some(detail) => detail.to_owned(),
            None if digest.reason(hit.reason) == Some("host_budget") => {
                "the host's share of the service".to_owned()
            }
            None => "not recorded which".to_owned(),
        };
        writeln!(
            out,
            "<tr data-user=\"{}\" data-decision=\"deny\"><th scope=\"row\">{}</th>\
             <td class=\"right\">{}</td><td class=\"num\">{}</td><td class=\"time right\">{}</td></tr>",
            Text(&digest.name(hit.account)),
            who(digest, hit.account),
            Text(&limit),
            times(seen),
            span(&seen.when, &digest.when),
        )?;
    }
    end(out, rows.len(), ROWS_MAX, "rows")
}

pub(super) fn events(out: &mut String, digest: &Digest) -> fmt::Result {
    begin(
        out,
        "events",
        "What changed",
        "The kernel rules, the policy, grants, lockdowns and bypasses, and the daemon itself.",
    )?;
    let (rows, omitted) = digest.history.events();
    if rows.is_empty() {
        return nothing(out, "Nothing but requests.");
    }
    head(out, "events", &["Time", "Event", "What it says"])?;
    for it in rows {
        let tone = match it.event.as_str() {
            "rules.drift"
            | "rules.unguarded"
            | "policy.rejected"
            | "audit.failing"
            | "audit.lost"
            | "audit.altered"
            | "daemon.witness_gone" => "deny",
            "bypass.started"
            | "lockdown.started"
            | "control.refused"
            | "daemon.overloaded"
            | "credentials.stale"
            | "credentials.expiring"
            | "role.changed" => "watch",
            _ => "",
        };
        writeln!(
            out,
            "<tr><td class=\"time\">{}</td><th scope=\"row\" class=\"right reason {tone}\">{}</th>\
             <td class=\"wide\">{}</td></tr>",
            Time {
                at: &it.time,
                of: &digest.when
            },
            Text(&it.event),
            Text(&plain(&it.detail)),
        )?;
    }
    out.push_str("</tbody></table></div>");
    if omitted > 0 {
        write!(
            out,
            "<p class=\"soft\">{} of the same kinds came before and {} not shown.</p>",
            counted(omitted, "event", "events"),
            if omitted == 1 { "is" } else { "are" }
        )?;
    }
    out.write_str("</section>\n")
}

/// What an event says, without the brackets where it is flat.
fn plain(detail: &str) -> String {
    match serde_json::from_str(detail) {
        Ok(value) => said(&value, " · "),
        Err(_) => detail.to_owned(),
    }
}

/// A value as people would write it down.
fn said(value: &Value, between: &str) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => {
            let values: Vec<_> = values.iter().map(|it| said(it, " ")).collect();
            values.join(", ")
        }
        Value::Object(fields) => {
            let fields = fields.iter();
            let known = fields.filter(|(_, value)| !value.is_null());
            let said: Vec<_> = known
                .map(|(name, value)| format!("{name}: {}", said(value, " ")))
                .collect();
            said.join(between)
        }
        Value::Null => "none".to_owned(),
        value => value.to_string(),
    }
}

pub(super) fn losses(out: &mut String, digest: &Digest, tally: &Tally) -> fmt::Result {
    let history = &digest.history;
    begin(
        out,
        "missing",
        "What is missing",
        "Records are numbered without a gap. A gap is records that were not written, or were \
         taken out; <code>imdsfw audit verify</code> tells more.",
    )?;
    out.push_str("<ul>");
    let mut said = |count: u64, text: String| match count {
        0 => Ok(()),
        _ => write!(out, "<li>{text}</li>"),
    };
    said(
        history.lost,
        format!(
            "{} not written, as the daemon itself recorded.",
            counted(history.lost, "record was", "records were")
        ),
    )?;
    said(
        history.missing,
        format!(
            "{} missing.",
            counted(history.missing, "number is", "numbers are")
        ),
    )?;
    said(
        history.begun_anew,
        format!(
            "{} the numbers went back, as where a log is begun anew, or files are out of order.",
            counted(history.begun_anew, "time", "times")
        ),
    )?;
    let passed_over = tally.passed_over();
    said(
        u64::from(passed_over.is_some()),
        format!("{}.", Text(&passed_over.unwrap_or_default())),
    )?;
    if out.ends_with("<ul>") {
        out.truncate(out.len() - "<ul>".len());
        return nothing(
            out,
            "Nothing is: the numbers have no gap, and every line was understood.",
        );
    }
    out.push_str("</ul>");
    if history.gaps.is_empty() {
        return out.write_str("</section>\n");
    }
    head(out, "missing", &["Host", "!Missing", "After", "Before"])?;
    for gap in &history.gaps {
        let end = |(seq, at): &(u64, String)| {
            format!(
                "#{seq} <span class=\"sub\">{}</span>",
                Time {
                    at,
                    of: &digest.when
                }
            )
        };
        writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"num\">{}</td><td>{}</td>\
             <td class=\"right\">{}</td></tr>",
            Text(&gap.host),
            grouped(gap.missing),
            end(&gap.before),
            end(&gap.after),
        )?;
    }
    end(out, history.gaps.len(), usize::MAX, "gaps")
}

fn begin(out: &mut String, id: &str, title: &str, said: &str) -> fmt::Result {
    writeln!(
        out,
        "<section id=\"{id}\" aria-labelledby=\"{id}-h\"><h2 id=\"{id}-h\">{title}</h2>\
         <p class=\"soft\">{said}</p>"
    )
}

/// The head of a table; columns of numbers begin with `!`.
fn head(out: &mut String, id: &str, columns: &[&str]) -> fmt::Result {
    write!(
        out,
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-labelledby=\"{id}-h\">\
         <table class=\"cards\"><thead><tr>"
    )?;
    for column in columns {
        match column.strip_prefix('!') {
            Some(column) => write!(out, "<th scope=\"col\" class=\"num\">{column}</th>")?,
            None => write!(out, "<th scope=\"col\">{column}</th>")?,
        }
    }
    out.write_str("</tr></thead><tbody>\n")
}

fn end(out: &mut String, all: usize, max: usize, what: &str) -> fmt::Result {
    out.push_str("</tbody></table></div>");
    more(out, all, max, what)?;
    out.write_str("</section>\n")
}

fn more(out: &mut String, all: usize, max: usize, what: &str) -> fmt::Result {
    match all > max {
        true => write!(
            out,
            "<p class=\"soft\">The first {} of {} {what}; <code>imdsfw audit query</code> finds the rest.</p>",
            grouped(u64::try_from(max).unwrap_or(0)),
            grouped(u64::try_from(all).unwrap_or(0)),
        ),
        false => Ok(()),
    }
}

fn nothing(out: &mut String, said: &str) -> fmt::Result {
    writeln!(out, "<p class=\"none\">{said}</p></section>")
}
