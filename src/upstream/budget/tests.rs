use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const ALICE: Uid = Uid(4001);
const BOB: Uid = Uid(4002);
const MILLISECOND: Duration = Duration::from_millis(1);

/// A budget at work, its time in the test's hands.
struct Desk {
    state: State,
    now: Instant,
    waiting: Vec<(Uid, oneshot::Receiver<()>)>,
    /// Who got a turn, and when.
    turns: Vec<(Uid, Instant)>,
}

impl Desk {
    fn new(per_second: u32) -> Self {
        Self {
            state: State::new(per_second),
            now: Instant::now(),
            waiting: Vec::new(),
            turns: Vec::new(),
        }
    }

    /// With nothing left of the burst.
    fn worn(per_second: u32) -> Self {
        let mut desk = Self::new(per_second);
        while desk.state.take_of_reserve(desk.now) {}
        while desk.state.take_of_light(desk.now) {}
        while desk.state.take_of_all(desk.now) {}
        desk
    }

    /// As who has asked much, and has nothing but turns.
    fn ask(&mut self, uid: Uid) {
        let told = self.state.queue(&Claim::new(uid));
        self.waiting.push((uid, told));
    }

    /// As whoever comes.
    fn come(&mut self, uid: Uid) {
        match self.state.ask(&Claim::new(uid), self.now) {
            Some(told) => self.waiting.push((uid, told)),
            None => self.turns.push((uid, self.now)),
        }
    }

    fn give_up(&mut self, uid: Uid) {
        self.waiting.retain(|it| it.0 != uid);
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.state.grant(self.now);
        let (turns, now) = (&mut self.turns, self.now);
        self.waiting.retain_mut(|(uid, told)| {
            let called = told.try_recv().is_ok();
            if called {
                turns.push((*uid, now));
            }
            !called
        });
    }

    fn waiting(&self, uid: Uid) -> usize {
        self.waiting.iter().filter(|it| it.0 == uid).count()
    }

    fn turns(&self, uid: Uid) -> usize {
        self.turns.iter().filter(|it| it.0 == uid).count()
    }
}

#[test]
fn who_asks_a_hundred_times_gets_as_many_turns_as_who_asks_once_at_a_time() {
    let mut desk = Desk::worn(100);
    for _ in 0..1000 {
        desk.ask(ALICE);
    }
    for _ in 0..1000 {
        if desk.waiting(BOB) == 0 {
            desk.ask(BOB);
        }
        desk.pass(MILLISECOND);
    }
    assert!((88..=91).contains(&desk.turns.len()), "{:?}", desk.turns);
    assert!(desk.turns(ALICE).abs_diff(desk.turns(BOB)) <= 1);
}

#[test]
fn who_has_asked_little_does_not_wait_for_who_never_stops() {
    let mut desk = Desk::worn(300);
    for _ in 0..1000 {
        desk.come(ALICE);
    }
    for _ in 0..1000 {
        desk.pass(MILLISECOND);
    }
    let before = desk.turns(ALICE);
    assert!(before > LATEST, "hers are all of the latest: {before}");
    let share = LATEST / SHARED_AMONG;
    for count in 1..=share {
        desk.come(BOB);
        assert_eq!(desk.turns(BOB), count);
    }
    desk.come(BOB);
    assert_eq!(desk.waiting(BOB), 1, "now he waits, too");
    desk.give_up(BOB);
    desk.come(BOB);
    assert_eq!(desk.waiting(BOB), 1, "however often he comes");
    desk.give_up(BOB);

    // They were not more than the service gets: hers wait for it.
    let interval = Duration::from_secs(1) / 270;
    desk.pass(interval * u32::try_from(share).unwrap() - MILLISECOND);
    assert_eq!(desk.turns(ALICE), before);
    desk.pass(interval + MILLISECOND * 2);
    assert_eq!(desk.turns(ALICE), before + 1);
}

#[test]
fn also_while_nobody_waits_who_has_asked_little_need_not() {
    let mut desk = Desk::new(300);
    // Each is answered before she asks again.
    while desk.waiting(ALICE) == 0 {
        desk.come(ALICE);
    }
    desk.give_up(ALICE);
    desk.pass(Duration::ZERO);
    assert!(desk.state.ring.is_empty());
    desk.come(BOB);
    assert_eq!(desk.turns(BOB), 1);
}

#[test]
fn who_had_a_share_of_the_latest_turns_waits_like_all() {
    let mut desk = Desk::worn(300);
    let all: Vec<Uid> = (5000..5100).map(Uid).collect();
    for _ in 0..4000 {
        for uid in &all {
            if desk.waiting(*uid) == 0 {
                desk.come(*uid);
            }
        }
        desk.pass(MILLISECOND);
    }
    let turns = || all.iter().map(|uid| desk.turns(*uid));
    let (least, most) = (turns().min().unwrap(), turns().max().unwrap());
    // Of 1,080; none is served again while others wait their 370 ms.
    assert!(least >= 9 && most <= 12, "{least} to {most}");
}

