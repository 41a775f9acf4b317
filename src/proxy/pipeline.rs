//! The way of one request, from its bytes to its answer and its one record.

use std::sync::Arc;
use std::time::Instant;

use hyper::StatusCode;

use super::Proxy;
use super::answer::{self, Reply};
use super::connection::Arrived;
use super::forward::Passing;
use super::holders;
use crate::audit::{Decision, Ending, Pending, Reason};
use crate::authorize::{Permit, TokenState, Withheld};
use crate::caller::{Caller, CallerUnknown, Peer};
use crate::config::TokenMode;
use crate::control::Orders;
use crate::control::clock::boottime;
use crate::policy::{Origin, Query, Verdict};
use crate::request::{CanonicalPath, Intent, Read, Rejected, Rejection, Ttl};
use crate::upstream::UpstreamError;

/// The connection is closed without an answer.
#[derive(Debug)]
pub(super) struct Closed;

impl std::fmt::Display for Closed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("closed without an answer")
    }
}

impl std::error::Error for Closed {}

pub(super) type Served = Result<Reply, Closed>;

impl Proxy {
    /// Serves one request: who asks, what, with which token, by which rule;
    /// then, and only then, the service. Every way out writes the record.
    pub(super) async fn serve(&self, peer: Peer, arrived: Arrived, whole_since: Instant) -> Served {
        let orders = self.standing.orders();
        let mut record = Pending::new(&self.log, peer.address(), orders.mode);
        record.facts.policy = Some(Arc::clone(orders.base.hash()));
        describe(&mut record, &arrived);
        let known = self.callers.acquaint(peer).await;
        let acquainted = record.elapsed();
        self.limits.turn(peer.uid()).await;
        let its_turn = record.elapsed();
        let caller = known.and_then(|known| self.callers.identify(peer, known, whole_since));
        record.facts.identity = Some(acquainted + record.elapsed() - its_turn);
        if let Ok(caller) = &caller {
            record.facts.subject = Some(Arc::clone(caller.subject()));
            record.facts.unit = caller.unit().cloned();
        }
        if self.guards.are_gone() {
            return Err(close(record, NoAnswer::GuardsGone));
        }
        let (request, caller) = match (arrived, caller) {
            (Err(rejected), caller) => {
                if let Ok(caller) = &caller {
                    self.note_holder(&mut record, caller).await;
                }
                return Ok(reject(record, rejected));
            }
            (Ok(_), Err(unknown)) => return Err(close(record, unknown.into())),
            (Ok(request), Ok(caller)) => (request, caller),
        };
        match request.intent() {
            Intent::Mint(ttl) => self.mint(&orders, record, &caller, *ttl).await,
            Intent::Read(read) => self.read(&orders, record, &caller, read).await,
        }
    }

    async fn mint(
        &self,
        orders: &Orders,
        mut record: Pending,
        caller: &Caller,
        ttl: Ttl,
    ) -> Served {
        record.facts.verdict = Some(Decision::Allow);
        if let Err(over) = self.limits.token(caller.uid(), Instant::now()) {
            let reply = answer::too_many("tokens", record.id());
            let why = Some(over.as_str());
            record.finish(ending(Decision::Deny, Reason::Limit, why, &reply));
            return Ok(reply);
        }
        if self.token_mode == TokenMode::Relay {
            let permit = Permit::mint(caller, ttl);
            return self.forward(record, caller, permit, None).await;
        }
        if let Err(why) = self.confirm(caller) {
            return Err(close(record, why));
        }
        let Some(nonce) = self.nonce() else {
            let what = "no random numbers";
            return Ok(fail(record, 500, Reason::Internal, "random", what));
        };
        let token = orders.tokens.mint(caller.uid(), ttl, boottime(), nonce);
        let reply = answer::minted(token, ttl);
        let ending = allowed(Reason::Allowed, None, &reply);
        self.look(caller).finish(record, caller, ending);
        Ok(reply)
    }

    async fn read(
        &self,
        orders: &Orders,
        mut record: Pending,
        caller: &Caller,
        read: &Read,
    ) -> Served {
        let token = self.token_state(orders, caller, read);
        let mut origin = caller.origin();
        let verdict = match orders.refuse(&token) {
            true => orders.decide(&query(caller, &origin, read, &read.path)),
            false => {
                let asked = (read, &read.path);
                let decided = self.decide(orders, &mut record, caller, &mut origin, asked);
                decided.await.0
            }
        };
        let query = query(caller, &origin, read, &read.path);
        let judged = orders.judge(verdict, &query, token);
        orders.count_use(&judged);
        record.facts.verdict = Some(judged.verdict);
        record.facts.rule = judged.rule.clone();
        match Permit::read(caller, read, &judged) {
            Ok(permit) => {
                let passing = Passing {
                    orders,
                    read,
                    judged: &judged,
                    origin: &origin,
                };
                self.forward(record, caller, permit, Some(passing)).await
            }
            Err(status) => {
                self.note_holder(&mut record, caller).await;
                let reply = match status {
                    401 => answer::unauthorized(),
                    _ if judged.reason == Reason::Lockdown => {
                        answer::withheld(read.path.as_str(), judged.reason, record.id())
                    }
                    _ => answer::denied(caller, read.path.as_str(), record.id()),
                };
                record.finish(ending(Decision::Deny, judged.reason, judged.detail, &reply));
                Ok(reply)
            }
        }
    }

