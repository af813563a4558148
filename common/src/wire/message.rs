//! A checked view of a STUN message (RFC 8489, section 5).

use super::attribute::{Attribute, AttributeError, AttributeType, RawAttribute};
use super::error_code::UnknownAttributes;
use super::fingerprint::fingerprint;
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, class_and_method};
use super::integrity::{IntegrityAlgorithm, IntegrityError, IntegrityKey};
use super::padded;

/// Length of an attribute's header in bytes (RFC 8489, section 14).
const ATTRIBUTE_HEADER_LEN: usize = 4;

/// A STUN message that borrows from its datagram.
///
/// [`Message::parse`] checks the framing of header and attributes once, so nothing after it can fail on a length.
/// What stands after the integrity attributes and FINGERPRINT is not shown, as RFC 8489, section 14.5, asks.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    class: Class,
    method: Method,
    /// Where the attributes end that may be acted upon.
    visible_end: usize,
    integrity: Option<Mark>,
    integrity_sha256: Option<Mark>,
    fingerprint: Option<Mark>,
}

/// Where an attribute stands: `at` is its header, `len` its value's length.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at: usize,
    len: usize,
}

/// Why a datagram is no STUN message: it belongs to another protocol, or its sender is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ParseError {
    /// Fewer bytes than a header has.
    #[error("shorter than a STUN header")]
    Truncated,
    /// The two uppermost bits are not zero.
    #[error("no STUN message: its first two bits are not zero")]
    NotStun,
    /// Another protocol, or a client of RFC 3489.
    #[error("no magic cookie")]
    NoMagicCookie,
    /// The header's length is not the datagram's, or no multiple of four.
    #[error("the header's length is not that of the message")]
    LengthMismatch,
    /// An attribute reaches beyond the end.
    #[error("an attribute is longer than the message")]
    AttributeOverrun,
}

/// The FINGERPRINT is there and wrong: the bytes were changed, or they are no STUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the FINGERPRINT does not match")]
pub struct FingerprintError;

