//! A checked head → what the client asks for, as a value that only this file
//! can make. What is judged and what is sent are both read from it; no byte
//! of the client's is kept beside it.

use std::borrow::Cow;
use std::fmt;

use super::head::{HttpVersion, RawHead};
use super::host::Service;
use super::malformed::Malformed;
use super::path::CanonicalPath;

/// Where tokens are minted; a fixed path, without version segments.
pub const TOKEN_PATH: &str = "/latest/api/token";
/// The longest life of a token, in seconds.
pub const TTL_MAX: u32 = 21_600;
/// What is kept of a User-Agent, in bytes.
const USER_AGENT_MAX: usize = 128;
/// What is kept of a target that has no canonical form, in bytes.
const RAW_TARGET_MAX: usize = 256;
/// No token of the service's is longer.
const TOKEN_MAX: usize = 256;

/// A request that means one thing only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CanonicalRequest {
    intent: Intent,
    user_agent: Option<String>,
}

/// What a client may want of the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Intent {
    /// `PUT /latest/api/token`.
    Mint(Ttl),
    /// GET or HEAD of a path.
    Read(Read),
}

/// GET or HEAD of a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// With a body in the answer or without.
    pub method: ReadMethod,
    /// What is judged and what is sent.
    pub path: CanonicalPath,
    /// The token presented, which proves nothing yet.
    pub token: Option<PresentedToken>,
}

/// The methods that read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReadMethod {
    /// GET.
    Get,
    /// HEAD.
    Head,
}

impl ReadMethod {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
        }
    }
}

/// The life a client wants its token to have, 1 to [`TTL_MAX`] seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ttl(u32);

impl Ttl {
    /// Reads the header's value; out of range is refused, never clamped.
    pub fn parse(value: &[u8]) -> Result<Self, Malformed> {
        if value.is_empty() || value.len() > 5 || !value.iter().all(u8::is_ascii_digit) {
            return Err(Malformed::TtlInvalid);
        }
        match value
            .iter()
            .fold(0, |sum, digit| sum * 10 + u32::from(digit - b'0'))
        {
            seconds @ 1..=TTL_MAX => Ok(Self(seconds)),
            _ => Err(Malformed::TtlInvalid),
        }
    }

    /// In seconds.
    pub fn seconds(self) -> u32 {
        self.0
    }
}

/// A token as presented: a secret, so it never prints.
#[derive(Clone, PartialEq, Eq)]
pub struct PresentedToken(Box<str>);

impl PresentedToken {
    /// The text, for verification and, in relay mode, for the service.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A token of other bytes than base64url's cannot be anyone's; it is kept
    /// as the empty token, which no one accepts.
    fn new(value: &[u8]) -> Self {
        let plain = value.len() <= TOKEN_MAX
            && value
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'='));
        let text = std::str::from_utf8(value).ok().filter(|_| plain);
        Self(text.unwrap_or_default().into())
    }
}

impl fmt::Debug for PresentedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PresentedToken(…)")
    }
}

/// A request that is refused before policy, with what may be recorded of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// Why.
    pub cause: Rejection,
    /// The method, escaped and shortened.
    pub method: Option<String>,
    /// The target, escaped and shortened.
    pub raw: Option<String>,
    /// The User-Agent, escaped and shortened.
    pub user_agent: Option<String>,
}

/// The two families of early refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// Not a request with one meaning.
    Malformed(Malformed),
    /// Sent on by a proxy for somebody else.
    ForwardedHeader,
}

