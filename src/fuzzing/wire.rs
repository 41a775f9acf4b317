//! Readers of what clients, the service and the kernel send.

use std::net::SocketAddr;

use bytes::Bytes;

use crate::caller::{CallerUnknown, ClientSocket, SocketOwner, reply};
use crate::ids::{ClientAddr, MetadataAddr, Uid};
use crate::provider::Provider;
use crate::request::{
    CanonicalPath, CanonicalRequest, Intent, PresentedToken, Scan, Service, Ttl, parsers_agree,
    scan,
};
use crate::sys::netlink::Message;
use crate::token::{Moment, TokenError, TokenKey};
use crate::upstream::{After, Answer, Expects, Header, UpstreamError, arriving};

/// Of a head that is looked at after each byte that arrives.
const ARRIVING_MAX: usize = 512;

fn service() -> Service {
    Service {
        provider: Provider::Aws,
        addresses: Provider::Aws.addresses(),
    }
}

/// Heads and requests: what is said of a head does not depend on how it
/// arrives, hyper's parser finds the same request in it, and what is judged
/// is what is sent.
pub fn request(bytes: &[u8]) {
    arrival(bytes);
    let Scan::Whole { head, len } = scan(bytes) else {
        return;
    };
    // Of one that is refused, no second opinion is asked.
    let Ok(request) = CanonicalRequest::parse(&service(), &head) else {
        return;
    };
    assert!(
        parsers_agree(bytes, &head, len),
        "to hyper's parser this is another request"
    );
    let Intent::Read(read) = request.intent() else {
        return;
    };
    let path = read.path.as_str();
    let again = CanonicalPath::parse(Provider::Aws, path.as_bytes());
    assert_eq!(
        again.as_ref(),
        Ok(&read.path),
        "a canonical path is canonical"
    );
    let sent = format!(
        "{} {path} HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n",
        read.method.as_str()
    );
    let Scan::Whole { head, len } = scan(sent.as_bytes()) else {
        panic!("what is sent is no request: {sent:?}");
    };
    assert_eq!(len, sent.len(), "more than one request is sent: {sent:?}");
    let received = CanonicalRequest::parse(&service(), &head);
    let Ok(Intent::Read(received)) = received.as_ref().map(CanonicalRequest::intent) else {
        panic!("what is sent is refused: {sent:?}");
    };
    assert_eq!((received.method, &received.path), (read.method, &read.path));
    let printed = format!("{:?}", read.token);
    assert!(printed == "None" || printed == "Some(PresentedToken(…))");
}

fn arrival(bytes: &[u8]) {
    let all = scan(bytes);
    for len in 0..bytes.len().min(ARRIVING_MAX) {
        match (scan(bytes.get(..len).unwrap_or_default()), &all) {
            (Scan::Partial, _) => {}
            // What follows belongs to the next request.
            (early @ Scan::Whole { .. }, all) => assert_eq!(&early, all),
            (Scan::Refused(_), Scan::Refused(_)) => {}
            (early, all) => panic!("after {len} bytes {early:?}, in the end {all:?}"),
        }
    }
}

/// Answers of the service: what is made of one does not depend on how it
/// arrives, what is passed on says of itself what is true, and an answer
/// written from what was understood is understood the same.
pub fn answer(bytes: &[u8]) {
    for expects in [Expects::Body, Expects::HeadAlone] {
        let whole = arriving(vec![Bytes::copy_from_slice(bytes)], expects);
        let parts = bytes.iter().take(ARRIVING_MAX);
        let mut parts: Vec<_> = parts.map(|it| Bytes::copy_from_slice(&[*it])).collect();
        parts.extend(bytes.get(ARRIVING_MAX..).map(Bytes::copy_from_slice));
        match (&whole, arriving(parts, expects)) {
            (Ok((whole, after)), Ok((parts, after_parts))) => {
                assert_eq!(
                    (whole.status(), whole.headers(), whole.body(), *after),
                    (parts.status(), parts.headers(), parts.body(), after_parts)
                );
            }
            // What is behind the answer has not been read yet.
            (Err(UpstreamError::Invalid("malformed")), Ok((_, After::Reuse | After::Close))) => {}
            (Err(whole), Err(parts)) => assert_eq!(*whole, parts),
            (whole, parts) => panic!("at once {whole:?}, in parts {parts:?}"),
        }
        if let Ok((answer, _)) = whole {
            passed_on(&answer, expects);
        }
    }
}

