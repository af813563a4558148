//! A ClientHello (RFC 6347, section 4.2.1), as far as it has to be read before there is a session to read it.

use std::ops::Range;

/// Length of a record's header in bytes (RFC 6347, section 4.1).
const RECORD_HEADER_LEN: usize = 13;

/// Length of a handshake message's header in bytes (RFC 6347, section 4.2.2).
const HANDSHAKE_HEADER_LEN: usize = 12;

/// `ContentType.handshake` (RFC 5246, section 6.2.1).
const HANDSHAKE: u8 = 22;

/// `HandshakeType.client_hello` (RFC 5246, section 7.4).
const CLIENT_HELLO: u8 = 1;

/// `ProtocolVersion` (RFC 6347, section 4.1).
const DTLS_1_2: [u8; 2] = [0xFE, 0xFD];

/// Where in a record its sequence number stands, without the epoch.
const RECORD_SEQUENCE: Range<usize> = 5..11;
const RECORD_LEN: Range<usize> = 11..13;
const MESSAGE_LEN: Range<usize> = RECORD_HEADER_LEN + 1..RECORD_HEADER_LEN + 4;
const MESSAGE_SEQUENCE: Range<usize> = RECORD_HEADER_LEN + 4..RECORD_HEADER_LEN + 6;
const FRAGMENT_LEN: Range<usize> = RECORD_HEADER_LEN + 9..RECORD_HEADER_LEN + 12;

/// A ClientHello that stands whole at the start of a datagram.
///
/// One in fragments is not taken: to put them together, a server would have to keep them before it knows their sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The record that it is, and nothing else.
    record: &'a [u8],
    /// Whether the client speaks DTLS 1.2, and not only what was before it. (One that speaks DTLS 1.3 says so elsewhere.)
    pub is_current: bool,
    /// The client's random number, which tells its attempts apart.
    pub random: [u8; 32],
    /// Empty before the cookie exchange.
    pub cookie: &'a [u8],
    /// Which of the client's handshake messages it is: 0, or 1 after the cookie exchange.
    pub message_sequence: u16,
}

impl<'a> ClientHello<'a> {
    /// Reads a datagram; `None` if it does not begin with a whole ClientHello that is not encrypted.
    pub fn parse(datagram: &'a [u8]) -> Option<ClientHello<'a>> {
        let mut reader = Reader(datagram);
        let [HANDSHAKE] = reader.array()? else { return None };
        // Any version: what matters is the one within.
        reader.take(2)?;
        let [0, 0] = reader.array()? else { return None };
        reader.take(RECORD_SEQUENCE.len())?;
        let [l0, l1] = reader.array()?;
        let fragment = reader.take(usize::from(u16::from_be_bytes([l0, l1])))?;
        let record = datagram.get(..RECORD_HEADER_LEN + fragment.len())?;

        let mut reader = Reader(fragment);
        let [CLIENT_HELLO] = reader.array()? else { return None };
        let length = reader.array::<3>()?;
        let message_sequence = u16::from_be_bytes(reader.array()?);
        let whole =
            (reader.array::<3>()?, reader.array::<3>()?) == ([0; 3], length) && u24(length) == reader.0.len();
        if !whole {
            return None;
        }
        let version = reader.array()?;
        let random = reader.array()?;
        reader.vector::<1>()?;
        let cookie = reader.vector::<1>()?;
        let cipher_suites = reader.vector::<2>()?;
        let compression_methods = reader.vector::<1>()?;
        (!cipher_suites.is_empty() && !compression_methods.is_empty()).then_some(ClientHello {
            record,
            is_current: version == DTLS_1_2,
            random,
            cookie,
            message_sequence,
        })
    }

    /// The ClientHello that came before this one: the same without the cookie, the first message of the first record.
    pub fn before_the_cookie(&self) -> Vec<u8> {
        let cookie = self.cookie_range();
        let mut record = self.record.to_vec();
        record.drain(cookie.clone());
        record[cookie.start - 1] = 0;
        record[RECORD_SEQUENCE].fill(0);
        record[MESSAGE_SEQUENCE].fill(0);
        let fragment = record.len() - RECORD_HEADER_LEN;
        let [.., m0, m1, m2] = (fragment - HANDSHAKE_HEADER_LEN).to_be_bytes();
        record[MESSAGE_LEN].copy_from_slice(&[m0, m1, m2]);
        record[FRAGMENT_LEN].copy_from_slice(&[m0, m1, m2]);
        let [.., l0, l1] = fragment.to_be_bytes();
        record[RECORD_LEN].copy_from_slice(&[l0, l1]);
        record
    }

    /// Where the cookie stands in the record.
    fn cookie_range(&self) -> Range<usize> {
        let session_id = RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + 2 + self.random.len();
        let start = session_id + 1 + usize::from(self.record[session_id]) + 1;
        start..start + self.cookie.len()
    }
}

/// Bytes in the presentation language of TLS (RFC 5246, section 4).
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A vector behind a length of `N` bytes.
    fn vector<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let len = self.array::<N>()?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        self.take(len)
    }
}

