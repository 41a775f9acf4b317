//! The top of the page: what was read, the figures, and what is worth a look.

use std::fmt::{self, Write as _};

use super::html::{Text, Time};
use crate::adoption::grouped;
use crate::audit::digest::Digest;
use crate::audit::reading::Tally;
use crate::sorted;

const HOSTS_NAMED: usize = 4;

/// The hosts, escaped.
pub(super) fn hosts(digest: &Digest) -> String {
    let names: Vec<_> = (digest.history.hosts())
        .map(|(name, host)| match &host.instance {
            Some(instance) => format!("{} ({})", Text(name), Text(instance)),
            None => Text(name).to_string(),
        })
        .collect();
    match names.len().checked_sub(HOSTS_NAMED) {
        None | Some(0) => names.join(", "),
        Some(more) => format!("{} and {more} more", {
            let named: Vec<_> = names.into_iter().take(HOSTS_NAMED).collect();
            named.join(", ")
        }),
    }
}

pub(super) fn header(out: &mut String, digest: &Digest, tally: &Tally, hosts: &str) -> fmt::Result {
    let boots: usize = digest.history.hosts().map(|(_, it)| it.boots.len()).sum();
    let whole = crate::audit::reading::When::default();
    let days = crate::audit::reading::When {
        last: "-".into(),
        ..whole
    };
    let time = |at| Time { at, of: &days };
    writeln!(
        out,
        "<header class=\"top\"><h1>Who asked the metadata service for what</h1>\n\
         <p><b>{hosts}</b><br><span class=\"soft\">{} to {} UTC · {} · {} · {}</span></p>",
        time(&digest.when.first),
        time(&digest.when.last),
        counted(u64::try_from(boots).unwrap_or(0), "boot", "boots"),
        counted(digest.records, "record read", "records read"),
        counted(
            tally.foreign + tally.unended,
            "line not understood",
            "lines not understood"
        ),
    )?;
    tiles(out, digest)?;
    out.write_str("</header>\n")
}

fn tiles(out: &mut String, digest: &Digest) -> fmt::Result {
    let counts = &digest.counts;
    let keys = sorted::set(digest.hand_outs().iter().map(|(it, _)| it.key));
    let handed: u64 = digest.hand_outs().iter().map(|(_, seen)| seen.count).sum();
    let v1 = answered_v1(digest);
    let limits: u64 = digest.limits().iter().map(|(_, seen)| seen.count).sum();
    let lost = digest.history.lost.max(digest.history.missing);
    let keys = u64::try_from(keys.len()).unwrap_or(0);
    let percent = match counts.total() {
        0 => 0,
        total => counts.denied.saturating_mul(1000) / total,
    };
    let refused = format!("refused ({}.{} %)", percent / 10, percent % 10);
    let hand_outs = format!("credential answers, {}", counted(keys, "key", "keys"));
    let bad = |count| if count > 0 { "bad" } else { "" };
    let watch = |count| if count > 0 { "watch" } else { "" };
    out.push_str("<ul class=\"tiles\">");
    for (to, class, count, what) in [
        ("time", "", counts.total(), "requests"),
        ("requests", bad(counts.denied), counts.denied, &*refused),
        (
            "requests",
            watch(counts.observed),
            counts.observed,
            "answered against the policy",
        ),
        ("keys", "", handed, &hand_outs),
        ("v1", watch(v1), v1, "answered without a token (IMDSv1)"),
        ("limits", watch(limits), limits, "times a limit was hit"),
        ("missing", bad(lost), lost, "records missing"),
    ] {
        write!(
            out,
            "<li><a href=\"#{to}\" class=\"{class}\"><b>{}</b><span>{what}</span></a></li>",
            grouped(count)
        )?;
    }
    out.write_str("</ul>\n")
}

/// What an admin would want to be told first.
pub(super) fn notes(out: &mut String, digest: &Digest) -> fmt::Result {
    let mut notes: Vec<String> = Vec::new();
    let mut note = |count: u64, to: &str, text: String| {
        if count > 0 {
            notes.push(format!("<li>{text} <a href=\"#{to}\">Look</a></li>"));
        }
    };
    let history = &digest.history;
    let said = |begin: &str, one: &str, many: &str| {
        let count = history.count(begin);
        (count, counted(count, one, many))
    };
    let missing = history.lost.max(history.missing);
    note(
        missing,
        "missing",
        format!(
            "{} missing from the log.",
            counted(missing, "record is", "records are")
        ),
    );
    let (count, text) = said("audit.altered", "time", "times");
    note(
        count,
        "events",
        format!("{text} the log was not as the daemon had left it."),
    );
    let (count, text) = said("rules.drift", "change", "changes");
    note(
        count,
        "events",
        format!("{text} of the kernel rules by something else than imdsfw."),
    );
    let (count, text) = said("rules.unguarded", "time", "times");
    note(
        count,
        "events",
        format!("{text} nobody was served, because the rules were not whole."),
    );
    let (count, text) = said("bypass.started", "bypass", "bypasses");
    note(
        count,
        "events",
        format!("{text} of the policy or the rules."),
    );
    let (count, text) = said("lockdown.started", "lockdown", "lockdowns");
    note(count, "events", format!("{text} of credentials."));
    let (count, text) = said("policy.rejected", "policy", "policies");
    note(
        count,
        "events",
        format!("{text} refused because of errors."),
    );
    let (count, text) = said("credentials.stale", "time", "times");
    note(
        count,
        "events",
        format!("{text} the service gave out credentials that it should have replaced."),
    );
    let stolen: u64 = digest
        .kinds()
        .iter()
        .filter(|(kind, _)| digest.reason(kind.reason) == Some("token_invalid"))
        .map(|(_, seen)| seen.count)
        .sum();
    note(
        stolen,
        "requests",
        format!(
            "{} with a token that was not the caller's, or no longer.",
            counted(stolen, "request", "requests")
        ),
    );
    note(
        digest.counts.observed,
        "requests",
        format!(
            "{} that the policy refuses {} answered all the same, by observe or a bypass.",
            counted(digest.counts.observed, "request", "requests"),
            if digest.counts.observed == 1 {
                "was"
            } else {
                "were"
            }
        ),
    );
    let v1 = answered_v1(digest);
    note(
        v1,
        "v1",
        format!(
            "{} answered without a token: IMDSv1 cannot be turned off yet.",
            counted(v1, "request was", "requests were")
        ),
    );
    out.push_str("<div class=\"notes\"><h2>Worth a look</h2>");
    if notes.is_empty() {
        return out.write_str(
            "<p>Nothing out of the ordinary: no record is missing, the rules and the policy \
             held, and nobody was answered without a token.</p></div>\n",
        );
    }
    write!(out, "<ul>{}</ul></div>", notes.concat())
}

pub(super) fn answered_v1(digest: &Digest) -> u64 {
    (digest.v1().iter())
        .map(|(_, _, v1)| v1.counts.allowed + v1.counts.observed)
        .sum()
}

pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(count), if count == 1 { one } else { many })
}
