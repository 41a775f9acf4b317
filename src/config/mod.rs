//! The admin's configuration: every key, its unit and its default.
//!
//! A config with an unknown key, a wrong type or a value out of range is
//! refused whole; nothing here may fall back in silence.

mod parse;
mod policy_files;
pub mod trusted;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use parse::drop_in_directory;
pub use policy_files::{LoadedPolicy, load_policy, read_policy, read_policy_files};

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
    /// `[state] directory`.
    pub state_directory: PathBuf,
    /// `[limits]`.
    pub limits: Limits,
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
}

/// Whether a denial is enforced or only recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// The verdict is what the client gets.
    Enforce,
    /// The client gets what the service would answer; the verdict is recorded.
    Observe,
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
}

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
            },
            tokens: TokenMode::Bound,
            audit: AuditConfig {
                file: "/var/log/imdsfw/audit.jsonl".into(),
                on_failure: Action::Deny,
            },
            control_socket: "/run/imdsfw/control.sock".into(),
            state_directory: "/var/lib/imdsfw".into(),
            limits: Limits {
                enabled: true,
                connections: 64,
                new_connections_per_second: 100,
                tokens_per_minute: 120,
                denials_recorded_per_second: 1000,
                host_upstream_requests_per_second: 300,
            },
        }
    }
}
