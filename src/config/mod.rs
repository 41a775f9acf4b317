//! The admin's configuration: every key, its unit and its default.
//!
//! A config with an unknown key, a wrong type or a value out of range is
//! refused whole; nothing here may fall back in silence.

mod parse;
mod policy_files;
pub mod sinks;
pub mod trusted;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use parse::{KEYS, drop_in_directory};
pub use policy_files::{LoadedPolicy, load_policy, policy_by_hash, read_policy, read_policy_files};

pub use sinks::SinkConfig;

pub use crate::policy::Action;

use crate::provider::Provider;

/// Where the config is looked for when no `--config` names it.
pub const DEFAULT_PATH: &str = "/etc/imdsfw/imdsfw.toml";

/// The whole configuration, defaults filled in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Account (or number) the daemon runs as; the rules exempt its uid alone.
    pub user: String,
    /// Account the witness runs as.
    pub witness_user: String,
    /// Which metadata service stands behind the firewall.
    pub provider: Provider,
    /// Port of the listeners on 127.0.0.1 and `[::1]`.
    pub listen_port: u16,
    /// `[rules]`.
    pub rules: RulesConfig,
    /// `[upstream]`.
    pub upstream: Upstream,
    /// `[policy]`.
    pub policy: PolicyConfig,
    /// `[tokens] mode`.
    pub tokens: TokenMode,
    /// `[audit]`.
    pub audit: AuditConfig,
    /// `[control] socket`.
    pub control_socket: PathBuf,
    /// `[control] own_verdict`: whether any user may ask the daemon there for
    /// their own verdict.
    pub own_verdict: bool,
    /// `[state] directory`.
    pub state_directory: PathBuf,
    /// `[memory] enabled`: whether answers that hold are given again without
    /// asking the service.
    pub memory: bool,
    /// `[limits]`.
    pub limits: Limits,
    /// `[metrics]`: where numbers for monitoring are served, if anywhere.
    pub metrics: Option<MetricsAt>,
}

/// Where whoever can connect may read the daemon's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MetricsAt {
    /// `listen`, an address of the loopback interface: every local user.
    Loopback(SocketAddr),
    /// `socket`: root, and the daemon's own user and group.
    Socket(PathBuf),
}

/// `[rules]`: how the kernel rules are loaded, and which marks they use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RulesConfig {
    /// `None` where `backend` is "auto": nft, and iptables where there is none.
    pub backend: Option<Backend>,
    /// `mark`, `listener_mark` and `mask`.
    pub marks: Marks,
    /// Whether the watcher denies everybody but the daemon the metadata
    /// addresses by a table that nobody else can flush.
    pub egress_deny: bool,
}

/// The kernel's rule languages, as the tools that load them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// `nft`.
    Nft,
    /// `iptables` and `ip6tables`, whichever variant the machine calls so.
    Iptables,
    /// `iptables-legacy` and `ip6tables-legacy`, where `iptables` is the other
    /// variant.
    IptablesLegacy,
}

/// The words for [`Backend`], on the command line and in the config.
pub const BACKENDS: [(&str, Backend); 3] = [
    ("nft", Backend::Nft),
    ("iptables", Backend::Iptables),
    ("iptables-legacy", Backend::IptablesLegacy),
];

/// Some bits of the kernel's marks, the other bits being other people's. The
/// default bits are ones that kube-proxy, Calico, Cilium and Docker leave
/// alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Marks {
    /// Connection mark of what the daemon itself opened to the service.
    pub connection: u32,
    /// Packet mark of the daemon's listening sockets.
    pub listener: u32,
    /// The bits that are ours, in either kind of mark.
    pub mask: u32,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            connection: 0x60,
            listener: 0x61,
            mask: 0x7f,
        }
    }
}

/// `[upstream]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The metadata addresses: redirected by the rules, asked by the daemon.
    pub addresses: Vec<SocketAddr>,
    /// To establish a connection.
    pub connect_timeout: Duration,
    /// From the first byte sent to the last byte of the answer.
    pub timeout: Duration,
}

