//! The audit record: a closed schema, one JSON object per line.
//!
//! Everything a record can hold is a field here. No token, credential or
//! body has one, so none can be written; text from outside is escaped before
//! it gets here and once more by JSON.

use std::borrow::Cow;

use serde::{Deserialize, Serialize, Serializer};

use crate::caller::witness::Holder;
use crate::config::Mode;
use crate::ids::ClientAddr;
use crate::policy::{Account, Subject};
use crate::provider::Class;
use crate::request::escaped;

mod written;

/// The version of this schema.
pub const SCHEMA: u32 = 1;
/// Groups a record lists; the rest is counted.
const GROUPS_MAX: usize = 16;
/// Bytes of a process's own texts; no longer ones come.
const TEXT_MAX: usize = 256;

/// Everything that can be written about. One closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Event {
    /// One request, whatever became of it.
    #[serde(rename = "request")]
    Request,
    /// A connection that never became a request.
    #[serde(rename = "connection.refused")]
    ConnectionRefused,
    /// The daemon serves.
    #[serde(rename = "daemon.started")]
    DaemonStarted,
    /// The daemon ends.
    #[serde(rename = "daemon.stopped")]
    DaemonStopped,
    /// Accepting pauses: the host or the process has no descriptor left.
    #[serde(rename = "daemon.overloaded")]
    DaemonOverloaded,
    /// Nobody can say who holds a connection: no credentials leave.
    #[serde(rename = "daemon.witness_gone")]
    WitnessGone,
    /// There is a witness again.
    #[serde(rename = "daemon.witness_back")]
    WitnessBack,
    /// The kernel rules had been changed; what was, and by whom.
    #[serde(rename = "rules.drift")]
    RulesDrift,
    /// They are as they must be again.
    #[serde(rename = "rules.restored")]
    RulesRestored,
    /// Nobody is served: the rules cannot be restored, or nobody watches them
    /// any more.
    #[serde(rename = "rules.unguarded")]
    RulesUnguarded,
    /// Serving again.
    #[serde(rename = "rules.guarded")]
    RulesGuarded,
    /// Denials past the rate that is recorded one by one.
    #[serde(rename = "limit.denials_summarised")]
    DenialsSummarised,
    /// A policy is in force.
    #[serde(rename = "policy.loaded")]
    PolicyLoaded,
    /// A policy was refused.
    #[serde(rename = "policy.rejected")]
    PolicyRejected,
    /// A rule for a while, ahead of the policy.
    #[serde(rename = "grant.started")]
    GrantStarted,
    /// It says nothing any more: its time is over, or it was revoked.
    #[serde(rename = "grant.ended")]
    GrantEnded,
    /// Credentials for nobody.
    #[serde(rename = "lockdown.started")]
    LockdownStarted,
    /// For those again who may have them.
    #[serde(rename = "lockdown.ended")]
    LockdownEnded,
    /// The policy is off, or the rules are out of the kernel.
    #[serde(rename = "bypass.started")]
    BypassStarted,
    /// They are in force again.
    #[serde(rename = "bypass.ended")]
    BypassEnded,
    /// An answer that was recorded as allowed, and was kept back after all.
    #[serde(rename = "credentials.withheld")]
    CredentialsWithheld,
    /// The service gives out a newer set.
    #[serde(rename = "credentials.rotated")]
    CredentialsRotated,
    /// It gives out what it should have replaced: the role of a former
    /// profile, or a set past its time.
    #[serde(rename = "credentials.stale")]
    CredentialsStale,
    /// A set with little time left was handed out, and no newer one is known.
    #[serde(rename = "credentials.expiring")]
    CredentialsExpiring,
    /// The instance has another role, or none any more.
    #[serde(rename = "role.changed")]
    RoleChanged,
    /// Somebody asked on the control socket what is not for them, or nothing
    /// that can be answered.
    #[serde(rename = "control.refused")]
    ControlRefused,
    /// The log was opened again, as after rotation.
    #[serde(rename = "audit.reopened")]
    AuditReopened,
    /// Records cannot be written since now.
    #[serde(rename = "audit.failing")]
    AuditFailing,
    /// Records were dropped because too many waited.
    #[serde(rename = "audit.lost")]
    AuditLost,
    /// Records can be written again.
    #[serde(rename = "audit.recovered")]
    AuditRecovered,
    /// The log is not as it was left: its end is gone, or another.
    #[serde(rename = "audit.altered")]
    AuditAltered,
    /// Routine reads that one sink gets as counts; in no log.
    #[serde(rename = "audit.summary")]
    AuditSummary,
}

