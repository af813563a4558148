//! The STUN view and the writer against each other.

use std::net::SocketAddr;
use std::sync::LazyLock;

use thirl_common::auth::{Challenge, Claim, chosen_algorithm};
use thirl_common::wire::{
    AccessToken, AdditionalAddressFamily, AddressErrorCode, AlternateDomain, AlternateServer, Attribute,
    BufferTooSmall, CacheTimeout, ChangeRequest, ChangedAddress, ChannelNumber, Class, ClassicRequest,
    ConnectionId, Data, DontFragment, ErrorCode, EvenPort, GoogDelta, GoogDeltaAck, GoogLastIceCheckReceived,
    GoogMiscInfo, GoogNetworkInfo, HEADER_LEN, IceControlled, IceControlling, Icmp, IntegrityAlgorithm,
    IntegrityKey, Lifetime, MappedAddress, Message, MessageWriter, Method, MobilityTicket, NatMapping,
    Nomination, Nonce, Origin, OtherAddress, Padding, PasswordAlgorithm, PasswordAlgorithms, Priority,
    RawAttribute, Realm, ReflectedFrom, RequestedAddressFamily, RequestedTransport, ReservationToken,
    ResponseAddress, ResponseOrigin, ResponsePort, Software, SourceAddress, ThirdPartyAuthorization,
    TransactionId, TransactionTransmitCounter, UnknownAttributes, UseCandidate, UserHash, Username,
    XorMappedAddress, XorPeerAddress, XorRelayedAddress, padded,
};

/// What a rewritten message ends with: MESSAGE-INTEGRITY, MESSAGE-INTEGRITY-SHA256 and FINGERPRINT.
const ENDING: usize = 24 + 36 + 8;

/// The longest message that its 16-bit length allows.
const MAX_MESSAGE: usize = HEADER_LEN + 0xFFFC;

static OURS: LazyLock<IntegrityKey> = LazyLock::new(|| IntegrityKey::new(b"the key of the fuzz targets"));
static OTHER: LazyLock<IntegrityKey> = LazyLock::new(|| IntegrityKey::new(b"another key"));

/// Whatever parses is read consistently, and survives being written again.
pub fn message(data: &[u8]) {
    let Ok(message) = Message::parse(data) else { return };
    walk(&message, data);
    let id = message.transaction_id();
    message.attributes().for_each(|attribute| round_trip(attribute, id));
    // No message is signed with two keys.
    assert!(message.verify_integrity(&OURS).is_err() || message.verify_integrity(&OTHER).is_err());
    let _ = message.check_fingerprint();
    challenge(&message);
    rewrite(&message);
}

