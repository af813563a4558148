//! The STUN, TURN and ICE wire formats (RFC 8489, RFC 8656, RFC 8445, RFC 5780, RFC 7635, RFC 7982, RFC 4571).
//!
//! In the order in which a datagram meets them:
//!
//! 1. [`classify`]: which protocol a datagram belongs to, by its first byte.
//! 2. [`Message`]: a checked view of a STUN message that borrows from the datagram.
//! 3. [`attribute`]: what every attribute has in common; one file for each group of attributes beside it.
//! 4. [`IntegrityKey`]: MESSAGE-INTEGRITY; the fingerprint is checked by [`Message::check_fingerprint`].
//! 5. [`MessageWriter`]: the other way, into a caller's buffer.
//! 6. [`ChannelData`]: TURN's short framing of application data.
//! 7. [`frame_len`]: where a message ends in a stream; [`packet_frame_len`]: where a packet ends that ICE sends over TCP.
//! 8. [`ClassicRequest`]: what clients of RFC 3489 send, and their answers.
//!
//! Nothing here allocates, reads a clock or keeps state.
//!
//! ```
//! use thirl_common::wire::{Class, Message, MessageWriter, Method, TransactionId, XorMappedAddress};
//!
//! let id = TransactionId([7; 12]);
//! let mut buffer = [0; 64];
//! let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, id)?;
//! writer.attribute(&XorMappedAddress("192.0.2.1:3478".parse().unwrap()))?;
//! let bytes = writer.finish();
//!
//! let message = Message::parse(bytes)?;
//! assert_eq!(message.transaction_id(), id);
//! assert_eq!(message.get::<XorMappedAddress>()?.unwrap().0, "192.0.2.1:3478".parse().unwrap());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod address;
pub mod attribute;
mod authentication;
mod channel_data;
mod classic;
mod classify;
mod discovery;
mod error_code;
mod fingerprint;
mod framing;
mod header;
mod ice;
mod ice_extensions;
mod integrity;
mod message;
mod turn;
mod writer;

pub use address::{
    AlternateServer, ChangedAddress, MappedAddress, OtherAddress, ReflectedFrom, ResponseAddress,
    ResponseOrigin, SourceAddress, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};
pub use attribute::{Attribute, AttributeError, AttributeType, RawAttribute};
pub use authentication::{
    AccessToken, AlternateDomain, Nonce, Origin, PasswordAlgorithm, PasswordAlgorithms, Realm, Software,
    ThirdPartyAuthorization, UserHash, Username,
};
pub use channel_data::{CHANNEL_HEADER_LEN, ChannelData, ChannelDataError, ChannelNumber};
pub use classic::ClassicRequest;
pub use classify::{Protocol, classify, classify_at_relay};
pub use discovery::{CacheTimeout, ChangeRequest, Padding, ResponsePort, TransactionTransmitCounter};
pub use error_code::{ErrorCode, UnknownAttributes};
pub use framing::{
    FrameLen, FramingError, PACKET_HEADER_LEN, frame_len, frame_len_at_relay, packet_frame_len, packet_header,
};
pub use header::{Class, HEADER_LEN, MAGIC_COOKIE, Method, TransactionId};
pub use ice::{IceControlled, IceControlling, Priority, UseCandidate};
pub use ice_extensions::{
    GoogDelta, GoogDeltaAck, GoogLastIceCheckReceived, GoogMiscInfo, GoogNetworkInfo, NatMapping, Nomination,
};
pub use integrity::{IntegrityAlgorithm, IntegrityError, IntegrityKey};
pub use message::{FingerprintError, Message, ParseError};
pub use turn::{
    AdditionalAddressFamily, AddressErrorCode, AddressFamily, ConnectionId, Data, DontFragment, EvenPort,
    Icmp, Lifetime, MobilityTicket, RequestedAddressFamily, RequestedTransport, ReservationToken,
    SsodaAdditionalAddressFamily,
};
pub use writer::{BufferTooSmall, MessageWriter};

/// `len` rounded up to a multiple of four, as attributes and framed ChannelData are padded.
pub const fn padded(len: usize) -> usize {
    len.saturating_add(3) & !3
}