/// What the policy said, or what the client got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// Let through.
    Allow,
    /// Refused.
    Deny,
}

/// Why a request ended as it did. One closed list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// A rule or the default allows it, or any caller may (minting).
    Allowed,
    /// Would be denied; the mode is observe.
    Observed,
    /// Would be denied; the policy is off.
    Bypassed,
    /// Not one request with one meaning; `detail` names what.
    Malformed,
    /// Carries the header of a forwarding proxy.
    ForwardedHeader,
    /// No token.
    TokenMissing,
    /// A token that is not this caller's, or no longer.
    TokenInvalid,
    /// A rule denies it.
    Policy,
    /// No rule matches.
    Default,
    /// A name in a rule could not be decided and could change the verdict.
    AccountUnknown,
    /// A process that holds the connection is not permitted, or none was
    /// found; `detail` says which.
    Holders,
    /// It cannot be found out who holds the connection.
    WitnessGone,
    /// No credentials for anyone, for now.
    Lockdown,
    /// More than the caller's share; `detail` names the limit.
    Limit,
    /// The host's share of the service is used up.
    HostBudget,
    /// The record could not be written, and the answer may not leave without.
    AuditUnwritable,
    /// No connection to the service.
    UpstreamUnreachable,
    /// The service's answer is none that may be passed on.
    UpstreamInvalid,
    /// The service took too long.
    UpstreamTimeout,
    /// Nobody can be named as the caller; `detail` says what was seen.
    CallerUnknown,
    /// The kernel rules are broken, or are not watched any more.
    GuardsGone,
    /// The connection did not come by the redirect of this listener.
    NotRedirected,
    /// The client went away first.
    ClientGone,
    /// A fault in this program.
    Internal,
}

impl Decision {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
        }
    }
}

impl Reason {
    /// The word in records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Observed => "observed",
            Self::Bypassed => "bypassed",
            Self::Malformed => "malformed",
            Self::ForwardedHeader => "forwarded_header",
            Self::TokenMissing => "token_missing",
            Self::TokenInvalid => "token_invalid",
            Self::Policy => "policy",
            Self::Default => "default",
            Self::AccountUnknown => "account_unknown",
            Self::Holders => "holders",
            Self::WitnessGone => "witness_gone",
            Self::Lockdown => "lockdown",
            Self::Limit => "limit",
            Self::HostBudget => "host_budget",
            Self::AuditUnwritable => "audit_unwritable",
            Self::UpstreamUnreachable => "upstream_unreachable",
            Self::UpstreamInvalid => "upstream_invalid",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::CallerUnknown => "caller_unknown",
            Self::GuardsGone => "guards_gone",
            Self::NotRedirected => "not_redirected",
            Self::ClientGone => "client_gone",
            Self::Internal => "internal",
        }
    }
}

impl Serialize for Reason {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(self.as_str())
    }
}

/// What a record is about, for who chooses among records without reading them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Traits {
    pub(super) event: Event,
    pub(super) reason: Option<Reason>,
    pub(super) decision: Option<Decision>,
    pub(super) class: Option<Class>,
    pub(super) uid: Option<u32>,
}

/// What a record says beside the fields that all records have.
pub(super) trait Body {
    fn traits(&self) -> Traits;

    /// Writes its members, each behind a comma.
    fn write(&self, to: &mut Vec<u8>);
}

/// What one record says beside the fields that all records have.
#[derive(Debug)]
#[cfg_attr(test, derive(Serialize))]
pub struct RequestBody<'a> {
    pub(super) event: Event,
    pub(super) id: &'a str,
    pub(super) verdict: Option<Decision>,
    pub(super) decision: Option<Decision>,
    pub(super) reason: Reason,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub(super) detail: Option<&'a str>,
    pub(super) rule: Option<&'a str>,
    pub(super) policy: Option<&'a str>,
    pub(super) mode: Mode,
    pub(super) caller: CallerRecord<'a>,
    pub(super) request: RequestRecord<'a>,
    pub(super) status: Option<u16>,
    pub(super) bytes: u64,
    pub(super) latency_us: u64,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub(super) served: Option<&'static str>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub(super) hidden: Option<usize>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub(super) credential: Option<&'a CredentialRecord>,
}