/// Whatever challenge can be answered is answered such that the server knows the algorithm.
fn challenge(message: &Message<'_>) {
    let Ok(challenge) = Challenge::read(message) else { return };
    let mut buffer = [0; 4096];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, message.transaction_id()).unwrap();
    if challenge.answer(&mut writer, "alice").is_err() {
        return;
    }
    let answer = Message::parse(writer.finish()).unwrap();
    assert_eq!(answer.get(), message.get::<Realm<'_>>());
    assert_eq!(answer.get(), message.get::<Nonce<'_>>());
    let offered: Option<PasswordAlgorithms<'_>> = message.get().unwrap();
    assert_eq!(answer.get(), Ok(offered));
    let offered = offered.unwrap_or(PasswordAlgorithms::SHA256);
    assert_eq!(chosen_algorithm(&answer, offered), Ok(challenge.algorithm));
    assert!(Claim::read(&answer, &challenge.realm, challenge.algorithm, 0).is_ok());
}

/// What the iterators and look-ups say agrees, and lies in the datagram in order.
fn walk(message: &Message<'_>, data: &[u8]) {
    assert_eq!(message.as_bytes(), data);
    let mut at = HEADER_LEN;
    for attribute in message.attributes() {
        assert_eq!(data[at..at + 2], attribute.ty.0.to_be_bytes());
        assert!(std::ptr::eq(&raw const data[at + 4..][..attribute.value.len()], attribute.value));
        at += 4 + padded(attribute.value.len());
    }
    assert!(at <= data.len());
    let required = message.attributes().find(|attribute| attribute.ty.comprehension_required());
    let unknown = message.unknown_attributes(&[]);
    assert_eq!(unknown.iter().next(), required.map(|attribute| attribute.ty));
    assert!(unknown.iter().all(|ty| ty.comprehension_required() && message.has(ty)));
}

macro_rules! decoded_attributes {
    ($($attribute:ty,)*) => {
        /// The types that [`round_trip`] decodes.
        #[cfg(test)]
        const DECODED: &[thirl_common::wire::AttributeType] = &[$(<$attribute as Attribute<'_>>::TYPE,)*];

        /// A value that decodes is written, into whatever buffer, as one that decodes to the same.
        fn round_trip(raw: RawAttribute<'_>, id: TransactionId) {
            $(if raw.ty == <$attribute as Attribute<'_>>::TYPE {
                let Ok(decoded) = <$attribute as Attribute<'_>>::decode(raw.value, id) else { return };
                let [mut written, mut again] = [0x5A, 0xA5].map(|junk| vec![junk; decoded.value_len()]);
                decoded.encode(&mut written, id);
                decoded.encode(&mut again, id);
                assert_eq!(written, again, "{:?} does not set each byte of its value", raw.ty);
                assert_eq!(<$attribute as Attribute<'_>>::decode(&written, id), Ok(decoded));
            })*
        }
    };
}

decoded_attributes! {
    AccessToken<'_>, AdditionalAddressFamily, AddressErrorCode, AlternateDomain<'_>, AlternateServer, CacheTimeout,
    ChangeRequest, ChangedAddress, ChannelNumber, ConnectionId, Data<'_>, DontFragment, ErrorCode<'_>, EvenPort,
    GoogDelta<'_>, GoogDeltaAck, GoogLastIceCheckReceived, GoogMiscInfo<'_>, GoogNetworkInfo, IceControlled,
    IceControlling, Icmp, Lifetime, MappedAddress, MobilityTicket<'_>, NatMapping, Nomination, Nonce<'_>, Origin<'_>, OtherAddress,
    Padding<'_>, PasswordAlgorithm<'_>, PasswordAlgorithms<'_>, Priority, Realm<'_>, ReflectedFrom,
    RequestedAddressFamily, RequestedTransport, ReservationToken, ResponseAddress, ResponseOrigin, ResponsePort,
    Software<'_>, SourceAddress, ThirdPartyAuthorization<'_>, TransactionTransmitCounter, UnknownAttributes,
    UseCandidate, UserHash, Username<'_>, XorMappedAddress, XorPeerAddress, XorRelayedAddress,
}

/// A request of RFC 3489 is no message, and is answered under its whole id within whatever buffer.
pub fn classic(data: &[u8]) {
    let Ok(request) = ClassicRequest::parse(data) else { return };
    assert!(Message::parse(data).is_err());
    let id = request.transaction_id();
    assert_eq!(id, data[4..HEADER_LEN]);
    assert_eq!(
        request.attributes().map(|attribute| 4 + attribute.value.len()).sum::<usize>(),
        data.len() - HEADER_LEN
    );
    request.attributes().for_each(|attribute| round_trip(attribute, TransactionId([0; 12])));

    let mapped = SocketAddr::from(([id[0], id[1], id[2], id[3]], u16::from_be_bytes([id[4], id[5]])));
    let mut buffer = [0xFF; 64];
    let room = usize::from(id[6]) % buffer.len();
    let unknown = request.unknown_attributes(&[]);
    let success = request.success(mapped, &mut buffer[..room]).map(<[u8]>::to_vec);
    let refusal = request.refusal(&unknown, &mut buffer[..room]).map(<[u8]>::to_vec);
    assert_eq!(success.is_ok(), room >= 32);
    for response in success.into_iter().chain(refusal) {
        assert_eq!(response[4..HEADER_LEN], id);
        // A response is read like a request, but for its type.
        let as_request = [&data[..2], &response[2..]].concat();
        let response = ClassicRequest::parse(&as_request).unwrap();
        let read = response.get::<MappedAddress>().unwrap();
        assert!(read.is_none_or(|read| read.0 == mapped));
    }
}

/// The message without its ending, signed anew: it reads the same, fits its length and no less, and no byte of it can
/// be changed.
fn rewrite(message: &Message<'_>) {
    let body: usize = message.attributes().map(|attribute| 4 + padded(attribute.value.len())).sum();
    let length = HEADER_LEN + body + ENDING;
    if length > MAX_MESSAGE {
        return;
    }
    let TransactionId([s0, s1, c0, c1, bit, ..]) = message.transaction_id();
    let mut buffer = vec![0xFF; length];
    let short = usize::from(u16::from_be_bytes([s0, s1])) % length;
    assert_eq!(write(message, &mut buffer[..short]), Err(BufferTooSmall));
    assert_eq!(write(message, &mut buffer), Ok(length));

    let again = Message::parse(&buffer).unwrap();
    assert_eq!((again.class(), again.method()), (message.class(), message.method()));
    assert_eq!(again.transaction_id(), message.transaction_id());
    assert!(again.attributes().eq(message.attributes()));
    assert_eq!(again.verify_integrity(&OURS), Ok(IntegrityAlgorithm::Sha256));
    assert!(again.verify_integrity(&OTHER).is_err());
    assert_eq!(again.check_fingerprint(), Ok(true));

    let changed = usize::from(u16::from_be_bytes([c0, c1])) % (HEADER_LEN + body);
    buffer[changed] ^= 1 << (bit % 8);
    if let Ok(changed) = Message::parse(&buffer) {
        assert!(changed.verify_integrity(&OURS).is_err());
        assert_ne!(changed.check_fingerprint(), Ok(true));
    }
}

fn write(message: &Message<'_>, buffer: &mut [u8]) -> Result<usize, BufferTooSmall> {
    let mut writer = MessageWriter::new(buffer, message.class(), message.method(), message.transaction_id())?;
    for attribute in message.attributes() {
        writer.raw(attribute.ty, attribute.value)?;
    }
    writer.integrity(IntegrityAlgorithm::Sha1, &OURS)?.integrity(IntegrityAlgorithm::Sha256, &OURS)?;
    writer.fingerprint()?;
    Ok(writer.finish().len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use thirl_common::wire::AttributeType;

    #[test]
    fn every_attribute_with_a_name_is_fuzzed() {
        let without_a_type_of_their_own = [
            AttributeType::MESSAGE_INTEGRITY,
            AttributeType::MESSAGE_INTEGRITY_SHA256,
            AttributeType::FINGERPRINT,
            AttributeType::SSODA_ADDITIONAL_ADDRESS_FAMILY,
            AttributeType::ECN_CHECK,
            AttributeType::GOOG_CONNECTION_ID,
            AttributeType::GOOG_DELTA_SYNC_REQ,
            AttributeType::GOOG_MESSAGE_INTEGRITY_32,
            AttributeType::META_DTLS_IN_STUN,
            AttributeType::META_DTLS_IN_STUN_ACK,
        ];
        let named = (0..=u16::MAX).map(AttributeType).filter(|ty| ty.name().is_some());
        let fuzzed = |ty: &AttributeType| DECODED.contains(ty) || without_a_type_of_their_own.contains(ty);
        assert_eq!(named.filter(|ty| !fuzzed(ty)).collect::<Vec<_>>(), [], "missing in decoded_attributes!");
    }
}