#[test]
fn many_who_have_asked_little_leave_turns_to_those_who_wait() {
    let mut desk = Desk::worn(300);
    for _ in 0..1000 {
        desk.come(ALICE);
    }
    // As many as one of them has always had few turns; none waits for one.
    let little: Vec<Uid> = (5000..5024).map(Uid).collect();
    for _ in 0..2000 {
        for uid in &little {
            desk.come(*uid);
            desk.give_up(*uid);
        }
        desk.pass(MILLISECOND);
    }
    let (alice, all) = (desk.turns(ALICE), desk.turns.len());
    assert!(
        (535..=545).contains(&all),
        "the service gets no more: {all}"
    );
    assert!((260..=275).contains(&alice), "half of 540: {alice}");
}

#[test]
fn asking_again_while_others_wait_costs_no_place() {
    let mut desk = Desk::worn(300);
    for _ in 0..2000 {
        for uid in 0..10 {
            if desk.waiting(Uid(5000 + uid)) < 16 {
                desk.come(Uid(5000 + uid));
            }
        }
        if desk.waiting(BOB) == 0 {
            desk.come(BOB);
        }
        desk.pass(MILLISECOND);
    }
    let (bob, other) = (desk.turns(BOB), desk.turns(Uid(5005)));
    assert!(bob + 3 >= other, "bob {bob}, another {other}");
}

#[test]
fn where_few_are_to_be_had_none_is_kept_and_nobody_overtakes() {
    let mut desk = Desk::worn(20);
    desk.come(ALICE);
    desk.come(BOB);
    assert_eq!((desk.waiting(ALICE), desk.waiting(BOB)), (1, 1));
    desk.pass(Duration::from_millis(60));
    assert_eq!((desk.turns(ALICE), desk.turns(BOB)), (1, 0));
}

#[test]
fn root_takes_of_its_reserve_before_what_others_may_have() {
    let mut desk = Desk::new(300);
    while desk.state.take_of_all(desk.now) {}
    desk.ask(ALICE);
    desk.come(Uid::ROOT);
    assert_eq!(desk.turns(Uid::ROOT), 1);
    assert!(desk.state.taken_of_light.is_full(desk.now));
}

#[test]
fn coming_back_soon_wins_no_further_place() {
    let mut desk = Desk::worn(100);
    desk.ask(BOB);
    // One at a time, so that nothing of hers waits between two turns.
    for _ in 0..500 {
        if desk.waiting(ALICE) == 0 {
            desk.ask(ALICE);
        }
        if desk.waiting(BOB) < 2 {
            desk.ask(BOB);
        }
        desk.pass(MILLISECOND);
    }
    for _ in 0..500 {
        desk.ask(ALICE);
        desk.ask(BOB);
    }
    let before = (desk.turns(ALICE), desk.turns(BOB));
    desk.pass(Duration::from_millis(222));
    for _ in 0..500 {
        desk.pass(MILLISECOND);
    }
    let alice = desk.turns(ALICE) - before.0;
    assert!(alice.abs_diff(desk.turns(BOB) - before.1) <= 1);
    assert_eq!(desk.state.ring.len(), 2);
}

#[test]
fn roots_reserve_is_there_however_many_others_wait() {
    let mut desk = Desk::worn(100);
    for uid in 0..50 {
        for _ in 0..20 {
            desk.ask(Uid(5000 + uid));
        }
    }
    for _ in 0..100 {
        desk.ask(Uid::ROOT);
    }
    for _ in 0..1000 {
        desk.pass(MILLISECOND);
    }
    // Its tenth, and one turn of each round of the others.
    let root = desk.turns(Uid::ROOT);
    assert!((10..=13).contains(&root), "{root}");
}

#[test]
fn beyond_its_reserve_root_takes_turns_like_all() {
    let mut desk = Desk::worn(100);
    for _ in 0..1000 {
        desk.ask(ALICE);
    }
    for _ in 0..1000 {
        if desk.waiting(Uid::ROOT) == 0 {
            desk.ask(Uid::ROOT);
        }
        desk.pass(MILLISECOND);
    }
    let (root, alice) = (desk.turns(Uid::ROOT), desk.turns(ALICE));
    assert!(
        alice >= 35 && root <= alice + 12,
        "root {root}, alice {alice}"
    );
}

#[test]
fn who_gave_up_takes_no_turn() {
    let mut desk = Desk::worn(100);
    for _ in 0..100 {
        desk.ask(ALICE);
    }
    desk.waiting.clear();
    desk.ask(ALICE);
    desk.ask(BOB);
    desk.pass(Duration::from_millis(23));
    assert_eq!((desk.turns(ALICE), desk.turns(BOB)), (1, 1));
    assert!(desk.state.ring.is_empty() && desk.state.waiting.is_empty());
}

