//! What the log, and an admin who looks on, are told of the daemon's own life.

use nix::unistd::Uid;
use serde::Serialize;

use crate::config::{Config, Mode};
use crate::control::From;
use crate::policy::Policy;
use crate::proxy::Listener;
use crate::sys::sandbox::InForce;

#[derive(Serialize)]
pub(super) struct Started {
    mode: Mode,
    listeners: Vec<String>,
    services: Vec<String>,
    sandbox: InForce,
}

impl Started {
    pub(super) fn new(config: &Config, listeners: &[Listener], sandbox: InForce) -> Self {
        let local =
            |listener: &Listener| listener.socket.local_addr().ok().map(|it| it.to_string());
        Self {
            mode: config.policy.mode,
            listeners: listeners.iter().filter_map(local).collect(),
            services: listeners
                .iter()
                .map(|listener| listener.service.to_string())
                .collect(),
            sandbox,
        }
    }
}

/// What an admin wants to see at a glance when the daemon serves.
pub(super) struct Greeting {
    serving: String,
    policy: String,
    warnings: Vec<&'static str>,
}

impl Greeting {
    pub(super) fn new(started: &Started, policy: &Policy, uid: Uid) -> Self {
        let mut warnings = Vec::new();
        if started.mode == Mode::Observe {
            warnings.push("the mode is observe: what the policy denies is recorded, not refused");
        }
        if policy.is_empty() {
            warnings.push("the policy has no rules: everyone gets the default, root included");
        }
        Self {
            serving: format!("serving {} as uid {uid}", started.listeners.join(" and ")),
            policy: format!("policy {}: {} rules", policy.hash(), policy.len()),
            warnings,
        }
    }

    pub(super) fn say(&self) {
        tracing::info!("{}", self.serving);
        tracing::info!("{}", self.policy);
        for warning in &self.warnings {
            tracing::warn!("{warning}");
        }
    }
}

#[derive(Serialize)]
pub(super) struct Loaded<'a> {
    pub(super) from: From,
    pub(super) mode: Mode,
    pub(super) policy: &'a str,
    pub(super) rules: usize,
    /// In the order they were read.
    pub(super) files: Vec<&'a str>,
}

#[derive(Serialize)]
pub(super) struct Stopped {
    /// `null` where it ended by a fault.
    pub(super) signal: Option<&'static str>,
}
