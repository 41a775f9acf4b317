use std::time::UNIX_EPOCH;

use proptest::prelude::*;

use super::*;

const MINUTE: u64 = 60;
const HOUR: u64 = 60 * MINUTE;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn record(role: &str, key_id: &str, ends: u64) -> CredentialRecord {
    CredentialRecord {
        access_key_id: Some(key_id.into()),
        role: Some(role.into()),
        expiration: Some(crate::utc::rfc3339_seconds(at(ends))),
    }
}

#[derive(Default)]
struct Watched {
    life: Life,
    now: u64,
}

impl Watched {
    fn set(&mut self, role: &str, key_id: &str, ends: u64) -> Vec<Event> {
        let record = record(role, key_id, ends);
        self.see(Sighting::Credentials(Principal::Instance, &record))
    }

    fn see(&mut self, sighting: Sighting) -> Vec<Event> {
        let happened = self.life.see(sighting, at(self.now));
        assert_eq!(self.life.see(sighting, at(self.now)), [], "said twice");
        happened.iter().map(Happened::event).collect()
    }

    fn stale(&self) -> Vec<Why> {
        self.life.standing().stale
    }
}

fn arn(name: &str) -> String {
    format!("arn:aws:iam::123456789012:instance-profile/{name}")
}

#[test]
fn a_newer_set_is_a_rotation_and_an_older_one_is_not() {
    let mut watched = Watched::default();
    assert_eq!(watched.set("web", "ASIA1", 6 * HOUR), []);
    assert_eq!(
        watched.set("web", "ASIA2", 7 * HOUR),
        [Event::CredentialsRotated]
    );
    assert_eq!(watched.set("web", "ASIA1", 6 * HOUR), []);
    let standing = watched.life.standing();
    assert_eq!((standing.rotated, standing.ends), (1, Some(at(7 * HOUR))));
    let happened = watched.life.see(
        Sighting::Credentials(Principal::Instance, &record("web", "ASIA3", 8 * HOUR)),
        at(0),
    );
    let detail = serde_json::to_value(&happened).unwrap();
    let expected = serde_json::json!([{ "role": "web", "old": "ASIA2", "new": "ASIA3",
        "expiration": "1970-01-01T08:00:00Z" }]);
    assert_eq!(detail, expected);
}

#[test]
fn a_set_past_its_rotation_is_said_to_expire_and_then_to_be_stale() {
    let mut watched = Watched::default();
    let ends = 6 * HOUR;
    assert_eq!(watched.set("web", "ASIA1", ends), []);
    watched.now = ends - 25 * MINUTE;
    assert_eq!(watched.set("web", "ASIA1", ends), []);
    watched.now += 1;
    assert_eq!(
        watched.set("web", "ASIA1", ends),
        [Event::CredentialsExpiring]
    );
    watched.now = ends - 5 * MINUTE;
    assert_eq!(watched.set("web", "ASIA1", ends), []);
    watched.now += 1;
    assert_eq!(watched.set("web", "ASIA1", ends), [Event::CredentialsStale]);
    assert_eq!(watched.stale(), [Why::RotationMissed]);
    watched.now = ends + HOUR;
    assert_eq!(watched.set("web", "ASIA1", ends), []);
    assert_eq!(
        watched.set("web", "ASIA2", ends + 7 * HOUR),
        [Event::CredentialsRotated]
    );
    assert_eq!(watched.stale(), []);
}

#[test]
fn another_role_is_said_once_whoever_still_asks_for_the_former() {
    let mut watched = Watched::default();
    assert_eq!(watched.see(Sighting::Role(Some("a"))), []);
    assert_eq!(watched.set("a", "ASIA1", 6 * HOUR), []);
    let changed = [Event::RoleChanged];
    assert_eq!(watched.see(Sighting::Role(Some("b"))), changed);
    assert_eq!(watched.set("a", "ASIA1", 6 * HOUR), []);
    assert_eq!(watched.set("b", "ASIA2", 5 * HOUR), []);
    assert_eq!(watched.see(Sighting::Role(None)), changed);
    assert_eq!(watched.see(Sighting::Role(Some("b"))), changed);
}

#[test]
fn without_a_listing_the_newest_set_names_the_role() {
    let mut watched = Watched::default();
    assert_eq!(watched.set("a", "ASIA1", 6 * HOUR), []);
    assert_eq!(watched.set("old", "ASIA0", 5 * HOUR), []);
    assert_eq!(watched.set("b", "ASIA2", 7 * HOUR), [Event::RoleChanged]);
    assert_eq!(watched.set("a", "ASIA1", 6 * HOUR), []);
    assert_eq!(watched.see(Sighting::Role(Some("b"))), []);
}

