//! What every attribute has in common: a type, a value, a place in a message (RFC 8489, section 14).

use core::fmt;

use super::header::TransactionId;

/// The 16-bit attribute type. Below 0x8000 it is comprehension-required (RFC 8489, section 14).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AttributeType(pub u16);

macro_rules! attribute_types {
    ($($(#[$doc:meta])* $constant:ident = $number:literal, $name:literal;)*) => {
        impl AttributeType {
            $($(#[$doc])* pub const $constant: AttributeType = AttributeType($number);)*

            /// The name in the IANA registry, if this crate knows it.
            pub const fn name(self) -> Option<&'static str> {
                match self.0 {
                    $($number => Some($name),)*
                    _ => None,
                }
            }
        }
    };
}

attribute_types! {
    /// RFC 8489, section 14.1.
    MAPPED_ADDRESS = 0x0001, "MAPPED-ADDRESS";
    /// RFC 3489, section 11.2.2: where to send the response. It invites reflection and is never followed.
    RESPONSE_ADDRESS = 0x0002, "RESPONSE-ADDRESS";
    /// RFC 5780, section 7.2.
    CHANGE_REQUEST = 0x0003, "CHANGE-REQUEST";
    /// RFC 3489, section 11.2.5.
    SOURCE_ADDRESS = 0x0004, "SOURCE-ADDRESS";
    /// RFC 3489, section 11.2.3.
    CHANGED_ADDRESS = 0x0005, "CHANGED-ADDRESS";
    /// RFC 8489, section 14.3.
    USERNAME = 0x0006, "USERNAME";
    /// RFC 8489, section 14.5.
    MESSAGE_INTEGRITY = 0x0008, "MESSAGE-INTEGRITY";
    /// RFC 8489, section 14.8.
    ERROR_CODE = 0x0009, "ERROR-CODE";
    /// RFC 8489, section 14.13.
    UNKNOWN_ATTRIBUTES = 0x000A, "UNKNOWN-ATTRIBUTES";
    /// RFC 3489, section 11.2.11.
    REFLECTED_FROM = 0x000B, "REFLECTED-FROM";
    /// RFC 8656, section 18.1.
    CHANNEL_NUMBER = 0x000C, "CHANNEL-NUMBER";
    /// RFC 8656, section 18.2.
    LIFETIME = 0x000D, "LIFETIME";
    /// RFC 8656, section 18.3.
    XOR_PEER_ADDRESS = 0x0012, "XOR-PEER-ADDRESS";
    /// RFC 8656, section 18.4.
    DATA = 0x0013, "DATA";
    /// RFC 8489, section 14.9.
    REALM = 0x0014, "REALM";
    /// RFC 8489, section 14.10.
    NONCE = 0x0015, "NONCE";
    /// RFC 8656, section 18.5.
    XOR_RELAYED_ADDRESS = 0x0016, "XOR-RELAYED-ADDRESS";
    /// RFC 8656, section 18.6.
    REQUESTED_ADDRESS_FAMILY = 0x0017, "REQUESTED-ADDRESS-FAMILY";
    /// RFC 8656, section 18.7.
    EVEN_PORT = 0x0018, "EVEN-PORT";
    /// RFC 8656, section 18.8.
    REQUESTED_TRANSPORT = 0x0019, "REQUESTED-TRANSPORT";
    /// RFC 8656, section 18.9.
    DONT_FRAGMENT = 0x001A, "DONT-FRAGMENT";
    /// RFC 7635, section 6.2.
    ACCESS_TOKEN = 0x001B, "ACCESS-TOKEN";
    /// RFC 8489, section 14.6.
    MESSAGE_INTEGRITY_SHA256 = 0x001C, "MESSAGE-INTEGRITY-SHA256";
    /// RFC 8489, section 14.12.
    PASSWORD_ALGORITHM = 0x001D, "PASSWORD-ALGORITHM";
    /// RFC 8489, section 14.4.
    USERHASH = 0x001E, "USERHASH";
    /// RFC 8489, section 14.2.
    XOR_MAPPED_ADDRESS = 0x0020, "XOR-MAPPED-ADDRESS";
    /// RFC 8656, section 18.10.
    RESERVATION_TOKEN = 0x0022, "RESERVATION-TOKEN";
    /// RFC 8445, section 7.1.1.
    PRIORITY = 0x0024, "PRIORITY";
    /// RFC 8445, section 7.1.2.
    USE_CANDIDATE = 0x0025, "USE-CANDIDATE";
    /// RFC 5780, section 7.6.
    PADDING = 0x0026, "PADDING";
    /// RFC 5780, section 7.5.
    RESPONSE_PORT = 0x0027, "RESPONSE-PORT";
    /// RFC 6062, section 6.2.1.
    CONNECTION_ID = 0x002A, "CONNECTION-ID";
    /// RFC 8656, section 18.11.
    ADDITIONAL_ADDRESS_FAMILY = 0x8000, "ADDITIONAL-ADDRESS-FAMILY";
    /// RFC 8656, section 18.12.
    ADDRESS_ERROR_CODE = 0x8001, "ADDRESS-ERROR-CODE";
    /// RFC 8489, section 14.11.
    PASSWORD_ALGORITHMS = 0x8002, "PASSWORD-ALGORITHMS";
    /// RFC 8489, section 14.16.
    ALTERNATE_DOMAIN = 0x8003, "ALTERNATE-DOMAIN";
    /// RFC 8656, section 18.13.
    ICMP = 0x8004, "ICMP";
    /// RFC 8489, section 14.14.
    SOFTWARE = 0x8022, "SOFTWARE";
    /// RFC 8489, section 14.15.
    ALTERNATE_SERVER = 0x8023, "ALTERNATE-SERVER";
    /// RFC 7982, section 3.1.
    TRANSACTION_TRANSMIT_COUNTER = 0x8025, "TRANSACTION_TRANSMIT_COUNTER";
    /// RFC 5780, section 9.1: registered there, described only in its drafts.
    CACHE_TIMEOUT = 0x8027, "CACHE-TIMEOUT";
    /// RFC 8489, section 14.7.
    FINGERPRINT = 0x8028, "FINGERPRINT";
    /// RFC 8445, section 7.1.3.
    ICE_CONTROLLED = 0x8029, "ICE-CONTROLLED";
    /// RFC 8445, section 7.1.3.
    ICE_CONTROLLING = 0x802A, "ICE-CONTROLLING";
    /// RFC 5780, section 7.3.
    RESPONSE_ORIGIN = 0x802B, "RESPONSE-ORIGIN";
    /// RFC 5780, section 7.4.
    OTHER_ADDRESS = 0x802C, "OTHER-ADDRESS";
    /// RFC 6679, section 7.2.2.
    ECN_CHECK = 0x802D, "ECN-CHECK STUN";
    /// RFC 7635, section 6.1.
    THIRD_PARTY_AUTHORIZATION = 0x802E, "THIRD-PARTY-AUTHORIZATION";
    /// draft-ietf-tram-stun-origin, section 5; registered, though the draft has expired.
    ORIGIN = 0x802F, "ORIGIN";
    /// RFC 8016, section 3.5.
    MOBILITY_TICKET = 0x8030, "MOBILITY-TICKET";
    /// ADDITIONAL-ADDRESS-FAMILY before RFC 8656, in draft-martinsen-tram-ssoda and coturn's client to this day.
    SSODA_ADDITIONAL_ADDRESS_FAMILY = 0x8032, "ADDITIONAL-ADDRESS-FAMILY (draft)";
    /// draft-thatcher-ice-renomination, section 4.
    NOMINATION = 0xC001, "NOMINATION";
    /// Thirl's, not registered.
    NAT_MAPPING = 0xC7A1, "NAT-MAPPING (Thirl)";
    /// libwebrtc's `api/transport/stun.h`, as are all that follow.
    GOOG_NETWORK_INFO = 0xC057, "GOOG-NETWORK-INFO";
    /// libwebrtc.
    GOOG_LAST_ICE_CHECK_RECEIVED = 0xC058, "GOOG-LAST-ICE-CHECK-RECEIVED";
    /// libwebrtc.
    GOOG_MISC_INFO = 0xC059, "GOOG-MISC-INFO";
    /// libwebrtc.
    GOOG_CONNECTION_ID = 0xC05B, "GOOG-CONNECTION-ID";
    /// libwebrtc.
    GOOG_DELTA = 0xC05C, "GOOG-DELTA";
    /// libwebrtc.
    GOOG_DELTA_ACK = 0xC05D, "GOOG-DELTA-ACK";
    /// libwebrtc.
    GOOG_DELTA_SYNC_REQ = 0xC05E, "GOOG-DELTA-SYNC-REQ";
    /// libwebrtc: MESSAGE-INTEGRITY cut to 32 bits.
    GOOG_MESSAGE_INTEGRITY_32 = 0xC060, "GOOG-MESSAGE-INTEGRITY-32";
    /// libwebrtc: a DTLS handshake packet carried by a check.
    META_DTLS_IN_STUN = 0xC070, "META-DTLS-IN-STUN";
    /// libwebrtc.
    META_DTLS_IN_STUN_ACK = 0xC071, "META-DTLS-IN-STUN-ACK";
}

impl AttributeType {
    /// Whether an agent that does not know this attribute must refuse the message (RFC 8489, section 14).
    pub const fn comprehension_required(self) -> bool {
        self.0 < 0x8000
    }
}

impl fmt::Debug for AttributeType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "attribute {:#06x}", self.0),
        }
    }
}

