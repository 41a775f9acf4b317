//! Readers of what stands in files: the admin's, and the daemon's own.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::sync::Arc;

use crate::audit::repair;
use crate::config::Config;
use crate::diagnose::{Diagnostics, Source, Style};
use crate::ids::{Gid, Uid};
use crate::policy::{
    Account, AccountFacts, Action, Draft, Group, Login, Name, Origin, Policy, Program, Query,
    Subject, Unit, Why,
};
use crate::provider::Provider;
use crate::request::{CanonicalPath, ReadMethod};

/// Of a policy with very many names.
const ACCOUNTS_MAX: usize = 64;
const PATHS: [&str; 5] = [
    "/",
    "/latest/meta-data/instance-id",
    "/latest/meta-data/iam/security-credentials/web",
    "/2009-04-04/user-data",
    "/latest/meta-data/not-known-yet",
];

/// Policies: what is refused says why, in what a terminal may be shown; what
/// is accepted means the same on every reading, decides as its own
/// explanation says, and lets nobody through whose names are unknown and who
/// could be refused under one of them.
pub fn policy(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let mut found = Diagnostics::new();
    let policy = parse(text, &mut found);
    shown(&found);
    assert_eq!(policy.is_none(), found.has_errors());
    let Some((policy, names)) = policy else {
        return;
    };
    let again = parse(text, &mut Diagnostics::new()).map(|(again, _)| Arc::clone(again.hash()));
    assert_eq!(again.as_ref(), Some(policy.hash()));
    for path in PATHS {
        let Ok(path) = CanonicalPath::parse(Provider::Aws, path.as_bytes()) else {
            panic!("not canonical: {path}");
        };
        for uid in [0, 1000, u32::MAX] {
            judge(&policy, &names, Uid(uid), &path);
        }
    }
}

/// The policy, and the accounts and groups it names.
fn parse(text: &str, found: &mut Diagnostics) -> Option<(Policy, Vec<Name>)> {
    let source = Source::new("20-site.toml", text);
    let draft = Draft::parse(&[source], Provider::Aws, Action::Deny, found)?;
    let names = draft.mentions().map(|(name, _)| name.clone()).collect();
    Some((draft.prove(found)?, names))
}

fn judge(policy: &Policy, names: &[Name], uid: Uid, path: &CanonicalPath) {
    let subject = |account| Subject { uid, account };
    let unknown = subject(Account::Undecidable);
    let unknown = policy.decide(&Query::new(&unknown, ReadMethod::Get, path));
    // Who could be behind the uid, in no unit and at home in no program.
    let origin = Origin {
        unit: Unit::Outside,
        holders: Ok(vec![Program {
            exe: Some("/".into()),
            login: Login::Nobody,
        }]),
    };
    let nobody = account("nobody-has-this-name", vec![]);
    let named = names.iter().map(|name| match name {
        Name::User(user) => account(user, vec![]),
        Name::Group(group) => account("nobody-has-this-name", vec![(4100, Some(group))]),
        Name::Gid(gid) => account("nobody-has-this-name", vec![(gid.0, None)]),
        Name::Unit(_) | Name::Exe(_) | Name::Login(_) => account("nobody-has-this-name", vec![]),
    });
    for account in named.chain([nobody]).take(ACCOUNTS_MAX) {
        let subject = subject(Account::Known(account));
        let query = Query {
            subject: &subject,
            origin: &origin,
            method: ReadMethod::Get,
            path,
        };
        let verdict = policy.decide(&query);
        let decides = policy
            .trace(&query)
            .into_iter()
            .find(|step| step.why == Why::Decides);
        assert_eq!(
            verdict.rule().map(AsRef::as_ref),
            decides.as_ref().map(|step| step.rule.as_str()),
            "the verdict and its explanation differ"
        );
        if unknown.action() == Action::Allow {
            assert_eq!(
                verdict.action(),
                Action::Allow,
                "allowed only while unknown"
            );
        }
    }
}

fn account(user: &str, groups: Vec<(u32, Option<&str>)>) -> AccountFacts {
    let group = |(gid, name): (u32, Option<&str>)| Group {
        gid: Gid(gid),
        name: name.map(str::to_owned),
    };
    AccountFacts {
        user: user.into(),
        gid: Gid(4099),
        groups: groups.into_iter().map(group).collect(),
    }
}

/// Configs: what is refused says why; what is accepted is the same on every
/// reading, also when it is laid over itself, and leaves no value out of its
/// range.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    let source = Source::new("imdsfw.toml", text);
    let mut found = Diagnostics::new();
    let config = Config::parse(&[Arc::clone(&source)], &mut found);
    shown(&found);
    if found.has_errors() {
        return;
    }
    let twice = Config::parse(&[Arc::clone(&source), source], &mut Diagnostics::new());
    assert_eq!(twice, config);
    assert!(config.listen_port > 0 && !config.user.is_empty());
    assert!(!config.upstream.addresses.is_empty());
    assert!(!config.upstream.timeout.is_zero() && !config.upstream.connect_timeout.is_zero());
    assert!(config.audit.file.is_absolute() && config.state_directory.is_absolute());
    assert!(config.policy.directories.iter().all(|it| it.is_absolute()));
}

fn shown(found: &Diagnostics) {
    let text = found.render(Style::Plain);
    assert_eq!(text.is_empty(), found.is_empty());
    let control = |it: char| it.is_control() && it != '\n';
    assert!(!text.contains(control), "for no terminal: {text:?}");
    for finding in found.iter() {
        let (line, column) = finding.place.line_and_column();
        assert!(line > 0 && column > 0 && !finding.message.is_empty());
    }
}

/// The log that an earlier run left: only a last line without an end is cut
/// off, and opening it again changes nothing.
pub fn audit_tail(bytes: &[u8]) {
    let Ok(mut file) = unnamed_file() else {
        return;
    };
    let whole = bytes
        .iter()
        .rposition(|it| *it == b'\n')
        .map_or(0, |at| at + 1);
    let mut open = |content: Option<&[u8]>| -> std::io::Result<(u64, Vec<u8>)> {
        if let Some(content) = content {
            file.set_len(0)?;
            file.seek(SeekFrom::Start(0))?;
            file.write_all(content)?;
        }
        let seq = repair(&mut file)?;
        let mut left = Vec::new();
        file.seek(SeekFrom::Start(0))?;
        file.read_to_end(&mut left)?;
        Ok((seq.map_or(0, |last| last.seq), left))
    };
    let (Ok((seq, left)), Ok(again)) = (open(Some(bytes)), open(None)) else {
        panic!("a file in memory could not be read or written");
    };
    assert_eq!(Some(left.as_slice()), bytes.get(..whole));
    assert_eq!(again, (seq, left.clone()));
    // The next record's number follows that of the record which it follows.
    let next = [
        left.as_slice(),
        b"{\"seq\":41,\"event\":\"request\"}\n{\"seq\":42",
    ]
    .concat();
    assert!(matches!(open(Some(&next)), Ok((41, _))));
}

fn unnamed_file() -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_TMPFILE)
        .mode(0o600)
        .open("/dev/shm")
}
