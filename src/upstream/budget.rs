//! The host's share of the service, which throttles the whole host at once
//! (1,024 packets a second): so many requests a second, in turns by uid, with
//! some that only root gets, and some at once for who has asked little.
//!
//! Nobody waits longer than clients do; who would, is told so.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio::time::timeout_at;

use crate::ids::Uid;
use crate::limits::{Bucket, Rate};

/// Most clients give up after one second; an answer takes some of that.
const WAIT_MAX: Duration = Duration::from_millis(700);
/// One request in so many is kept for root.
const RESERVED_OF: u32 = 10;
/// One in so many of the requests that may be sent at once is kept for uids that
/// had less of the latest turns than their share: what a program asks for when
/// it begins need not wait for a turn because somebody else never stops asking.
/// However many such uids there are, that way they get no more than so much of
/// all; the rest is for those who wait.
const KEPT_OF: u32 = 8;
const LIGHT_OF: u32 = 2;
const LATEST: usize = 64;
/// A share is that of so many uids at least.
const SHARED_AMONG: usize = 16;
/// After the first refusal of the service, and doubled with each that follows.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_millis(1600);

/// Clones share it.
#[derive(Clone)]
pub(super) struct Budget(Option<Arc<Mutex<State>>>);

/// What is asked once, and for whom: the turn of any of them will do.
pub(super) struct Claim {
    uid: Uid,
    until: Instant,
    others: Mutex<Others>,
}

#[derive(Default)]
struct Others {
    uids: BTreeSet<Uid>,
    /// While it waits for a turn.
    ticket: Option<Ticket>,
}

/// Stands in the queue of each who waits for the same.
#[derive(Clone)]
struct Ticket(Arc<Mutex<Option<oneshot::Sender<()>>>>);

/// No turn came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

struct State {
    everybody: Rate,
    /// The same, without keeping anything for those who have asked little.
    all: Rate,
    /// What they get at most; nothing where that is less than one at once.
    light: Option<Rate>,
    reserve: Rate,
    taken: Bucket,
    taken_of_light: Bucket,
    taken_of_reserve: Bucket,
    /// By uid; a turn for each in the order of `ring`, which has each of them
    /// once.
    waiting: HashMap<Uid, VecDeque<Ticket>>,
    ring: VecDeque<Uid>,
    /// Who had the last turns, at most [`LATEST`].
    latest: VecDeque<Uid>,
    granting: bool,
    paused_until: Option<Instant>,
    refusals: u32,
}

impl Claim {
    /// For `uid`, from now on as long as it is worth waiting.
    pub(super) fn new(uid: Uid) -> Self {
        Self::within(uid, Instant::now() + WAIT_MAX)
    }

    /// For root, whose turn what serves everybody is asked in; as long as this.
    pub(super) fn for_everybody(&self) -> Self {
        Self::within(Uid::ROOT, self.until)
    }

    fn within(uid: Uid, until: Instant) -> Self {
        Self {
            uid,
            until,
            others: Mutex::default(),
        }
    }

    /// Whether it will still wait then.
    pub(super) fn outlasts(&self, time: Instant) -> bool {
        time < self.until
    }
}

impl Ticket {
    fn new() -> (Self, oneshot::Receiver<()>) {
        let (tell, told) = oneshot::channel();
        (Self(Arc::new(Mutex::new(Some(tell)))), told)
    }

    /// Neither called nor given up.
    fn is_wanted(&self) -> bool {
        lock(&self.0).as_ref().is_some_and(|tell| !tell.is_closed())
    }

    fn call(&self) {
        if let Some(tell) = lock(&self.0).take() {
            let _ = tell.send(());
        }
    }
}

impl Budget {
    /// `None` is no limit.
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self(per_second.map(|count| Arc::new(Mutex::new(State::new(count)))))
    }

    /// Waits for the right to send one request.
    pub(super) async fn turn(&self, claim: &Claim) -> Result<(), Exhausted> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let turn = {
            let mut state = lock(shared);
            let Some(turn) = state.ask(claim, Instant::now()) else {
                return Ok(());
            };
            if !std::mem::replace(&mut state.granting, true) {
                tokio::spawn(grant(Arc::clone(shared)));
            }
            turn
        };
        match timeout_at(claim.until.into(), turn).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Exhausted),
        }
    }

    /// Whoever asks by `joining` wants the same as `claim`, and shall not wait
    /// for the turns of others alone.
    pub(super) fn join(&self, claim: &Claim, joining: &Claim) {
        if let Some(shared) = &self.0 {
            lock(shared).join(claim, joining.uid, Instant::now());
        }
    }

    /// The service has had enough: nobody asks it for a while. Says until when.
    pub(super) fn back_off(&self) -> Option<Instant> {
        Some(lock(self.0.as_ref()?).back_off(Instant::now()))
    }

    /// The service answers again.
    pub(super) fn answered(&self) {
        if let Some(shared) = &self.0 {
            lock(shared).refusals = 0;
        }
    }
}

impl State {
    fn new(per_second: u32) -> Self {
        let second = Duration::from_secs(1);
        let reserved = (per_second / RESERVED_OF).max(1);
        let others = per_second.saturating_sub(reserved).max(1);
        let burst = others / 4;
        let kept = burst / KEPT_OF;
        Self {
            everybody: Rate::new(others, second, burst - kept),
            all: Rate::new(others, second, burst),
            light: (kept > 0).then(|| Rate::new(others / LIGHT_OF, second, kept)),
            reserve: Rate::new(reserved, second, reserved),
            taken: Bucket::default(),
            taken_of_light: Bucket::default(),
            taken_of_reserve: Bucket::default(),
            waiting: HashMap::new(),
            ring: VecDeque::new(),
            latest: VecDeque::with_capacity(LATEST),
            granting: false,
            paused_until: None,
            refusals: 0,
        }
    }

