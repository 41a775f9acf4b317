//! The host's share of the service, which throttles the whole host at once
//! (1,024 packets a second): so many requests a second, in turns by uid, with
//! some that only root gets.
//!
//! Nobody waits longer than clients do; who would, is told so.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::ids::Uid;
use crate::limits::{Bucket, Rate};

/// Most clients give up after one second; an answer takes some of that.
const WAIT_MAX: Duration = Duration::from_millis(700);
/// One request in so many is kept for root.
const RESERVED_OF: u32 = 10;
/// After the first refusal of the service, and doubled with each that follows.
const BACK_OFF: Duration = Duration::from_millis(100);
const BACK_OFF_MAX: Duration = Duration::from_millis(1600);

/// Clones share it.
#[derive(Clone)]
pub(super) struct Budget(Option<Arc<Mutex<State>>>);

/// No turn came in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exhausted;

struct State {
    everybody: Rate,
    reserve: Rate,
    taken: Bucket,
    taken_of_reserve: Bucket,
    /// By uid; a turn for each in the order of `ring`.
    waiting: HashMap<Uid, VecDeque<oneshot::Sender<()>>>,
    ring: VecDeque<Uid>,
    granting: bool,
    paused_until: Option<Instant>,
    refusals: u32,
}

impl Budget {
    /// `None` is no limit.
    pub(super) fn new(per_second: Option<u32>) -> Self {
        Self(per_second.map(|count| {
            let second = Duration::from_secs(1);
            let reserved = (count / RESERVED_OF).max(1);
            let others = count.saturating_sub(reserved).max(1);
            Arc::new(Mutex::new(State {
                everybody: Rate::new(others, second, others / 4),
                reserve: Rate::new(reserved, second, reserved),
                taken: Bucket::default(),
                taken_of_reserve: Bucket::default(),
                waiting: HashMap::new(),
                ring: VecDeque::new(),
                granting: false,
                paused_until: None,
                refusals: 0,
            }))
        }))
    }

    /// Waits for the right to send one request for `uid`.
    pub(super) async fn turn(&self, uid: Uid) -> Result<(), Exhausted> {
        let Some(shared) = &self.0 else { return Ok(()) };
        let turn = {
            let mut state = lock(shared);
            if state.ring.is_empty() && state.take(uid, Instant::now()) {
                return Ok(());
            }
            let turn = state.queue(uid);
            if !std::mem::replace(&mut state.granting, true) {
                tokio::spawn(grant(Arc::clone(shared)));
            }
            turn
        };
        match tokio::time::timeout(WAIT_MAX, turn).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(Exhausted),
        }
    }

    /// The service has had enough: nobody asks it for a while. Says how long.
    pub(super) fn back_off(&self) -> Option<Duration> {
        let mut state = lock(self.0.as_ref()?);
        let now = Instant::now();
        // What was under way together is refused together, and counts once.
        if state.paused_until.is_none_or(|until| until <= now) {
            let pause = BACK_OFF
                .saturating_mul(1 << state.refusals.min(4))
                .min(BACK_OFF_MAX);
            state.refusals += 1;
            state.paused_until = Some(now + pause);
        }
        Some(state.paused_until? - now)
    }

    /// The service answers again.
    pub(super) fn answered(&self) {
        if let Some(shared) = &self.0 {
            lock(shared).refusals = 0;
        }
    }
}

impl State {
    fn take(&mut self, uid: Uid, now: Instant) -> bool {
        if self.paused_until.is_some_and(|until| now < until) {
            return false;
        }
        (uid == Uid::ROOT && self.taken_of_reserve.take(self.reserve, now))
            || self.taken.take(self.everybody, now)
    }

    fn queue(&mut self, uid: Uid) -> oneshot::Receiver<()> {
        let (tell, told) = oneshot::channel();
        let waiting = self.waiting.entry(uid).or_default();
        if waiting.is_empty() {
            match uid {
                Uid::ROOT => self.ring.push_front(uid),
                _ => self.ring.push_back(uid),
            }
        }
        waiting.push_back(tell);
        told
    }

    /// Gives turns while there are any; whether somebody still waits.
    fn grant(&mut self, now: Instant) -> bool {
        while let Some(uid) = self.ring.front().copied() {
            let Some(waiting) = self.waiting.get_mut(&uid) else {
                self.ring.pop_front();
                continue;
            };
            // Who has given up takes no turn.
            while waiting.front().is_some_and(oneshot::Sender::is_closed) {
                waiting.pop_front();
            }
            if waiting.is_empty() {
                self.waiting.remove(&uid);
                self.ring.pop_front();
                continue;
            }
            if !self.take(uid, now) {
                return true;
            }
            self.ring.rotate_left(1);
            if let Some(turn) = self.waiting.get_mut(&uid).and_then(VecDeque::pop_front) {
                let _ = turn.send(());
            }
        }
        self.granting = false;
        false
    }
}

async fn grant(shared: Arc<Mutex<State>>) {
    while lock(&shared).grant(Instant::now()) {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn lock(shared: &Mutex<State>) -> MutexGuard<'_, State> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
