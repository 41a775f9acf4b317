//! Who holds the caller's connection now, beside whose it was when it was
//! made: for the record, and for credentials a condition.
//!
//! Only credentials may wait for the witness; everything else goes on when it
//! is gone, and waits for no more than a filled record is worth.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use super::Proxy;
use crate::audit::Pending;
use crate::authorize::{Withheld, judge_holders};
use crate::caller::Caller;
use crate::caller::witness::{Seen, Unwitnessed, Urgency, speaker};
use crate::request::CanonicalPath;

/// For the record of a request whose answer is there.
const GRACE: Duration = Duration::from_millis(20);

/// What asking the witness came to.
pub(super) type Witnessed = Result<Seen, Unwitnessed>;

impl Proxy {
    /// Fills in who asked, where nothing else is waited for.
    pub(super) async fn note_holder(&self, record: &mut Pending, caller: &Caller) {
        let asked = self.callers.holders(caller, Urgency::WhenIdle);
        if let Ok(seen) = tokio::time::timeout(GRACE, asked).await {
            note(record, caller, &seen);
        }
    }

    /// Whether those who hold the connection may not all have what is at
    /// `path`. Each of their uids is judged as if it had asked itself.
    pub(super) async fn withheld(
        &self,
        path: &CanonicalPath,
        witnessed: &Witnessed,
    ) -> Option<Withheld> {
        let uids = match witnessed {
            Ok(seen) if seen.holders.is_empty() => return judge_holders(Ok(Vec::new())),
            Ok(seen) => seen.uids(),
            Err(unwitnessed) => return judge_holders(Err(*unwitnessed)),
        };
        // Asked for at once, so that a slow NSS is waited for once.
        let mut verdicts = tokio::task::JoinSet::new();
        let mut judged = Vec::new();
        for uid in uids {
            let callers = std::sync::Arc::clone(&self.callers);
            verdicts.spawn(async move { callers.subject(uid).await });
        }
        while let Some(subject) = verdicts.join_next().await {
            match subject {
                Ok(subject) => judged.push(self.policy.decide(&subject, path)),
                Err(_) => return judge_holders(Err(Unwitnessed::Incomplete)),
            }
        }
        judge_holders(Ok(judged))
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

/// Awaits `main`; `side` may take as long, and no more than [`GRACE`] longer.
pub(super) async fn beside<M, S>(
    main: impl Future<Output = M>,
    side: impl Future<Output = S>,
) -> (M, Option<S>) {
    let (mut main, mut side) = (pin!(main), pin!(side));
    tokio::select! {
        answer = &mut main => (answer, tokio::time::timeout(GRACE, side).await.ok()),
        seen = &mut side => (main.await, Some(seen)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::time::Instant;

    #[tokio::test]
    async fn an_answer_waits_for_a_record_no_longer_than_it_is_worth() {
        let start = Instant::now();
        let (answer, seen) = beside(ready(1), pending::<()>()).await;
        assert_eq!((answer, seen), (1, None));
        assert!(start.elapsed() < GRACE * 10);
        assert_eq!(beside(ready(1), ready(2)).await, (1, Some(2)));
        let late = tokio::time::sleep(GRACE * 2);
        assert_eq!(beside(late, ready(2)).await, ((), Some(2)));
    }
}
