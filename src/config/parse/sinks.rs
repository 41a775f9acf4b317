//! `[audit]`: the log, its rotation and the sinks beside it.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::{ACTION, ACTIONS, DURATION, PATH, Reader};
use crate::config::AuditConfig;
use crate::config::sinks::{
    FORMATS, Format, KINDS, QUEUE, STREAM, SinkConfig, SinkTarget, names_events,
};
use crate::diagnose::schema::{Key, Shape};
use crate::diagnose::toml::{Node, Table};
use crate::provider::Class;

pub(super) const AUDIT: &[Key] = &[
    Key::new("file", PATH, "One JSON object per line"),
    Key::new(
        "on_failure",
        ACTION,
        "What credentials and secrets get while their record cannot be written",
    ),
    Key::new(
        "rotate_size",
        SIZE,
        "The daemon rotates the log at this size; 0: never",
    ),
    Key::new("rotate_age", AGE, "And at this age; 0: never"),
    Key::new(
        "keep",
        Shape::Integer(0, u32::MAX),
        "How many of those it rotated away stay; 0: all",
    ),
    Key::new("sink", Shape::Tables(SINK), "Where else records go"),
];
const SINK: &[Key] = &[
    Key::new("kind", Shape::Word(&KINDS), "What takes the records").required(),
    Key::new(
        "name",
        Shape::Text("^[A-Za-z0-9_-]{1,64}$"),
        "What events of the log call it; the kind, where it has none",
    ),
    Key::new(
        "path",
        PATH,
        "The socket of journald, syslog or a stream, where it is not the usual one",
    ),
    Key::new(
        "address",
        Shape::Text(":[0-9]+$"),
        "Of a syslog receiver, over TCP: a number and a port",
    ),
    Key::new(
        "format",
        Shape::Word(&["native", "ocsf"]),
        "In which form records leave",
    ),
    Key::new(
        "events",
        Shape::List(1, &Shape::Text("^(request|[a-z]+\\.([a-z_]+|\\*))$")),
        "Which events it gets, by name or family; all, where it does not say",
    ),
    Key::new(
        "classes",
        Shape::List(1, &Shape::Word(&CLASSES)),
        "Of requests, those for these classes",
    ),
    Key::new(
        "decisions",
        Shape::List(1, &ACTION),
        "Of requests, those with these outcomes",
    ),
    Key::new(
        "summarise",
        AGE,
        "Allowed routine reads come as counts, so often; 0: one by one",
    ),
    Key::new("queue", SIZE, "How much may wait for it"),
];
const SIZE: Shape = Shape::Either(&Shape::Integer(0, 0), &Shape::Text("^[0-9]+[KMG]iB$"));
const AGE: Shape = Shape::Either(&Shape::Integer(0, 0), &DURATION);
const CLASSES: [&str; Class::ALL.len()] = {
    let [a, b, c, d, e, f, g] = Class::ALL;
    [
        a.as_str(),
        b.as_str(),
        c.as_str(),
        d.as_str(),
        e.as_str(),
        f.as_str(),
        g.as_str(),
    ]
};

const JOURNAL: &str = "/run/systemd/journal/socket";
const DEV_LOG: &str = "/dev/log";

