//! A ClientHello (RFC 6347, section 4.2.1; RFC 9147, section 5.3), as far as it has to be read before there is a session to
//! read it.

use std::ops::Range;

use super::retry::{self, Retry};

/// Length of a record's header in bytes (RFC 6347, section 4.1).
const RECORD_HEADER_LEN: usize = 13;

/// Length of a handshake message's header in bytes (RFC 6347, section 4.2.2).
const HANDSHAKE_HEADER_LEN: usize = 12;

/// `ContentType.handshake` (RFC 5246, section 6.2.1).
pub(super) const HANDSHAKE: u8 = 22;

/// `HandshakeType.client_hello` (RFC 5246, section 7.4).
const CLIENT_HELLO: u8 = 1;

/// `ProtocolVersion` (RFC 6347, section 4.1).
const DTLS_1_2: [u8; 2] = [0xFE, 0xFD];

/// `ProtocolVersion` (RFC 9147, section 5.3), which stands in the extension `supported_versions` only.
pub(super) const DTLS_1_3: [u8; 2] = [0xFE, 0xFC];

/// `CompressionMethod.null` (RFC 5246, section 6.1).
const NO_COMPRESSION: u8 = 0;

/// Where in a record its sequence number stands, without the epoch.
const RECORD_SEQUENCE: Range<usize> = 5..11;
const RECORD_LEN: Range<usize> = 11..13;
const MESSAGE_LEN: Range<usize> = RECORD_HEADER_LEN + 1..RECORD_HEADER_LEN + 4;
const MESSAGE_SEQUENCE: Range<usize> = RECORD_HEADER_LEN + 4..RECORD_HEADER_LEN + 6;
const FRAGMENT_LEN: Range<usize> = RECORD_HEADER_LEN + 9..RECORD_HEADER_LEN + 12;

/// The version to speak with a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// RFC 6347.
    Dtls12,
    /// RFC 9147.
    Dtls13,
}

/// A ClientHello that stands whole at the start of a datagram.
///
/// One in fragments is not taken: to put them together, a server would have to keep them before it knows their sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientHello<'a> {
    /// The record that it is, and nothing else.
    pub(super) record: &'a [u8],
    legacy_version: [u8; 2],
    /// The client's random number, which tells its attempts apart.
    pub random: [u8; 32],
    /// Of DTLS 1.2. That of 1.3 is an extension.
    legacy_cookie: &'a [u8],
    pub(super) cipher_suites: &'a [u8],
    compression_methods: &'a [u8],
    /// All of them, without the length before; empty if there are none.
    extensions: &'a [u8],
    /// Which of the client's handshake messages it is: 0, or 1 after the cookie exchange.
    pub message_sequence: u16,
}

