use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use proptest::prelude::*;

use super::*;
use crate::provider::Provider;

const V4: &str = "169.254.169.254:80";
const V6: &str = "[fd00:ec2::254]:80";
const WEB: &str = "/latest/meta-data/iam/security-credentials/web";
const EXTENDED: &str = "/2021-03-23/meta-data/iam/security-credentials-extended/web/";
const AMI: &str = "/latest/meta-data/ami-id";
const HOUR: Duration = Duration::from_secs(3600);
const SECOND: Duration = Duration::from_secs(1);

fn start() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_795_297_200)
}

fn key(service: &str, path: &str) -> Key {
    Key {
        service: MetadataAddr(service.parse().unwrap()),
        path: CanonicalPath::parse(Provider::Aws, path.as_bytes()).unwrap(),
    }
}

fn answer(status: u16, body: impl Into<Bytes>) -> Answer {
    let status = StatusCode::from_u16(status).unwrap();
    Answer::new(status, Vec::new(), body.into())
}

/// Its key id is when it ends, and so tells which set was recalled.
fn credentials(ends: SystemTime) -> Answer {
    let ends = humantime::format_rfc3339_seconds(ends);
    answer(
        200,
        format!(
            r#"{{"Code":"Success","AccessKeyId":"{ends}","SecretAccessKey":"s","Expiration":"{ends}"}}"#
        ),
    )
}

/// Whether an answer is there right after it was learnt.
fn is_kept(path: &str, answer: &Answer) -> bool {
    let mut memory = Memory::default();
    memory.learn(&key(V4, path), answer, start());
    memory.recall(&key(V4, path), start()).is_some()
}

#[test]
fn facts_of_the_boot_are_kept_and_nothing_that_can_change_or_appear() {
    let dynamic = "/latest/dynamic/instance-identity";
    for path in [
        AMI,
        "/latest/meta-data/ami-id/",
        "/2009-04-04/meta-data/placement/availability-zone",
        "/latest/meta-data/metrics/vhostmd",
        "/latest/meta-data/public-keys/0/openssh-key",
        "/latest/user-data",
        &format!("{dynamic}/document"),
        &format!("{dynamic}/pkcs7"),
    ] {
        assert!(is_kept(path, &answer(200, "x")), "{path}");
        for status in [204, 206, 400, 401, 403, 404, 500, 503] {
            assert!(!is_kept(path, &answer(status, "x")), "{path} {status}");
        }
    }
    for path in [
        "/",
        "/latest",
        "/latest/meta-data",
        "/latest/meta-data/",
        "/latest/meta-data/placement",
        "/latest/meta-data/services/",
        "/latest/meta-data/public-keys/",
        "/latest/meta-data/public-keys/0/",
        "/latest/meta-data/iam-ecs-x",
        "/latest/meta-data/iam/info",
        "/latest/meta-data/iam/security-credentials/",
        "/latest/meta-data/tags/instance/Name",
        "/latest/meta-data/managed-ssh-keys/active-keys/bob",
        "/latest/meta-data/spot/instance-action",
        "/latest/meta-data/public-ipv4",
        "/latest/meta-data/hibernation/configured",
        "/latest/user-database",
        dynamic,
    ] {
        assert!(!is_kept(path, &answer(200, "x")), "{path}");
    }
}

