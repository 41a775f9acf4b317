//! From a permit to an answer that may leave: memory or service, the verdict
//! on who holds the connection, and the record first where it must be.

use super::Proxy;
use super::answer::{self, Reply};
use super::holders::{self, Fitness, Witnessed};
use super::notice;
use super::pipeline::{NoAnswer, Served, allowed, close, fail, query, upstream_failed, withhold};
use crate::audit::{Ending, Event, Pending, Reason, Sighting};
use crate::authorize::{Judgement, Outcome, Permit, Withheld};
use crate::caller::Caller;
use crate::caller::witness::Urgency;
use crate::config::Action;
use crate::control::Orders;
use crate::policy::Origin;
use crate::provider::Class;
use crate::request::Read;
use crate::upstream::{Answer, UpstreamError};

/// A read on its way to the service.
#[derive(Clone, Copy)]
pub(super) struct Passing<'a> {
    pub(super) orders: &'a Orders,
    pub(super) read: &'a Read,
    pub(super) judged: &'a Judgement,
    pub(super) origin: &'a Origin,
}

/// Why there is no answer.
enum Failed {
    Caller(NoAnswer),
    Upstream(UpstreamError),
}

impl Failed {
    fn of(self, record: Pending) -> Served {
        match self {
            Self::Caller(why) => Err(close(record, why)),
            Self::Upstream(error) => Ok(upstream_failed(record, error)),
        }
    }
}

impl Proxy {
    /// Gets the answer, and lets it go to the caller it was meant for.
    pub(super) async fn forward(
        &self,
        mut record: Pending,
        caller: &Caller,
        permit: Permit,
        passing: Option<Passing<'_>>,
    ) -> Served {
        let access = permit.access().cloned();
        if record.facts.class == Some(Class::Credentials)
            && let Some(passing) = passing
        {
            // Everything else goes on without the witness; these wait for it,
            // and it is asked at the same time.
            let witness = self.callers.holders(caller, Urgency::Now);
            let (answer, seen) = tokio::join!(self.ask(&mut record, caller, permit), witness);
            holders::note(&mut record, caller, &seen);
            return match answer {
                Ok(answer) => self.hand_out(record, caller, passing, answer, seen).await,
                Err(failed) => failed.of(record),
            };
        }
        let look = self.look(caller);
        let mut answer = match self.ask(&mut record, caller, permit).await {
            Ok(answer) => answer,
            Err(failed) => return failed.of(record),
        };
        let mut ending = (Reason::Allowed, None);
        if let Some(passing) = passing {
            self.take_notice(&mut record, passing.read, &answer);
            if record.facts.class == Some(Class::Credentials) {
                // What filled a record is not enough for a verdict.
                let seen = self.callers.holders(caller, Urgency::Now).await;
                holders::note(&mut record, caller, &seen);
                return self.hand_out(record, caller, passing, answer, seen).await;
            }
            answer = self.shown(&mut record, caller, &passing, answer).await;
            ending = (passing.judged.reason, passing.judged.detail);
            if let Some(recalled) = self.recalled(&record, caller, passing) {
                return Ok(withhold(record, passing.read.path.as_str(), &recalled));
            }
        }
        if let Err(why) = self.confirm(caller) {
            return Err(close(record, why));
        }
        let sensitive = record.facts.class.is_some_and(Class::is_sensitive);
        let reply = answer::passed_on(answer, access.as_ref());
        let ending = allowed(ending.0, ending.1, &reply);
        if sensitive {
            return self.recorded_first(record, ending, reply).await;
        }
        look.finish(record, caller, ending);
        Ok(reply)
    }

