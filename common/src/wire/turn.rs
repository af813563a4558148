//! Attributes of TURN (RFC 8656, section 18; RFC 6062; RFC 8016).

use super::attribute::{
    Attribute, AttributeError, AttributeType, bytes_attribute, exact, flag_attribute, integer_attribute,
};
use super::channel_data::ChannelNumber;
use super::header::TransactionId;

/// Seconds for which an allocation lives (RFC 8656, section 18.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetime(pub u32);

/// Application data (RFC 8656, section 18.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Data<'a>(pub &'a [u8]);

/// Send with the DF bit set (RFC 8656, section 18.9).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DontFragment;

/// Names a relayed transport address that was set aside by EVEN-PORT (RFC 8656, section 18.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReservationToken(pub u64);

/// Names a TCP connection to a peer (RFC 6062, section 6.2.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// What an allocation can be moved to another five-tuple with (RFC 8016, section 3.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MobilityTicket<'a>(pub &'a [u8]);

integer_attribute!(Lifetime, u32, LIFETIME);
bytes_attribute!(Data, DATA);
flag_attribute!(DontFragment, DONT_FRAGMENT);
integer_attribute!(ReservationToken, u64, RESERVATION_TOKEN);
integer_attribute!(ConnectionId, u32, CONNECTION_ID);
bytes_attribute!(MobilityTicket, MOBILITY_TICKET);

/// An address family as TURN writes it (RFC 8656, section 18.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AddressFamily {
    /// 0x01
    Ipv4,
    /// 0x02
    Ipv6,
}

impl AddressFamily {
    /// The family of an address.
    pub const fn of(ip: core::net::IpAddr) -> AddressFamily {
        if ip.is_ipv4() { AddressFamily::Ipv4 } else { AddressFamily::Ipv6 }
    }

    const fn from_number(number: u8) -> Option<AddressFamily> {
        match number {
            1 => Some(AddressFamily::Ipv4),
            2 => Some(AddressFamily::Ipv6),
            _ => None,
        }
    }

    const fn number(self) -> u8 {
        match self {
            AddressFamily::Ipv4 => 1,
            AddressFamily::Ipv6 => 2,
        }
    }
}

macro_rules! family_attribute {
    ($(#[$doc:meta])* $name:ident, $ty:ident) => {
        $(#[$doc])*
        ///
        /// `None` is a family number that no RFC defines, to be answered with 440.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub Option<AddressFamily>);

        impl<'a> Attribute<'a> for $name {
            const TYPE: AttributeType = AttributeType::$ty;

            fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
                let [family, ..] = exact::<4>(value, Self::TYPE)?;
                Ok($name(AddressFamily::from_number(family)))
            }

            fn value_len(&self) -> usize {
                4
            }

            fn encode(&self, out: &mut [u8], _: TransactionId) {
                out.copy_from_slice(&[self.0.map_or(0, AddressFamily::number), 0, 0, 0]);
            }
        }
    };
}

family_attribute! {
    /// The family that the relayed transport address shall have (RFC 8656, section 18.6).
    RequestedAddressFamily, REQUESTED_ADDRESS_FAMILY
}
family_attribute! {
    /// The family of a second relayed transport address (RFC 8656, section 18.11).
    AdditionalAddressFamily, ADDITIONAL_ADDRESS_FAMILY
}
family_attribute! {
    /// The same under the number that it had before the RFC; only relays read it, for coturn's client.
    SsodaAdditionalAddressFamily, SSODA_ADDITIONAL_ADDRESS_FAMILY
}

/// Why one of two families was not allocated (RFC 8656, section 18.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressErrorCode {
    /// The family; `None` if its number is unknown.
    pub family: Option<AddressFamily>,
    /// The code, 300 to 699. Its phrase is not sent.
    pub code: u16,
}

