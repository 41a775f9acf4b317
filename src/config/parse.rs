//! Config files → [`Config`]. Every key may be absent, no other key may be
//! there, and a later file's key replaces an earlier one's.

mod sinks;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::trusted::{self, Reading, Replacement};
use super::{Action, BACKENDS, Config, DEFAULT_PATH, MetricsAt, Mode, TokenMode};
use crate::diagnose::schema::{Key, Shape};
use crate::diagnose::toml::{Node, Table};
use crate::diagnose::{Diagnostics, Place, Source, toml};
use crate::provider::Provider;

const PROVIDERS: &[(&str, Provider)] = &[("aws", Provider::Aws)];
const ACTIONS: &[(&str, Action)] = &[("deny", Action::Deny), ("allow", Action::Allow)];

/// What a config file may say.
pub const KEYS: &[Key] = &[
    Key::new("schema", Shape::Integer(1, 1), "The version of this form"),
    Key::new(
        "user",
        ACCOUNT,
        "The daemon runs as this account; the kernel rules exempt its uid alone",
    ),
    Key::new(
        "witness_user",
        ACCOUNT,
        "The account of the helper that finds out who holds a socket",
    ),
    Key::new(
        "provider",
        Shape::Word(&["aws"]),
        "Which metadata service stands behind the firewall",
    ),
    Key::new(
        "listen",
        Shape::Table(LISTEN),
        "Where redirected connections arrive",
    ),
    Key::new("rules", Shape::Table(RULES), "The kernel rules"),
    Key::new("upstream", Shape::Table(UPSTREAM), "The metadata service"),
    Key::new("policy", Shape::Table(POLICY), "Who may read what"),
    Key::new("tokens", Shape::Table(TOKENS), "IMDSv2 tokens"),
    Key::new("audit", Shape::Table(sinks::AUDIT), "The audit log"),
    Key::new(
        "control",
        Shape::Table(CONTROL),
        "Root's way to talk to the daemon",
    ),
    Key::new("state", Shape::Table(STATE), "What must outlive the daemon"),
    Key::new(
        "memory",
        Shape::Table(MEMORY),
        "Answers that are given again",
    ),
    Key::new(
        "limits",
        Shape::Table(LIMITS),
        "What one uid may take, unless the name says host",
    ),
    Key::new(
        "metrics",
        Shape::Table(METRICS),
        "Numbers for Prometheus; without a key, nothing listens",
    ),
];
const LISTEN: &[Key] = &[Key::new(
    "port",
    Shape::Integer(1, 65535),
    "On 127.0.0.1 and [::1]; below 1024, so that no user can take it",
)];
const RULES: &[Key] = &[
    Key::new(
        "backend",
        Shape::Word(&["auto", "nft", "iptables", "iptables-legacy"]),
        "What loads them; auto: what the machine has, nft first",
    ),
    Key::new(
        "egress_deny",
        Shape::Boolean,
        "Whether the watcher denies everybody but the daemon the metadata addresses by a table that a flush passes by",
    ),
    Key::new("mark", COUNT, "Of the daemon's own connections"),
    Key::new("listener_mark", COUNT, "Of the daemon's listeners"),
    Key::new("mask", COUNT, "The bits of marks that are ours"),
];
const UPSTREAM: &[Key] = &[
    Key::new(
        "addresses",
        Shape::List(1, &Shape::Text(":[0-9]+$")),
        "One IPv4 and one IPv6, with port; one that is left out is closed to everybody",
    ),
    Key::new("connect_timeout", DURATION, "To establish a connection"),
    Key::new(
        "timeout",
        DURATION,
        "From the request to the last byte of the answer",
    ),
];
const POLICY: &[Key] = &[
    Key::new(
        "mode",
        Shape::Word(&["enforce", "observe"]),
        "observe answers everyone as the service would, and records the verdict",
    ),
    Key::new("default", ACTION, "What holds where no rule matches"),
    Key::new(
        "directories",
        Shape::List(1, &PATH),
        "Where policy files stand; the same name in a later one replaces the earlier file",
    ),
    Key::new(
        "watch",
        Shape::Boolean,
        "Take changed files without being told",
    ),
    Key::new(
        "hide_denied",
        Shape::Boolean,
        "Leave out of listings what the caller may not read",
    ),
];
const TOKENS: &[Key] = &[Key::new(
    "mode",
    Shape::Word(&["bound", "relay"]),
    "bound: minted here, worthless to any other uid; relay: the service's own",
)];
const CONTROL: &[Key] = &[
    Key::new("socket", PATH, "Where root talks to the daemon"),
    Key::new(
        "own_verdict",
        Shape::Boolean,
        "Whether any user may ask the daemon what it would say to them",
    ),
];
const STATE: &[Key] = &[Key::new("directory", PATH, "Never beside the log")];
const MEMORY: &[Key] = &[Key::new(
    "enabled",
    Shape::Boolean,
    "Whether what holds is asked of the service once",
)];
const LIMITS: &[Key] = &[
    Key::new("enabled", Shape::Boolean, "One switch for all of them"),
    Key::new("connections", COUNT, "Open at once"),
    Key::new(
        "new_connections_per_second",
        COUNT,
        "With bursts of ten times that",
    ),
    Key::new("tokens_per_minute", COUNT, "Minted"),
    Key::new(
        "denials_recorded_per_second",
        COUNT,
        "Above it, summaries that carry counts",
    ),
    Key::new(
        "host_upstream_requests_per_second",
        COUNT,
        "Of all users together, in turns; a tenth is kept for root",
    ),
];
const METRICS: &[Key] = &[
    Key::new(
        "listen",
        Shape::Text(":[0-9]+$"),
        "An address of loopback with its port",
    ),
    Key::new("socket", PATH, "A Unix socket"),
];
const ACCOUNT: Shape = Shape::Text("^[^:\\s]+$");
const PATH: Shape = Shape::Text("^/");
const ACTION: Shape = Shape::Word(&["deny", "allow"]);
const DURATION: Shape = Shape::Text("^0*[1-9][0-9]*(ms|s|m|h)$");
const COUNT: Shape = Shape::Integer(1, u32::MAX);