impl<'a> Message<'a> {
    /// Checks the header and the framing of the attributes of a whole datagram or frame.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let Some(&[t0, t1, l0, l1, c0, c1, c2, c3, ..]) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(ParseError::Truncated);
        };
        if t0 & 0xC0 != 0 {
            return Err(ParseError::NotStun);
        }
        if u32::from_be_bytes([c0, c1, c2, c3]) != MAGIC_COOKIE {
            return Err(ParseError::NoMagicCookie);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if length % 4 != 0 || bytes.len() != HEADER_LEN + length {
            return Err(ParseError::LengthMismatch);
        }
        let (class, method) = class_and_method(u16::from_be_bytes([t0, t1]));
        let mut message = Message {
            bytes,
            class,
            method,
            visible_end: bytes.len(),
            integrity: None,
            integrity_sha256: None,
            fingerprint: None,
        };
        message.walk()?;
        Ok(message)
    }

    /// Checks every attribute's length and notes where integrity and fingerprint stand.
    fn walk(&mut self) -> Result<(), ParseError> {
        let mut at = HEADER_LEN;
        while at < self.bytes.len() {
            // The message's length is a multiple of four, and so is every step: a header is always whole.
            let Some(&[t0, t1, l0, l1]) = self.bytes[at..].first_chunk() else {
                return Err(ParseError::AttributeOverrun);
            };
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            let next = at + ATTRIBUTE_HEADER_LEN + padded(len);
            if next > self.bytes.len() {
                return Err(ParseError::AttributeOverrun);
            }
            self.note(AttributeType(u16::from_be_bytes([t0, t1])), Mark { at, len });
            at = next;
        }
        Ok(())
    }

    /// The first of each counts, and only in the order integrity, integrity with SHA-256, fingerprint.
    fn note(&mut self, ty: AttributeType, mark: Mark) {
        let slot = match ty {
            _ if self.fingerprint.is_some() => return,
            AttributeType::FINGERPRINT => &mut self.fingerprint,
            AttributeType::MESSAGE_INTEGRITY_SHA256 => &mut self.integrity_sha256,
            AttributeType::MESSAGE_INTEGRITY if self.integrity_sha256.is_none() => &mut self.integrity,
            _ => return,
        };
        if slot.is_none() {
            *slot = Some(mark);
            self.visible_end = self.visible_end.min(mark.at);
        }
    }

    /// Request, indication, success or error.
    pub fn class(&self) -> Class {
        self.class
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.method
    }

    /// The transaction id.
    pub fn transaction_id(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        TransactionId(id)
    }

    /// The whole message.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes that may be acted upon, in order.
    pub fn attributes(&self) -> impl Iterator<Item = RawAttribute<'a>> + use<'a> {
        let mut rest = &self.bytes[HEADER_LEN..self.visible_end];
        core::iter::from_fn(move || {
            let (&[t0, t1, l0, l1], body) = rest.split_first_chunk()?;
            let len = usize::from(u16::from_be_bytes([l0, l1]));
            let value = body.get(..len)?;
            rest = body.get(padded(len)..)?;
            Some(RawAttribute { ty: AttributeType(u16::from_be_bytes([t0, t1])), value })
        })
    }

    /// The first attribute of type `A`, or `None` if there is none.
    pub fn get<A: Attribute<'a>>(&self) -> Result<Option<A>, AttributeError> {
        match self.attributes().find(|attribute| attribute.ty == A::TYPE) {
            Some(attribute) => attribute.decode(self.transaction_id()).map(Some),
            None => Ok(None),
        }
    }

    /// The first attribute of type `A`; its absence is as bad as its being malformed.
    pub fn require<A: Attribute<'a>>(&self) -> Result<A, AttributeError> {
        self.get()?.ok_or(AttributeError { attribute: A::TYPE })
    }

    /// All attributes of type `A`, in order, as XOR-PEER-ADDRESS may be repeated.
    pub fn get_all<A: Attribute<'a>>(&self) -> impl Iterator<Item = Result<A, AttributeError>> + use<'a, A> {
        let id = self.transaction_id();
        self.attributes()
            .filter(|attribute| attribute.ty == A::TYPE)
            .map(move |attribute| attribute.decode(id))
    }

    /// Whether an attribute of this type is among those that may be acted upon.
    pub fn has(&self, ty: AttributeType) -> bool {
        self.attributes().any(|attribute| attribute.ty == ty)
    }

    /// The comprehension-required attributes that are not in `known` (RFC 8489, section 6.3.1).
    pub fn unknown_attributes(&self, known: &[AttributeType]) -> UnknownAttributes {
        let mut unknown = UnknownAttributes::default();
        self.attributes()
            .map(|attribute| attribute.ty)
            .filter(|ty| ty.comprehension_required() && !known.contains(ty))
            .for_each(|ty| unknown.push(ty));
        unknown
    }

    /// The strongest integrity attribute that is there, if any.
    pub fn integrity_algorithm(&self) -> Option<IntegrityAlgorithm> {
        match (self.integrity_sha256, self.integrity) {
            (Some(_), _) => Some(IntegrityAlgorithm::Sha256),
            (None, Some(_)) => Some(IntegrityAlgorithm::Sha1),
            (None, None) => None,
        }
    }

    /// Verifies the strongest integrity attribute that is there, and says which it was.
    ///
    /// That is what a server does with a request: MESSAGE-INTEGRITY-SHA256 decides where it is there, and
    /// MESSAGE-INTEGRITY beside it is not looked at (RFC 8489, sections 9.1.3 and 9.2.4). It is also what a client does
    /// whose request bore both. After that, see [`Message::verify_integrity_as`].
    pub fn verify_integrity(&self, key: &IntegrityKey) -> Result<IntegrityAlgorithm, IntegrityError> {
        let algorithm = self.integrity_algorithm().ok_or(IntegrityError::Missing)?;
        self.verify_integrity_as(algorithm, key).map(|()| algorithm)
    }

    /// Verifies the integrity attribute of this algorithm; the other one's being there does not help.
    ///
    /// A client asks for the algorithm of its request, so that nobody between it and the server can talk them into the
    /// weaker one (RFC 8489, sections 9.1.4 and 9.2.5).
    pub fn verify_integrity_as(
        &self,
        algorithm: IntegrityAlgorithm,
        key: &IntegrityKey,
    ) -> Result<(), IntegrityError> {
        let mark = match algorithm {
            IntegrityAlgorithm::Sha256 => self.integrity_sha256,
            IntegrityAlgorithm::Sha1 => self.integrity,
        };
        let mark = mark.ok_or(IntegrityError::Missing)?;
        let header = self.header_up_to(mark);
        let parts = [&header[..], &self.bytes[HEADER_LEN..mark.at]];
        if key.verify(algorithm, parts, self.value(mark)) { Ok(()) } else { Err(IntegrityError::Mismatch) }
    }

    /// Checks the FINGERPRINT. `Ok(false)` if there is none.
    pub fn check_fingerprint(&self) -> Result<bool, FingerprintError> {
        let Some(mark) = self.fingerprint else { return Ok(false) };
        let expected = fingerprint(&[&self.header_up_to(mark), &self.bytes[HEADER_LEN..mark.at]]);
        if self.value(mark) == expected.to_be_bytes() { Ok(true) } else { Err(FingerprintError) }
    }

    fn value(&self, mark: Mark) -> &'a [u8] {
        let start = mark.at + ATTRIBUTE_HEADER_LEN;
        &self.bytes[start..start + mark.len]
    }

    /// The header with its length "adjusted to point to the end of" the attribute (RFC 8489, section 14.5).
    fn header_up_to(&self, mark: Mark) -> [u8; HEADER_LEN] {
        let mut header = [0; HEADER_LEN];
        header.copy_from_slice(&self.bytes[..HEADER_LEN]);
        let length = mark.at + ATTRIBUTE_HEADER_LEN + padded(mark.len) - HEADER_LEN;
        let [.., l0, l1] = length.to_be_bytes();
        header[2..4].copy_from_slice(&[l0, l1]);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Lifetime, MessageWriter, Nonce, Realm, Software, Username};
    use super::*;

    const ID: TransactionId = TransactionId([3; 12]);

    /// Writes a request, parses it and asks.
    fn with<T>(write: impl FnOnce(&mut MessageWriter<'_>), ask: impl FnOnce(&Message<'_>) -> T) -> T {
        let mut buffer = [0; 512];
        let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, ID).unwrap();
        write(&mut writer);
        ask(&Message::parse(writer.finish()).unwrap())
    }

    #[test]
    fn what_stands_after_the_integrity_is_not_shown() {
        let key = IntegrityKey::new(b"key");
        let write = |writer: &mut MessageWriter<'_>| {
            writer.attribute(&Username("before")).unwrap();
            writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap().attribute(&Realm("between")).unwrap();
            writer.integrity(IntegrityAlgorithm::Sha256, &key).unwrap().attribute(&Nonce("after")).unwrap();
            writer.fingerprint().unwrap().attribute(&Software("last")).unwrap();
            writer.raw(AttributeType(0x7FFF), &[]).unwrap();
        };
        with(write, |message| {
            assert!(message.attributes().map(|attribute| attribute.ty).eq([AttributeType::USERNAME]));
            assert!(message.unknown_attributes(&[AttributeType::USERNAME]).is_empty());
            assert_eq!(message.get::<Realm<'_>>(), Ok(None));
            assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha256));
            assert_eq!(message.verify_integrity_as(IntegrityAlgorithm::Sha1, &key), Ok(()));
            assert_eq!(message.check_fingerprint(), Ok(true));
        });
    }

    #[test]
    fn the_first_of_each_counts_and_none_out_of_order() {
        let (key, other) = (IntegrityKey::new(b"key"), IntegrityKey::new(b"other"));
        with(
            |writer| {
                writer.integrity(IntegrityAlgorithm::Sha256, &key).unwrap();
                writer.integrity(IntegrityAlgorithm::Sha1, &other).unwrap();
                writer.integrity(IntegrityAlgorithm::Sha256, &other).unwrap();
            },
            |message| {
                assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha256));
                assert_eq!(message.verify_integrity(&other), Err(IntegrityError::Mismatch));
                let sha1 = message.verify_integrity_as(IntegrityAlgorithm::Sha1, &other);
                assert_eq!(sha1, Err(IntegrityError::Missing), "MESSAGE-INTEGRITY stands before");
            },
        );
        with(
            |writer| {
                writer.fingerprint().unwrap().integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
            },
            |message| assert_eq!(message.integrity_algorithm(), None, "FINGERPRINT is the last"),
        );
    }

    #[test]
    fn the_weaker_integrity_does_not_stand_in_for_the_stronger() {
        let (key, other) = (IntegrityKey::new(b"key"), IntegrityKey::new(b"other"));
        with(
            |writer| {
                writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
                writer.integrity(IntegrityAlgorithm::Sha256, &other).unwrap();
            },
            |message| assert_eq!(message.verify_integrity(&key), Err(IntegrityError::Mismatch)),
        );
        with(
            |writer| {
                writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
            },
            |message| {
                let asked = message.verify_integrity_as(IntegrityAlgorithm::Sha256, &key);
                assert_eq!(asked, Err(IntegrityError::Missing));
            },
        );
    }

    #[test]
    fn every_prefix_and_every_longer_message_is_refused() {
        let mut bytes = [0; 64];
        let mut writer = MessageWriter::new(&mut bytes, Class::Request, Method::ALLOCATE, ID).unwrap();
        writer.attribute(&Software("abc")).unwrap().attribute(&Lifetime(7)).unwrap();
        let bytes = writer.finish();
        for end in 0..bytes.len() {
            let expected = if end < HEADER_LEN { ParseError::Truncated } else { ParseError::LengthMismatch };
            assert_eq!(Message::parse(&bytes[..end]).unwrap_err(), expected, "{end}");
        }
        let longer = [bytes, &[0]].concat();
        assert_eq!(Message::parse(&longer).unwrap_err(), ParseError::LengthMismatch);
        let mut overrun = bytes.to_vec();
        overrun[HEADER_LEN + 3] = 0xF0;
        assert_eq!(Message::parse(&overrun).unwrap_err(), ParseError::AttributeOverrun);
    }
}
