//! Attributes that measure: NAT behaviour discovery (RFC 5780, section 7) and round trips (RFC 7982).

use super::attribute::{Attribute, AttributeError, AttributeType, bytes_attribute, exact, integer_attribute};
use super::header::TransactionId;

/// Asks for the response from another address (RFC 5780, section 7.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeRequest {
    /// From the other IP address.
    pub ip: bool,
    /// From the other port.
    pub port: bool,
}

impl<'a> Attribute<'a> for ChangeRequest {
    const TYPE: AttributeType = AttributeType::CHANGE_REQUEST;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let flags = u32::from_be_bytes(exact(value, Self::TYPE)?);
        Ok(ChangeRequest { ip: flags & 0x4 != 0, port: flags & 0x2 != 0 })
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&[0, 0, 0, u8::from(self.ip) << 2 | u8::from(self.port) << 1]);
    }
}

/// Asks for the response to another port of the requester (RFC 5780, section 7.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponsePort(pub u16);

impl<'a> Attribute<'a> for ResponsePort {
    const TYPE: AttributeType = AttributeType::RESPONSE_PORT;

    /// Takes 2 and 4 bytes: stuntman writes the one, coturn the other.
    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        match *value {
            [a, b] | [a, b, _, _] => Ok(ResponsePort(u16::from_be_bytes([a, b]))),
            _ => Err(AttributeError { attribute: Self::TYPE }),
        }
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [a, b] = self.0.to_be_bytes();
        out.copy_from_slice(&[a, b, 0, 0]);
    }
}

/// Makes a message large enough to be fragmented (RFC 5780, section 7.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Padding<'a>(pub &'a [u8]);

bytes_attribute!(Padding, PADDING);

/// Seconds for which the server is to remember the request's source (RFC 5780, section 9.1, and its drafts).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheTimeout(pub u32);

integer_attribute!(CacheTimeout, u32, CACHE_TIMEOUT);

/// Which transmission of a request this is, and which of the response: so that a round trip can be measured although
/// the request was sent again (RFC 7982, section 3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TransactionTransmitCounter {
    /// Transmissions of the request so far; the server sends back what it got.
    pub request: u8,
    /// Transmissions of the response so far; zero in a request.
    pub response: u8,
}

impl<'a> Attribute<'a> for TransactionTransmitCounter {
    const TYPE: AttributeType = AttributeType::TRANSACTION_TRANSMIT_COUNTER;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [_, _, request, response] = exact(value, Self::TYPE)?;
        Ok(TransactionTransmitCounter { request, response })
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&[0, 0, self.request, self.response]);
    }
}
