//! What was learnt, as a policy that a person reads over.

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};

use super::grouped;
use super::learn::{Asked, Kind, Learner, Learnt};
use super::recorded::{NotJudged, When};
use crate::diagnose::plain_text;
use crate::provider::Class;

/// Boots that are named; more are counted.
const BOOTS_NAMED: usize = 8;

/// One rule to be: paths with how often, and for whom.
#[derive(Default)]
struct Rule<'l> {
    who: Vec<(&'l str, &'l Learner)>,
    counts: BTreeMap<&'l str, (u64, Class)>,
}

/// What one account is granted by one rule: only with a token or also without,
/// and these.
type Paths<'l> = (bool, Vec<&'l str>);

impl fmt::Display for Learnt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.head(f)?;
        f.write_str("schema = 1\n")?;
        let services = self.rules(Kind::Service);
        for (number, ((token, _), rule)) in services.iter().enumerate() {
            f.write_char('\n')?;
            rule.write(number, *token, "", f)?;
        }
        self.everyone(f)?;
        let people = self.rules(Kind::Person);
        if !people.is_empty() {
            f.write_str(
                "\n# NOT GRANTED: asked for by accounts that people log in with, for all that is\n\
                 # known. Where one is a program's, or should have it, take the `#` away.\n",
            )?;
        }
        for (number, ((token, _), rule)) in people.iter().enumerate() {
            f.write_str("#\n")?;
            rule.write(services.len() + number, *token, "#", f)?;
        }
        self.tests(f)
    }
}

impl Learnt {
    fn head(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "# A draft by `imdsfw audit learn`: what was asked for and answered. Read it\n\
             # over: what nobody asked for in that time is not in it, and what somebody asked\n\
             # for who should not have, may be.\n#\n",
        )?;
        writeln!(f, "#   from      {} (UTC)", short(&self.when.first))?;
        writeln!(
            f,
            "#   to        {}{}",
            short(&self.when.last),
            self.length()
        )?;
        for host in &self.hosts {
            writeln!(f, "#   host      {}", plain_text(host))?;
        }
        for (boot, When { first, last }) in self.boots.iter().take(BOOTS_NAMED) {
            let boot: String = plain_text(boot).chars().take(8).collect();
            writeln!(
                f,
                "#   boot      {boot}, {} to {}",
                short(first),
                short(last)
            )?;
        }
        if self.boots.len() > BOOTS_NAMED {
            writeln!(f, "#   boots     {} in all", self.boots.len())?;
        }
        writeln!(f, "#   requests  {}, of which:", grouped(self.requests))?;
        writeln!(f, "#   learnt    {} reads", grouped(self.learnt))?;
        let mut left = |count: u64, why: &str| match count {
            0 => Ok(()),
            count => writeln!(f, "#   left out  {} {why}", grouped(count)),
        };
        left(self.refused, "that were refused")?;
        left(self.unnameable, "of paths too many or too odd to name")?;
        for (why, count) in &self.left {
            left(
                *count,
                match why {
                    NotJudged::Malformed => "that were malformed",
                    NotJudged::AccountUnknown => "whose account was not known",
                    NotJudged::OtherReason => "that failed for another reason than policy",
                    NotJudged::Doctor => "of `imdsfw doctor`",
                    NotJudged::NoRead => continue,
                },
            )?;
        }
        if self.boots.len() < 2 {
            f.write_str(
                "#\n# No more than one boot was seen: what asks only when the machine starts may be\n\
                 # missing.\n",
            )?;
        }
        Ok(())
    }

    fn length(&self) -> String {
        let When { first, last } = &self.when;
        let parse = |time: &str| humantime::parse_rfc3339(time);
        let (Ok(first), Ok(last)) = (parse(first), parse(last)) else {
            return String::new();
        };
        let seconds = last.duration_since(first).map_or(0, |it| it.as_secs());
        let length = match seconds {
            0..3600 => seconds.min(3599) / 60 * 60,
            _ => seconds / 3600 * 3600,
        };
        match length {
            0 => ", less than a minute".to_owned(),
            _ => {
                let length = std::time::Duration::from_secs(length);
                format!(", {}", humantime::format_duration(length))
            }
        }
    }

    /// By what is granted, so that accounts with the same needs share a rule;
    /// what may come without a token first, since the first match wins.
    fn rules(&self, kind: Kind) -> BTreeMap<Paths<'_>, Rule<'_>> {
        let mut rules: BTreeMap<Paths<'_>, Rule<'_>> = BTreeMap::new();
        for (who, learner) in self.accounts.iter().filter(|(_, it)| it.kind == kind) {
            for v1 in [true, false] {
                let reads: Vec<_> = learner
                    .reads
                    .iter()
                    .filter(|(asked, _)| asked.v1 == v1 && (v1 || !is_everyones(asked)))
                    .filter(|(asked, _)| !is_part_of_role(asked, learner))
                    .collect();
                let texts: Vec<_> = reads.iter().map(|(asked, _)| asked.text.as_str()).collect();
                if texts.is_empty() {
                    continue;
                }
                let rule = rules.entry((!v1, texts)).or_default();
                rule.who.push((who, learner));
                for (asked, count) in reads {
                    let sum = rule.counts.entry(&asked.text).or_insert((0, asked.class));
                    sum.0 += *count;
                }
            }
        }
        rules
    }

    fn everyone(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut counts: BTreeMap<&str, (u64, usize)> = BTreeMap::new();
        for learner in self.accounts.values() {
            for (asked, count) in learner
                .reads
                .iter()
                .filter(|(it, _)| is_everyones(it) && !it.v1)
            {
                let sum = counts.entry(&asked.text).or_default();
                *sum = (sum.0 + count, sum.1 + 1);
            }
        }
        if counts.is_empty() {
            return Ok(());
        }
        f.write_str(
            "\n[[rule]]\nname   = \"learnt: everyone\"\naction = \"allow\"\nwho    = [\"any\"]\n\
             paths  = [\n",
        )?;
        for (text, (count, accounts)) in counts {
            let accounts = match accounts {
                1 => "1 account".to_owned(),
                many => format!("{many} accounts"),
            };
            line(
                f,
                "",
                text,
                &format!("no secrets: {} by {accounts}", reads(count)),
            )?;
        }
        f.write_str("]\n")
    }

    /// That what is granted is, and that a person has no credentials.
    fn tests(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = "/latest/meta-data/iam/security-credentials/web";
        for learner in self.accounts.values() {
            let acts = |asked: &Asked| asked.text == "@role";
            if learner.kind == Kind::Service && learner.reads.keys().any(acts) {
                let user = match &learner.user {
                    Some(user) => format!(", user = {}", quoted(user)),
                    None => String::new(),
                };
                test(f, &format!("uid = {}{user}", learner.uid), role, "allow")?;
            }
        }
        let person = "uid = 2000000017, user = \"imdsfw-test-person\"";
        test(f, person, role, "deny")?;
        test(f, person, "/latest/user-data", "deny")
    }
}