fn u24([b0, b1, b2]: [u8; 3]) -> usize {
    usize::from(b0) << 16 | usize::from(b1) << 8 | usize::from(b2)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A ClientHello as OpenSSL lays it out, with these in it.
    pub(crate) fn hello(session_id: &[u8], cookie: &[u8], message_sequence: u16) -> Vec<u8> {
        let mut body = vec![0xFE, 0xFD];
        body.extend([7; 32]);
        for vector in [session_id, cookie] {
            body.push(u8::try_from(vector.len()).unwrap());
            body.extend(vector);
        }
        body.extend([0, 2, 0xC0, 0x2B, 1, 0]);
        let [.., m0, m1, m2] = body.len().to_be_bytes();
        let [s0, s1] = message_sequence.to_be_bytes();
        let mut message = vec![1, m0, m1, m2, s0, s1, 0, 0, 0, m0, m1, m2];
        message.extend(body);
        let [.., l0, l1] = message.len().to_be_bytes();
        let mut record = vec![22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, s1, l0, l1];
        record.extend(message);
        record
    }

    #[test]
    fn what_the_cookie_exchange_needs_is_read() {
        let bytes = hello(&[1, 2, 3], &[9; 32], 1);
        let parsed = ClientHello::parse(&bytes).unwrap();
        assert!(parsed.is_current);
        assert_eq!((parsed.random, parsed.cookie, parsed.message_sequence), ([7; 32], &[9; 32][..], 1));
        let mut more = bytes.clone();
        more.extend(b"another record");
        assert_eq!(ClientHello::parse(&more), Some(parsed), "the rest of the datagram is another's");
    }

    #[test]
    fn the_hello_before_the_cookie_is_the_one_that_was_sent() {
        for session_id in [&[][..], &[5; 32]] {
            let (first, second) = (hello(session_id, &[], 0), hello(session_id, &[9; 32], 1));
            assert_eq!(ClientHello::parse(&second).unwrap().before_the_cookie(), first);
            assert_eq!(ClientHello::parse(&first).unwrap().before_the_cookie(), first);
        }
    }

    #[test]
    fn nothing_but_a_whole_one_is_taken() {
        let whole = hello(&[], &[], 0);
        for len in 0..whole.len() {
            assert_eq!(ClientHello::parse(&whole[..len]), None, "{len} bytes");
        }
        // Type, epoch, message type, message length, fragment offset, fragment length, suites, compression methods.
        for (at, byte) in [(0, 23), (4, 1), (13, 2), (16, 1), (21, 1), (24, 1), (62, 0), (65, 0)] {
            let mut broken = whole.clone();
            broken[at] = byte;
            assert_eq!(ClientHello::parse(&broken), None, "byte {at}");
        }
    }
}
