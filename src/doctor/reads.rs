//! Reads through the real redirect, as users make them, against what the
//! policy says would come of them.

use std::net::SocketAddr;
use std::time::SystemTime;

use super::http::{self, Answer};
use super::{Finding, State};
use crate::authorize::{Outcome, TokenState, judge};
use crate::caller::accounts;
use crate::config::{Config, Mode};
use crate::ids::{Gid, MetadataAddr, Uid};
use crate::policy::{Policy, Query, Subject, Unknown};
use crate::request::{CanonicalPath, ReadMethod};

/// Tried in this order for one that is allowed and one that is not. The role
/// is none that there is: no key is made for this.
const PATHS: [&str; 5] = [
    "/latest/meta-data/instance-id",
    "/latest/meta-data/iam/security-credentials/imdsfw-doctor",
    "/latest/dynamic/instance-identity/pkcs7",
    "/latest/meta-data/mac",
    "/latest/meta-data/placement/region",
];

pub(super) struct Reads {
    pub(super) findings: Vec<Finding>,
    /// Of an answer of the service.
    pub(super) date: Option<SystemTime>,
}

/// A user, and what it meets.
struct Reader<'a> {
    subject: &'a Subject,
    name: String,
    ids: (Uid, Gid),
    mode: Mode,
    to: SocketAddr,
}

pub(super) fn as_users(
    config: &Config,
    policy: &Policy,
    services: &[MetadataAddr],
    users: &[Uid],
) -> Reads {
    let mut reads = Reads {
        findings: Vec::new(),
        date: None,
    };
    for service in services {
        // Said of the route already.
        if super::host::route(*service).state != State::Ok {
            continue;
        }
        for uid in users {
            let subject = Subject {
                uid: *uid,
                account: accounts::lookup(*uid),
            };
            let (name, gid) = match subject.account.facts() {
                Some(facts) => (facts.user.clone(), facts.gid),
                None => (format!("uid {uid}"), Gid(uid.0)),
            };
            let reader = Reader {
                subject: &subject,
                name,
                ids: (*uid, gid),
                mode: config.policy.mode,
                to: service.0,
            };
            reader.read(config, policy, &mut reads);
        }
    }
    reads
}

impl Reader<'_> {
    fn read(&self, config: &Config, policy: &Policy, reads: &mut Reads) {
        let token = match http::token(self.ids, self.to) {
            Ok((200, token)) => token,
            Ok((status, _)) => {
                let what = format!("{} got {status} for a token from {}", self.name, self.to);
                reads.findings.push(unexpected("token", what, status));
                return;
            }
            Err(error) => {
                let what = format!("{} got no token from {}: {error}", self.name, self.to);
                let mend = "imdsfw rules apply; systemctl restart imdsfw";
                reads.findings.push(Finding::failure("token", what, mend));
                return;
            }
        };
        let (mut allowed, mut denied) = (false, false);
        for path in PATHS {
            let Ok(canonical) = CanonicalPath::parse(config.provider, path.as_bytes()) else {
                continue;
            };
            let query = Query::new(self.subject, ReadMethod::Get, &canonical);
            // Which unit and program it asks from, it does not predict.
            let is_elsewhere = |it: &Unknown| it.unit || it.holder.is_some();
            if policy.decide(&query).unknown().is_some_and(is_elsewhere) {
                continue;
            }
            let decide = |token| {
                let verdict = policy.decide(&query);
                judge(verdict, ReadMethod::Get, token, self.mode).outcome
            };
            let expected = decide(TokenState::Good(1));
            let seen = match expected {
                Outcome::Forward(_) => &mut allowed,
                Outcome::Refuse(_) => &mut denied,
            };
            if std::mem::replace(seen, true) {
                continue;
            }
            let answer = http::get(self.ids, self.to, path, Some(&token));
            self.compare("read", path, &expected, answer, reads);
        }
        let path = PATHS.first().copied().unwrap_or("/");
        let Ok(canonical) = CanonicalPath::parse(config.provider, path.as_bytes()) else {
            return;
        };
        let verdict = policy.decide(&Query::new(self.subject, ReadMethod::Get, &canonical));
        let expected = judge(verdict, ReadMethod::Get, TokenState::Missing, self.mode).outcome;
        let answer = http::get(self.ids, self.to, path, None);
        self.compare("tokenless", path, &expected, answer, reads);
    }

    fn compare(
        &self,
        check: &'static str,
        path: &str,
        expected: &Outcome,
        answer: std::io::Result<Answer>,
        reads: &mut Reads,
    ) {
        let who = format!("{} at {}: {path}", self.name, self.to.ip());
        let answer = match answer {
            Ok(answer) => answer,
            Err(error) => {
                let what = format!("{who}: {error}");
                let mend = "imdsfw rules apply; systemctl restart imdsfw";
                reads.findings.push(Finding::failure(check, what, mend));
                return;
            }
        };
        let status = answer.status;
        let as_expected = match expected {
            // Whatever the service itself says of it.
            Outcome::Forward(_) => {
                status == 200 || status == 404 || check == "tokenless" && status == 401
            }
            Outcome::Refuse(refusal) => status == *refusal,
        };
        if as_expected && matches!(expected, Outcome::Forward(_)) {
            reads.date = reads.date.or(answer.date);
        }
        reads.findings.push(if as_expected {
            let word = match expected {
                Outcome::Forward(_) => "passed on",
                Outcome::Refuse(_) => "refused",
            };
            Finding::ok(
                check,
                format!("{who}: {word}, as the policy has it ({status})"),
            )
        } else {
            let wanted = match expected {
                Outcome::Forward(_) => "the service's answer".to_owned(),
                Outcome::Refuse(refusal) => refusal.to_string(),
            };
            unexpected(
                check,
                format!("{who}: {status} instead of {wanted}"),
                status,
            )
        });
    }
}

/// By what the status usually means.
fn unexpected(check: &'static str, what: String, status: u16) -> Finding {
    let mend = match status {
        502 | 504 => {
            "see whether the instance has its metadata service enabled: aws ec2 \
             describe-instances --query 'Reservations[].Instances[].MetadataOptions'"
        }
        503 => "see that the audit log can be written: df /var/log",
        429 => "wait a minute, and ask again",
        // The daemon judges by another policy than the files hold now.
        _ => "systemctl restart imdsfw, which reads the policy anew; then: imdsfw explain",
    };
    Finding::failure(check, what, mend)
}
