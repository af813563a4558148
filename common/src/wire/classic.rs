//! Requests of RFC 3489, which have no magic cookie: 16 bytes of transaction id where RFC 8489 has cookie and 12.
//!
//! They are apart from [`Message`](super::Message), which refuses them: without the cookie nothing tells such a request
//! from another protocol's bytes, so only a server that expects them should look, and ICE never does.

use core::net::SocketAddr;

use super::address::MappedAddress;
use super::attribute::{Attribute, AttributeError, AttributeType, RawAttribute};
use super::error_code::{ErrorCode, UnknownAttributes};
use super::header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId, message_type};
use super::message::ParseError;
use super::writer::{BufferTooSmall, MessageWriter};

/// A Binding request of RFC 3489 (section 11.1), borrowed from its datagram.
///
/// ```
/// use thirl_common::wire::ClassicRequest;
///
/// let request = ClassicRequest::parse(b"\x00\x01\x00\x00sixteen bytes id")?;
/// let mut out = [0; 32];
/// let response = request.success("192.0.2.1:3478".parse().unwrap(), &mut out)?;
/// assert_eq!(&response[..20], b"\x01\x01\x00\x0csixteen bytes id");
/// assert_eq!(&response[20..], [0, 1, 0, 8, 0, 1, 0x0d, 0x96, 192, 0, 2, 1]);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct ClassicRequest<'a> {
    bytes: &'a [u8],
}

impl<'a> ClassicRequest<'a> {
    /// Reads a whole datagram. A request with the magic cookie is none of these, and neither is any other method.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, ParseError> {
        let Some(&[t0, t1, l0, l1, cookie @ ..]) = bytes.first_chunk::<8>() else {
            return Err(ParseError::Truncated);
        };
        let binding = message_type(Class::Request, Method::BINDING);
        if u16::from_be_bytes([t0, t1]) != binding || cookie == MAGIC_COOKIE.to_be_bytes() {
            return Err(ParseError::NotStun);
        }
        let length = usize::from(u16::from_be_bytes([l0, l1]));
        if !length.is_multiple_of(4) || bytes.len() != HEADER_LEN + length {
            return Err(ParseError::LengthMismatch);
        }
        let mut rest = &bytes[HEADER_LEN..];
        while !rest.is_empty() {
            (_, rest) = split(rest).ok_or(ParseError::AttributeOverrun)?;
        }
        Ok(ClassicRequest { bytes })
    }

    /// All 128 bits of the transaction id (RFC 3489, section 11.1).
    pub fn transaction_id(&self) -> [u8; 16] {
        let mut id = [0; 16];
        id.copy_from_slice(&self.bytes[4..HEADER_LEN]);
        id
    }

    /// The attributes in order. RFC 3489 knows no padding, as all its lengths are multiples of four.
    pub fn attributes(&self) -> impl Iterator<Item = RawAttribute<'a>> + use<'a> {
        let mut rest = &self.bytes[HEADER_LEN..];
        core::iter::from_fn(move || {
            let (attribute, after) = split(rest)?;
            rest = after;
            Some(attribute)
        })
    }

    /// The first attribute of type `A`, one that holds no XOR-ed address, or `None` if there is none.
    pub fn get<A: Attribute<'a>>(&self) -> Result<Option<A>, AttributeError> {
        let attribute = self.attributes().find(|attribute| attribute.ty == A::TYPE);
        attribute.map(|attribute| attribute.decode(self.id())).transpose()
    }

    /// The mandatory attributes that are not in `known` (RFC 3489, section 11.2).
    pub fn unknown_attributes(&self, known: &[AttributeType]) -> UnknownAttributes {
        let mut unknown = UnknownAttributes::default();
        self.attributes()
            .map(|attribute| attribute.ty)
            .filter(|ty| ty.comprehension_required() && !known.contains(ty))
            .for_each(|ty| unknown.push(ty));
        unknown
    }

    /// A Binding success with MAPPED-ADDRESS, in `out`: 32 bytes for an IPv4 client (RFC 5389, section 12.2).
    pub fn success<'b>(&self, mapped: SocketAddr, out: &'b mut [u8]) -> Result<&'b [u8], BufferTooSmall> {
        self.write(Class::Success, out, |writer| writer.attribute(&MappedAddress(mapped)).map(drop))
    }

    /// A 420 that names `unknown`, in `out`. An odd one is named twice: "one of the attributes MUST be repeated"
    /// (RFC 3489, section 11.2.10).
    pub fn refusal<'b>(
        &self,
        unknown: &UnknownAttributes,
        out: &'b mut [u8],
    ) -> Result<&'b [u8], BufferTooSmall> {
        let mut types = [[0; 2]; UnknownAttributes::MAX];
        let mut count = 0;
        for (out, ty) in types.iter_mut().zip(unknown.iter()) {
            *out = ty.0.to_be_bytes();
            count += 1;
        }
        if count % 2 == 1 && count < types.len() {
            types[count] = types[count - 1];
            count += 1;
        }
        self.write(Class::Error, out, |writer| {
            writer.attribute(&ErrorCode::UNKNOWN_ATTRIBUTE.bare())?;
            writer.raw(AttributeType::UNKNOWN_ATTRIBUTES, types[..count].as_flattened()).map(drop)
        })
    }

    /// A Binding response that bears the request's whole id.
    fn write<'b>(
        &self,
        class: Class,
        out: &'b mut [u8],
        write: impl FnOnce(&mut MessageWriter<'b>) -> Result<(), BufferTooSmall>,
    ) -> Result<&'b [u8], BufferTooSmall> {
        let mut writer = MessageWriter::new(out, class, Method::BINDING, self.id())?;
        let [_, _, _, _, i0, i1, i2, i3, ..] = *self.bytes else { return Err(BufferTooSmall) };
        writer.replace_cookie([i0, i1, i2, i3]);
        write(&mut writer)?;
        Ok(writer.finish())
    }

    /// The last 96 bits of the id, where RFC 8489 has the whole of it.
    fn id(&self) -> TransactionId {
        let mut id = [0; 12];
        id.copy_from_slice(&self.bytes[8..HEADER_LEN]);
        TransactionId(id)
    }
}

