//! The second thread of a witness. It is there before all system calls but
//! those for looking are forbidden, and never ends by itself: both would take
//! calls that are not for looking.

use std::io;
use std::os::fd::AsFd as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use rustix::fs::CWD;

use super::scan::{Abandoned, Found, Job, Scanner, directory};

pub(super) struct Helper(Arc<Desk>);

type Part = Result<Found, Abandoned>;

/// What lies between the two threads.
#[derive(Default)]
struct Desk {
    papers: Mutex<Papers>,
    changed: Condvar,
}

#[derive(Default)]
struct Papers {
    /// It waits for its first job.
    is_there: bool,
    /// To be taken up.
    job: Option<Arc<Job>>,
    /// Its part of a job.
    part: Option<(Arc<Job>, Part)>,
}

impl Helper {
    /// Returns once it waits for work.
    pub(super) fn start() -> io::Result<Self> {
        let desk = Arc::new(Desk::default());
        let helper = Arc::clone(&desk);
        thread::Builder::new().spawn(move || helper.work())?;
        let papers = desk.changed.wait_while(desk.papers(), |it| !it.is_there);
        drop(papers);
        Ok(Self(desk))
    }

    pub(super) fn begin(&self, job: &Arc<Job>) {
        self.0.papers().job = Some(Arc::clone(job));
        self.0.changed.notify_one();
    }

    /// To be called when nothing of the job is left to be taken; gives the
    /// helper's part of it, unless it took none.
    pub(super) fn end(&self, job: &Arc<Job>) -> Option<Part> {
        let mut papers = self.0.papers();
        if papers.job.take().is_some() {
            return None;
        }
        loop {
            match papers.part.take() {
                Some((of, part)) if Arc::ptr_eq(&of, job) => return Some(part),
                // Of a pass that was given up.
                Some(_) => {}
                None => {
                    let left = job.until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return Some(Err(Abandoned::Overdue));
                    }
                    let waited = self.0.changed.wait_timeout(papers, left);
                    papers = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

impl Desk {
    fn papers(&self) -> MutexGuard<'_, Papers> {
        self.papers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        let mut scanner = Scanner::new();
        let mut papers = self.papers();
        papers.is_there = true;
        loop {
            self.changed.notify_one();
            let job = loop {
                match papers.job.take() {
                    Some(job) => break job,
                    None => {
                        let waited = self.changed.wait(papers);
                        papers = waited.unwrap_or_else(PoisonError::into_inner);
                    }
                }
            };
            drop(papers);
            let part = match directory(CWD, c"/proc") {
                Ok(Some(proc)) => scanner.take_part(proc.as_fd(), &job),
                Ok(None) => Err(Abandoned::Unreadable),
                Err(why) => Err(why),
            };
            papers = self.papers();
            papers.part = Some((job, part));
        }
    }
}