    /// Credentials leave when every holder of the connection may have them,
    /// and when no newer ones have come since.
    async fn hand_out(
        &self,
        mut record: Pending,
        caller: &Caller,
        passing: Passing<'_>,
        mut answer: Answer,
        seen: Witnessed,
    ) -> Served {
        let Passing {
            orders,
            read,
            judged,
            ..
        } = passing;
        let (mut reason, mut detail) = (judged.reason, judged.detail);
        match self.fitness(caller, &passing, &seen).await {
            Fitness::Fit => {}
            Fitness::FitByNow => detail = detail.or(Some("let_go")),
            Fitness::Unfit(withheld) => match orders.waives(&withheld) {
                None => return Ok(withhold(record, read.path.as_str(), &withheld)),
                Some(waived) if reason == Reason::Allowed => {
                    (reason, detail) = (waived, Some(withheld.reason.as_str()));
                }
                Some(_) => {}
            },
        }
        if self.upstream.is_superseded(&read.path, &answer)
            && let Ok(permit) = Permit::read(caller, read, judged)
        {
            match self.ask(&mut record, caller, permit).await {
                Ok(newer) => answer = newer,
                Err(failed) => return failed.of(record),
            }
        }
        self.take_notice(&mut record, read, &answer);
        if let Err(why) = self.confirm(caller) {
            return Err(close(record, why));
        }
        let access = match &judged.outcome {
            Outcome::Forward(access) => Some(access),
            Outcome::Refuse(_) => None,
        };
        if let Some(recalled) = self.recalled(&record, caller, passing) {
            return Ok(withhold(record, read.path.as_str(), &recalled));
        }
        let reply = answer::passed_on(answer, access);
        let ending = allowed(reason, detail, &reply);
        let (id, class) = (record.id().to_owned(), record.facts.class);
        let served = self.recorded_first(record, ending, reply).await;
        // Its record has taken its time, and says that it left.
        let left = served.as_ref().is_ok_and(|it| it.status().is_success());
        match self.recalled_now(class, caller, passing) {
            Some(recalled) if left => {
                let detail = serde_json::json!({ "id": id, "reason": recalled.reason });
                self.log.event(Event::CredentialsWithheld, &detail);
                let path = read.path.as_str();
                Ok(answer::withheld(path, recalled.reason, &id))
            }
            _ => served,
        }
    }

    /// Why an answer may not leave any more that was let through when its
    /// request came.
    fn recalled(
        &self,
        record: &Pending,
        caller: &Caller,
        passing: Passing<'_>,
    ) -> Option<Withheld> {
        self.recalled_now(record.facts.class, caller, passing)
    }

    fn recalled_now(
        &self,
        class: Option<Class>,
        caller: &Caller,
        passing: Passing<'_>,
    ) -> Option<Withheld> {
        let now = self.standing.orders();
        let read = passing.read;
        let query = query(caller, passing.origin, read, &read.path);
        let Passing { orders, judged, .. } = passing;
        orders.recalled_by(&now, &query, class, judged)
    }

    /// Lets an answer go once its record is written.
    async fn recorded_first(&self, record: Pending, ending: Ending, reply: Reply) -> Served {
        match (record.finish_durably(ending).await, self.on_audit_failure) {
            (Ok(()), _) => Ok(reply.at_once()),
            (Err(record), Action::Allow) => {
                record.finish(ending);
                Ok(reply.at_once())
            }
            (Err(record), Action::Deny) => {
                let what = "the audit log of this host cannot be written";
                Ok(fail(record, 503, Reason::AuditUnwritable, None, what))
            }
        }
    }

    /// From memory, or from the service.
    async fn ask(
        &self,
        record: &mut Pending,
        caller: &Caller,
        permit: Permit,
    ) -> Result<Answer, Failed> {
        if let Some(answer) = self.recall(record, &permit) {
            return Ok(answer);
        }
        let lane = self.limits.upstream(caller.uid()).await;
        // What was waited for may have brought it.
        if lane.is_some()
            && let Some(answer) = self.recall(record, &permit)
        {
            return Ok(answer);
        }
        self.confirm(caller).map_err(Failed::Caller)?;
        let before = record.elapsed();
        let answer = self.upstream.fetch(permit).await;
        record.facts.upstream = Some(record.elapsed() - before);
        answer.map_err(Failed::Upstream)
    }

    fn recall(&self, record: &mut Pending, permit: &Permit) -> Option<Answer> {
        let answer = self.upstream.recall(permit);
        record.facts.served = answer.as_ref().map(|_| "memory");
        answer
    }

    fn take_notice(&self, record: &mut Pending, read: &Read, answer: &Answer) {
        if let Some(facts) = notice::instance(&read.path, answer) {
            self.log.learn(facts);
        }
        if let Some(role) = notice::role(&read.path, answer) {
            self.log.sight(role.sighting());
        }
        if let Some(credential) = notice::credential(&read.path, answer) {
            let of = notice::principal(&read.path);
            self.log.sight(Sighting::Credentials(of, &credential));
            record.facts.class = Some(Class::Credentials);
            record.facts.credential = Some(credential);
        }
    }
}
