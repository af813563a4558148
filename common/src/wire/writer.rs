//! Writes a STUN message into a caller's buffer (RFC 8489, section 5).

use super::attribute::{Attribute, AttributeType};
use super::fingerprint::fingerprint;
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, message_type};
use super::integrity::{IntegrityAlgorithm, IntegrityKey};
use super::padded;

/// The caller's buffer is smaller than the message, or the message larger than its 16-bit length lets it be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the STUN message does not fit its buffer")]
pub struct BufferTooSmall;

/// A message being written. The header's length is true after every call, so the message is whole at any time.
#[derive(Debug)]
pub struct MessageWriter<'b> {
    buffer: &'b mut [u8],
    len: usize,
    id: TransactionId,
}

impl<'b> MessageWriter<'b> {
    /// Starts a message at the front of `buffer`.
    pub fn new(
        buffer: &'b mut [u8],
        class: Class,
        method: Method,
        id: TransactionId,
    ) -> Result<Self, BufferTooSmall> {
        let header = buffer.first_chunk_mut::<HEADER_LEN>().ok_or(BufferTooSmall)?;
        header[..2].copy_from_slice(&message_type(class, method).to_be_bytes());
        header[2..4].copy_from_slice(&[0, 0]);
        header[4..8].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
        header[8..].copy_from_slice(&id.0);
        Ok(MessageWriter { buffer, len: HEADER_LEN, id })
    }

    /// Appends an attribute.
    pub fn attribute<'a, A: Attribute<'a>>(&mut self, attribute: &A) -> Result<&mut Self, BufferTooSmall> {
        let id = self.id;
        let value = self.reserve(A::TYPE, attribute.value_len())?;
        attribute.encode(value, id);
        Ok(self)
    }

    /// Appends an attribute of a type that this crate does not know.
    pub fn raw(&mut self, ty: AttributeType, value: &[u8]) -> Result<&mut Self, BufferTooSmall> {
        self.reserve(ty, value.len())?.copy_from_slice(value);
        Ok(self)
    }

    /// Appends MESSAGE-INTEGRITY or MESSAGE-INTEGRITY-SHA256 over what stands so far.
    pub fn integrity(
        &mut self,
        algorithm: IntegrityAlgorithm,
        key: &IntegrityKey,
    ) -> Result<&mut Self, BufferTooSmall> {
        let at = self.len;
        match algorithm {
            IntegrityAlgorithm::Sha1 => {
                self.reserve(AttributeType::MESSAGE_INTEGRITY, 20)?;
                let (before, value) = self.buffer.split_at_mut(at);
                value[4..24].copy_from_slice(&key.sha1([before, &[]]));
            }
            IntegrityAlgorithm::Sha256 => {
                self.reserve(AttributeType::MESSAGE_INTEGRITY_SHA256, 32)?;
                let (before, value) = self.buffer.split_at_mut(at);
                value[4..36].copy_from_slice(&key.sha256([before, &[]]));
            }
        }
        Ok(self)
    }

    /// Appends MESSAGE-INTEGRITY-SHA256 cut to `len` bytes, taken to the next multiple of four from 16 to 32
    /// (RFC 8489, section 14.6). Only for a usage that says so: neither TURN nor ICE does.
    pub fn truncated_integrity_sha256(
        &mut self,
        key: &IntegrityKey,
        len: usize,
    ) -> Result<&mut Self, BufferTooSmall> {
        let len = padded(len.clamp(16, 32));
        let at = self.len;
        self.reserve(AttributeType::MESSAGE_INTEGRITY_SHA256, len)?;
        let (before, value) = self.buffer.split_at_mut(at);
        value[4..4 + len].copy_from_slice(&key.sha256([before, &[]])[..len]);
        Ok(self)
    }

    /// Appends FINGERPRINT, which must be the last.
    pub fn fingerprint(&mut self) -> Result<&mut Self, BufferTooSmall> {
        let at = self.len;
        self.reserve(AttributeType::FINGERPRINT, 4)?;
        let (before, value) = self.buffer.split_at_mut(at);
        value[4..8].copy_from_slice(&fingerprint(&[before]).to_be_bytes());
        Ok(self)
    }

