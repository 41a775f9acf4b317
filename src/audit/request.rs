//! One record per request, whatever happens: a guard that is filled on the
//! way and writes itself, at the latest when it is dropped.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::denials::Denial;
use super::log::{Log, Written};
use super::record::{
    CallerRecord, CredentialRecord, Decision, Event, Reason, RequestBody, RequestRecord,
};
use super::tally::{Noted, Took};
use crate::caller::witness::Holder;
use crate::config::Mode;
use crate::ids::{ClientAddr, Uid};
use crate::policy::{Account, Subject};
use crate::provider::Class;

/// The record of a request under way. Dropped before it was finished, it says
/// that the client went away, or that this program failed.
pub struct Pending {
    log: Log,
    started: Instant,
    /// How long it took, once it is settled.
    took: Option<Duration>,
    id: String,
    address: ClientAddr,
    mode: Mode,
    /// Filled in as it becomes known. Boxed, since a record is handed on often.
    pub facts: Box<Facts>,
    state: State,
}

enum State {
    Open,
    /// Its one record is on its way to the file, or withdrawn.
    Awaited(oneshot::Receiver<Written>),
    /// How it ended is known; what else is to be said of it, not yet.
    Settled(Ending),
    Finished,
}

/// A record that is kept back: see [`Pending::hold`].
#[must_use]
pub struct Held {
    log: Log,
    number: u64,
}

impl Held {
    /// Queues the record, if that has not happened, with the process that
    /// speaks on the connection.
    pub fn release(self, holder: Option<Holder>) {
        let mut records = self.log.held().up_to(self.number);
        if let Some(own) = records.last_mut()
            && holder.is_some()
        {
            own.facts.holder = holder;
        }
        // Dropped, they are queued in their order.
        drop(records);
    }
}

/// The records that are kept back, in their order.
#[derive(Default)]
pub(super) struct HeldBack {
    records: VecDeque<Pending>,
    /// Of the first of them.
    first: u64,
}

impl HeldBack {
    fn keep(&mut self, record: Pending) -> u64 {
        self.records.push_back(record);
        self.first + u64::try_from(self.records.len()).unwrap_or(0) - 1
    }

    /// Takes those up to this one, and none where it has gone before.
    fn up_to(&mut self, number: u64) -> Vec<Pending> {
        let count = (number + 1).saturating_sub(self.first);
        let count = usize::try_from(count).unwrap_or(0).min(self.records.len());
        self.first += u64::try_from(count).unwrap_or(0);
        self.records.drain(..count).collect()
    }

    pub(super) fn all(&mut self) -> Vec<Pending> {
        self.first += u64::try_from(self.records.len()).unwrap_or(0);
        self.records.drain(..).collect()
    }
}

/// What is known of a request so far.
#[derive(Default)]
pub struct Facts {
    /// Whose socket it came from.
    pub subject: Option<Arc<Subject>>,
    /// The unit it was made in.
    pub unit: Option<Arc<str>>,
    /// The process that speaks on it.
    pub holder: Option<Holder>,
    /// The method, escaped.
    pub method: Option<String>,
    /// The canonical path.
    pub path: Option<String>,
    /// The escaped target where there is no canonical path.
    pub raw: Option<String>,
    /// Escaped.
    pub user_agent: Option<String>,
    /// What the path, or the answer, holds.
    pub class: Option<Class>,
    /// `v1` or `v2`.
    pub imds: Option<&'static str>,
    /// The hash of the policy that judged.
    pub policy: Option<Arc<str>>,
    /// What the policy said.
    pub verdict: Option<Decision>,
    /// The rule that said it.
    pub rule: Option<Arc<str>>,
    /// `memory`, where the service was not asked.
    pub served: Option<&'static str>,
    /// How many entries of a listing the caller was not shown.
    pub hidden: Option<usize>,
    /// The credentials handed out.
    pub credential: Option<CredentialRecord>,
    /// How long it took to know who asks. Measured, not recorded.
    pub identity: Option<Duration>,
    /// How long the service took; the same.
    pub upstream: Option<Duration>,
}

/// How a request ended.
#[derive(Clone, Copy, Debug)]
pub struct Ending {
    /// What the client got.
    pub decision: Decision,
    /// Why.
    pub reason: Reason,
    /// What exactly, where the reason alone does not say.
    pub detail: Option<&'static str>,
    /// The status sent; `None` if the connection was closed without an answer.
    pub status: Option<u16>,
    /// Length of the answer's body.
    pub bytes: u64,
}

impl Pending {
    /// Begins the record of a request whose bytes have arrived.
    pub fn new(log: &Log, address: ClientAddr, mode: Mode) -> Self {
        Self {
            log: log.clone(),
            started: Instant::now(),
            took: None,
            id: log.next_id(),
            address,
            mode,
            facts: Box::default(),
            state: State::Open,
        }
    }

    /// How long it has been under way.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// The id a refusal shows to the user, who can give it to the admin.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Queues the record.
    pub fn finish(mut self, ending: Ending) {
        self.write(ending);
    }

    /// Says how the request ended, and keeps the record back for what is
    /// still to be said of it: until that comes, or any later record does.
    pub fn hold(mut self, ending: Ending) -> Held {
        self.took = Some(self.started.elapsed());
        self.state = State::Settled(ending);
        let log = self.log.clone();
        let number = log.held().keep(self);
        Held { log, number }
    }