#[test]
fn what_several_want_is_asked_in_the_first_turn_of_any_of_them_and_in_one() {
    let mut desk = Desk::worn(100);
    for _ in 0..50 {
        desk.ask(ALICE);
    }
    let shared = Claim::new(ALICE);
    let mut told = desk.state.queue(&shared);
    desk.pass(MILLISECOND);
    for uid in [BOB, BOB, ALICE, Uid::ROOT] {
        desk.state.join(&shared, uid, desk.now);
    }
    desk.ask(BOB);
    // One of alice's turns, then bob's, which is for what both want.
    for _ in 0..23 {
        desk.pass(MILLISECOND);
    }
    assert!(told.try_recv().is_ok());
    let others = desk.turns.len();
    for _ in 0..200 {
        desk.pass(MILLISECOND);
    }
    let all = desk.turns.len() - others;
    assert!((17..=19).contains(&all), "no turn was lost on it: {all}");

    // And asked again, as after a refusal, it is in all their queues.
    let mut again = desk.state.queue(&shared);
    for _ in 0..24 {
        desk.pass(MILLISECOND);
    }
    assert!(again.try_recv().is_ok());
}

#[test]
fn all_rest_together_and_longer_each_time() {
    let mut desk = Desk::new(1000);
    let start = desk.now;
    for (milliseconds, until) in [
        (0, 100),
        // Refused together with the first.
        (5, 100),
        (99, 100),
        (100, 300),
        (300, 700),
        (700, 1500),
        (1500, 3100),
        (3100, 4700),
        (4700, 6300),
    ] {
        desk.now = start + MILLISECOND * milliseconds;
        let rests = desk.state.back_off(desk.now);
        assert_eq!(rests - start, MILLISECOND * until);
        assert!(!desk.state.take_at_once(ALICE, desk.now));
        assert!(
            !desk.state.take_at_once(Uid::ROOT, desk.now),
            "root as well"
        );
    }
    desk.ask(ALICE);
    desk.pass(MILLISECOND * 1599);
    assert_eq!(desk.turns.len(), 0);
    desk.pass(MILLISECOND);
    assert_eq!(desk.turns.len(), 1);
    desk.state.refusals = 0;
    let rests = desk.state.back_off(desk.now);
    assert_eq!(rests - desk.now, BACK_OFF);
}

proptest! {
    /// Whoever asks when, and gives up when: no more turns than there are, no
    /// turn kept back while somebody waits, and none who waits all the time
    /// gets two more than another.
    #[test]
    fn turns_are_neither_made_nor_lost_nor_unfair(
        per_second in 10u32..500,
        steps in proptest::collection::vec(
            (proptest::collection::vec((0u32..5, 0usize..4), 0..4), 0u64..30, 0usize..20),
            1..120,
        ),
    ) {
        let mut desk = Desk::new(per_second);
        let uids = [Uid::ROOT, ALICE, BOB, Uid(4003), Uid(4004)];
        // Turns of each since it last had nothing waiting.
        let mut since: BTreeMap<Uid, usize> = BTreeMap::new();
        for (asking, time, given_up) in steps {
            for (who, count) in asking {
                for _ in 0..count {
                    desk.ask(uids[who as usize]);
                }
            }
            if given_up < desk.waiting.len() {
                desk.waiting.swap_remove(given_up);
            }
            let waited: Vec<Uid> = uids.into_iter().filter(|it| desk.waiting(*it) > 0).collect();
            // Counted anew where somebody has come or gone: only those who wait
            // together can be compared.
            if !since.keys().eq(waited.iter()) {
                since = waited.iter().map(|uid| (*uid, 0)).collect();
            }
            let before = desk.turns.len();
            desk.pass(MILLISECOND * time as u32);
            for (uid, _) in &desk.turns[before..] {
                *since.entry(*uid).or_default() += 1;
            }
            let waiting: Vec<Uid> = waited.into_iter().filter(|it| desk.waiting(*it) > 0).collect();
            if !waiting.is_empty() {
                prop_assert!(!desk.state.take_of_all(desk.now), "a turn was kept back");
                prop_assert!(!waiting.contains(&Uid::ROOT) || !desk.state.take_of_reserve(desk.now));
            }
            since.retain(|uid, _| waiting.contains(uid));
            let fair: Vec<usize> = since
                .iter()
                .filter(|(uid, _)| **uid != Uid::ROOT)
                .map(|(_, turns)| *turns)
                .collect();
            let spread = fair.iter().max().unwrap_or(&0) - fair.iter().min().unwrap_or(&0);
            prop_assert!(spread <= 1, "{:?}", since);
            let ring: BTreeSet<Uid> = desk.state.ring.iter().copied().collect();
            prop_assert_eq!(ring.len(), desk.state.ring.len(), "nobody twice");
            prop_assert!(desk.state.waiting.keys().all(|uid| ring.contains(uid)));
        }
        let reserved = (per_second / RESERVED_OF).max(1);
        let burst = (per_second - reserved) / 4 + reserved;
        let most = f64::from(burst.max(2));
        for (at, (_, from)) in desk.turns.iter().enumerate() {
            for (more, (_, to)) in desk.turns[at..].iter().enumerate() {
                let flowed = (*to - *from).as_secs_f64() * f64::from(per_second);
                prop_assert!(more as f64 + 1.0 <= most + flowed + 1e-3);
            }
        }
    }
}
