//! Who holds the caller's connection now, beside whose it was when it was
//! made: for the record, and for credentials a condition.
//!
//! Only credentials may wait for the witness; everything else goes on when it
//! is gone, and waits for no more than a filled record is worth.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::Proxy;
use super::forward::Passing;
use crate::audit::{Ending, Pending};
use crate::authorize::{Withheld, judge_holders};
use crate::caller::Caller;
use crate::caller::witness::{Seen, Unwitnessed, Urgency, speaker};
use crate::ids::Uid;
use crate::limits::{Bucket, Rate};
use crate::policy::{Origin, Query, Subject, Verdict};

/// Looks that only fill records, begun in a second, and how many of them at
/// once: what the witness gives them for long. To ask it more often, to be told
/// that it has no time, costs each request as much as its policy does.
const LOOKS_PER_SECOND: u32 = 10;
const LOOKS_AT_ONCE: u32 = 32;
/// For the record of a request whose answer is there.
const GRACE: Duration = Duration::from_millis(20);

/// For children to call exec, as far as a client can wait; the first further
/// look comes after this, each next one after twice as long.
const UNTIL_EXEC: Duration = Duration::from_millis(400);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What asking the witness came to.
pub(super) type Witnessed = Result<Seen, Unwitnessed>;

/// How many looks there may be.
pub(super) struct Looks(Rate, Mutex<Bucket>);

impl Looks {
    pub(super) fn new() -> Self {
        let rate = Rate::new(LOOKS_PER_SECOND, Duration::from_secs(1), LOOKS_AT_ONCE);
        Self(rate, Mutex::default())
    }

    fn take(&self) -> bool {
        let mut taken = self.1.lock().unwrap_or_else(PoisonError::into_inner);
        taken.take(self.0, Instant::now())
    }
}

/// What was found of those who hold a connection.
pub(super) enum Fitness {
    /// They may all have what was asked for.
    Fit,
    /// They may by now; some who may not were on their way to another program.
    FitByNow,
    Unfit(Withheld),
}

/// A look at who asks that nobody waits for: it only fills a record.
pub(super) struct Look(Option<JoinHandle<Witnessed>>);

impl Look {
    /// Lets the record go with what was seen, where that comes in time and
    /// before any later record.
    pub(super) fn finish(self, record: Pending, caller: &Caller, ending: Ending) {
        let Some(look) = self.0 else {
            record.finish(ending);
            return;
        };
        let (held, uid) = (record.hold(ending), caller.uid());
        tokio::spawn(async move {
            let seen = tokio::time::timeout(GRACE, look).await;
            let holder = match &seen {
                Ok(Ok(Ok(seen))) => speaker(&seen.holders, uid).cloned(),
                _ => None,
            };
            held.release(holder);
        });
    }
}

impl Proxy {
    /// Begins to look, where the witness has time for it.
    pub(super) fn look(&self, caller: &Caller) -> Look {
        if self.callers.witness_rests() {
            return Look(None);
        }
        if !self.looks.take() {
            return Look(None);
        }
        let (callers, caller) = (Arc::clone(&self.callers), caller.clone());
        Look(Some(tokio::spawn(async move {
            callers.holders(&caller, Urgency::WhenIdle).await
        })))
    }

    /// Fills in who asked, where nothing else is waited for.
    pub(super) async fn note_holder(&self, record: &mut Pending, caller: &Caller) {
        if record.facts.holder.is_some() {
            return;
        }
        let asked = self.callers.holders(caller, Urgency::WhenIdle);
        if let Ok(seen) = tokio::time::timeout(GRACE, asked).await {
            note(record, caller, &seen);
        }
    }

    /// Whether those who hold the connection may all have what was asked for.
    pub(super) async fn fitness(
        &self,
        caller: &Caller,
        passing: &Passing<'_>,
        witnessed: &Witnessed,
    ) -> Fitness {
        let Some(withheld) = self.withheld(passing, witnessed).await else {
            return Fitness::Fit;
        };
        let until_exec = Box::pin(self.only_forked(caller, passing, witnessed));
        match tokio::time::timeout(UNTIL_EXEC, until_exec).await {
            Ok(true) => Fitness::FitByNow,
            // What was seen first stands: later looks take nothing of it back.
            Ok(false) | Err(_) => Fitness::Unfit(withheld),
        }
    }