/// Facts that are no secret, which everyone may read with a token.
fn is_everyones(asked: &Asked) -> bool {
    matches!(asked.class, Class::Routine | Class::Live)
}

/// The listing of the role's name comes with `@role`.
fn is_part_of_role(asked: &Asked, learner: &Learner) -> bool {
    asked.text == "/meta-data/iam/security-credentials"
        && learner
            .reads
            .keys()
            .any(|other| other.text == "@role" && other.v1 == asked.v1)
}

impl Rule<'_> {
    fn write(
        &self,
        number: usize,
        token: bool,
        before: &str,
        f: &mut fmt::Formatter<'_>,
    ) -> fmt::Result {
        let names: Vec<_> = self.who.iter().map(|(who, _)| *who).collect();
        let short = |who: &str| who.strip_prefix("user:").unwrap_or(who).to_owned();
        let mut name = match names.as_slice() {
            [one] => format!("learnt: {}", short(one)),
            [one, ..] => format!("learnt: {} and others, {}", short(one), number + 1),
            [] => String::new(),
        };
        if !token {
            name += ", without tokens";
        }
        let who: Vec<_> = names.iter().map(|who| quoted(who)).collect();
        writeln!(f, "{before}[[rule]]")?;
        writeln!(f, "{before}name   = {}", quoted(&name))?;
        writeln!(f, "{before}action = \"allow\"")?;
        writeln!(f, "{before}who    = [{}]", who.join(", "))?;
        writeln!(f, "{before}paths  = [")?;
        for (text, (count, class)) in &self.counts {
            let count = reads(*count);
            let says = match class {
                Class::Credentials => format!("GRANTS CREDENTIALS: {count}"),
                class => format!("{}: {count}", class.as_str()),
            };
            line(f, before, text, &says)?;
        }
        writeln!(f, "{before}]")?;
        if !token {
            writeln!(
                f,
                "{before}imdsv1 = true    # also without a token, until they send one"
            )?;
        }
        Ok(())
    }
}

fn line(f: &mut fmt::Formatter<'_>, before: &str, text: &str, says: &str) -> fmt::Result {
    let text = format!("{},", quoted(text));
    writeln!(f, "{before}    {text:<38} # {says}")
}

fn test(f: &mut fmt::Formatter<'_>, caller: &str, path: &str, expect: &str) -> fmt::Result {
    writeln!(f, "\n[[test]]\nas     = {{ {caller} }}")?;
    writeln!(f, "path   = {}\nexpect = \"{expect}\"", quoted(path))
}

fn reads(count: u64) -> String {
    match count {
        1 => "1 read".to_owned(),
        many => format!("{} reads", grouped(many)),
    }
}

/// As a TOML string; JSON's escapes are TOML's.
fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_else(|_| "\"\"".to_owned())
}

/// To the minute.
fn short(time: &str) -> String {
    let time: String = plain_text(time).chars().take(16).collect();
    time.replace('T', " ")
}