    /// Writes the record, and only then returns. Unwritable, the record is
    /// withdrawn and the guard is given back, to be finished another way.
    pub async fn finish_durably(mut self, ending: Ending) -> Result<(), Self> {
        let body = self.body(Event::Request, &ending, self.so_far());
        let Some(told) = self.log.append_awaited(&body) else {
            return Err(self);
        };
        // Held by the guard: the client may leave while the disk is asked.
        self.state = State::Awaited(told);
        let written = match &mut self.state {
            State::Awaited(told) => told.await,
            _ => Ok(Written::Withdrawn),
        };
        if written == Ok(Written::Whole) {
            self.state = State::Finished;
            self.count(&ending, self.so_far());
            Ok(())
        } else {
            self.state = State::Open;
            Err(self)
        }
    }

    fn so_far(&self) -> Duration {
        self.took.unwrap_or_else(|| self.started.elapsed())
    }

    fn count(&self, ending: &Ending, took: Duration) {
        let facts = &self.facts;
        let credential = facts.credential.as_ref();
        self.log.tally().note(&Noted {
            uid: facts.subject.as_ref().map(|subject| subject.uid),
            decision: ending.decision,
            reason: ending.reason,
            detail: ending.detail,
            class: facts.class,
            served: facts.served,
            took: Took {
                whole: Some(took),
                identity: facts.identity,
                upstream: facts.upstream,
            },
            credential: credential.filter(|_| ending.decision == Decision::Allow),
        });
    }

    fn write(&mut self, ending: Ending) {
        self.state = State::Finished;
        let took = self.so_far();
        self.count(&ending, took);
        let alone = ending.decision == Decision::Allow
            || self.log.singles_out(Denial {
                event: Event::Request,
                uid: self.facts.subject.as_ref().map(|subject| subject.uid),
                reason: ending.reason,
                class: self.facts.class,
            });
        if alone {
            let body = self.body(Event::Request, &ending, took);
            // One that was kept back has its place before those still kept.
            match self.took {
                Some(_) => self.log.append_kept(&body),
                None => self.log.append(&body),
            }
        }
    }

    fn body<'a>(&'a self, event: Event, ending: &Ending, took: Duration) -> RequestBody<'a> {
        let facts = &self.facts;
        // The body of an answer to HEAD is not sent.
        let is_head = facts.method.as_deref() == Some("HEAD");
        RequestBody {
            event,
            id: &self.id,
            verdict: facts.verdict,
            decision: Some(ending.decision),
            reason: ending.reason,
            detail: ending.detail,
            rule: facts.rule.as_deref(),
            policy: facts.policy.as_deref(),
            mode: self.mode,
            caller: CallerRecord::new(
                facts.subject.as_deref(),
                facts.unit.as_deref(),
                facts.holder.as_ref(),
                self.address,
            ),
            request: RequestRecord {
                method: facts.method.as_deref(),
                path: facts.path.as_deref(),
                class: facts.class,
                imds: facts.imds,
                user_agent: facts.user_agent.as_deref(),
                raw: facts.raw.as_deref(),
            },
            status: ending.status,
            bytes: if is_head { 0 } else { ending.bytes },
            latency_us: u64::try_from(took.as_micros()).unwrap_or(u64::MAX),
            served: facts.served,
            hidden: facts.hidden,
            // An answer that did not leave handed out nothing.
            credential: facts
                .credential
                .as_ref()
                .filter(|_| ending.decision == Decision::Allow),
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let recorded = match &mut self.state {
            State::Open => false,
            // Not told by now: then it stays in the queue.
            State::Awaited(told) => {
                told.close();
                told.try_recv() != Ok(Written::Withdrawn)
            }
            State::Settled(ending) => {
                let ending = *ending;
                self.write(ending);
                true
            }
            State::Finished => true,
        };
        if !recorded {
            let (reason, detail, status) = if std::thread::panicking() {
                (Reason::Internal, Some("panic"), Some(500))
            } else if self.log.is_ending() {
                (Reason::Internal, Some("shutdown"), None)
            } else {
                (Reason::ClientGone, None, None)
            };
            self.write(Ending {
                decision: Decision::Deny,
                reason,
                detail,
                status,
                bytes: 0,
            });
        }
    }
}

/// Records a connection that is closed before any request of it is read; `uid`
/// is its owner's, where it was looked up.
pub fn connection_refused(
    log: &Log,
    peer: ClientAddr,
    uid: Option<Uid>,
    reason: Reason,
    detail: &'static str,
    mode: Mode,
) {
    let denial = Denial {
        event: Event::ConnectionRefused,
        uid,
        reason,
        class: None,
    };
    log.tally().note(&Noted {
        uid,
        decision: Decision::Deny,
        reason,
        detail: Some(detail),
        class: None,
        served: None,
        took: Took::default(),
        credential: None,
    });
    if !log.singles_out(denial) {
        return;
    }
    // Names are not asked for: refusing must cost less than asking.
    let account = Account::Undecidable;
    let subject = uid.map(|uid| Subject { uid, account });
    log.append(&RequestBody {
        event: Event::ConnectionRefused,
        id: &log.next_id(),
        verdict: None,
        decision: Some(Decision::Deny),
        reason,
        detail: Some(detail),
        rule: None,
        policy: None,
        mode,
        caller: CallerRecord::new(subject.as_ref(), None, None, peer),
        request: RequestRecord::default(),
        status: None,
        bytes: 0,
        latency_us: 0,
        served: None,
        hidden: None,
        credential: None,
    });
}
