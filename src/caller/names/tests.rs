use super::*;
use crate::ids::Gid;
use crate::policy::{AccountFacts, Group};
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, recv, socketpair};

static ASKED: AtomicUsize = AtomicUsize::new(0);

fn pair() -> (OwnedFd, OwnedFd) {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).unwrap()
}

/// Names from the real process's own code, on a thread.
fn names(lookup: fn(Uid) -> Account) -> Names {
    let (ours, theirs) = pair();
    std::thread::spawn(move || process::serve(&Arc::new(theirs), lookup));
    Names::new(ours, Arc::default()).unwrap()
}

fn facts() -> AccountFacts {
    let group = |gid, name: Option<&str>| Group {
        gid: Gid(gid),
        name: name.map(str::to_owned),
    };
    AccountFacts {
        user: "alice".into(),
        gid: Gid(4100),
        groups: vec![group(4100, None), group(7000, Some("ops@corp"))],
    }
}

fn alice(uid: Uid) -> Account {
    ASKED.fetch_add(1, Ordering::SeqCst);
    assert_eq!(uid, Uid(4001));
    Account::Known(facts())
}

static ALICE_ASKED: AtomicUsize = AtomicUsize::new(0);

fn only_alice(uid: Uid) -> Account {
    if uid != Uid(4001) {
        return Account::Undecidable;
    }
    ALICE_ASKED.fetch_add(1, Ordering::SeqCst);
    Account::Known(facts())
}

fn hangs(_: Uid) -> Account {
    loop {
        std::thread::park();
    }
}

#[tokio::test]
async fn one_question_serves_many_and_is_remembered() {
    let names = names(alice);
    let (a, b) = tokio::join!(names.subject(Uid(4001)), names.subject(Uid(4001)));
    let c = names.subject(Uid(4001)).await;
    assert_eq!(ASKED.load(Ordering::SeqCst), 1);
    assert_eq!(a.account, Account::Known(facts()));
    assert!(a == b && b == c);
}

#[tokio::test]
async fn uids_without_account_do_not_push_out_those_with_one() {
    let names = names(only_alice);
    names.subject(Uid(4001)).await;
    for stranger in 0..ENTRIES_MAX {
        let uid = Uid(100_000 + u32::try_from(stranger).unwrap());
        names.subject(uid).await;
    }
    names.subject(Uid(4001)).await;
    assert_eq!(ALICE_ASKED.load(Ordering::SeqCst), 1);
    assert!(names.0.entries().len() <= ENTRIES_MAX);
}

#[tokio::test]
async fn a_hanging_nss_is_undecidable_within_the_deadline() {
    let names = names(hangs);
    let start = Instant::now();
    let subject = names.subject(Uid(4001)).await;
    assert_eq!(subject.account, Account::Undecidable);
    assert!(start.elapsed() < DEADLINE * 2);
}

#[tokio::test]
async fn a_helper_that_is_gone_is_not_waited_for() {
    let (ours, theirs) = pair();
    drop(theirs);
    let names = Names::new(ours, Arc::default()).unwrap();
    let start = Instant::now();
    let subject = names.subject(Uid(4001)).await;
    assert_eq!(subject.account, Account::Undecidable);
    assert!(start.elapsed() < DEADLINE / 2);
}

#[tokio::test]
async fn what_nobody_asked_for_and_what_is_no_answer_is_not_believed() {
    let (ours, theirs) = pair();
    let names = Names::new(ours, Arc::default()).unwrap();
    let say = |bytes: &[u8]| send(theirs.as_raw_fd(), bytes, MsgFlags::empty()).unwrap();
    say(&wire::Answer::new(Uid(4002), Account::Known(facts())).to_bytes());
    say(b"{\"uid\":4001,\"account\":{\"user\":\"root\"}}");
    say(b"\xff");
    for uid in [Uid(4001), Uid(4002)] {
        let subject = names.subject(uid).await;
        assert_eq!(subject.account, Account::Undecidable, "{uid}");
    }
}

#[test]
fn when_every_lookup_hangs_what_is_still_asked_waits_for_a_new_image() {
    let (ours, theirs) = pair();
    let theirs = Arc::new(theirs);
    for uid in 0_u32..40 {
        send(ours.as_raw_fd(), &uid.to_ne_bytes(), MsgFlags::empty()).unwrap();
    }
    assert_eq!(process::serve(&theirs, hangs), process::End::Wedged);
    let mut left = 0;
    let mut question = [0; 4];
    while recv(theirs.as_raw_fd(), &mut question, MsgFlags::MSG_DONTWAIT).is_ok() {
        left += 1;
    }
    assert_eq!(left, 24);
}
