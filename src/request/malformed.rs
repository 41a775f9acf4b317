//! Why bytes are not a request this proxy answers: one variant per outcome,
//! each with the status the client gets and the word the audit log records.

use std::fmt;

use super::path::PathError;

/// A reason to refuse a request before anyone asks who sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Malformed {
    /// The target has no canonical path.
    Path(PathError),
    /// CR without LF, LF without CR.
    BareLineEnd,
    /// NUL or another control byte.
    ControlByte,
    /// The request line is not `METHOD SP target SP HTTP/1.x`.
    RequestLine,
    /// A request line without a version.
    Http09,
    /// The preface of HTTP/2, or any version but 1.0 and 1.1.
    HttpVersion,
    /// The line of a header begins with white space.
    ObsFold,
    /// A header without a colon, with space before it, or a name of other bytes than a token's.
    HeaderLine,
    /// No Host on HTTP/1.1.
    HostMissing,
    /// More than one Host.
    HostRepeated,
    /// A Host that is no name of the service: DNS rebinding looks like this.
    HostForeign,
    /// Content-Length twice, as a list, or not a number.
    ContentLength,
    /// Content-Length together with Transfer-Encoding, or a coding other than one `chunked`.
    TransferEncoding,
    /// A body with anything in it.
    Body,
    /// Upgrade to another protocol.
    Upgrade,
    /// `Expect`, of which the service wants nothing.
    Expect,
    /// More than one token.
    TokenRepeated,
    /// TTL missing on a token request.
    TtlMissing,
    /// TTL given twice.
    TtlRepeated,
    /// TTL not digits, 0 or above 21600.
    TtlInvalid,
    /// A method other than GET, HEAD and PUT.
    Method,
    /// GET or HEAD on the token path.
    TokenPathMethod,
    /// PUT elsewhere than on the token path.
    PutElsewhere,
    /// A request line of more than [`super::REQUEST_LINE_MAX`] bytes.
    RequestLineTooLong,
    /// Headers of more than [`super::HEADERS_MAX`] bytes.
    HeadersTooLong,
    /// More than [`super::HEADER_COUNT_MAX`] headers.
    HeadersTooMany,
    /// The head was not whole in time.
    HeadTimeout,
    /// Our check of the raw head and hyper's parser read it differently.
    ParserDisagrees,
}

impl Malformed {
    /// The status of the answer.
    pub fn status(self) -> u16 {
        match self {
            Self::Method | Self::TokenPathMethod => 405,
            Self::PutElsewhere => 403,
            Self::HeadTimeout => 408,
            Self::RequestLineTooLong => 414,
            Self::Expect => 417,
            Self::HeadersTooLong | Self::HeadersTooMany => 431,
            _ => 400,
        }
    }

    /// The word for the record's `detail`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Path(error) => error.as_str(),
            Self::BareLineEnd => "bare_line_end",
            Self::ControlByte => "control_byte",
            Self::RequestLine => "request_line",
            Self::Http09 => "http09",
            Self::HttpVersion => "http_version",
            Self::ObsFold => "obs_fold",
            Self::HeaderLine => "header_line",
            Self::HostMissing => "host_missing",
            Self::HostRepeated => "host_repeated",
            Self::HostForeign => "host_foreign",
            Self::ContentLength => "content_length",
            Self::TransferEncoding => "transfer_encoding",
            Self::Body => "body",
            Self::Upgrade => "upgrade",
            Self::Expect => "expect",
            Self::TokenRepeated => "token_repeated",
            Self::TtlMissing => "ttl_missing",
            Self::TtlRepeated => "ttl_repeated",
            Self::TtlInvalid => "ttl_invalid",
            Self::Method => "method",
            Self::TokenPathMethod => "token_path_method",
            Self::PutElsewhere => "put_elsewhere",
            Self::RequestLineTooLong => "request_line_too_long",
            Self::HeadersTooLong => "headers_too_long",
            Self::HeadersTooMany => "headers_too_many",
            Self::HeadTimeout => "head_timeout",
            Self::ParserDisagrees => "parser_disagrees",
        }
    }

    /// The `Allow` header that goes with a 405.
    pub fn allow(self) -> Option<&'static str> {
        match self {
            Self::Method => Some("GET, HEAD"),
            Self::TokenPathMethod => Some("OPTIONS, PUT"),
            _ => None,
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl From<PathError> for Malformed {
    fn from(error: PathError) -> Self {
        Self::Path(error)
    }
}
