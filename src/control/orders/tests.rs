use super::*;
use crate::policy::{Account, Subject};

const ALICE: Subject = Subject {
    uid: Uid(4001),
    account: Account::Undecidable,
};

fn policy(enforce: bool) -> (Arc<Policy>, Arc<Source>) {
    let text = format!(
        "schema = 1\n[[rule]]\nname = \"kept\"\naction = \"deny\"\nwho = [\"any\"]\n\
         paths = [\"@secrets\"]\nenforce = {enforce}\n"
    );
    let source = Source::new("a.toml", text);
    let mut found = Diagnostics::new();
    let sources = [Arc::clone(&source)];
    let policy = Policy::parse(&sources, Provider::Aws, Action::Deny, &mut found);
    (
        Arc::new(policy.unwrap_or_else(|| panic!("{found}"))),
        source,
    )
}

/// Why an answer to alice may not leave after the end of the grant that let her
/// request through: the verdict's reason, if at all.
fn at_the_end(mode: Mode, enforce: bool) -> Option<Reason> {
    let (base, source) = policy(enforce);
    let grant = Arc::new(Grant {
        id: "1".into(),
        who: vec!["uid:4001".into()],
        paths: vec!["@secrets".into()],
        reason: "a test".into(),
        ends: Moment(u64::MAX),
        by: By {
            peer: Peer {
                uid: Uid::ROOT,
                pid: None,
            },
            login: None,
        },
        uses: AtomicU64::default(),
        revoked: AtomicBool::default(),
    });
    let grants = vec![Arc::clone(&grant)];
    let composed = compose(&base, &[source], &grants, Provider::Aws, Action::Deny);
    let now = Orders {
        base: Arc::clone(&base),
        policy: base,
        mode,
        tokens: Arc::new(TokenKey::new(&[7; 64])),
        grants: Vec::new(),
        lockdown: None,
        bypass: None,
    };
    let then = Orders {
        policy: composed.unwrap_or_else(|found| panic!("{found}")),
        grants,
        ..now.again()
    };
    let path = CanonicalPath::parse(Provider::Aws, b"/latest/user-data").unwrap();
    let query = Query::new(&ALICE, ReadMethod::Get, &path);
    let judged = then.judge(then.decide(&query), &query, TokenState::Good(60));
    assert_eq!(judged.rule.as_deref(), Some("grant 1"));
    assert_eq!(then.recalled_by(&then, &query, None, &judged), None);
    grant.revoke();
    let recalled = then.recalled_by(&now, &query, None, &judged);
    recalled.map(|it| it.reason)
}

#[test]
fn at_the_end_of_a_grant_what_holds_without_it_holds() {
    assert_eq!(at_the_end(Mode::Enforce, false), Some(Reason::Policy));
    assert_eq!(at_the_end(Mode::Observe, true), Some(Reason::Policy));
    assert_eq!(at_the_end(Mode::Observe, false), None);
}