#[test]
fn credentials_are_kept_where_they_belong_and_nowhere_else() {
    let set = credentials(start() + HOUR);
    assert!(is_kept(WEB, &set) && is_kept(EXTENDED, &set));
    let loose = answer(200, r#"export SecretAccessKey=s"#);
    for path in [
        AMI,
        "/latest/user-data",
        "/latest/dynamic/instance-identity/document",
    ] {
        assert!(!is_kept(path, &set), "{path}");
        assert!(!is_kept(path, &loose), "{path}");
    }
    for none in [
        "",
        "{}",
        r#"{"Code":"Failed","AccessKeyId":"a","SecretAccessKey":"s","Expiration":"2027-01-01T00:00:00Z"}"#,
        r#"{"Code":"Success","AccessKeyId":"a","SecretAccessKey":"s","Expiration":"soon"}"#,
        r#"{"Code":"Success","AccessKeyId":"a","SecretAccessKey":"s"}"#,
    ] {
        assert!(!is_kept(WEB, &answer(200, none)), "{none}");
    }
}

#[test]
fn credentials_hold_for_seconds_and_until_half_an_hour_is_left() {
    let mut memory = Memory::default();
    let web = key(V4, WEB);
    let mut holds = |ends: Duration, after: Duration| {
        memory.learn(&web, &credentials(start() + ends), start());
        let kept = memory.recall(&web, start() + after).is_some();
        memory = Memory::default();
        kept
    };
    let just_before = |it: Duration| it - Duration::from_millis(1);
    assert!(holds(HOUR, just_before(CREDENTIALS_FOR)));
    assert!(!holds(HOUR, CREDENTIALS_FOR));
    assert!(holds(LEFT_MIN + SECOND, just_before(SECOND)));
    assert!(!holds(LEFT_MIN + SECOND, SECOND));
    assert!(!holds(LEFT_MIN, Duration::ZERO));
    assert!(!holds(LEFT_MIN / 2, Duration::ZERO));
}

#[test]
fn a_clock_that_is_set_back_does_not_make_credentials_hold_longer() {
    let mut memory = Memory::default();
    let web = key(V4, WEB);
    memory.learn(&web, &credentials(start() + 6 * HOUR), start());
    assert!(memory.recall(&web, start() - SECOND).is_none());
    assert!(memory.recall(&web, start()).is_none(), "it is gone");
}

#[test]
fn a_newer_set_under_any_name_ends_the_older_one_under_all() {
    let ways = [key(V4, WEB), key(V6, WEB), key(V4, EXTENDED)];
    // Also one of which too little is left to be kept itself.
    for (older, newer) in [(HOUR, 2 * HOUR), (LEFT_MIN / 2, LEFT_MIN)] {
        let (older, newer) = (start() + older, start() + newer);
        for told in &ways {
            let mut memory = Memory::default();
            for way in &ways {
                memory.learn(way, &credentials(older), start());
            }
            memory.learn(told, &credentials(newer), start());
            for way in ways.iter().filter(|way| *way != told) {
                assert!(memory.recall(way, start()).is_none());
                assert!(memory.is_superseded(&way.path, &credentials(older)));
                assert!(!memory.is_superseded(&way.path, &credentials(newer)));
                // What was still under way when the newer one came.
                memory.learn(way, &credentials(older), start());
                assert!(memory.recall(way, start()).is_none());
            }
        }
    }
    let mut memory = Memory::default();
    memory.learn(&key(V4, WEB), &credentials(start() + 2 * HOUR), start());
    let other = key(V4, "/latest/meta-data/iam/security-credentials/batch");
    memory.learn(&other, &credentials(start() + HOUR), start());
    assert!(
        memory.recall(&other, start()).is_some(),
        "of another role, it is nobody's older one"
    );
}

#[test]
fn the_same_set_under_several_names_is_kept_under_each() {
    let ways = [key(V4, WEB), key(V6, WEB), key(V4, EXTENDED)];
    let mut memory = Memory::default();
    for way in &ways {
        memory.learn(way, &credentials(start() + HOUR), start());
    }
    for way in &ways {
        assert!(memory.recall(way, start()).is_some());
    }
}

#[test]
fn an_answer_that_is_not_kept_ends_what_was_kept_before() {
    for (path, kept, then) in [
        (AMI, answer(200, "ami-1"), answer(404, "")),
        (AMI, answer(200, "ami-1"), answer(200, "SecretAccessKey")),
        (WEB, credentials(start() + HOUR), answer(404, "")),
    ] {
        let mut memory = Memory::default();
        memory.learn(&key(V4, path), &kept, start());
        memory.learn(&key(V4, path), &then, start());
        assert!(memory.recall(&key(V4, path), start()).is_none(), "{path}");
        assert_eq!(memory.bytes, 0);
    }
}

#[test]
fn made_up_paths_and_roles_fill_no_more_than_the_bounds() {
    let mut memory = Memory::default();
    for at in 0..2 * ENTRIES_MAX {
        let path = format!("/latest/meta-data/services/x{at}");
        memory.learn(&key(V4, &path), &answer(200, "x"), start());
        assert!(memory.recall(&key(V4, &path), start()).is_some());
        assert!(memory.entries.len() <= ENTRIES_MAX);
        let path = format!("/latest/meta-data/iam/security-credentials/r{at}");
        memory.learn(&key(V4, &path), &credentials(start() + HOUR), start());
        assert!(memory.newest.len() <= ROLES_MAX);
    }
    assert!(!is_kept(AMI, &answer(200, vec![b'x'; BODY_MAX + 1])));
    assert!(is_kept(AMI, &answer(200, vec![b'x'; BODY_MAX])));
    for at in 0..2 * BYTES_MAX / BODY_MAX {
        let path = format!("/latest/meta-data/services/large{at}");
        let large = answer(200, vec![b'x'; BODY_MAX]);
        memory.learn(&key(V4, &path), &large, start());
        assert!(memory.recall(&key(V4, &path), start()).is_some());
        assert!(memory.bytes <= BYTES_MAX);
    }
}

#[derive(Clone, Copy, Debug)]
enum Said {
    /// Credentials that end so many seconds behind the start.
    Credentials(u64),
    /// Anything else, of so many bytes.
    Fact(usize),
    Missing,
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        (0..4 * 3600u64).prop_map(Said::Credentials),
        // Those that the half hour is about.
        (1790..1830u64).prop_map(Said::Credentials),
        (0..BODY_MAX + 100).prop_map(Said::Fact),
        Just(Said::Missing),
    ]
}

