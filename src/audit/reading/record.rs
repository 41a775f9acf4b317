//! One record as it stands in a log, without copying what needs no copy.
//!
//! Forgiving, as a reader must be: fields that are missing are `None`, words
//! that are new are kept as words, and fields that are new are counted. Only
//! what has no time and no event is no record.

use std::borrow::Cow;
use std::fmt;
use std::ops::Deref;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

/// Text of a record: from outside, to be shown only as
/// [`crate::diagnose::plain_text`] makes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
pub struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A record; the fields are those of the log.
#[derive(Clone, Debug, Default)]
#[expect(
    missing_docs,
    reason = "the fields of the log, which the README explains"
)]
pub struct Record<'a> {
    pub schema: Option<u32>,
    pub seq: Option<u64>,
    pub time: Text<'a>,
    pub event: Text<'a>,
    pub id: Option<Text<'a>>,
    pub verdict: Option<Text<'a>>,
    pub decision: Option<Text<'a>>,
    pub reason: Option<Text<'a>>,
    /// A word of a request, an object of another event.
    pub detail: Option<&'a RawValue>,
    pub rule: Option<Text<'a>>,
    pub policy: Option<Text<'a>>,
    pub mode: Option<Text<'a>>,
    pub caller: Caller<'a>,
    pub request: Request<'a>,
    pub status: Option<u16>,
    pub bytes: Option<u64>,
    pub latency_us: Option<u64>,
    pub credential: Option<Credential<'a>>,
    pub host: HostNames<'a>,
    /// The hash of the line before.
    pub prev: Option<Text<'a>>,
    /// How many fields this version does not know.
    pub unknown_fields: u32,
}

/// Who asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields of the log, which the README explains"
)]
pub struct Caller<'a> {
    pub uid: Option<u32>,
    #[serde(borrow)]
    pub user: Option<Text<'a>>,
    pub gid: Option<u32>,
    #[serde(borrow)]
    pub groups: Option<Vec<Text<'a>>>,
    pub groups_omitted: Option<u64>,
    pub pid: Option<u32>,
    #[serde(borrow)]
    pub exe: Option<Text<'a>>,
    #[serde(borrow)]
    pub comm: Option<Text<'a>>,
    pub loginuid: Option<i64>,
    pub ses: Option<i64>,
    #[serde(borrow)]
    pub unit: Option<Text<'a>>,
    #[serde(borrow)]
    pub address: Option<Text<'a>>,
}

/// What was asked.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields of the log, which the README explains"
)]
pub struct Request<'a> {
    #[serde(borrow)]
    pub method: Option<Text<'a>>,
    #[serde(borrow)]
    pub path: Option<Text<'a>>,
    #[serde(borrow)]
    pub class: Option<Text<'a>>,
    #[serde(borrow)]
    pub imds: Option<Text<'a>>,
    #[serde(borrow)]
    pub user_agent: Option<Text<'a>>,
    #[serde(borrow)]
    pub raw: Option<Text<'a>>,
}

/// Which credentials were handed out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields of the log, which the README explains"
)]
pub struct Credential<'a> {
    #[serde(borrow)]
    pub access_key_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub role: Option<Text<'a>>,
    #[serde(borrow)]
    pub expiration: Option<Text<'a>>,
}

/// Where it was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the fields of the log, which the README explains"
)]
pub struct HostNames<'a> {
    #[serde(borrow)]
    pub name: Option<Text<'a>>,
    #[serde(borrow)]
    pub boot_id: Option<Text<'a>>,
    #[serde(borrow)]
    pub instance_id: Option<Text<'a>>,
}

impl<'a> Record<'a> {
    /// Reads a line; with it as text, which it then is.
    pub fn parse(line: &'a [u8]) -> Option<(Self, &'a str)> {
        // Once for the line is far quicker than once for each text on it.
        let line = std::str::from_utf8(line).ok()?;
        Some((serde_json::from_str(line).ok()?, line))
    }

    /// What `detail` says of a request.
    pub fn detail_word(&self) -> Option<Cow<'a, str>> {
        let Text(word) = serde_json::from_str(self.detail?.get()).ok()?;
        Some(word)
    }
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "snake_case")]
enum Field {
    Schema,
    Seq,
    Time,
    Event,
    Id,
    Verdict,
    Decision,
    Reason,
    Detail,
    Rule,
    Policy,
    Mode,
    Caller,
    Request,
    Status,
    Bytes,
    LatencyUs,
    Credential,
    Host,
    /// Known, and of no use to a reader.
    Version,
    Served,
    Hidden,
    Prev,
    #[serde(other)]
    Unknown,
}

impl<'de: 'a, 'a> Deserialize<'de> for Record<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(Fields(std::marker::PhantomData))
    }
}

struct Fields<'a>(std::marker::PhantomData<&'a ()>);

impl<'de: 'a, 'a> Visitor<'de> for Fields<'a> {
    type Value = Record<'a>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an audit record")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Record<'a>, M::Error> {
        let mut it = Record::default();
        let (mut time, mut event) = (None, None);
        while let Some(field) = map.next_key()? {
            match field {
                Field::Schema => it.schema = map.next_value()?,
                Field::Seq => it.seq = map.next_value()?,
                Field::Time => time = Some(map.next_value()?),
                Field::Event => event = Some(map.next_value()?),
                Field::Id => it.id = map.next_value()?,
                Field::Verdict => it.verdict = map.next_value()?,
                Field::Decision => it.decision = map.next_value()?,
                Field::Reason => it.reason = map.next_value()?,
                Field::Detail => it.detail = map.next_value()?,
                Field::Rule => it.rule = map.next_value()?,
                Field::Policy => it.policy = map.next_value()?,
                Field::Mode => it.mode = map.next_value()?,
                Field::Caller => {
                    it.caller = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                Field::Request => {
                    it.request = map.next_value::<Option<_>>()?.unwrap_or_default();
                }
                Field::Status => it.status = map.next_value()?,
                Field::Bytes => it.bytes = map.next_value()?,
                Field::LatencyUs => it.latency_us = map.next_value()?,
                Field::Credential => it.credential = map.next_value()?,
                Field::Host => it.host = map.next_value::<Option<_>>()?.unwrap_or_default(),
                Field::Prev => it.prev = map.next_value()?,
                Field::Version | Field::Served | Field::Hidden => {
                    map.next_value::<IgnoredAny>()?;
                }
                Field::Unknown => {
                    map.next_value::<IgnoredAny>()?;
                    it.unknown_fields += 1;
                }
            }
        }
        it.time = time.ok_or_else(|| M::Error::missing_field("time"))?;
        it.event = event.ok_or_else(|| M::Error::missing_field("event"))?;
        Ok(it)
    }
}