    /// What the policy says of a caller reading a path. Who holds the
    /// connection is found out first where that could change it, and never
    /// where it could not; also whether it was asked for.
    pub(super) async fn decide(
        &self,
        orders: &Orders,
        record: &mut Pending,
        caller: &Caller,
        origin: &mut Origin,
        (read, path): (&Read, &CanonicalPath),
    ) -> (Verdict, bool) {
        let verdict = orders.decide(&query(caller, origin, read, path));
        let Some(unknown) = verdict.unknown() else {
            return (verdict, false);
        };
        if let Some(seen) = self.callers.clear_up(caller, unknown, origin).await {
            holders::note(record, caller, &seen);
        }
        (orders.decide(&query(caller, origin, read, path)), true)
    }

    pub(super) fn token_state(&self, orders: &Orders, caller: &Caller, read: &Read) -> TokenState {
        match (&read.token, self.token_mode) {
            (None, _) => TokenState::Missing,
            (Some(token), TokenMode::Bound) => {
                orders.tokens.verify(token, caller.uid(), boottime()).into()
            }
            (Some(token), TokenMode::Relay) if token.as_str().is_empty() => TokenState::Foreign,
            (Some(token), TokenMode::Relay) => TokenState::Relayed(token.clone()),
        }
    }

    /// What has to hold still before anything is sent.
    pub(super) fn confirm(&self, caller: &Caller) -> Result<(), NoAnswer> {
        if self.guards.are_gone() {
            return Err(NoAnswer::GuardsGone);
        }
        Ok(self.callers.confirm(caller)?)
    }
}

/// What the policy is asked.
pub(super) fn query<'q>(
    caller: &'q Caller,
    origin: &'q Origin,
    read: &Read,
    path: &'q CanonicalPath,
) -> Query<'q> {
    Query {
        subject: caller.subject(),
        origin,
        method: read.method,
        path,
    }
}

fn describe(record: &mut Pending, arrived: &Arrived) {
    let facts = &mut record.facts;
    match arrived {
        Err(rejected) => {
            facts.method.clone_from(&rejected.method);
            facts.raw.clone_from(&rejected.raw);
            facts.user_agent.clone_from(&rejected.user_agent);
        }
        Ok(request) => {
            facts.user_agent = request.user_agent().map(str::to_owned);
            match request.intent() {
                Intent::Mint(_) => {
                    facts.method = Some("PUT".into());
                    facts.path = Some(crate::request::TOKEN_PATH.into());
                    facts.imds = Some("v2");
                }
                Intent::Read(read) => {
                    facts.method = Some(read.method.as_str().into());
                    facts.path = Some(read.path.as_str().into());
                    facts.class = Some(read.path.class());
                    facts.imds = Some(if read.token.is_some() { "v2" } else { "v1" });
                }
            }
        }
    }
}

fn reject(mut record: Pending, rejected: Rejected) -> Reply {
    record.facts.verdict = Some(Decision::Deny);
    let reply = answer::rejected(rejected.cause, record.id());
    let (reason, detail) = match rejected.cause {
        Rejection::Malformed(malformed) => (Reason::Malformed, Some(malformed.as_str())),
        Rejection::ForwardedHeader => (Reason::ForwardedHeader, None),
    };
    record.finish(ending(Decision::Deny, reason, detail, &reply));
    reply
}

/// Why nobody gets an answer.
pub(super) enum NoAnswer {
    GuardsGone,
    From(CallerUnknown),
}

impl From<CallerUnknown> for NoAnswer {
    fn from(unknown: CallerUnknown) -> Self {
        Self::From(unknown)
    }
}

pub(super) fn close(record: Pending, why: NoAnswer) -> Closed {
    let (reason, detail) = match why {
        NoAnswer::GuardsGone => (Reason::GuardsGone, None),
        NoAnswer::From(unknown) => (Reason::CallerUnknown, Some(unknown.as_str())),
    };
    record.finish(Ending {
        decision: Decision::Deny,
        reason,
        detail,
        status: None,
        bytes: 0,
    });
    Closed
}

pub(super) fn withhold(record: Pending, path: &str, withheld: &Withheld) -> Reply {
    let reply = answer::withheld(path, withheld.reason, record.id());
    record.finish(ending(
        Decision::Deny,
        withheld.reason,
        Some(withheld.detail),
        &reply,
    ));
    reply
}

pub(super) fn upstream_failed(record: Pending, error: UpstreamError) -> Reply {
    match error {
        UpstreamError::Unreachable => {
            let what = "the metadata service cannot be reached";
            fail(record, 502, Reason::UpstreamUnreachable, None, what)
        }
        UpstreamError::Invalid(detail) => {
            let what = "the metadata service gave no valid answer";
            fail(record, 502, Reason::UpstreamInvalid, Some(detail), what)
        }
        UpstreamError::HostBudget => {
            let what = "this host asks the metadata service for more than it may; try again";
            fail(record, 503, Reason::HostBudget, None, what)
        }
        UpstreamError::Timeout => {
            let what = "the metadata service did not answer in time";
            fail(record, 504, Reason::UpstreamTimeout, None, what)
        }
    }
}

pub(super) fn fail(
    record: Pending,
    status: u16,
    reason: Reason,
    detail: impl Into<Option<&'static str>>,
    what: &str,
) -> Reply {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let reply = answer::failed(status, what, record.id());
    record.finish(ending(Decision::Deny, reason, detail.into(), &reply));
    reply
}

pub(super) fn allowed(reason: Reason, detail: Option<&'static str>, reply: &Reply) -> Ending {
    ending(Decision::Allow, reason, detail, reply)
}

fn ending(
    decision: Decision,
    reason: Reason,
    detail: Option<&'static str>,
    reply: &Reply,
) -> Ending {
    Ending {
        decision,
        reason,
        detail,
        status: Some(reply.status().as_u16()),
        bytes: u64::try_from(reply.length()).unwrap_or(u64::MAX),
    }
}