/// A typed attribute: how its value is read and written.
///
/// `'a` is the datagram's lifetime, for attributes that borrow from it.
pub trait Attribute<'a>: Sized {
    /// The attribute's number.
    const TYPE: AttributeType;

    /// Reads the value, without header and padding. XOR-ed addresses need the transaction id.
    fn decode(value: &'a [u8], id: TransactionId) -> Result<Self, AttributeError>;

    /// Length of the value in bytes, without header and padding.
    fn value_len(&self) -> usize;

    /// Writes the value into `out`, which is [`Attribute::value_len`] bytes long.
    fn encode(&self, out: &mut [u8], id: TransactionId);
}

/// The value of an attribute is not what its type asks for: the sender's fault, to be answered with 400.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the sender's {attribute:?} is malformed")]
pub struct AttributeError {
    /// Which attribute.
    pub attribute: AttributeType,
}

/// An attribute as it stands in a message, not interpreted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawAttribute<'a> {
    /// Its type.
    pub ty: AttributeType,
    /// Its value without padding.
    pub value: &'a [u8],
}

impl<'a> RawAttribute<'a> {
    /// Reads the value as `A`, whose type this must be.
    pub fn decode<A: Attribute<'a>>(&self, id: TransactionId) -> Result<A, AttributeError> {
        debug_assert_eq!(self.ty, A::TYPE, "decoded as another type");
        A::decode(self.value, id)
    }
}