/// The first attribute, and what follows it.
fn split(bytes: &[u8]) -> Option<(RawAttribute<'_>, &[u8])> {
    let (&[t0, t1, l0, l1], rest) = bytes.split_first_chunk()?;
    let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes([l0, l1])))?;
    Some((RawAttribute { ty: AttributeType(u16::from_be_bytes([t0, t1])), value }, rest))
}

#[cfg(test)]
mod tests {
    use super::super::ChangeRequest;
    use super::*;

    /// What Vovida's client sends: CHANGE-REQUEST with no flag set.
    const REQUEST: &[u8] = b"\x00\x01\x00\x08sixteen bytes id\x00\x03\x00\x04\x00\x00\x00\x00";

    #[test]
    fn a_classic_request_is_no_message_and_a_message_no_classic_request() {
        assert_eq!(super::super::Message::parse(REQUEST).unwrap_err(), ParseError::NoMagicCookie);
        let request = ClassicRequest::parse(REQUEST).unwrap();
        assert_eq!(&request.transaction_id(), b"sixteen bytes id");
        assert_eq!(request.get::<ChangeRequest>(), Ok(Some(ChangeRequest::default())));
        let mut modern = [0; 20];
        MessageWriter::new(&mut modern, Class::Request, Method::BINDING, TransactionId([1; 12])).unwrap();
        assert_eq!(ClassicRequest::parse(&modern).unwrap_err(), ParseError::NotStun);
    }

    #[test]
    fn what_is_cut_or_of_another_type_is_refused() {
        for end in 0..REQUEST.len() {
            assert!(ClassicRequest::parse(&REQUEST[..end]).is_err(), "{end}");
        }
        let overrun = b"\x00\x01\x00\x08sixteen bytes id\x00\x03\x00\x08\x00\x00\x00\x00";
        assert_eq!(ClassicRequest::parse(overrun).unwrap_err(), ParseError::AttributeOverrun);
        // Shared Secret requests (RFC 3489, section 9.3) belong to TLS and are not served.
        assert!(ClassicRequest::parse(b"\x00\x02\x00\x00sixteen bytes id").is_err());
    }

    #[test]
    fn a_refusal_names_an_odd_attribute_twice() {
        let request = ClassicRequest::parse(REQUEST).unwrap();
        let unknown = request.unknown_attributes(&[]);
        let mut out = [0; 64];
        let response = request.refusal(&unknown, &mut out).unwrap();
        assert_eq!(
            response,
            b"\x01\x11\x00\x10sixteen bytes id\x00\x09\x00\x04\x00\x00\x04\x14\x00\x0a\x00\x04\x00\x03\x00\x03"
        );
        assert!(request.unknown_attributes(&[AttributeType::CHANGE_REQUEST]).is_empty());
        assert_eq!(request.refusal(&unknown, &mut [0; 35]), Err(BufferTooSmall));
    }
}