/// Who asked. Unknown is `null`.
#[derive(Debug)]
#[cfg_attr(test, derive(Serialize))]
pub struct CallerRecord<'a> {
    uid: Option<u32>,
    user: Option<&'a str>,
    gid: Option<u32>,
    groups: Option<Vec<&'a str>>,
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    groups_omitted: Option<usize>,
    pid: Option<u32>,
    exe: Option<Cow<'a, str>>,
    comm: Option<Cow<'a, str>>,
    loginuid: Option<i64>,
    ses: Option<i64>,
    unit: Option<Cow<'a, str>>,
    #[cfg_attr(test, serde(serialize_with = "shown"))]
    address: ClientAddr,
}

#[cfg(test)]
fn shown<S: Serializer>(address: &ClientAddr, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(address)
}

impl<'a> CallerRecord<'a> {
    /// From what the socket, NSS and the witness said. The unit is that in
    /// which the socket was made, where the kernel says it.
    pub fn new(
        subject: Option<&'a Subject>,
        unit: Option<&'a str>,
        holder: Option<&'a Holder>,
        address: ClientAddr,
    ) -> Self {
        let plain = |text: &'a str| escaped(text.as_bytes(), TEXT_MAX);
        let of_holder = |text: fn(&Holder) -> &Option<String>| {
            holder.and_then(|it| text(it).as_deref().map(plain))
        };
        let mut record = Self {
            pid: holder.map(|holder| holder.pid),
            exe: of_holder(|holder| &holder.exe),
            comm: of_holder(|holder| &holder.comm),
            loginuid: holder.and_then(|holder| holder.loginuid),
            ses: holder.and_then(|holder| holder.ses),
            unit: unit.map(Cow::Borrowed).or(of_holder(|holder| &holder.unit)),
            address,
            uid: subject.map(|subject| subject.uid.0),
            user: None,
            gid: None,
            groups: None,
            groups_omitted: None,
        };
        if let Some(Subject {
            account: Account::Known(facts),
            ..
        }) = subject
        {
            record.user = Some(&facts.user);
            record.gid = Some(facts.gid.0);
            let names = facts
                .groups
                .iter()
                .filter_map(|group| group.name.as_deref());
            record.groups = Some(names.clone().take(GROUPS_MAX).collect());
            record.groups_omitted = names
                .count()
                .checked_sub(GROUPS_MAX)
                .filter(|omitted| *omitted > 0);
        }
        record
    }
}

/// What was asked. Unknown is `null`.
#[derive(Debug, Default)]
#[cfg_attr(test, derive(Serialize))]
pub struct RequestRecord<'a> {
    /// As in the request line; escaped where the request is malformed.
    pub method: Option<&'a str>,
    /// Canonical.
    pub path: Option<&'a str>,
    /// Of the path, or of what the answer turned out to hold.
    pub class: Option<Class>,
    /// `v1` without a token, `v2` with one or asking for one.
    pub imds: Option<&'static str>,
    /// Escaped and shortened; recorded, never matched.
    pub user_agent: Option<&'a str>,
    /// The target where there is no canonical path, escaped and shortened.
    #[cfg_attr(test, serde(skip_serializing_if = "Option::is_none"))]
    pub raw: Option<&'a str>,
}

/// Which credentials an answer carried: the key id that CloudTrail names,
/// never the key.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(test, derive(Serialize))]
pub struct CredentialRecord {
    /// `ASIA…`.
    pub access_key_id: Option<String>,
    /// The last segment of the path.
    pub role: Option<String>,
    /// When it ends, as the service says it.
    pub expiration: Option<String>,
}

/// An event other than a request.
#[derive(Debug, Serialize)]
pub(super) struct EventBody<'a, D: Serialize> {
    pub(super) event: Event,
    pub(super) detail: &'a D,
}

impl<D: Serialize> Body for EventBody<'_, D> {
    fn traits(&self) -> Traits {
        Traits {
            event: self.event,
            reason: None,
            decision: None,
            class: None,
            uid: None,
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        let at = to.len();
        // A struct with string keys: an object with fields, which cannot fail.
        if serde_json::to_writer(&mut *to, self).is_ok()
            && let Some(brace) = to.get_mut(at)
        {
            *brace = b',';
            to.pop();
        }
    }
}