impl From<Malformed> for Rejection {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl Rejected {
    /// For bytes that never became a head: keeps the first line's target if
    /// one can be made out.
    pub fn of_bytes(cause: Malformed, bytes: &[u8]) -> Self {
        let line = bytes
            .split(|byte| matches!(byte, b'\r' | b'\n'))
            .next()
            .unwrap_or_default();
        let mut parts = line.splitn(3, |byte| *byte == b' ');
        let method = parts.next().filter(|part| !part.is_empty());
        // Behind what is no method stands no target: a header, perhaps, that
        // came first, and in it a token.
        let is_method = method.is_some_and(|it| it.iter().all(u8::is_ascii_alphabetic));
        Self {
            cause: cause.into(),
            method: method.map(|method| escaped(method, 16).into()),
            raw: parts
                .next()
                .filter(|target| is_method || target.first() == Some(&b'/'))
                .map(|target| escaped(target, RAW_TARGET_MAX).into()),
            user_agent: None,
        }
    }
}

impl CanonicalRequest {
    /// Reads a head for `service`.
    pub fn parse(service: &Service, head: &RawHead<'_>) -> Result<Self, Rejected> {
        let user_agent = head
            .values("user-agent")
            .next()
            .map(|it| escaped(it, USER_AGENT_MAX).into());
        match intent(service, head) {
            Ok(intent) => Ok(Self { intent, user_agent }),
            Err(cause) => Err(Rejected {
                cause,
                method: Some(escaped(head.method, 16).into()),
                raw: Some(escaped(head.target, RAW_TARGET_MAX).into()),
                user_agent,
            }),
        }
    }

    /// What the client wants.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Printable ASCII, escaped and shortened: recorded, never matched.
    pub fn user_agent(&self) -> Option<&str> {
        self.user_agent.as_deref()
    }
}

fn intent(service: &Service, head: &RawHead<'_>) -> Result<Intent, Rejection> {
    if ["x-forwarded-for", "forwarded", "via"]
        .iter()
        .any(|it| head.values(it).next().is_some())
    {
        return Err(Rejection::ForwardedHeader);
    }
    if head.values("expect").next().is_some() {
        return Err(Malformed::Expect.into());
    }
    if head.values("upgrade").next().is_some() || head.values("http2-settings").next().is_some() {
        return Err(Malformed::Upgrade.into());
    }
    match head.single("host", Malformed::HostRepeated)? {
        None if head.version == HttpVersion::Http11 => return Err(Malformed::HostMissing.into()),
        Some(host) if !service.is_named_by(host) => return Err(Malformed::HostForeign.into()),
        _ => {}
    }
    let path = |target| CanonicalPath::parse(service.provider, target).map_err(Malformed::from);
    let method = match head.method {
        b"GET" => ReadMethod::Get,
        b"HEAD" => ReadMethod::Head,
        b"PUT" => {
            return match path(head.target)?.as_str() {
                TOKEN_PATH => Ok(Intent::Mint(ttl(head)?)),
                _ => Err(Malformed::PutElsewhere.into()),
            };
        }
        _ => return Err(Malformed::Method.into()),
    };
    let path = path(head.target)?;
    if path.as_str() == TOKEN_PATH {
        return Err(Malformed::TokenPathMethod.into());
    }
    let token = head.single("x-aws-ec2-metadata-token", Malformed::TokenRepeated)?;
    Ok(Intent::Read(Read {
        method,
        path,
        token: token.map(PresentedToken::new),
    }))
}

fn ttl(head: &RawHead<'_>) -> Result<Ttl, Malformed> {
    let value = head.single(
        "x-aws-ec2-metadata-token-ttl-seconds",
        Malformed::TtlRepeated,
    )?;
    Ttl::parse(value.ok_or(Malformed::TtlMissing)?)
}

/// Printable ASCII with `\xNN` for the rest and for `\` itself, cut at `max`
/// bytes of input and marked with `…` where it was. Most text is that already.
pub fn escaped(bytes: &[u8], max: usize) -> Cow<'_, str> {
    let is_plain = |byte: &u8| matches!(byte, b' '..=b'~') && *byte != b'\\';
    if bytes.len() <= max
        && bytes.iter().all(is_plain)
        && let Ok(text) = std::str::from_utf8(bytes)
    {
        return text.into();
    }
    let mut out = String::with_capacity(bytes.len().min(max));
    for byte in bytes.iter().take(max) {
        match byte {
            b'\\' => out.push_str("\\\\"),
            byte if is_plain(byte) => out.push(char::from(*byte)),
            byte => out.extend(["\\x", &format!("{byte:02x}")]),
        }
    }
    if bytes.len() > max {
        out.push('…');
    }
    out.into()
}
