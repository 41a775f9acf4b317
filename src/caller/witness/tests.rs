use super::*;

fn holder(pid: u32, fs: u32) -> Holder {
    Holder {
        pid,
        ids: Ids {
            real: Uid(4001),
            effective: Uid(fs),
            saved: Uid(fs),
            fs: Uid(fs),
        },
        exe: None,
        comm: None,
        loginuid: None,
        ses: None,
        unit: None,
        started: 1,
        forked_from: None,
    }
}

#[test]
fn a_question_is_of_one_size_and_nothing_else_is_one() {
    for urgency in [Urgency::WhenIdle, Urgency::Now] {
        let question = Question {
            id: u64::MAX - 1,
            inode: 0x0102_0304,
            urgency,
        };
        let bytes = question.to_bytes();
        assert_eq!(bytes.len(), QUESTION_LEN);
        assert_eq!(Question::parse(&bytes), Some(question));
        assert_eq!(Question::parse(&bytes[..15]), None);
        assert_eq!(Question::parse(&[bytes.as_slice(), &[0]].concat()), None);
    }
    assert_eq!(Question::parse(&[9; QUESTION_LEN]), None);
}

#[test]
fn the_longest_answer_fits() {
    let mut longest = holder(u32::MAX, u32::MAX);
    longest.exe = Some("\u{1}".repeat(256));
    longest.comm = Some("\u{1}".repeat(15));
    longest.unit = Some("\u{1}".repeat(255));
    longest.loginuid = Some(i64::MIN);
    longest.ses = Some(i64::MIN);
    longest.started = u64::MAX;
    longest.forked_from = Some(u32::MAX);
    let reply = Reply {
        id: u64::MAX,
        answer: Answer::Seen(Seen {
            shielded: vec![longest.ids; HOLDERS_MAX],
            holders: vec![longest; HOLDERS_MAX],
        }),
    };
    assert!(serde_json::to_vec(&reply).unwrap().len() <= ANSWER_MAX);
}

#[test]
fn the_speaker_is_the_only_holder_or_the_only_one_of_that_uid() {
    let speaks = |holders: &[Holder]| speaker(holders, Uid(0)).map(|it| it.pid);
    assert_eq!(speaks(&[]), None);
    assert_eq!(speaks(&[holder(7, 4001)]), Some(7));
    assert_eq!(speaks(&[holder(7, 4001), holder(8, 0)]), Some(8));
    assert_eq!(speaks(&[holder(7, 0), holder(8, 0)]), None);
    // A thread with descriptors of its own, and its process.
    assert_eq!(speaks(&[holder(7, 0), holder(7, 0)]), Some(7));
}

#[test]
fn the_origin_is_who_all_others_were_forked_from() {
    let from = |parent: u32, pid: u32| Holder {
        forked_from: Some(parent),
        ..holder(pid, 4001)
    };
    let origin = |holders: &[Holder]| {
        let (holders, shielded) = (holders.to_vec(), Vec::new());
        let seen = Seen { holders, shielded };
        seen.origin().map(|it| it.pid)
    };
    assert_eq!(origin(&[]), None);
    assert_eq!(origin(&[holder(7, 0)]), Some(7));
    assert_eq!(origin(&[from(7, 6), holder(7, 0), from(7, 8)]), Some(7));
    assert_eq!(origin(&[from(1, 7), from(7, 8)]), Some(7));
    // Another program, another's child, and whose parent does not hold it.
    assert_eq!(origin(&[holder(7, 0), holder(8, 4001)]), None);
    assert_eq!(origin(&[holder(7, 0), from(7, 8), from(8, 9)]), None);
    assert_eq!(origin(&[from(6, 8), from(6, 9)]), None);
}

#[test]
fn a_program_is_known_by_its_whole_path_also_after_an_upgrade() {
    let program = |exe: &str| {
        let holder = Holder {
            exe: Some(exe.to_owned()),
            ..holder(1, 0)
        };
        holder.program().map(str::to_owned)
    };
    assert_eq!(program("/usr/bin/aws").as_deref(), Some("/usr/bin/aws"));
    assert_eq!(
        program("/usr/bin/aws (deleted)").as_deref(),
        Some("/usr/bin/aws")
    );
    // Cut off, or not to be reached from here: it could be any.
    assert_eq!(program(&format!("/{}", "x".repeat(255))), None);
    assert_eq!(program("(unreachable)/usr/bin/aws"), None);
    assert_eq!(holder(1, 0).program(), None);
}

#[test]
fn what_two_threads_found_is_put_together() {
    let with = |pids: std::ops::Range<u32>, uid| {
        let mut found = scan::Found::none_yet(&[7]);
        for pid in pids {
            found
                .sightings
                .entry(7)
                .or_default()
                .add(&holder(pid, 4001));
        }
        found.shielded.insert(holder(0, uid).ids);
        found
    };
    let mut found = with(10..18, 1);
    found.add(with(2..10, 2));
    let seen = found.of(7).unwrap();
    let pids: Vec<u32> = seen.holders.iter().map(|holder| holder.pid).collect();
    assert_eq!(pids, (2..18).collect::<Vec<_>>());
    assert_eq!(seen.shielded.len(), 2);

    found.add(with(18..19, 1));
    assert!(found.of(7).is_none(), "more than an answer holds");
}