    /// Length of the message so far, in bytes.
    #[expect(clippy::len_without_is_empty, reason = "a message is never empty: it has a header")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The finished message: the front of the buffer.
    pub fn finish(self) -> &'b [u8] {
        let MessageWriter { buffer, len, .. } = self;
        &buffer[..len]
    }

    /// For a response to a request of RFC 3489, which has four bytes of transaction id there.
    pub(super) fn replace_cookie(&mut self, id: [u8; 4]) {
        self.buffer[4..8].copy_from_slice(&id);
    }

    /// Writes an attribute's header and padding, adjusts the message's length, and returns the value's place.
    fn reserve(&mut self, ty: AttributeType, value_len: usize) -> Result<&mut [u8], BufferTooSmall> {
        let start = self.len + 4;
        let end = start.checked_add(padded(value_len)).ok_or(BufferTooSmall)?;
        let length = u16::try_from(end - HEADER_LEN).map_err(|_| BufferTooSmall)?;
        let attribute = self.buffer.get_mut(self.len..end).ok_or(BufferTooSmall)?;
        let [.., l0, l1] = value_len.to_be_bytes();
        attribute[..2].copy_from_slice(&ty.0.to_be_bytes());
        attribute[2..4].copy_from_slice(&[l0, l1]);
        attribute[4 + value_len..].fill(0);
        self.buffer[2..4].copy_from_slice(&length.to_be_bytes());
        self.len = end;
        Ok(&mut self.buffer[start..start + value_len])
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Message, Software, Username, XorMappedAddress};
    use super::*;

    #[test]
    fn fails_at_every_length_that_is_too_short() {
        let id = TransactionId([1; 12]);
        let key = IntegrityKey::new(b"secret");
        let write = |buffer: &mut [u8]| -> Result<usize, BufferTooSmall> {
            let mut writer = MessageWriter::new(buffer, Class::Request, Method::BINDING, id)?;
            writer.attribute(&Username("someone"))?.attribute(&Software("x"))?;
            writer.integrity(IntegrityAlgorithm::Sha1, &key)?.integrity(IntegrityAlgorithm::Sha256, &key)?;
            writer.fingerprint()?;
            Ok(writer.len())
        };
        let mut buffer = [0xFF; 256];
        let len = write(&mut buffer).unwrap();
        for short in 0..len {
            assert_eq!(write(&mut buffer[..short]), Err(BufferTooSmall));
        }
        write(&mut buffer[..len]).unwrap();
        let message = Message::parse(&buffer[..len]).unwrap();
        assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha256));
        assert_eq!(message.check_fingerprint(), Ok(true));
        assert_eq!(message.require::<Username<'_>>().unwrap().0, "someone");
        assert_eq!(message.get::<XorMappedAddress>(), Ok(None));
    }

    #[test]
    fn a_truncated_integrity_holds_from_16_bytes_on() {
        let key = IntegrityKey::new(b"secret");
        for (asked, got) in [(0, 16), (16, 16), (17, 20), (28, 28), (32, 32), (99, 32)] {
            let mut buffer = [0; 64];
            let id = TransactionId([1; 12]);
            let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap();
            writer.truncated_integrity_sha256(&key, asked).unwrap();
            let bytes = writer.finish();
            assert_eq!(bytes.len(), HEADER_LEN + 4 + got);
            let message = Message::parse(bytes).unwrap();
            assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha256));
            assert!(message.verify_integrity(&IntegrityKey::new(b"other")).is_err());
        }
        let mut buffer = [0; 64];
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([1; 12])).unwrap();
        writer.raw(AttributeType::MESSAGE_INTEGRITY_SHA256, &[0; 12]).unwrap();
        assert!(Message::parse(writer.finish()).unwrap().verify_integrity(&key).is_err());
    }

    #[test]
    fn a_value_beyond_the_length_field_is_refused() {
        let mut buffer = vec![0; 70_000];
        let mut writer =
            MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, TransactionId([0; 12])).unwrap();
        assert!(writer.raw(AttributeType::DATA, &vec![0; 65_536]).is_err());
        assert!(writer.raw(AttributeType::DATA, &vec![0; 65_528]).is_ok());
    }
}