impl Reader<'_> {
    pub(super) fn audit(&mut self, table: &Table, audit: &mut AuditConfig) {
        self.set(table, "file", &mut audit.file, Self::path);
        self.set(table, "on_failure", &mut audit.on_failure, Self::action);
        self.set(table, "rotate_size", &mut audit.rotation.size, Self::size);
        self.set(table, "rotate_age", &mut audit.rotation.age, Self::age);
        let keep = &mut audit.rotation.keep;
        self.set(table, "keep", keep, |reader, node| {
            let expected = "expected a whole number; 0 keeps all";
            let keep = node.integer(0..=u32::MAX, expected, reader.found)?;
            usize::try_from(keep).ok()
        });
        let Some(node) = table.get("sink") else {
            return;
        };
        let mut names: Vec<String> = Vec::new();
        for table in node.tables("expected [[audit.sink]] tables", self.found) {
            let Some(sink) = self.sink(&table) else {
                continue;
            };
            if names.contains(&sink.name) {
                self.found
                    .error(
                        table.place(),
                        format!("a second sink \"{}\"", sink.name),
                        "expected a name of its own",
                    )
                    .help("`name = \"…\"` tells two of one kind apart");
                continue;
            }
            names.push(sink.name.clone());
            audit.sinks.retain(|it| it.name != sink.name);
            audit.sinks.push(sink);
        }
    }

    fn sink(&mut self, table: &Table) -> Option<SinkConfig> {
        table.refuse_unknown(SINK, self.found);
        let expected = "\"stdout\", \"journald\", \"syslog\" or \"stream\"";
        let words = KINDS.map(|kind| (kind, kind));
        let kind = table
            .require("kind", expected, self.found)?
            .word(&words, self.found)?;
        let path = table.get("path").map(|node| self.path(node));
        let address = table.get("address").map(|node| self.sink_address(node));
        let to = match (kind, path, address) {
            ("stdout", None, None) => SinkTarget::Stdout,
            ("journald", path, None) => SinkTarget::Journald(given(path, JOURNAL)?),
            ("stream", path, None) => SinkTarget::Stream(given(path, STREAM)?),
            ("syslog", path, None) => SinkTarget::SyslogUnix(given(path, DEV_LOG)?),
            ("syslog", None, Some(address)) => SinkTarget::SyslogTcp(address?),
            _ => {
                let key = match (kind, table.get("address")) {
                    (_, Some(address)) => address,
                    _ => table.get("path")?,
                };
                return key.refuse(
                    format!("a sink of kind \"{kind}\" is not told so where to go"),
                    "expected `path` for journald and stream, and either `path` or `address` \
                     for syslog",
                    self.found,
                );
            }
        };
        let mut sink = SinkConfig {
            name: kind.to_owned(),
            to,
            format: Format::Native,
            events: Vec::new(),
            classes: Vec::new(),
            decisions: Vec::new(),
            summarise: None,
            queue: QUEUE,
        };
        self.set(table, "name", &mut sink.name, Self::sink_name);
        self.set(table, "format", &mut sink.format, |reader, node| {
            node.word(FORMATS, reader.found)
        });
        self.set(table, "events", &mut sink.events, Self::events);
        self.set(table, "classes", &mut sink.classes, |reader, node| {
            let words = Class::ALL.map(|class| (class.as_str(), class));
            reader.words(node, &words)
        });
        self.set(table, "decisions", &mut sink.decisions, |reader, node| {
            reader.words(node, ACTIONS)
        });
        self.set(table, "summarise", &mut sink.summarise, |reader, node| {
            reader
                .age(node)
                .map(|it| Some(it).filter(|it| !it.is_zero()))
        });
        self.set(table, "queue", &mut sink.queue, Self::queue);
        Some(sink)
    }

    fn words<T: Copy>(&mut self, node: Node, words: &[(&str, T)]) -> Option<Vec<T>> {
        let nodes = node.full_list("expected a list of at least one word", self.found)?;
        let found = nodes.iter().map(|node| node.word(words, self.found));
        found.collect()
    }

    fn events(&mut self, node: Node) -> Option<Vec<String>> {
        let expected = "expected events, such as \"request\", \"rules.drift\" or \"policy.*\"";
        let nodes = node.full_list(expected, self.found)?;
        let mut events = Vec::new();
        for node in nodes {
            let event = node.string(expected, self.found)?;
            if !names_events(event) {
                return node.refuse(
                    format!("no event is called \"{event}\""),
                    expected,
                    self.found,
                );
            }
            events.push(event.to_owned());
        }
        Some(events)
    }

    fn sink_name(&mut self, node: Node) -> Option<String> {
        let expected = "expected a short name of letters, digits, `-` and `_`";
        let name = node.string(expected, self.found)?;
        let is_plain = |it: u8| it.is_ascii_alphanumeric() || b"-_".contains(&it);
        // What events of the log itself say.
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) || name == "file" {
            return node.refuse("no sink can have this name", expected, self.found);
        }
        Some(name.to_owned())
    }

    fn sink_address(&mut self, node: Node) -> Option<SocketAddr> {
        let expected = "expected ADDRESS:PORT with a number for an address, such as \
                        \"10.0.0.5:6514\": names are not looked up";
        let text = node.string(expected, self.found)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.port() > 0 && !address.ip().is_unspecified() => Some(address),
            _ => node.refuse(
                format!("\"{text}\" is not an address with a port"),
                expected,
                self.found,
            ),
        }
    }

    fn queue(&mut self, node: Node) -> Option<u64> {
        let size = self.size(node)?;
        if !(64 << 10..=1 << 30).contains(&size) {
            let expected = "expected a size from \"64KiB\" to \"1GiB\"";
            return node.refuse("this size is out of range", expected, self.found);
        }
        Some(size)
    }

    /// A length of time, or 0 for none.
    fn age(&mut self, node: Node) -> Option<Duration> {
        let expected = "expected a time with its unit, such as \"60s\" or \"24h\", or 0 for none";
        if node.is_integer() {
            node.integer(0..=0, expected, self.found)?;
            return Some(Duration::ZERO);
        }
        self.length_of_time(node, expected)
    }

    fn size(&mut self, node: Node) -> Option<u64> {
        let expected =
            "expected a size with its unit, such as \"64MiB\" or \"1GiB\", or 0 for none";
        if node.is_integer() {
            return node.integer(0..=0, expected, self.found).map(u64::from);
        }
        let text = node.string(expected, self.found)?;
        match size(text) {
            Some(size) => Some(size),
            None => node.refuse(format!("\"{text}\" is not a size"), expected, self.found),
        }
    }
}

fn given(path: Option<Option<PathBuf>>, default: &str) -> Option<PathBuf> {
    path.unwrap_or_else(|| Some(default.into()))
}

/// A whole number and its unit: `KiB`, `MiB` or `GiB`.
fn size(text: &str) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let shift = match unit {
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(1 << shift).filter(|size| *size > 0)
}
