//! A checked view of a STUN message (RFC 8489, section 5).

use core::num::NonZeroUsize;

use super::attribute::{Attribute, AttributeError, AttributeType, RawAttribute};
use super::error_code::UnknownAttributes;
use super::fingerprint::fingerprint;
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, class_and_method};
use super::integrity::{IntegrityAlgorithm, IntegrityError, IntegrityKey};
use super::padded;

/// A STUN message that borrows from its datagram.
///
/// [`Message::parse`] checks the framing of header and attributes once, so nothing after it can fail on a length.
/// What stands after the integrity attributes and FINGERPRINT is not shown, as RFC 8489, section 14.5, asks.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    bytes: &'a [u8],
    header: &'a [u8; HEADER_LEN],
    ending: Ending,
}

/// Where the attributes stand that end a message: the offsets of their headers, which rise in this order.
#[derive(Clone, Copy, Debug, Default)]
struct Ending {
    integrity: Option<NonZeroUsize>,
    integrity_sha256: Option<NonZeroUsize>,
    fingerprint: Option<NonZeroUsize>,
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
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let header = bytes.first_chunk::<HEADER_LEN>().ok_or(ParseError::Truncated)?;
        let [t0, _, l0, l1, c0, c1, c2, c3, ..] = *header;
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
        Ok(Message { bytes, header, ending: Ending::find(bytes)? })
    }

    /// Request, indication, success or error.
    #[inline]
    pub fn class(&self) -> Class {
        class_and_method(self.message_type()).0
    }

    /// The method.
    #[inline]
    pub fn method(&self) -> Method {
        class_and_method(self.message_type()).1
    }

    fn message_type(&self) -> u16 {
        let [t0, t1, ..] = *self.header;
        u16::from_be_bytes([t0, t1])
    }

    /// The transaction id.
    #[inline]
    pub fn transaction_id(&self) -> TransactionId {
        let [_, _, _, _, _, _, _, _, id @ ..] = *self.header;
        TransactionId(id)
    }

    /// The whole message.
    pub fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// The attributes that may be acted upon, in order.
    #[inline]
    pub fn attributes(&self) -> impl Iterator<Item = RawAttribute<'a>> + use<'a> {
        let end = self.ending.start().map_or(self.bytes.len(), NonZeroUsize::get);
        let mut rest = &self.bytes[HEADER_LEN..end];
        core::iter::from_fn(move || {
            let (attribute, after) = split(rest)?;
            rest = after;
            Some(attribute)
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
        match (self.ending.integrity_sha256, self.ending.integrity) {
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
        let at = match algorithm {
            IntegrityAlgorithm::Sha256 => self.ending.integrity_sha256,
            IntegrityAlgorithm::Sha1 => self.ending.integrity,
        };
        let (header, attributes, received) = self.up_to(at).ok_or(IntegrityError::Missing)?;
        if key.verify(algorithm, [&header, attributes], received) {
            Ok(())
        } else {
            Err(IntegrityError::Mismatch)
        }
    }

    /// Checks the FINGERPRINT. `Ok(false)` if there is none.
    pub fn check_fingerprint(&self) -> Result<bool, FingerprintError> {
        let Some((header, attributes, received)) = self.up_to(self.ending.fingerprint) else {
            return Ok(false);
        };
        let expected = fingerprint(&[&header, attributes]);
        if received == expected.to_be_bytes() { Ok(true) } else { Err(FingerprintError) }
    }

    /// What an attribute of the ending protects, and its value: the header with its length "adjusted to point to the
    /// end of" the attribute (RFC 8489, section 14.5), and the attributes before it.
    fn up_to(&self, at: Option<NonZeroUsize>) -> Option<([u8; HEADER_LEN], &'a [u8], &'a [u8])> {
        let (before, rest) = self.bytes.split_at_checked(at?.get())?;
        let (attribute, after) = split(rest)?;
        let mut header = *self.header;
        let [.., l0, l1] = (self.bytes.len() - after.len() - HEADER_LEN).to_be_bytes();
        header[2..4].copy_from_slice(&[l0, l1]);
        Some((header, &before[HEADER_LEN..], attribute.value))
    }
}

impl Ending {
    /// Checks the length of every attribute of a message on the way.
    #[inline]
    fn find(message: &[u8]) -> Result<Ending, ParseError> {
        let mut ending = Ending::default();
        let mut rest = &message[HEADER_LEN..];
        // The message's length is a multiple of four, and so is every step: a header is always whole.
        while !rest.is_empty() {
            let (attribute, after) = split(rest).ok_or(ParseError::AttributeOverrun)?;
            ending.note(attribute.ty, message.len() - rest.len());
            rest = after;
        }
        Ok(ending)
    }

    /// The first of each counts, and only in the order integrity, integrity with SHA-256, fingerprint.
    fn note(&mut self, ty: AttributeType, at: usize) {
        let place = match ty {
            AttributeType::FINGERPRINT => &mut self.fingerprint,
            AttributeType::MESSAGE_INTEGRITY_SHA256 if self.fingerprint.is_none() => {
                &mut self.integrity_sha256
            }
            AttributeType::MESSAGE_INTEGRITY if self.integrity_sha256.or(self.fingerprint).is_none() => {
                &mut self.integrity
            }
            _ => return,
        };
        *place = place.or(NonZeroUsize::new(at));
    }

    /// Where the attributes end that may be acted upon.
    fn start(&self) -> Option<NonZeroUsize> {
        self.integrity.or(self.integrity_sha256).or(self.fingerprint)
    }
}

/// The first of some attributes, and those after it; `None` if it is cut off.
#[inline]
fn split(attributes: &[u8]) -> Option<(RawAttribute<'_>, &[u8])> {
    let (&[t0, t1, l0, l1], body) = attributes.split_first_chunk()?;
    let len = usize::from(u16::from_be_bytes([l0, l1]));
    let attribute = RawAttribute { ty: AttributeType(u16::from_be_bytes([t0, t1])), value: body.get(..len)? };
    Some((attribute, body.get(padded(len)..)?))
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