    /// `None` is a turn at once; else it comes by this.
    fn ask(&mut self, claim: &Claim, now: Instant) -> Option<oneshot::Receiver<()>> {
        match self.take_at_once(claim.uid, now) {
            true => None,
            false => Some(self.queue(claim)),
        }
    }

    /// Where nothing of its own waits: root of its reserve, anybody while nobody
    /// waits at all, and out of turn who has asked little.
    fn take_at_once(&mut self, uid: Uid, now: Instant) -> bool {
        let taken = !self.waits(uid)
            && ((uid == Uid::ROOT && self.take_of_reserve(now))
                || (self.ring.is_empty() && self.take_of_all(now))
                || (self.is_light(uid) && self.take_of_light(now)));
        if taken {
            self.note(uid);
        }
        taken
    }

    fn waits(&self, uid: Uid) -> bool {
        let queue = self.waiting.get(&uid);
        queue.is_some_and(|queue| queue.iter().any(Ticket::is_wanted))
    }

    /// Whether it had fewer of the latest turns than its share of them, were
    /// they shared out among it and those who wait.
    fn is_light(&self, uid: Uid) -> bool {
        let had = self.latest.iter().filter(|it| **it == uid).count();
        had * SHARED_AMONG.max(self.ring.len() + 1) < LATEST
    }

    fn note(&mut self, uid: Uid) {
        if self.latest.len() == LATEST {
            self.latest.pop_front();
        }
        self.latest.push_back(uid);
    }

    fn take_of_reserve(&mut self, now: Instant) -> bool {
        !self.is_paused(now) && self.taken_of_reserve.take(self.reserve, now)
    }

    fn take_of_all(&mut self, now: Instant) -> bool {
        !self.is_paused(now) && self.taken.take(self.everybody, now)
    }

    fn take_of_light(&mut self, now: Instant) -> bool {
        let mut light = self.taken_of_light;
        let taken = !self.is_paused(now)
            && self.light.is_some_and(|rate| light.take(rate, now))
            && self.taken.take(self.all, now);
        if taken {
            self.taken_of_light = light;
        }
        taken
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    fn back_off(&mut self, now: Instant) -> Instant {
        match self.paused_until {
            // What was under way together is refused together, and counts once.
            Some(until) if now < until => until,
            _ => {
                let pause = BACK_OFF.saturating_mul(1 << self.refusals.min(4));
                let until = now + pause.min(BACK_OFF_MAX);
                self.refusals += 1;
                self.paused_until = Some(until);
                until
            }
        }
    }

    fn queue(&mut self, claim: &Claim) -> oneshot::Receiver<()> {
        let (ticket, told) = Ticket::new();
        let mut others = lock(&claim.others);
        self.enqueue(claim.uid, ticket.clone());
        for uid in &others.uids {
            self.enqueue(*uid, ticket.clone());
        }
        others.ticket = Some(ticket);
        told
    }

    fn join(&mut self, claim: &Claim, uid: Uid, now: Instant) {
        let mut others = lock(&claim.others);
        if uid == claim.uid || !others.uids.insert(uid) {
            return;
        }
        if let Some(ticket) = others.ticket.as_ref().filter(|it| it.is_wanted()) {
            match self.take_at_once(uid, now) {
                true => ticket.call(),
                false => self.enqueue(uid, ticket.clone()),
            }
        }
    }

    fn enqueue(&mut self, uid: Uid, ticket: Ticket) {
        let queue = match self.waiting.entry(uid) {
            Entry::Occupied(queue) => queue.into_mut(),
            Entry::Vacant(place) => {
                self.ring.push_back(uid);
                place.insert(VecDeque::new())
            }
        };
        queue.push_back(ticket);
    }

    /// Gives turns while there are any; whether somebody still waits.
    fn grant(&mut self, now: Instant) -> bool {
        // Whoever's turn it is.
        while self.is_waiting(Uid::ROOT) && self.take_of_reserve(now) {
            self.call(Uid::ROOT);
        }
        while let Some(uid) = self.ring.front().copied() {
            if !self.is_waiting(uid) {
                // It has left the ring.
                continue;
            }
            if !self.take_of_all(now) {
                return true;
            }
            self.ring.rotate_left(1);
            self.call(uid);
        }
        self.granting = false;
        false
    }

    /// Who has given up, or was called in another's turn, takes none. One for
    /// whom nothing waits leaves the ring.
    fn is_waiting(&mut self, uid: Uid) -> bool {
        if let Some(queue) = self.waiting.get_mut(&uid) {
            while queue.front().is_some_and(|ticket| !ticket.is_wanted()) {
                queue.pop_front();
            }
            if !queue.is_empty() {
                return true;
            }
            self.waiting.remove(&uid);
            // Most often the first.
            let at = self.ring.iter().position(|it| *it == uid);
            at.map(|at| self.ring.remove(at));
        }
        false
    }

    fn call(&mut self, uid: Uid) {
        if let Some(ticket) = self.waiting.get_mut(&uid).and_then(VecDeque::pop_front) {
            ticket.call();
            self.note(uid);
        }
    }
}

async fn grant(shared: Arc<Mutex<State>>) {
    while lock(&shared).grant(Instant::now()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn lock<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
