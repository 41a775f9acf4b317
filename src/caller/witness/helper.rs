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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn job(until: Instant) -> Arc<Job> {
        Arc::new(Job::new(vec![std::process::id()], &[1], until))
    }

    #[test]
    fn it_takes_its_part_and_none_of_a_job_that_is_done() {
        let helper = Helper::start().unwrap();
        let until = Instant::now() + Duration::from_secs(60);
        for _ in 0..100 {
            let job = job(until);
            helper.begin(&job);
            if let Some(part) = helper.end(&job) {
                assert_eq!(part.unwrap().sightings.len(), 1);
            }
            assert!(helper.0.papers().job.is_none());
        }
    }

    #[test]
    fn a_part_of_another_job_is_not_taken_for_one_of_this() {
        let helper = Helper(Arc::default());
        let (given_up, late) = (
            job(Instant::now() + Duration::from_secs(60)),
            job(Instant::now()),
        );
        helper.0.papers().part = Some((given_up, Ok(Found::none_yet(&[1]))));
        // Its own part does not come in time.
        let part = helper.end(&late).unwrap();
        assert_eq!(part.err(), Some(Abandoned::Overdue));
    }

    #[test]
    fn what_one_part_could_not_do_is_the_end_of_all_others() {
        let over = job(Instant::now());
        let proc = std::fs::File::open("/proc").unwrap();
        let take = || Scanner::new().take_part(proc.as_fd(), &over).err();
        assert_eq!(take(), Some(Abandoned::Overdue));
        assert_eq!(take(), None, "nothing is left to be taken up");
    }
}
