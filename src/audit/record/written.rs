//! The record of a request as JSON. What derives would write, which the tests
//! compare it with.

use std::borrow::Cow;
use std::io::Write as _;

use super::{Body, CallerRecord, CredentialRecord, Decision, RequestBody, RequestRecord, Traits};
use crate::audit::json::{Text, Value, Word, key, member, present};
use crate::ids::ClientAddr;

impl Body for RequestBody<'_> {
    fn traits(&self) -> Traits {
        Traits {
            event: self.event,
            reason: Some(self.reason),
            decision: self.decision,
            class: self.request.class,
            uid: self.caller.uid,
        }
    }

    fn write(&self, to: &mut Vec<u8>) {
        let decision = |it: Option<Decision>| it.map(|it| Word(it.as_str()));
        member(to, key!("event"), self.event);
        member(to, key!("id"), Word(self.id));
        member(to, key!("verdict"), decision(self.verdict));
        member(to, key!("decision"), decision(self.decision));
        member(to, key!("reason"), Word(self.reason.as_str()));
        present(to, key!("detail"), self.detail.map(Word));
        member(to, key!("rule"), self.rule.map(Text));
        member(to, key!("policy"), self.policy.map(Word));
        member(to, key!("mode"), Word(self.mode.as_str()));
        member(to, key!("caller"), &self.caller);
        member(to, key!("request"), &self.request);
        member(to, key!("status"), self.status);
        member(to, key!("bytes"), self.bytes);
        member(to, key!("latency_us"), self.latency_us);
        present(to, key!("served"), self.served.map(Word));
        present(to, key!("hidden"), self.hidden);
        present(to, key!("credential"), self.credential);
    }
}

impl Value for &CallerRecord<'_> {
    fn put(&self, to: &mut Vec<u8>) {
        let text = |it: &'_ Option<Cow<'_, str>>, to: &mut Vec<u8>, key| {
            member(to, key, it.as_deref().map(Text));
        };
        to.extend_from_slice(b"{\"uid\":");
        self.uid.put(to);
        member(to, key!("user"), self.user.map(Text));
        member(to, key!("gid"), self.gid);
        member(to, key!("groups"), self.groups.as_deref().map(Texts));
        present(to, key!("groups_omitted"), self.groups_omitted);
        member(to, key!("pid"), self.pid);
        text(&self.exe, to, key!("exe"));
        text(&self.comm, to, key!("comm"));
        member(to, key!("loginuid"), self.loginuid);
        member(to, key!("ses"), self.ses);
        text(&self.unit, to, key!("unit"));
        member(to, key!("address"), self.address);
        to.push(b'}');
    }
}

struct Texts<'t>(&'t [&'t str]);

impl Value for Texts<'_> {
    fn put(&self, to: &mut Vec<u8>) {
        to.push(b'[');
        for (at, text) in self.0.iter().enumerate() {
            if at > 0 {
                to.push(b',');
            }
            Text(text).put(to);
        }
        to.push(b']');
    }
}

impl Value for ClientAddr {
    fn put(&self, to: &mut Vec<u8>) {
        // Into memory, which cannot fail.
        let _ = write!(to, "\"{self}\"");
    }
}

impl Value for &RequestRecord<'_> {
    fn put(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(b"{\"method\":");
        self.method.map(Text).put(to);
        member(to, key!("path"), self.path.map(Text));
        member(to, key!("class"), self.class.map(|it| Word(it.as_str())));
        member(to, key!("imds"), self.imds.map(Word));
        member(to, key!("user_agent"), self.user_agent.map(Text));
        present(to, key!("raw"), self.raw.map(Text));
        to.push(b'}');
    }
}

impl Value for &CredentialRecord {
    fn put(&self, to: &mut Vec<u8>) {
        let text = |it: &'_ Option<String>, to: &mut Vec<u8>| it.as_deref().map(Text).put(to);
        to.extend_from_slice(b"{\"access_key_id\":");
        text(&self.access_key_id, to);
        to.extend_from_slice(key!("role").as_bytes());
        text(&self.role, to);
        to.extend_from_slice(key!("expiration").as_bytes());
        text(&self.expiration, to);
        to.push(b'}');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::record::{Event, Reason};
    use crate::caller::witness::{Holder, Ids};
    use crate::config::Mode;
    use crate::ids::{Gid, Uid};
    use crate::policy::{Account, AccountFacts, Group, Subject};
    use crate::provider::Class;

    const HOSTILE: &str = "a\"b\\c\n\u{1}\u{7f}\u{9b}é\u{202e}";

    fn assert_as_derived(body: &RequestBody<'_>) {
        let mut written = Vec::new();
        body.write(&mut written);
        let expected = serde_json::to_string(body).unwrap();
        let written = String::from_utf8(written).unwrap();
        assert_eq!(written, format!(",{}", &expected[1..expected.len() - 1]));
    }

    #[test]
    fn with_everything_and_with_nothing_it_is_what_derives_write() {
        let address = ClientAddr::new("[fe80::1]:40112".parse().unwrap());
        let nothing = || RequestBody {
            event: Event::ConnectionRefused,
            id: "01J",
            verdict: None,
            decision: None,
            reason: Reason::Limit,
            detail: None,
            rule: None,
            policy: None,
            mode: Mode::Observe,
            caller: CallerRecord::new(None, None, None, address),
            request: RequestRecord::default(),
            status: None,
            bytes: 0,
            latency_us: 0,
            served: None,
            hidden: None,
            credential: None,
        };
        assert_as_derived(&nothing());
        let group = |name: &str| Group {
            gid: Gid(1),
            name: Some(name.into()),
        };
        let holder = Holder {
            pid: u32::MAX,
            ids: Ids {
                real: Uid(1),
                effective: Uid(1),
                saved: Uid(1),
                fs: Uid(1),
            },
            exe: Some(HOSTILE.into()),
            comm: Some(HOSTILE.into()),
            loginuid: Some(-1),
            ses: Some(i64::MAX),
            unit: Some(HOSTILE.into()),
            started: 1,
            forked_from: None,
        };
        for groups in [0, 1, 40] {
            let subject = Subject {
                uid: Uid(u32::MAX - 1),
                account: Account::Known(AccountFacts {
                    user: HOSTILE.into(),
                    gid: Gid(7),
                    groups: vec![group(HOSTILE); groups],
                }),
            };
            let credential = CredentialRecord {
                access_key_id: Some(HOSTILE.into()),
                role: None,
                expiration: Some("2026-11-21T21:40:00Z".into()),
            };
            let caller = || CallerRecord::new(Some(&subject), None, Some(&holder), address);
            for class in Class::ALL {
                for mode in [Mode::Observe, Mode::Enforce] {
                    assert_as_derived(&RequestBody {
                        event: Event::Request,
                        verdict: Some(Decision::Allow),
                        decision: Some(Decision::Deny),
                        reason: Reason::UpstreamTimeout,
                        detail: Some("slow"),
                        rule: Some(HOSTILE),
                        policy: Some("sha256:0"),
                        mode,
                        caller: caller(),
                        request: RequestRecord {
                            method: Some("GET"),
                            path: Some("/latest"),
                            class: Some(class),
                            imds: Some("v2"),
                            user_agent: Some(HOSTILE),
                            raw: Some(HOSTILE),
                        },
                        status: Some(504),
                        bytes: u64::MAX,
                        latency_us: 85,
                        served: Some("memory"),
                        hidden: Some(3),
                        credential: Some(&credential),
                        ..nothing()
                    });
                }
            }
        }
    }
}