/// `[policy]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// Whether verdicts bind.
    pub mode: Mode,
    /// What holds where no rule matches.
    pub default: Action,
    /// Where policy files stand, later ones replacing earlier ones by name.
    pub directories: Vec<PathBuf>,
    /// Take changed files without being told.
    pub watch: bool,
    /// Leave out of listings what the caller may not read.
    pub hide_denied: bool,
}

/// Whether a denial is enforced or only recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The verdict is what the client gets.
    Enforce,
    /// The client gets what the service would answer; the verdict is recorded.
    Observe,
}

impl Mode {
    /// The word in config and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

/// Who mints the tokens that clients present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenMode {
    /// This daemon, bound to the caller's uid.
    Bound,
    /// The service itself; only presence can be gated.
    Relay,
}

/// `[audit]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditConfig {
    /// The log, one JSON object per line.
    pub file: PathBuf,
    /// What credentials and secrets get while their record cannot be written.
    pub on_failure: Action,
    /// `rotate_size`, `rotate_age` and `keep`.
    pub rotation: Rotation,
    /// `[[audit.sink]]`.
    pub sinks: Vec<SinkConfig>,
}

/// When the log is rotated by the daemon itself, and how many of the old files
/// stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotation {
    /// As soon as it has so many bytes; 0: whatever its size.
    pub size: u64,
    /// As soon as its first record is so old; 0: whatever its age.
    pub age: Duration,
    /// Of those rotated away so; 0: all.
    pub keep: usize,
}

impl Rotation {
    /// Whether the log is ever rotated so.
    pub fn is_on(&self) -> bool {
        self.size > 0 || !self.age.is_zero()
    }
}

/// Connections to the daemon open at once on this host.
pub const HOST_CONNECTIONS: u16 = 4096;

/// Of [`HOST_CONNECTIONS`], those that only root gets.
pub const ROOT_RESERVE: u16 = 256;

/// `[limits]`, per uid unless the name says host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// One switch for all of them.
    pub enabled: bool,
    /// Connections open at once.
    pub connections: u32,
    /// New connections per second, with a burst of ten times that.
    pub new_connections_per_second: u32,
    /// Tokens minted per minute.
    pub tokens_per_minute: u32,
    /// Denials recorded one by one per second.
    pub denials_recorded_per_second: u32,
    /// Requests the whole host sends to the service per second.
    pub host_upstream_requests_per_second: u32,
}

impl Default for Config {
    fn default() -> Self {
        let provider = Provider::Aws;
        Self {
            user: "imdsfw".into(),
            witness_user: "imdsfw-witness".into(),
            provider,
            listen_port: 253,
            rules: RulesConfig {
                backend: None,
                marks: Marks::default(),
                egress_deny: true,
            },
            upstream: Upstream {
                addresses: provider.addresses(),
                connect_timeout: Duration::from_secs(1),
                timeout: Duration::from_secs(5),
            },
            policy: PolicyConfig {
                mode: Mode::Enforce,
                default: Action::Deny,
                directories: [
                    "/usr/lib/imdsfw/policy.d",
                    "/etc/imdsfw/policy.d",
                    "/run/imdsfw/policy.d",
                ]
                .map(PathBuf::from)
                .into(),
                watch: false,
                hide_denied: false,
            },
            tokens: TokenMode::Bound,
            audit: AuditConfig {
                file: "/var/log/imdsfw/audit.jsonl".into(),
                on_failure: Action::Deny,
                rotation: Rotation {
                    size: 1 << 30,
                    age: Duration::ZERO,
                    keep: 8,
                },
                sinks: Vec::new(),
            },
            control_socket: "/run/imdsfw/control.sock".into(),
            own_verdict: false,
            state_directory: "/var/lib/imdsfw".into(),
            memory: true,
            limits: Limits {
                enabled: true,
                connections: 64,
                new_connections_per_second: 100,
                tokens_per_minute: 120,
                denials_recorded_per_second: 1000,
                host_upstream_requests_per_second: 300,
            },
            metrics: None,
        }
    }
}
