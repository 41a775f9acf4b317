//! What waits for one sink. Bounded: what does not fit is counted.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::super::lines::Lines;

pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    max: usize,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Arc<Lines>>,
    bytes: usize,
    /// Records, the ones under way among them.
    records: u64,
    lost: u64,
    closing: bool,
    ended: bool,
}

/// What there is to do for who delivers.
pub(super) enum Next {
    Lines(Arc<Lines>),
    /// Nothing came for so long.
    Idle,
    End,
}

impl Queue {
    pub(super) fn new(max: usize) -> Self {
        Self {
            state: Mutex::default(),
            changed: Condvar::new(),
            max,
        }
    }

    /// Never waits for the sink.
    pub(super) fn push(&self, lines: Arc<Lines>) {
        let mut state = self.state();
        let count = lines.stand_for();
        let bytes = lines.bytes().len();
        // One that is larger than all of it has its turn alone.
        if state.bytes > 0 && state.bytes + bytes > self.max {
            state.lost += count;
            return;
        }
        state.bytes += bytes;
        state.records += count;
        let wakes = state.waiting.is_empty();
        state.waiting.push_back(lines);
        drop(state);
        if wakes {
            self.changed.notify_all();
        }
    }

    /// The next that waits. It counts as waiting until [`Queue::done`].
    pub(super) fn next(&self, idle: Duration) -> Next {
        let mut state = self.state();
        let until = Instant::now() + idle;
        loop {
            if let Some(lines) = state.waiting.front() {
                return Next::Lines(Arc::clone(lines));
            }
            let left = until.saturating_duration_since(Instant::now());
            if state.closing {
                return Next::End;
            }
            if left.is_zero() {
                return Next::Idle;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The first that waits was delivered.
    pub(super) fn done(&self) {
        let mut state = self.state();
        if let Some(lines) = state.waiting.pop_front() {
            state.bytes -= lines.bytes().len();
            state.records -= lines.stand_for();
        }
    }

    /// Counts what was taken, and did not arrive.
    pub(super) fn lose(&self, count: u64) {
        self.state().lost += count;
    }

    /// Gives what was lost, once.
    pub(super) fn take_lost(&self) -> u64 {
        std::mem::take(&mut self.state().lost)
    }

    /// Waits for so long, or for the end; gives whether that has come.
    pub(super) fn rest(&self, time: Duration) -> bool {
        let waited = self
            .changed
            .wait_timeout_while(self.state(), time, |state| !state.closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.closing
    }

    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_all();
    }

    /// Waits for what is queued to be delivered; gives how much was not.
    pub(super) fn close(&self, deadline: Instant) -> u64 {
        let mut state = self.state();
        state.closing = true;
        self.changed.notify_all();
        let left = deadline.saturating_duration_since(Instant::now());
        state = self
            .changed
            .wait_timeout_while(state, left, |state| !state.ended)
            .unwrap_or_else(PoisonError::into_inner)
            .0;
        state.records + state.lost
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::record::{Event, Traits};
    use super::*;

    #[test]
    fn with_a_summary_all_are_lost_that_it_stands_for() {
        let traits = Traits {
            event: Event::AuditSummary,
            reason: None,
            decision: None,
            class: None,
            uid: None,
        };
        let queue = Queue::new(1);
        let mut lines = Lines::default();
        lines.add_aside(b"{}", traits, 1);
        queue.push(Arc::new(lines.clone()));
        lines.add_aside(b"{}", traits, 40);
        queue.push(Arc::new(lines));
        assert_eq!(queue.take_lost(), 41, "no room beside the first");
        assert_eq!(queue.close(Instant::now()), 1, "which was not delivered");
    }
}