/// Checks a value of fixed length.
pub(super) fn exact<const N: usize>(
    value: &[u8],
    attribute: AttributeType,
) -> Result<[u8; N], AttributeError> {
    value.try_into().map_err(|_| AttributeError { attribute })
}

/// Implements [`Attribute`] for a newtype over an unsigned integer in network order.
macro_rules! integer_attribute {
    ($name:ident, $int:ty, $ty:ident) => {
        impl<'a> $crate::wire::Attribute<'a> for $name {
            const TYPE: $crate::wire::AttributeType = $crate::wire::AttributeType::$ty;

            fn decode(
                value: &'a [u8],
                _: $crate::wire::TransactionId,
            ) -> Result<Self, $crate::wire::AttributeError> {
                $crate::wire::attribute::exact(value, Self::TYPE)
                    .map(|bytes| $name(<$int>::from_be_bytes(bytes)))
            }

            fn value_len(&self) -> usize {
                size_of::<$int>()
            }

            fn encode(&self, out: &mut [u8], _: $crate::wire::TransactionId) {
                out.copy_from_slice(&self.0.to_be_bytes());
            }
        }
    };
}

/// Implements [`Attribute`] for a unit struct whose presence is all it says.
macro_rules! flag_attribute {
    ($name:ident, $ty:ident) => {
        impl<'a> $crate::wire::Attribute<'a> for $name {
            const TYPE: $crate::wire::AttributeType = $crate::wire::AttributeType::$ty;

            fn decode(
                value: &'a [u8],
                _: $crate::wire::TransactionId,
            ) -> Result<Self, $crate::wire::AttributeError> {
                $crate::wire::attribute::exact::<0>(value, Self::TYPE).map(|_| $name)
            }

            fn value_len(&self) -> usize {
                0
            }

            fn encode(&self, _: &mut [u8], _: $crate::wire::TransactionId) {}
        }
    };
}

/// Implements [`Attribute`] for a newtype over bytes of any length.
macro_rules! bytes_attribute {
    ($name:ident, $ty:ident) => {
        impl<'a> $crate::wire::Attribute<'a> for $name<'a> {
            const TYPE: $crate::wire::AttributeType = $crate::wire::AttributeType::$ty;

            fn decode(
                value: &'a [u8],
                _: $crate::wire::TransactionId,
            ) -> Result<Self, $crate::wire::AttributeError> {
                Ok($name(value))
            }

            fn value_len(&self) -> usize {
                self.0.len()
            }

            fn encode(&self, out: &mut [u8], _: $crate::wire::TransactionId) {
                out.copy_from_slice(self.0);
            }
        }
    };
}

pub(super) use {bytes_attribute, flag_attribute, integer_attribute};