    /// Whether who is in the way were only children of the one who may: until
    /// its exec a child has all that its parent has, also as the user whom it
    /// is to run as. Returns once they have let go, or nobody else is left to
    /// wait for.
    async fn only_forked(
        &self,
        caller: &Caller,
        passing: &Passing<'_>,
        witnessed: &Witnessed,
    ) -> bool {
        let Ok(first) = witnessed else { return false };
        let Some(origin) = first.origin() else {
            return false;
        };
        let alone = Seen {
            holders: vec![origin.clone()],
            shielded: first.shielded.clone(),
        };
        if self.withheld(passing, &Ok(alone)).await.is_some() {
            return false;
        }
        let mut pause = LOOK_AGAIN;
        loop {
            tokio::time::sleep(pause).await;
            pause *= 2;
            let seen = self.callers.holders(caller, Urgency::Now).await;
            let is_of = |seen: &Seen| {
                let now = seen.origin();
                now.is_some_and(|it| (it.pid, it.started) == (origin.pid, origin.started))
            };
            if !seen.as_ref().is_ok_and(is_of) {
                return false;
            }
            if self.withheld(passing, &seen).await.is_none() {
                return true;
            }
        }
    }

    /// Why it may not be given to those who were seen. Each of their uids is
    /// judged as if it had asked itself, from where they are seen to be now.
    async fn withheld(&self, passing: &Passing<'_>, witnessed: &Witnessed) -> Option<Withheld> {
        // Where nobody can say who holds it, a lockdown holds for whoever does.
        let is_unseen = witnessed.as_ref().map_or(true, |it| it.holders.is_empty());
        if is_unseen && passing.orders.lockdown.is_some() {
            return Some(Withheld::lockdown());
        }
        let Passing { orders, read, .. } = passing;
        let unseen = |why: Result<Vec<Verdict>, Unwitnessed>| {
            let may_enforce = orders.may_enforce(read.method, &read.path);
            judge_holders(why).map(|it| it.of_unseen(may_enforce))
        };
        let uids = match witnessed {
            Ok(seen) if seen.holders.is_empty() => return unseen(Ok(Vec::new())),
            Ok(seen) => seen.uids(),
            Err(unwitnessed) => return unseen(Err(*unwitnessed)),
        };
        let Some(subjects) = self.subjects(uids).await else {
            return unseen(Err(Unwitnessed::Incomplete));
        };
        let mut judged = Vec::with_capacity(subjects.len());
        let mut origin = Origin::of_unit(passing.origin.unit.clone());
        for subject in &subjects {
            let from = |origin| Query {
                origin,
                ..Query::new(subject, read.method, &read.path)
            };
            if orders.locks(&from(&origin)) {
                return Some(Withheld::lockdown());
            }
            let mut verdict = orders.decide(&from(&origin));
            if verdict.unknown().is_some_and(|it| it.holder.is_some()) {
                origin.holders = self.callers.programs(witnessed).await;
                verdict = orders.decide(&Query {
                    origin: &origin,
                    ..Query::new(subject, read.method, &read.path)
                });
            }
            judged.push(verdict);
        }
        judge_holders(Ok(judged))
    }

    /// As rules see these uids: asked for at once, so that a slow NSS is waited
    /// for once; and where it is one, without giving way to other requests.
    async fn subjects(&self, uids: BTreeSet<Uid>) -> Option<Vec<Arc<Subject>>> {
        if let (Some(uid), 1) = (uids.first(), uids.len()) {
            return Some(vec![self.callers.subject(*uid).await]);
        }
        let mut asked = tokio::task::JoinSet::new();
        for uid in uids {
            let callers = Arc::clone(&self.callers);
            asked.spawn(async move { callers.subject(uid).await });
        }
        let mut subjects = Vec::with_capacity(asked.len());
        while let Some(subject) = asked.join_next().await {
            subjects.push(subject.ok()?);
        }
        Some(subjects)
    }
}

/// What the record says of the one process that speaks on the connection.
pub(super) fn note(record: &mut Pending, caller: &Caller, witnessed: &Witnessed) {
    if let Ok(seen) = witnessed
        && let Some(holder) = speaker(&seen.holders, caller.uid())
    {
        record.facts.holder = Some(holder.clone());
    }
}
