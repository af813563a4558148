//! The certificates that a server sends (RFC 5246, section 7.4.2), read beside the session.
//!
//! `dimpl` tells the server's own certificate alone. Whoever checks it against the authorities that this machine trusts needs
//! the intermediate ones as well. They are in the clear, and need not be believed: they only help to find the way to an
//! authority.

use std::collections::BTreeMap;

use super::hello::{HANDSHAKE, Reader, u24};

/// `HandshakeType.certificate` (RFC 5246, section 7.4).
const CERTIFICATE: u8 = 11;

/// The longest message that is put together, in bytes: chains of some ten certificates fit.
const MAX_MESSAGE: usize = 1 << 16;

/// More fragments than a message of that length has in datagrams of 100 bytes.
const MAX_FRAGMENTS: usize = 1 << 10;

/// Puts a server's Certificate message together, whatever order its fragments come in.
///
/// ```
/// use thirl_common::dtls::ServerCertificates;
///
/// let mut certificates = ServerCertificates::default();
/// certificates.handle_datagram(&[22, 0xFE, 0xFD, 0, 0]); // cut short: nothing of interest
/// assert_eq!(certificates.chain(), None);
/// ```
#[derive(Clone, Debug, Default)]
pub struct ServerCertificates {
    /// The message's length, once a fragment has told it.
    length: Option<usize>,
    fragments: BTreeMap<usize, Vec<u8>>,
    bytes: usize,
}

impl ServerCertificates {
    /// Reads a datagram of the server's. What is encrypted or of no interest is passed over.
    pub fn handle_datagram(&mut self, datagram: &[u8]) {
        let mut reader = Reader(datagram);
        while let Some(record) = clear_handshake(&mut reader) {
            let mut messages = Reader(record.unwrap_or_default());
            while let Some(fragment) = Fragment::read(&mut messages) {
                if fragment.kind == CERTIFICATE {
                    self.take(&fragment);
                }
            }
        }
    }

    /// The certificates in DER, the server's own first; `None` before all of them are there, or if they cannot be read.
    pub fn chain(&self) -> Option<Vec<Vec<u8>>> {
        let length = self.length?;
        let mut message = Vec::new();
        for (&offset, bytes) in &self.fragments {
            // A fragment may be repeated, and cut otherwise then.
            let new = bytes.get(message.len().checked_sub(offset)?..).unwrap_or_default();
            message.extend_from_slice(new);
        }
        let mut list = Reader(message.get(..length)?);
        let mut entries = Reader(list.vector::<3>()?);
        let mut chain = Vec::new();
        while !entries.0.is_empty() {
            chain.push(entries.vector::<3>()?.to_vec());
        }
        Some(chain)
    }

    fn take(&mut self, fragment: &Fragment<'_>) {
        let end = fragment.offset + fragment.bytes.len();
        let fits = fragment.length <= MAX_MESSAGE && end <= fragment.length;
        let room =
            self.bytes + fragment.bytes.len() <= 2 * MAX_MESSAGE && self.fragments.len() < MAX_FRAGMENTS;
        let known =
            self.fragments.get(&fragment.offset).is_some_and(|known| known.len() >= fragment.bytes.len());
        if !fits || !room || known || *self.length.get_or_insert(fragment.length) != fragment.length {
            return;
        }
        self.bytes += fragment.bytes.len();
        self.fragments.insert(fragment.offset, fragment.bytes.to_vec());
    }
}

/// The next record: within it what it carries, if that is a handshake in the clear.
fn clear_handshake<'a>(reader: &mut Reader<'a>) -> Option<Option<&'a [u8]>> {
    let [kind] = reader.array()?;
    reader.take(2)?;
    let epoch = reader.array::<2>()?;
    reader.take(6)?;
    let payload = reader.vector::<2>()?;
    Some((kind == HANDSHAKE && epoch == [0; 2]).then_some(payload))
}

/// A part of a handshake message (RFC 6347, section 4.2.2).
struct Fragment<'a> {
    kind: u8,
    length: usize,
    offset: usize,
    bytes: &'a [u8],
}

impl<'a> Fragment<'a> {
    fn read(reader: &mut Reader<'a>) -> Option<Fragment<'a>> {
        let [kind] = reader.array()?;
        let length = u24(reader.array()?);
        reader.take(2)?;
        let offset = u24(reader.array()?);
        let bytes = reader.vector::<3>()?;
        Some(Fragment { kind, length, offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A record with a fragment of a message.
    fn record(kind: u8, epoch: u8, message: &[u8], part: std::ops::Range<usize>) -> Vec<u8> {
        let u24 = |number: usize| number.to_be_bytes()[5..].to_vec();
        let bytes = &message[part.clone()];
        let fragment =
            [&[kind][..], &u24(message.len()), &[0, 3], &u24(part.start), &u24(bytes.len()), bytes].concat();
        let [.., l0, l1] = fragment.len().to_be_bytes();
        [&[HANDSHAKE, 0xFE, 0xFD, 0, epoch, 0, 0, 0, 0, 0, 9, l0, l1][..], &fragment].concat()
    }

    fn message(chain: &[&[u8]]) -> Vec<u8> {
        let u24 = |bytes: &[u8]| [&bytes.len().to_be_bytes()[5..], bytes].concat();
        u24(&chain.iter().flat_map(|certificate| u24(certificate)).collect::<Vec<_>>())
    }

    #[test]
    fn fragments_come_in_any_order_and_twice() {
        let (own, issuer) = ([1; 700], [2; 900]);
        let message = message(&[&own, &issuer]);
        let mut certificates = ServerCertificates::default();
        let part = |range| record(CERTIFICATE, 0, &message, range);
        certificates.handle_datagram(&part(1200..message.len()));
        certificates.handle_datagram(&[part(0..500), record(14, 0, &[], 0..0)].concat());
        assert_eq!(certificates.chain(), None);
        certificates.handle_datagram(&part(300..1200));
        certificates.handle_datagram(&part(0..500));
        assert_eq!(certificates.chain(), Some(vec![own.to_vec(), issuer.to_vec()]));
    }

    #[test]
    fn other_messages_and_what_is_encrypted_are_passed_over() {
        let message = message(&[&[1; 10]]);
        let whole = 0..message.len();
        let mut certificates = ServerCertificates::default();
        certificates.handle_datagram(&record(2, 0, &message, whole.clone()));
        certificates.handle_datagram(&record(CERTIFICATE, 1, &message, whole.clone()));
        assert_eq!(certificates.chain(), None);
        let both = [record(2, 0, &[0; 40], 0..40), record(CERTIFICATE, 0, &message, whole)].concat();
        certificates.handle_datagram(&both);
        assert_eq!(certificates.chain(), Some(vec![vec![1; 10]]));
    }
}