#[test]
fn a_new_profile_with_the_role_of_the_former_is_stale_until_the_role_follows() {
    let mut watched = Watched::default();
    let (first, second) = (arn("a"), arn("b"));
    assert_eq!(watched.see(Sighting::Role(Some("a"))), []);
    assert_eq!(watched.see(Sighting::Profile(&first)), []);
    assert_eq!(
        watched.see(Sighting::Profile(&second)),
        [Event::CredentialsStale]
    );
    assert_eq!(watched.stale(), [Why::ProfileChanged]);
    assert_eq!(watched.see(Sighting::Role(Some("b"))), [Event::RoleChanged]);
    assert_eq!(watched.stale(), []);
}

#[test]
fn a_profile_whose_role_was_seen_first_is_no_stale_one() {
    let mut watched = Watched::default();
    let (first, second) = (arn("p1"), arn("p2"));
    watched.see(Sighting::Role(Some("r1")));
    assert_eq!(
        watched.see(Sighting::Profile(&first)),
        [Event::CredentialsStale],
        "other names, once in a run"
    );
    assert_eq!(watched.stale(), [Why::ProfileDiffers]);
    assert_eq!(
        watched.see(Sighting::Role(Some("r2"))),
        [Event::RoleChanged]
    );
    assert_eq!(watched.see(Sighting::Profile(&second)), []);
    assert_eq!(watched.stale(), []);
}

#[derive(Clone, Debug)]
enum Step {
    Wait(u64),
    Role(Option<usize>),
    Profile(usize),
    Set(Principal, usize, u64),
}

fn step() -> impl Strategy<Value = Step> {
    let of = prop_oneof![Just(Principal::Instance), Just(Principal::Other)];
    prop_oneof![
        (0..HOUR).prop_map(Step::Wait),
        proptest::option::of(0..3usize).prop_map(Step::Role),
        (0..3usize).prop_map(Step::Profile),
        (of, 0..100usize, 0..12u64).prop_map(|(of, role, set)| Step::Set(of, role, set)),
    ]
}

proptest! {
    /// Whatever is seen in whatever order: a rotation is each step up of the
    /// newest end of a role and nothing else; each set is said to expire, and to
    /// be stale, at most once; what is seen again says nothing.
    #[test]
    fn each_thing_is_said_once(steps in proptest::collection::vec(step(), 0..200)) {
        let mut life = Life::default();
        let mut now = 0;
        let mut newest = BTreeMap::<(Principal, usize), u64>::new();
        let mut told = std::collections::BTreeSet::new();
        let mut role = None;
        for step in steps {
            let happened = match step {
                Step::Wait(seconds) => {
                    now += seconds;
                    continue;
                }
                Step::Role(at_) => {
                    let name = at_.map(|it| format!("role{it}"));
                    let sighting = Sighting::Role(name.as_deref());
                    let happened = life.see(sighting, at(now));
                    prop_assert_eq!(life.see(sighting, at(now)), []);
                    let changes = role.replace(at_).is_some_and(|before| before != at_);
                    let told = happened.iter().any(|it| it.event() == Event::RoleChanged);
                    prop_assert!(told || !changes);
                    continue;
                }
                Step::Profile(at_) => {
                    let arn = arn(&format!("role{at_}"));
                    let happened = life.see(Sighting::Profile(&arn), at(now));
                    prop_assert_eq!(life.see(Sighting::Profile(&arn), at(now)), []);
                    happened
                }
                // Never so many roles that some are forgotten.
                Step::Set(of, which, set) => {
                    let (which, ends) = (which % 20, (set + 1) * HOUR);
                    let key_id = format!("ASIA-{of:?}-{which}-{set}");
                    let record = record(&format!("role{which}"), &key_id, ends);
                    let sighting = Sighting::Credentials(of, &record);
                    let happened = life.see(sighting, at(now));
                    prop_assert_eq!(life.see(sighting, at(now)), []);
                    let before = newest.get(&(of, which)).copied();
                    let rotates = before.is_some_and(|before| before < ends);
                    let told = happened.iter().any(|it| it.event() == Event::CredentialsRotated);
                    prop_assert_eq!(told, rotates);
                    newest.insert((of, which), before.unwrap_or(0).max(ends));
                    happened
                }
            };
            for it in happened {
                if let Happened::Expiring { access_key_id, .. }
                | Happened::Overdue { access_key_id, .. } = &it
                {
                    prop_assert!(told.insert((it.event() as usize, access_key_id.clone())));
                }
            }
        }
    }

    /// However many roles there are said to be.
    #[test]
    fn what_is_remembered_is_bounded(roles in proptest::collection::vec(0..500u32, 0..400)) {
        let mut life = Life::default();
        for role in roles {
            let record = record(&format!("role{role}"), "ASIA1", HOUR);
            life.see(Sighting::Credentials(Principal::Other, &record), at(0));
            prop_assert!(life.of_others.len() <= ROLES_MAX);
        }
    }
}
