//! Accounts of uids, for the threads that serve requests: from a cache of
//! bounded life and size, else from NSS on a thread of its own, with a
//! deadline.
//!
//! NSS modules do what they like and may hang; nothing here may wait for one
//! longer than [`DEADLINE`]. No answer is [`Account::Undecidable`], never a
//! guess.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::ids::Uid;
use crate::policy::{Account, Subject};

/// Clients give up after one second; a verdict must come well before.
const DEADLINE: Duration = Duration::from_millis(500);
/// How long a change of groups may take to be felt.
const KEEP_KNOWN: Duration = Duration::from_secs(30);
/// How long a failing NSS is left alone, per uid.
const KEEP_UNDECIDABLE: Duration = Duration::from_secs(2);
/// More uids than any host has users at work.
const ENTRIES_MAX: usize = 4096;

/// The cache.
pub struct Names {
    entries: Mutex<HashMap<Uid, Entry>>,
    lookup: fn(Uid) -> Account,
}

struct Entry {
    asked: Instant,
    answer: watch::Receiver<Option<Arc<Subject>>>,
}

impl Names {
    /// `lookup` asks NSS and may block.
    pub fn new(lookup: fn(Uid) -> Account) -> Self {
        Self {
            entries: Mutex::default(),
            lookup,
        }
    }

    /// The account of `uid`, or that it cannot be known now.
    pub async fn subject(&self, uid: Uid) -> Arc<Subject> {
        let mut answer = self.entry(uid);
        let known = tokio::time::timeout(DEADLINE, answer.wait_for(Option::is_some)).await;
        known
            .ok()
            .and_then(|answer| answer.ok().and_then(|answer| answer.clone()))
            .unwrap_or_else(|| {
                Arc::new(Subject {
                    uid,
                    account: Account::Undecidable,
                })
            })
    }

    fn entry(&self, uid: Uid) -> watch::Receiver<Option<Arc<Subject>>> {
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get(&uid)
            && entry.is_fresh()
        {
            return entry.answer.clone();
        }
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| entry.is_fresh());
        }
        // A user with subordinate uids has tens of thousands of them, without
        // accounts: these may not push out those who have one.
        if entries.len() >= ENTRIES_MAX {
            entries.retain(|_, entry| entry.is_known());
        }
        if entries.len() >= ENTRIES_MAX {
            entries.clear();
        }
        let (answered, answer) = watch::channel(None);
        entries.insert(
            uid,
            Entry {
                asked: Instant::now(),
                answer: answer.clone(),
            },
        );
        let lookup = self.lookup;
        tokio::task::spawn_blocking(move || {
            let account = lookup(uid);
            answered.send_replace(Some(Arc::new(Subject { uid, account })));
        });
        answer
    }
}

impl Entry {
    fn is_known(&self) -> bool {
        let answer = self.answer.borrow();
        let account = answer.as_deref().map(|subject| &subject.account);
        matches!(account, Some(Account::Known(_)))
    }

    fn is_fresh(&self) -> bool {
        // Being asked, or asked in vain: no second question beside it.
        let keep = if self.is_known() {
            KEEP_KNOWN
        } else {
            KEEP_UNDECIDABLE
        };
        self.asked.elapsed() < keep
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Gid;
    use crate::policy::AccountFacts;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static ASKED: AtomicUsize = AtomicUsize::new(0);

    fn alice(uid: Uid) -> Account {
        ASKED.fetch_add(1, Ordering::SeqCst);
        assert_eq!(uid, Uid(4001));
        alice_facts()
    }

    fn alice_facts() -> Account {
        Account::Known(AccountFacts {
            user: "alice".into(),
            gid: Gid(4100),
            groups: vec![],
        })
    }

    static ALICE_ASKED: AtomicUsize = AtomicUsize::new(0);

    fn only_alice(uid: Uid) -> Account {
        if uid != Uid(4001) {
            return Account::Undecidable;
        }
        ALICE_ASKED.fetch_add(1, Ordering::SeqCst);
        alice_facts()
    }

    fn hangs(_: Uid) -> Account {
        std::thread::sleep(DEADLINE * 3);
        panic!("nobody waits for this");
    }

    #[tokio::test]
    async fn one_question_serves_many_and_is_remembered() {
        let names = Names::new(alice);
        let (a, b) = tokio::join!(names.subject(Uid(4001)), names.subject(Uid(4001)));
        let c = names.subject(Uid(4001)).await;
        assert_eq!(ASKED.load(Ordering::SeqCst), 1);
        assert!(a == b && b == c && matches!(&c.account, Account::Known(it) if it.user == "alice"));
    }

    #[tokio::test]
    async fn uids_without_account_do_not_push_out_those_with_one() {
        let names = Names::new(only_alice);
        names.subject(Uid(4001)).await;
        for stranger in 0..ENTRIES_MAX {
            let uid = Uid(100_000 + u32::try_from(stranger).unwrap());
            names.subject(uid).await;
        }
        names.subject(Uid(4001)).await;
        assert_eq!(ALICE_ASKED.load(Ordering::SeqCst), 1);
        assert!(names.entries.lock().unwrap().len() <= ENTRIES_MAX);
    }

    #[tokio::test]
    async fn a_hanging_nss_is_undecidable_within_the_deadline() {
        let names = Names::new(hangs);
        let start = Instant::now();
        let subject = names.subject(Uid(4001)).await;
        assert_eq!(subject.account, Account::Undecidable);
        assert!(start.elapsed() < DEADLINE * 2);
    }
}