impl Config {
    /// Reads `path`, then `*.toml` in the directory `path` + `.d`. At the
    /// default path, no file means all defaults.
    ///
    /// # Errors
    /// Everything that is wrong in any of the files.
    pub fn load(path: &Path) -> Result<Self, Diagnostics> {
        let mut found = Diagnostics::new();
        let config = Self::load_with(path, &[], &mut found);
        config.ok_or(found)
    }

    /// [`Config::load`] with candidates in place of installed files; `None`
    /// when an error was recorded.
    pub fn load_with(
        path: &Path,
        replacements: &[Replacement],
        found: &mut Diagnostics,
    ) -> Option<Self> {
        let config = Self::survey(path, replacements, found);
        (!found.has_errors()).then_some(config)
    }

    /// [`Config::load_with`] that goes on after errors, to look for more of
    /// them in the policy. Where any was recorded, the result is good for
    /// nothing else; it then names only directories that were well written.
    pub fn survey(path: &Path, replacements: &[Replacement], found: &mut Diagnostics) -> Self {
        let mut sources = Vec::new();
        let mut refused = false;
        match trusted::read(path, replacements, found) {
            Reading::Text(source) => sources.push(source),
            Reading::Absent if path == Path::new(DEFAULT_PATH) => {}
            Reading::Absent => {
                found
                    .error(
                        Place::of_file(path.to_string_lossy()),
                        "there is no such config file",
                        "expected the file that `--config` names",
                    )
                    .help(format!(
                        "without `--config`, {DEFAULT_PATH} is read where there is one"
                    ));
                refused = true;
            }
            Reading::Refused => refused = true,
        }
        let drop_ins = trusted::read_directory(&drop_in_directory(path), replacements, found);
        sources.extend(drop_ins.into_iter().map(|(_, source)| source));
        let mut config = Self::parse(&sources, found);
        if refused {
            config.policy.directories.clear();
        }
        config
    }