fn passed_on(answer: &Answer, expects: Expects) {
    let (status, headers) = (answer.status(), answer.headers());
    assert!(!status.is_informational() && !status.is_redirection());
    for hop_by_hop in [
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
    ] {
        assert!(answer.header(hop_by_hop).is_none());
    }
    let length = answer.header("content-length");
    let own = answer.body().len();
    let has_body = expects == Expects::Body && status != 204;
    if let Some(length) = length.filter(|_| has_body) {
        let length = std::str::from_utf8(length)
            .ok()
            .and_then(|it| it.parse().ok());
        assert_eq!(length, Some(own));
    }
    let mut written = format!("HTTP/1.1 {} x\r\n", status.as_u16()).into_bytes();
    for Header { name, value } in headers {
        written.extend([name, &b": "[..], value, b"\r\n"].concat());
    }
    if length.is_none() {
        written.extend(format!("content-length: {own}\r\n").into_bytes());
    }
    written.extend([b"\r\n", answer.body().as_ref()].concat());
    let Ok((again, After::Reuse)) = arriving(vec![written.into()], expects) else {
        panic!("not understood a second time: {answer:?}");
    };
    assert_eq!((again.status(), again.body()), (status, answer.body()));
    let mut same = again.headers().to_vec();
    if length.is_none() {
        same.retain(|header| !header.is("content-length"));
    }
    assert_eq!(same, headers);
}

/// Tokens: nothing but the very token that was minted, shown by the very uid
/// in its time, is accepted. The first 16 bytes are uid, time and life, the
/// rest is XORed onto the token.
pub fn token(bytes: &[u8]) {
    let Some((drawn, change)) = bytes.split_first_chunk::<16>() else {
        return;
    };
    let [u0, u1, u2, u3, v0, v1, v2, v3, t0, t1, later @ ..] = *drawn;
    let uid = Uid(u32::from_be_bytes([u0, u1, u2, u3]));
    let other = Uid(u32::from_be_bytes([v0, v1, v2, v3]));
    let seconds = u32::from(u16::from_be_bytes([t0, t1])) % crate::request::TTL_MAX + 1;
    let Ok(ttl) = Ttl::parse(seconds.to_string().as_bytes()) else {
        panic!("no life of a token: {seconds}");
    };
    let later = later
        .iter()
        .fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let key = TokenKey::new(&[7; 64]);
    let minted = key.mint(uid, ttl, Moment(0), *b"a nonce!").into_body();
    let mut shown = minted.clone().into_bytes();
    for (byte, change) in shown.iter_mut().zip(change) {
        *byte ^= change;
    }
    shown.extend(change.get(minted.len()..).unwrap_or_default());
    let Some(presented) = presented(&shown) else {
        return;
    };
    for asking in [uid, other] {
        match key.verify(&presented, asking, Moment(later)) {
            Ok(left) => {
                assert_eq!(presented.as_str(), minted, "an altered token is accepted");
                assert_eq!(asking, uid, "another uid's token is accepted");
                assert!((1..=seconds).contains(&left));
                assert!(later < u64::from(seconds) * 1000);
            }
            Err(TokenError::OtherUid { .. }) => {
                assert!(presented.as_str() == minted && asking != uid)
            }
            Err(TokenError::Expired) => {
                assert_eq!(presented.as_str(), minted);
                assert!(later >= u64::from(seconds) * 1000);
            }
            Err(TokenError::Foreign) => assert_ne!(presented.as_str(), minted),
        }
        let of_another_run = TokenKey::new(&[8; 64]).verify(&presented, asking, Moment(later));
        assert_eq!(of_another_run, Err(TokenError::Foreign));
    }
}

