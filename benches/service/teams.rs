//! Hosts that are measured in turn: each on a thread of its own, in namespaces
//! of its own.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use crate::common::net::{Net, in_network};

/// Takes turns; its host ends with this.
pub(crate) struct Team<Turn, Sample> {
    turns: Option<SyncSender<Turn>>,
    samples: Receiver<Sample>,
    thread: Option<JoinHandle<()>>,
}

/// The team's end of it.
pub(crate) struct Turns<Turn, Sample> {
    to_do: Receiver<Turn>,
    done: SyncSender<Sample>,
}

impl<Turn: Send + 'static, Sample: Send + 'static> Team<Turn, Sample> {
    /// `work` prepares its host and then serves the turns.
    pub(crate) fn new(work: impl FnOnce(&Net, Turns<Turn, Sample>) + Send + 'static) -> Self {
        let (turns, to_do) = sync_channel(1);
        let (done, samples) = sync_channel(1);
        let turns_taken = Turns { to_do, done };
        let thread = thread::spawn(|| in_network(|net| work(net, turns_taken)));
        Self {
            turns: Some(turns),
            samples,
            thread: Some(thread),
        }
    }

    /// One turn, while the other teams rest.
    pub(crate) fn take(&self, turn: Turn) -> Sample {
        let turns = self.turns.as_ref().unwrap();
        turns.send(turn).expect("the team has failed, see above");
        self.samples.recv().expect("the team has failed, see above")
    }
}

impl<Turn, Sample> Turns<Turn, Sample> {
    pub(crate) fn serve(self, mut turn: impl FnMut(Turn) -> Sample) {
        while let Ok(next) = self.to_do.recv() {
            self.done.send(turn(next)).unwrap();
        }
    }
}

impl<Turn, Sample> Drop for Team<Turn, Sample> {
    fn drop(&mut self) {
        self.turns = None;
        // Has said why, where it failed.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
