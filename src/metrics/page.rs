//! What the page says. Labels come from closed lists, and the policy's hash:
//! never a user, a path, a rule or a key, since every local user may read it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::process::Takes;
use super::text::{Kind, Text};
use crate::audit::{Backlog, CredentialsLife, Measured, Reason, Stale};
use crate::config::Mode;
use crate::control::{OnDisk, Status};
use crate::limits::Over;
use crate::upstream::Flow;

/// All that is said at one scrape.
pub(super) struct Seen<'a> {
    pub(super) status: &'a Status,
    pub(super) measured: &'a Measured,
    pub(super) life: &'a CredentialsLife,
    pub(super) backlog: Backlog,
    pub(super) flow: Flow,
    pub(super) takes: Takes,
    pub(super) descriptors_max: usize,
}

impl Seen<'_> {
    pub(super) fn text(&self) -> Vec<u8> {
        let mut text = Text::default();
        let version = self.status.version.as_str();
        text.family(Kind::Gauge, "imdsfw_build_info", "The program that runs.")
            .is(&[("version", version)], 1);
        self.decisions(&mut text);
        self.times(&mut text);
        self.upstream(&mut text);
        self.audit(&mut text);
        self.policy(&mut text);
        self.guards(&mut text);
        self.credentials(&mut text);
        self.process(&mut text);
        text.into_bytes()
    }

    fn decisions(&self, text: &mut Text) {
        let help = "Requests and refused connections, by what the client got and why.";
        let mut family = text.family(Kind::Counter, "imdsfw_decisions_total", help);
        for ((decision, reason, class), count) in &self.measured.decisions {
            let class = class.map_or("none", |class| class.as_str());
            let (decision, reason) = (decision.as_str(), reason.as_str());
            let labels = [("decision", decision), ("reason", reason), ("class", class)];
            family.is(&labels, count);
        }
        let of = |reason, detail| {
            let count = self.measured.details.get(&(reason, detail));
            count.copied().unwrap_or_default()
        };
        let help = "Tokens refused: another user's, expired, or none of this daemon's.";
        let mut family = text.family(Kind::Counter, "imdsfw_tokens_refused_total", help);
        for why in ["other_uid", "expired", "foreign"] {
            family.is(&[("detail", why)], of(Reason::TokenInvalid, why));
        }
        let help = "What was refused for being more than a share, by the share.";
        let mut family = text.family(Kind::Counter, "imdsfw_limits_hit_total", help);
        for over in Over::ALL.map(Over::as_str) {
            family.is(&[("limit", over)], of(Reason::Limit, over));
        }
        let host = Reason::HostBudget.as_str();
        family.is(&[("limit", host)], of(Reason::HostBudget, host));
        let help = "What else was refused, by the detail in its record.";
        let mut family = text.family(Kind::Counter, "imdsfw_refused_details_total", help);
        for ((reason, detail), count) in &self.measured.details {
            if !matches!(
                reason,
                Reason::TokenInvalid | Reason::Limit | Reason::HostBudget
            ) {
                family.is(&[("reason", reason.as_str()), ("detail", detail)], count);
            }
        }
        let help = "Answers for which the service was not asked.";
        text.counter("imdsfw_memory_hits_total", help, self.measured.from_memory);
    }

    fn times(&self, text: &mut Text) {
        let Measured {
            whole,
            identity,
            upstream,
            ..
        } = self.measured;
        let help = "From the whole request until its answer may leave.";
        text.histogram("imdsfw_request_duration_seconds", help, whole);
        let help = "To find out who asks, by kernel and name services.";
        text.histogram("imdsfw_identity_duration_seconds", help, identity);
        let help = "For the service to answer, its turn waited for included.";
        text.histogram("imdsfw_upstream_duration_seconds", help, upstream);
    }

    fn upstream(&self, text: &mut Text) {
        let flow = &self.flow;
        let help = "Requests sent to the service, those for own tokens among them.";
        text.counter("imdsfw_upstream_requests_total", help, flow.requests);
        let help = "Requests that the service did not answer, or not well.";
        let mut family = text.family(Kind::Counter, "imdsfw_upstream_errors_total", help);
        let timeouts = self.measured.decisions.iter();
        let timeouts = timeouts.filter(|((_, reason, _), _)| *reason == Reason::UpstreamTimeout);
        for (error, count) in [
            ("unreachable", flow.unreachable),
            ("invalid", flow.invalid),
            ("timeout", timeouts.map(|(_, count)| count).sum()),
        ] {
            family.is(&[("error", error)], count);
        }
        let help = "Requests that the service refused with 429 or 503.";
        text.counter("imdsfw_upstream_throttled_total", help, flow.throttled);
        let help = "Requests to the service that are under way.";
        text.gauge("imdsfw_upstream_requests_under_way", help, flow.under_way);
        let help = "Connections made to the service.";
        text.counter("imdsfw_upstream_connections_total", help, flow.opened);
        let help = "Connections to the service that wait for a request.";
        text.gauge("imdsfw_upstream_connections_idle", help, flow.idle);
    }

    fn audit(&self, text: &mut Text) {
        let Backlog {
            records,
            bytes,
            lost,
            failing,
        } = self.backlog;
        let help = "Records that wait to be written.";
        text.gauge("imdsfw_audit_queue_records", help, records);
        let help = "Bytes of the records that wait to be written.";
        text.gauge("imdsfw_audit_queue_bytes", help, bytes);
        let help = "Records that were dropped because too many waited.";
        text.counter("imdsfw_audit_lost_records_total", help, lost);
        let help = "Whether the audit log cannot be written now.";
        text.gauge("imdsfw_audit_failing", help, u8::from(failing));
    }

    fn policy(&self, text: &mut Text) {
        let Status {
            mode,
            policy,
            grants,
            lockdown,
            bypass,
            watcher,
            ..
        } = self.status;
        let mode = match mode {
            Mode::Enforce => "enforce",
            Mode::Observe => "observe",
        };
        let labels = [("hash", policy.policy.as_str()), ("mode", mode)];
        text.family(Kind::Gauge, "imdsfw_policy_info", "The policy in force.")
            .is(&labels, 1);
        let help = "When the policy in force came into force.";
        if let Ok(since) = humantime::parse_rfc3339(&policy.since) {
            let name = "imdsfw_policy_loaded_timestamp_seconds";
            text.gauge(name, help, seconds(since));
        }
        let help = "Rules of the policy in force.";
        text.gauge("imdsfw_policy_rules", help, policy.rules);
        let help = "What the files say: the same as what runs, something else, or nothing valid.";
        let mut family = text.family(Kind::Gauge, "imdsfw_policy_on_disk", help);
        let state = match policy.on_disk {
            OnDisk::Same { .. } => "same",
            OnDisk::Differs { .. } => "differs",
            OnDisk::Refused { .. } => "refused",
        };
        for known in ["same", "differs", "refused"] {
            family.is(&[("state", known)], u8::from(known == state));
        }
        let help = "Grants that have not ended.";
        text.gauge("imdsfw_grants", help, grants.len());
        let help = "Whether credentials leave for nobody.";
        text.gauge("imdsfw_lockdown", help, u8::from(lockdown.is_some()));
        let help = "Whether the policy is off (soft), or the rules are out of the kernel (hard).";
        let mut family = text.family(Kind::Gauge, "imdsfw_bypass", help);
        family.is(&[("kind", "soft")], u8::from(bypass.is_some()));
        let hard = watcher.hard_bypass_until.is_some();
        family.is(&[("kind", "hard")], u8::from(hard));
    }

    fn guards(&self, text: &mut Text) {
        let watcher = &self.status.watcher;
        let help = "Changes of the kernel rules that the watcher found.";
        text.counter("imdsfw_rules_drifts_total", help, watcher.drifts);
        let help = "Whether nobody is served: the rules are broken, or their watcher is silent.";
        text.gauge("imdsfw_guards_gone", help, u8::from(watcher.unguarded));
        let help = "Whether a watcher of the rules was ever heard.";
        text.gauge(
            "imdsfw_watcher_known",
            help,
            u8::from(watcher.heard_ms.is_some()),
        );
        let help = "Whether somebody can say who holds a connection.";
        text.gauge(
            "imdsfw_witness_present",
            help,
            u8::from(self.status.witness),
        );
    }

    fn credentials(&self, text: &mut Text) {
        let life = self.life;
        if let Some(ends) = life.ends {
            let help = "When the newest credentials end that were seen of the role now served.";
            let name = "imdsfw_credentials_expiration_timestamp_seconds";
            text.gauge(name, help, seconds(ends));
        }
        let help = "Whether what was last seen is stale, and why.";
        let mut family = text.family(Kind::Gauge, "imdsfw_credentials_stale", help);
        for (why, word) in [
            (Stale::ProfileChanged, "profile_changed"),
            (Stale::ProfileDiffers, "profile_differs"),
            (Stale::RotationMissed, "rotation_missed"),
        ] {
            family.is(&[("why", word)], u8::from(life.stale.contains(&why)));
        }
        let help = "What the answers passing by have shown of the credentials' life.";
        let mut family = text.family(Kind::Counter, "imdsfw_credentials_events_total", help);
        for (event, count) in [
            ("credentials.rotated", life.rotated),
            ("credentials.stale", life.told_stale),
            ("credentials.expiring", life.expiring),
            ("role.changed", life.role_changed),
        ] {
            family.is(&[("event", event)], count);
        }
    }

    /// Under the names that every Prometheus client uses.
    fn process(&self, text: &mut Text) {
        let Takes {
            started,
            processor,
            resident,
            descriptors,
        } = &self.takes;
        let help = "When this process was started.";
        text.gauge("process_start_time_seconds", help, seconds(*started));
        if let Some(processor) = processor {
            let help = "Processor time, of the system's too.";
            let value = processor.as_secs_f64();
            text.counter("process_cpu_seconds_total", help, value);
        }
        if let Some(resident) = resident {
            let help = "Memory that is resident.";
            text.gauge("process_resident_memory_bytes", help, resident);
        }
        if let Some(descriptors) = descriptors {
            let help = "Descriptors that are open.";
            text.gauge("process_open_fds", help, descriptors);
        }
        let help = "Descriptors that may be.";
        text.gauge("process_max_fds", help, self.descriptors_max);
    }
}

fn seconds(time: SystemTime) -> f64 {
    let since = time.duration_since(UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO).as_secs_f64()
}