/// As a request brings it, if these bytes can stand in one.
fn presented(token: &[u8]) -> Option<PresentedToken> {
    let head = [
        b"GET / HTTP/1.0\r\nX-aws-ec2-metadata-token: ".as_slice(),
        token,
        b"\r\n\r\n",
    ]
    .concat();
    let Scan::Whole { head, .. } = scan(&head) else {
        return None;
    };
    let request = CanonicalRequest::parse(&service(), &head).ok()?;
    match request.intent() {
        Intent::Read(read) => read.token.clone(),
        Intent::Mint(_) => None,
    }
}

/// Messages of the kernel: any are read to their end. And replies: whoever is
/// named as the owner was named by the reply to this very question, about this
/// very socket, established, with an inode, and is not the daemon. The fields
/// are read a second time, at the offsets of `nlmsghdr` and `inet_diag_msg`.
pub fn netlink(message: &[u8]) {
    let mut datagram = message;
    while let Some((first, rest)) = Message::parse(datagram) {
        let whole = first.payload.0.len() + 16;
        assert!(whole + rest.len() <= datagram.len());
        for kind in 0..32 {
            let attribute = first.payload.attribute(kind);
            assert!(attribute.is_none_or(|it| it.len() + 4 <= first.payload.0.len()));
        }
        datagram = rest;
    }
    const SEQ: u32 = 7;
    const OWN: Uid = Uid(990);
    let client = SocketAddr::from(([10, 77, 0, 2], 40112));
    let service = SocketAddr::from(([169, 254, 169, 254], 80));
    let asked = ClientSocket {
        client: ClientAddr::new(client),
        service: MetadataAddr(service),
    };
    let Some(Ok(owner)) = reply(message, SEQ, asked, OWN) else {
        return;
    };
    let SocketOwner {
        uid, inode, cookie, ..
    } = owner;
    assert!(uid != OWN && inode != 0);
    assert_eq!(u16_at(message, 4), 20, "SOCK_DIAG_BY_FAMILY");
    assert_eq!(u32_at(message, 8), SEQ);
    assert_eq!(message.get(17), Some(&1), "TCP_ESTABLISHED");
    assert_eq!(message.get(20..24), Some([0x9c, 0xb0, 0, 80].as_slice()));
    let (local, remote) = match message.get(16) {
        Some(2) => (message.get(24..28), message.get(40..44)),
        Some(10) => {
            let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
            for at in [24..36, 40..52] {
                assert_eq!(message.get(at), Some(mapped.as_slice()));
            }
            (message.get(36..40), message.get(52..56))
        }
        family => panic!("an address of family {family:?}"),
    };
    assert_eq!(local, Some([10, 77, 0, 2].as_slice()));
    assert_eq!(remote, Some([169, 254, 169, 254].as_slice()));
    let cookie_at = message.get(60..).and_then(|rest| rest.first_chunk());
    assert_eq!(
        cookie_at.map(|bytes| u64::from_ne_bytes(*bytes)),
        Some(cookie)
    );
    assert_eq!((uid.0, inode), (u32_at(message, 80), u32_at(message, 84)));
    let elsewhere = ClientSocket {
        client: ClientAddr::new(SocketAddr::from(([10, 77, 0, 2], 40113))),
        ..asked
    };
    assert_eq!(
        reply(message, SEQ, elsewhere, OWN),
        Some(Err(CallerUnknown::OtherSocket))
    );
    assert_eq!(reply(message, SEQ + 1, asked, OWN), None);
    assert_eq!(
        reply(message, SEQ, asked, uid),
        Some(Err(CallerUnknown::OwnUid))
    );
}

fn u16_at(message: &[u8], at: usize) -> u16 {
    let found = message.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u16::from_ne_bytes(*bytes))
}

fn u32_at(message: &[u8], at: usize) -> u32 {
    let found = message.get(at..).and_then(|rest| rest.first_chunk());
    found.map_or(0, |bytes| u32::from_ne_bytes(*bytes))
}