    /// Lays the files over the defaults, in their order. Where an error was
    /// recorded, only the remaining errors are worth having.
    pub fn parse(sources: &[Arc<Source>], found: &mut Diagnostics) -> Self {
        let mut config = Self::default();
        let mut addresses = None;
        let mut broken = false;
        for source in sources {
            match toml::parse(source, found) {
                Some(tree) => {
                    let file = Table::root(source, &tree);
                    Reader { found }.file(&file, &mut config, &mut addresses);
                }
                None => broken = true,
            }
        }
        config.upstream.addresses = addresses.unwrap_or_else(|| config.provider.addresses());
        if broken {
            config.policy.directories.clear();
        }
        config
    }
}

/// `NAME.d` beside the config file `NAME`.
pub fn drop_in_directory(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".d");
    name.into()
}

struct Reader<'f> {
    found: &'f mut Diagnostics,
}

impl Reader<'_> {
    fn file(&mut self, file: &Table, config: &mut Config, addresses: &mut Option<Vec<SocketAddr>>) {
        file.refuse_unknown_of(KEYS, KEYS, self.found);
        file.check_schema(self.found);
        self.set(file, "user", &mut config.user, Self::account);
        self.set(
            file,
            "witness_user",
            &mut config.witness_user,
            Self::account,
        );
        self.set(file, "provider", &mut config.provider, |reader, node| {
            node.word(PROVIDERS, reader.found)
        });
        if let Some(table) = self.section(file, "listen") {
            self.set(&table, "port", &mut config.listen_port, Self::port);
        }
        self.rules(file, config);
        if let Some(table) = self.section(file, "upstream") {
            let upstream = &mut config.upstream;
            self.set(&table, "addresses", addresses, |reader, node| {
                reader.addresses(node).map(Some)
            });
            self.set(
                &table,
                "connect_timeout",
                &mut upstream.connect_timeout,
                Self::duration,
            );
            self.set(&table, "timeout", &mut upstream.timeout, Self::duration);
        }
        if let Some(table) = self.section(file, "policy") {
            let policy = &mut config.policy;
            self.set(&table, "mode", &mut policy.mode, |reader, node| {
                let modes = [("enforce", Mode::Enforce), ("observe", Mode::Observe)];
                node.word(&modes, reader.found)
            });
            self.set(&table, "default", &mut policy.default, Self::action);
            self.set(
                &table,
                "directories",
                &mut policy.directories,
                Self::directories,
            );
            self.set(&table, "watch", &mut policy.watch, Self::boolean);
            self.set(
                &table,
                "hide_denied",
                &mut policy.hide_denied,
                Self::boolean,
            );
        }
        if let Some(table) = self.section(file, "tokens") {
            self.set(&table, "mode", &mut config.tokens, |reader, node| {
                let modes = [("bound", TokenMode::Bound), ("relay", TokenMode::Relay)];
                node.word(&modes, reader.found)
            });
        }
        if let Some(table) = self.section(file, "audit") {
            self.audit(&table, &mut config.audit);
        }
        if let Some(table) = self.section(file, "control") {
            self.set(&table, "socket", &mut config.control_socket, Self::path);
            self.set(
                &table,
                "own_verdict",
                &mut config.own_verdict,
                Self::boolean,
            );
        }
        if let Some(table) = self.section(file, "state") {
            self.set(&table, "directory", &mut config.state_directory, Self::path);
        }
        if let Some(table) = self.section(file, "memory") {
            self.set(&table, "enabled", &mut config.memory, Self::boolean);
        }
        self.limits(file, config);
        self.metrics(file, config);
    }

    fn rules(&mut self, file: &Table, config: &mut Config) {
        let rules = &mut config.rules;
        let marks = &mut rules.marks;
        let numbers = [
            ("mark", &mut marks.connection),
            ("listener_mark", &mut marks.listener),
            ("mask", &mut marks.mask),
        ];
        if let Some(table) = self.section(file, "rules") {
            self.set(&table, "backend", &mut rules.backend, |reader, node| {
                let words: Vec<_> = std::iter::once(("auto", None))
                    .chain(BACKENDS.map(|(word, backend)| (word, Some(backend))))
                    .collect();
                node.word(&words, reader.found)
            });
            self.set(&table, "egress_deny", &mut rules.egress_deny, Self::boolean);
            for (key, number) in numbers {
                self.set(&table, key, number, Self::mark);
            }
        }
    }

    fn limits(&mut self, file: &Table, config: &mut Config) {
        let limits = &mut config.limits;
        let counts = [
            ("connections", &mut limits.connections),
            (
                "new_connections_per_second",
                &mut limits.new_connections_per_second,
            ),
            ("tokens_per_minute", &mut limits.tokens_per_minute),
            (
                "denials_recorded_per_second",
                &mut limits.denials_recorded_per_second,
            ),
            (
                "host_upstream_requests_per_second",
                &mut limits.host_upstream_requests_per_second,
            ),
        ];
        if let Some(table) = self.section(file, "limits") {
            self.set(&table, "enabled", &mut limits.enabled, Self::boolean);
            for (key, count) in counts {
                self.set(&table, key, count, Self::limit);
            }
        }
    }

    /// One place, not two: the last file that names one has its way.
    fn metrics(&mut self, file: &Table, config: &mut Config) {
        let Some(table) = self.section(file, "metrics") else {
            return;
        };
        if let (Some(_), Some(second)) = (table.get("listen"), table.get("socket")) {
            let expected = "expected `listen` or `socket`, not both";
            self.found
                .error(second.place(), "a second place for metrics", expected);
        }
        self.set(&table, "listen", &mut config.metrics, |reader, node| {
            Some(reader.loopback(node).map(MetricsAt::Loopback))
        });
        self.set(&table, "socket", &mut config.metrics, |reader, node| {
            Some(reader.path(node).map(MetricsAt::Socket))
        });
    }

    /// Beyond this host, numbers would be anybody's to read.
    fn loopback(&mut self, node: Node) -> Option<SocketAddr> {
        let expected = "expected a loopback address with a port, such as \"127.0.0.1:9253\"";
        let text = node.string(expected, self.found)?;
        match text.parse::<SocketAddr>() {
            Ok(address) if address.ip().is_loopback() && address.port() != 0 => Some(address),
            Ok(address) if !address.ip().is_loopback() => {
                let what = format!("{} is not an address of this host alone", address.ip());
                node.refuse(what, expected, self.found)
            }
            _ => {
                let what = format!("\"{text}\" is not an address with a port");
                node.refuse(what, expected, self.found)
            }
        }
    }

    fn section<'a>(&mut self, file: &Table<'a>, name: &str) -> Option<Table<'a>> {
        let expected = format!("expected the table [{name}]");
        let table = file.get(name)?.table(&expected, self.found)?;
        table.refuse_unknown_of(keys_of(name), KEYS, self.found);
        Some(table)
    }

    fn set<T>(
        &mut self,
        table: &Table,
        key: &str,
        to: &mut T,
        read: impl FnOnce(&mut Self, Node) -> Option<T>,
    ) {
        if let Some(value) = table.get(key).and_then(|node| read(self, node)) {
            *to = value;
        }
    }

    fn boolean(&mut self, node: Node) -> Option<bool> {
        node.boolean(self.found)
    }

    fn action(&mut self, node: Node) -> Option<Action> {
        node.word(ACTIONS, self.found)
    }

    fn port(&mut self, node: Node) -> Option<u16> {
        let expected = "expected a port from 1 to 65535";
        let port = node.integer(1..=u32::from(u16::MAX), expected, self.found)?;
        u16::try_from(port).ok()
    }

    fn limit(&mut self, node: Node) -> Option<u32> {
        let expected = "expected a whole number above 0; `enabled = false` turns limits off";
        node.integer(1..=u32::MAX, expected, self.found)
    }

    fn mark(&mut self, node: Node) -> Option<u32> {
        let expected = "expected the bits of a mark, such as 0x60";
        node.integer(1..=u32::MAX, expected, self.found)
    }

    fn account(&mut self, node: Node) -> Option<String> {
        let expected = "expected the name of an account, such as \"imdsfw\"";
        let name = node.string(expected, self.found)?;
        if name.is_empty()
            || name.contains(|c: char| c == ':' || c.is_whitespace() || c.is_control())
        {
            return node.refuse("no account can have this name", expected, self.found);
        }
        Some(name.to_owned())
    }

    fn path(&mut self, node: Node) -> Option<PathBuf> {
        let expected = "expected a path that begins with `/`";
        let path = node.string(expected, self.found)?;
        if !path.starts_with('/') || path.contains('\0') {
            return node.refuse("this path is not absolute", expected, self.found);
        }
        Some(path.into())
    }

    /// Never the default in place of what could not be read.
    fn directories(&mut self, node: Node) -> Option<Vec<PathBuf>> {
        let nodes = node.full_list("expected a list of at least one directory", self.found);
        let nodes = nodes.unwrap_or_default();
        Some(nodes.iter().filter_map(|node| self.path(*node)).collect())
    }

    fn duration(&mut self, node: Node) -> Option<Duration> {
        let expected = "expected a time above 0 with its unit, such as \"500ms\", \"1s\" or \"5m\"";
        self.length_of_time(node, expected)
    }

    fn length_of_time(&mut self, node: Node, expected: &str) -> Option<Duration> {
        let text = node.string(expected, self.found)?;
        match duration(text) {
            Some(duration) => Some(duration),
            None => node.refuse(
                format!("\"{text}\" is not a length of time"),
                expected,
                self.found,
            ),
        }
    }

    fn addresses(&mut self, node: Node) -> Option<Vec<SocketAddr>> {
        let expected = "expected the service's addresses: one IPv4, one IPv6, or one of each";
        let nodes = node.full_list(expected, self.found)?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for item in &nodes {
            let Some(address) = self.address(*item) else {
                continue;
            };
            if let Some(other) = addresses.iter().find(|a| a.is_ipv4() == address.is_ipv4()) {
                let family = if address.is_ipv4() { "IPv4" } else { "IPv6" };
                self.found
                    .error(
                        item.place(),
                        format!("a second {family} address, after {other}"),
                        format!("expected at most one {family} address"),
                    )
                    .help(
                        "one listener and port serve one destination per family: two \
                         destinations on one port would let the kernel change a client's \
                         source port, and the caller would be taken for somebody else",
                    );
                continue;
            }
            addresses.push(address);
        }
        (addresses.len() == nodes.len()).then_some(addresses)
    }

    fn address(&mut self, node: Node) -> Option<SocketAddr> {
        let expected =
            "expected ADDRESS:PORT, such as \"169.254.169.254:80\" or \"[fd00:ec2::254]:80\"";
        let text = node.string(expected, self.found)?;
        let Ok(address) = text.parse::<SocketAddr>() else {
            return node.refuse(
                format!("\"{text}\" is not an address with a port"),
                expected,
                self.found,
            );
        };
        if address.port() == 0 || address.ip().is_unspecified() || address.ip().is_multicast() {
            return node.refuse("nothing can be reached there", expected, self.found);
        }
        if crate::ids::unmapped(address) != address {
            return node.refuse(
                "an IPv4 address in IPv6 writing",
                format!("expected \"{}\"", crate::ids::unmapped(address)),
                self.found,
            );
        }
        Some(address)
    }
}

fn keys_of(table: &str) -> &'static [Key] {
    match KEYS.iter().find(|it| it.name == table).map(|it| it.shape) {
        Some(Shape::Table(keys)) => keys,
        _ => &[],
    }
}

/// A whole number and its unit: `ms`, `s`, `m` or `h`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let number: u64 = number.parse().ok()?;
    let milliseconds = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60 * 1000,
        "h" => 60 * 60 * 1000,
        _ => return None,
    };
    let duration = Duration::from_millis(number.checked_mul(milliseconds)?);
    (!duration.is_zero()).then_some(duration)
}

#[cfg(test)]
mod tests;