/// An extension (RFC 8446, section 4.2).
#[derive(Clone, Copy)]
pub(super) struct Extension<'a> {
    pub(super) kind: u16,
    pub(super) data: &'a [u8],
    /// Its data with kind and length before.
    pub(super) whole: &'a [u8],
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
        let legacy_version = reader.array()?;
        let random = reader.array()?;
        reader.vector::<1>()?;
        let legacy_cookie = reader.vector::<1>()?;
        let cipher_suites = reader.vector::<2>()?;
        let compression_methods = reader.vector::<1>()?;
        let extensions = reader.vector::<2>().filter(|_| reader.0.is_empty()).unwrap_or_default();
        (!cipher_suites.is_empty() && !compression_methods.is_empty()).then_some(ClientHello {
            record,
            legacy_version,
            random,
            legacy_cookie,
            cipher_suites,
            compression_methods,
            extensions,
            message_sequence,
        })
    }

    /// The newest version that both can speak; `None` if there is none.
    pub fn version(&self) -> Option<Version> {
        if self.legacy_version != DTLS_1_2 {
            return None;
        }
        if self.offers_1_3() && (self.retry_cookie().is_some() || Retry::asked_by(self).is_some()) {
            return Some(Version::Dtls13);
        }
        let versions = self.extension(retry::SUPPORTED_VERSIONS);
        versions.is_none_or(|list| self.lists_version(list, DTLS_1_2)).then_some(Version::Dtls12)
    }

    /// Whether the client speaks DTLS 1.3, even if no handshake could come of it. One with a cookie of 1.2 has chosen.
    pub(super) fn offers_1_3(&self) -> bool {
        self.legacy_cookie.is_empty()
            && self.compression_methods.contains(&NO_COMPRESSION)
            && self
                .extension(retry::SUPPORTED_VERSIONS)
                .is_some_and(|list| self.lists_version(list, DTLS_1_3))
    }

    /// What the client brought back; empty before the cookie exchange.
    pub fn cookie(&self) -> &'a [u8] {
        self.retry_cookie().unwrap_or(self.legacy_cookie)
    }

    /// The ClientHello that came before this one, as the first message of the first record. `None` if this one's cookie is
    /// not one of ours.
    pub fn before_the_cookie(&self) -> Option<Vec<u8>> {
        match self.version()? {
            Version::Dtls12 => Some(self.before_the_verification()),
            Version::Dtls13 => retry::before_the_retry(self),
        }
    }

    /// All extensions, as far as they are well-formed.
    pub(super) fn extensions(&self) -> impl Iterator<Item = Extension<'a>> {
        let mut rest = self.extensions;
        std::iter::from_fn(move || {
            let mut reader = Reader(rest);
            let kind = u16::from_be_bytes(reader.array()?);
            let data = reader.vector::<2>()?;
            let (whole, after) = rest.split_at(rest.len() - reader.0.len());
            rest = after;
            Some(Extension { kind, data, whole })
        })
    }

    /// The data of the extension of this kind.
    pub(super) fn extension(&self, kind: u16) -> Option<&'a [u8]> {
        self.extensions().find(|extension| extension.kind == kind).map(|extension| extension.data)
    }

    /// The cookie of DTLS 1.3.
    fn retry_cookie(&self) -> Option<&'a [u8]> {
        Reader(self.extension(retry::COOKIE).filter(|_| self.offers_1_3())?).vector::<2>()
    }

    fn lists_version(&self, list: &[u8], version: [u8; 2]) -> bool {
        Reader(list).vector::<1>().is_some_and(|versions| versions.chunks(2).any(|listed| listed == version))
    }

    /// This one with other extensions, as the first message of the first record. `None` if they are too long.
    pub(super) fn with_extensions(&self, extensions: &[u8]) -> Option<Vec<u8>> {
        let before = self.record.len().checked_sub(self.extensions.len() + 2)?;
        let mut record = self.record.get(..before)?.to_vec();
        record.extend(u16::try_from(extensions.len()).ok()?.to_be_bytes());
        record.extend(extensions);
        (record.len() <= RECORD_HEADER_LEN + usize::from(u16::MAX)).then(|| as_the_first(record))
    }

    /// What follows the headers.
    pub(super) fn body(&self) -> &'a [u8] {
        &self.record[RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN..]
    }

    /// The same without the cookie (RFC 6347, section 4.2.1).
    fn before_the_verification(&self) -> Vec<u8> {
        let cookie = self.cookie_range();
        let mut record = self.record.to_vec();
        record.drain(cookie.clone());
        record[cookie.start - 1] = 0;
        as_the_first(record)
    }

    /// Where the cookie of DTLS 1.2 stands in the record.
    fn cookie_range(&self) -> Range<usize> {
        let session_id = RECORD_HEADER_LEN + HANDSHAKE_HEADER_LEN + 2 + self.random.len();
        let start = session_id + 1 + usize::from(self.record[session_id]) + 1;
        start..start + self.legacy_cookie.len()
    }
}

/// A record whose length has changed, as the first of a client and with its first message.
fn as_the_first(mut record: Vec<u8>) -> Vec<u8> {
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

/// Bytes in the presentation language of TLS (RFC 5246, section 4).
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    /// A vector behind a length of `N` bytes.
    pub(super) fn vector<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let len = self.array::<N>()?.iter().fold(0, |len, byte| len << 8 | usize::from(*byte));
        self.take(len)
    }
}

pub(super) fn u24([b0, b1, b2]: [u8; 3]) -> usize {
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
        assert_eq!(parsed.version(), Some(Version::Dtls12));
        assert_eq!((parsed.random, parsed.cookie(), parsed.message_sequence), ([7; 32], &[9; 32][..], 1));
        let mut more = bytes.clone();
        more.extend(b"another record");
        assert_eq!(ClientHello::parse(&more), Some(parsed), "the rest of the datagram is another's");
    }

    #[test]
    fn the_hello_before_the_cookie_is_the_one_that_was_sent() {
        for session_id in [&[][..], &[5; 32]] {
            let (first, second) = (hello(session_id, &[], 0), hello(session_id, &[9; 32], 1));
            assert_eq!(ClientHello::parse(&second).unwrap().before_the_cookie(), Some(first.clone()));
            assert_eq!(ClientHello::parse(&first).unwrap().before_the_cookie(), Some(first.clone()));
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