impl<'a> Attribute<'a> for AddressErrorCode {
    const TYPE: AttributeType = AttributeType::ADDRESS_ERROR_CODE;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        match *value {
            [family, _, class, number, ..] if (3..=6).contains(&(class & 7)) && number <= 99 => {
                Ok(AddressErrorCode {
                    family: AddressFamily::from_number(family),
                    code: u16::from(class & 7) * 100 + u16::from(number),
                })
            }
            _ => Err(AttributeError { attribute: Self::TYPE }),
        }
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [_, class] = (self.code / 100).to_be_bytes();
        let [_, number] = (self.code % 100).to_be_bytes();
        out.copy_from_slice(&[self.family.map_or(0, AddressFamily::number), 0, class, number]);
    }
}

/// Asks for an even port, and with `reserve` to set the next one aside (RFC 8656, section 18.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvenPort {
    /// The R bit.
    pub reserve: bool,
}

impl<'a> Attribute<'a> for EvenPort {
    const TYPE: AttributeType = AttributeType::EVEN_PORT;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [flags] = exact(value, Self::TYPE)?;
        Ok(EvenPort { reserve: flags & 0x80 != 0 })
    }

    fn value_len(&self) -> usize {
        1
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out[0] = u8::from(self.reserve) << 7;
    }
}

/// What carries the packets between server and peer: an IP protocol number (RFC 8656, section 18.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestedTransport(pub u8);

impl RequestedTransport {
    /// UDP's protocol number.
    pub const UDP: RequestedTransport = RequestedTransport(17);
    /// TCP's protocol number (RFC 6062, section 4.1).
    pub const TCP: RequestedTransport = RequestedTransport(6);
}

impl<'a> Attribute<'a> for RequestedTransport {
    const TYPE: AttributeType = AttributeType::REQUESTED_TRANSPORT;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [protocol, ..] = exact::<4>(value, Self::TYPE)?;
        Ok(RequestedTransport(protocol))
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out.copy_from_slice(&[self.0, 0, 0, 0]);
    }
}

/// CHANNEL-NUMBER; only relays read it. One that they do not let bind is answered with 400 (RFC 8656, section 18.1).
impl<'a> Attribute<'a> for ChannelNumber {
    const TYPE: AttributeType = AttributeType::CHANNEL_NUMBER;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [a, b, _, _] = exact::<4>(value, Self::TYPE)?;
        ChannelNumber::at_relay(u16::from_be_bytes([a, b])).ok_or(AttributeError { attribute: Self::TYPE })
    }

    fn value_len(&self) -> usize {
        4
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        let [a, b] = self.get().to_be_bytes();
        out.copy_from_slice(&[a, b, 0, 0]);
    }
}

/// An ICMP error that a packet to a peer drew (RFC 8656, section 18.13).
///
/// Type and code are a byte each, after two reserved ones. The RFC's figure is drawn with 7 bits for the type and 9 for
/// the code, but names the fields of ICMP, which have 8 bits each (RFC 792; RFC 4443, section 2.1); types of ICMPv6 from
/// 128 on would not fit, no code needs nine, no erratum says that it was meant, and turn-proto writes bytes too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// ICMP type.
    pub ty: u8,
    /// ICMP code.
    pub code: u8,
    /// The MTU for "packet too big", else zero.
    pub data: u32,
}

impl<'a> Attribute<'a> for Icmp {
    const TYPE: AttributeType = AttributeType::ICMP;

    fn decode(value: &'a [u8], _: TransactionId) -> Result<Self, AttributeError> {
        let [_, _, ty, code, data @ ..] = exact::<8>(value, Self::TYPE)?;
        Ok(Icmp { ty, code, data: u32::from_be_bytes(data) })
    }

    fn value_len(&self) -> usize {
        8
    }

    fn encode(&self, out: &mut [u8], _: TransactionId) {
        out[..4].copy_from_slice(&[0, 0, self.ty, self.code]);
        out[4..].copy_from_slice(&self.data.to_be_bytes());
    }
}