proptest! {
    /// Whatever the service says when, in whatever order its answers come and
    /// whichever way the clock is set.
    #[test]
    fn what_is_recalled_may_be_given(
        steps in proptest::collection::vec((0..9usize, said(), -2_000..6_000i64), 1..200),
    ) {
        let mut keys: Vec<Key> = Vec::new();
        for service in [V4, V6] {
            keys.extend([WEB, EXTENDED, AMI, "/latest/user-data"].map(|path| key(service, path)));
        }
        keys.push(key(V4, "/latest/meta-data/public-ipv4"));
        let mut memory = Memory::default();
        let mut now = start();
        // By key: the last that was said, and when. And the newest set.
        let mut last: BTreeMap<usize, (Said, SystemTime)> = BTreeMap::new();
        let mut newest = UNIX_EPOCH;
        for (at, said, milliseconds) in steps {
            let step = Duration::from_millis(milliseconds.unsigned_abs());
            now = if milliseconds < 0 { now - step } else { now + step };
            let answered = match said {
                Said::Credentials(ends) => credentials(start() + SECOND * ends as u32),
                Said::Fact(size) => answer(200, vec![b'x'; size]),
                Said::Missing => answer(404, ""),
            };
            memory.learn(&keys[at], &answered, now);
            last.insert(at, (said, now));
            if let (Said::Credentials(ends), Keep::Briefly) = (said, keys[at].path.keep()) {
                newest = newest.max(start() + SECOND * ends as u32);
            }
            for (at, key) in keys.iter().enumerate() {
                let Some(recalled) = memory.recall(key, now) else { continue };
                let (said, when) = last[&at];
                match (said, key.path.keep()) {
                    (Said::Fact(size), Keep::Boot) => {
                        prop_assert_eq!(recalled.body().len(), size);
                        prop_assert!(size <= BODY_MAX);
                    }
                    (Said::Credentials(ends), Keep::Briefly) => {
                        let ends = start() + SECOND * ends as u32;
                        let exact = credentials(ends);
                        prop_assert_eq!(recalled.body(), exact.body());
                        prop_assert!(ends > now + LEFT_MIN);
                        prop_assert!(ends >= newest);
                        prop_assert!(when <= now && now < when + CREDENTIALS_FOR);
                    }
                    (said, keep) => prop_assert!(false, "{:?} is kept, {:?}", said, keep),
                }
            }
            let bytes: usize = memory.entries.values().map(|it| it.answer.body().len()).sum();
            prop_assert_eq!(memory.bytes, bytes);
            prop_assert!(bytes <= BYTES_MAX);
        }
    }
}
