//! Messages of the kernel's netlink sockets (netlink(7)): the frame that they
//! all have, and what stands in it.
//!
//! Total on any bytes: what is cut short, or says that it is longer than it
//! is, is no message, no field and no attribute.

use nix::errno::Errno;

// linux/netlink.h.
const HEADER_LEN: usize = 16;
const NLM_F_REQUEST: u16 = 0x1;
/// The outcome of a request; error 0 acknowledges it.
pub const NLMSG_ERROR: u16 = 2;
/// The end of a dump.
pub const NLMSG_DONE: u16 = 3;
/// Flag: the outcome is to be told, also where there is no error.
pub const NLM_F_ACK: u16 = 0x4;
/// Flags: all that there are.
pub const NLM_F_DUMP: u16 = 0x300;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Which one, of its protocol's.
    pub kind: u16,
    /// Of the request that it answers.
    pub seq: u32,
    /// What stands behind the header.
    pub payload: Fields<'a>,
}

impl<'a> Message<'a> {
    /// The first one of a datagram, and what follows it.
    pub fn parse(datagram: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut header = Fields(datagram);
        let len = usize::try_from(u32::from_ne_bytes(header.take()?)).ok()?;
        let kind = u16::from_ne_bytes(header.take()?);
        let _flags: [u8; 2] = header.take()?;
        let seq = u32::from_ne_bytes(header.take()?);
        let payload = Fields(datagram.get(HEADER_LEN..len)?);
        let rest = datagram.get(aligned(len)..).unwrap_or_default();
        Some((Self { kind, seq, payload }, rest))
    }

    /// What an [`NLMSG_ERROR`] or [`NLMSG_DONE`] says of the request.
    pub fn outcome(mut self) -> Result<(), Errno> {
        match self.payload.take().map(i32::from_ne_bytes) {
            Some(0) => Ok(()),
            Some(code) => Err(Errno::from_raw(code.saturating_neg())),
            None => Err(Errno::EBADMSG),
        }
    }
}

/// Writes one request in place of what is in `to`.
pub fn request(to: &mut Vec<u8>, kind: u16, flags: u16, seq: u32, payload: &[&[u8]]) {
    let len = HEADER_LEN + payload.iter().map(|part| part.len()).sum::<usize>();
    to.clear();
    // None of ours is longer than some hundred bytes.
    to.extend(u32::try_from(len).unwrap_or(u32::MAX).to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend((NLM_F_REQUEST | flags).to_ne_bytes());
    to.extend(seq.to_ne_bytes());
    // To the kernel, from whoever sends it.
    to.extend([0; 4]);
    for part in payload {
        to.extend(*part);
    }
}

/// Read from the front.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    /// The next bytes.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*field)
    }

    /// The payload of the first attribute of a kind, if there is nothing but
    /// attributes left.
    pub fn attribute(mut self, wanted: u16) -> Option<&'a [u8]> {
        loop {
            let attribute = self.0;
            let len = usize::from(u16::from_ne_bytes(self.take()?));
            let kind = u16::from_ne_bytes(self.take()?);
            let payload = attribute.get(4..len)?;
            if kind == wanted {
                return Some(payload);
            }
            self.0 = attribute.get(aligned(len)..)?;
        }
    }
}

/// Messages and attributes begin at multiples of four (NLMSG_ALIGNTO,
/// NLA_ALIGNTO).
fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(payload: &[&[u8]]) -> Vec<u8> {
        let mut bytes = vec![1, 2, 3];
        request(&mut bytes, 20, NLM_F_ACK, 7, payload);
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        let two = [written(&[b"ab", b"c"]), vec![0], written(&[])].concat();
        let (first, rest) = Message::parse(&two).unwrap();
        let payload = Fields(b"abc");
        assert_eq!(
            first,
            Message {
                kind: 20,
                seq: 7,
                payload
            }
        );
        let (second, rest) = Message::parse(rest).unwrap();
        assert_eq!((second.payload.0, rest), (b"".as_slice(), b"".as_slice()));
    }

    #[test]
    fn a_length_that_is_not_so_is_no_message() {
        let message = written(&[b"abcd"]);
        for len in [0, 15, message.len() as u32 + 1, u32::MAX] {
            let mut message = message.clone();
            message[..4].copy_from_slice(&len.to_ne_bytes());
            assert_eq!(Message::parse(&message), None, "{len}");
        }
        assert_eq!(Message::parse(&message[..message.len() - 1]), None);
    }

    #[test]
    fn an_outcome_is_an_acknowledgement_or_an_error() {
        let outcome = |code: &[u8]| Message::parse(&written(&[code])).unwrap().0.outcome();
        assert_eq!(outcome(&[0; 4]), Ok(()));
        assert_eq!(outcome(&(-2i32).to_ne_bytes()), Err(Errno::ENOENT));
        assert_eq!(outcome(&[0; 3]), Err(Errno::EBADMSG));
    }

    #[test]
    fn an_attribute_is_found_whole_or_not_at_all() {
        let attribute = |len: u16, kind: u16, rest: &[u8]| {
            [&len.to_ne_bytes(), &kind.to_ne_bytes(), rest].concat()
        };
        let both = [attribute(5, 1, &[9, 0, 0, 0]), attribute(6, 2, &[7, 8])].concat();
        assert_eq!(Fields(&both).attribute(1), Some([9].as_slice()));
        assert_eq!(Fields(&both).attribute(2), Some([7, 8].as_slice()));
        assert_eq!(Fields(&both).attribute(3), None);
        for (len, kind) in [(3, 1), (7, 1), (0, 2)] {
            let lies = attribute(len, kind, &[7, 8]);
            assert_eq!(Fields(&lies).attribute(1), None, "{len}");
        }
    }
}
