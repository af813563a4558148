//! `thirl_common::wire`.

use thirl_common::wire::{
    AlternateServer, Attribute, AttributeType, ChannelNumber, Class, Data, DontFragment, ErrorCode, EvenPort,
    Icmp, IntegrityAlgorithm, IntegrityKey, Lifetime, MappedAddress, Message, MessageWriter, Method, Nonce,
    RawAttribute, Realm, RequestedTransport, ReservationToken, Software, TransactionId, Username,
    XorMappedAddress, XorPeerAddress, XorRelayedAddress,
};

use super::spec::{self, Integrity, Spec, UNKNOWN, Value};
use super::{head, password};

pub(crate) fn write(spec: &Spec) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let class = match spec.class {
        spec::Class::Request => Class::Request,
        spec::Class::Indication => Class::Indication,
        spec::Class::Success => Class::Success,
        spec::Class::Error => Class::Error,
    };
    let mut writer =
        MessageWriter::new(&mut buffer, class, Method::new(spec.method), TransactionId(spec.id)).unwrap();
    spec.attributes.iter().for_each(|value| add(&mut writer, value));
    let key = IntegrityKey::new(password().as_bytes());
    if matches!(spec.integrity, Integrity::Sha1 | Integrity::Both) {
        writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap();
    }
    if matches!(spec.integrity, Integrity::Sha256 | Integrity::Both) {
        writer.integrity(IntegrityAlgorithm::Sha256, &key).unwrap();
    }
    if spec.fingerprint {
        writer.fingerprint().unwrap();
    }
    writer.finish().to_vec()
}

fn add(writer: &mut MessageWriter<'_>, value: &Value) {
    let added = match value {
        Value::MappedAddress(addr) => writer.attribute(&MappedAddress(*addr)),
        Value::XorMappedAddress(addr) => writer.attribute(&XorMappedAddress(*addr)),
        Value::XorPeerAddress(addr) => writer.attribute(&XorPeerAddress(*addr)),
        Value::XorRelayedAddress(addr) => writer.attribute(&XorRelayedAddress(*addr)),
        Value::AlternateServer(addr) => writer.attribute(&AlternateServer(*addr)),
        Value::Username(text) => writer.attribute(&Username(text)),
        Value::Realm(text) => writer.attribute(&Realm(text)),
        Value::Nonce(text) => writer.attribute(&Nonce(text)),
        Value::Software(text) => writer.attribute(&Software(text)),
        Value::ErrorCode(code, reason) => writer.attribute(&ErrorCode { code: *code, reason }),
        Value::Lifetime(seconds) => writer.attribute(&Lifetime(*seconds)),
        Value::Data(data) => writer.attribute(&Data(data)),
        Value::ChannelNumber(number) => writer.attribute(&ChannelNumber::new(*number).unwrap()),
        Value::RequestedTransport(protocol) => writer.attribute(&RequestedTransport(*protocol)),
        Value::EvenPort(reserve) => writer.attribute(&EvenPort { reserve: *reserve }),
        Value::DontFragment => writer.attribute(&DontFragment),
        Value::ReservationToken(token) => writer.attribute(&ReservationToken(*token)),
        &Value::Icmp(ty, code, data) => writer.attribute(&Icmp { ty, code, data }),
        Value::Unknown(bytes) => writer.raw(AttributeType(UNKNOWN), bytes),
    };
    added.unwrap();
}

/// Reads what another has written, and all of it.
pub(crate) fn check(spec: &Spec, bytes: &[u8]) {
    let message = Message::parse(bytes).unwrap();
    let head_read =
        format!("{:?} {:?} {:02x?}", message.class(), message.method().number(), message.transaction_id().0);
    assert_eq!(head_read, head(spec));
    let read: Vec<_> = message.attributes().map(|raw| value(raw, message.transaction_id())).collect();
    assert_eq!(read, spec.attributes);
    let key = IntegrityKey::new(password().as_bytes());
    for (algorithm, is_there) in [
        (IntegrityAlgorithm::Sha1, matches!(spec.integrity, Integrity::Sha1 | Integrity::Both)),
        (IntegrityAlgorithm::Sha256, matches!(spec.integrity, Integrity::Sha256 | Integrity::Both)),
    ] {
        assert_eq!(message.verify_integrity_as(algorithm, &key).is_ok(), is_there, "{algorithm:?}");
    }
    assert_eq!(message.check_fingerprint(), Ok(spec.fingerprint));
}

pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    let key = IntegrityKey::new(password().as_bytes());
    Message::parse(bytes).is_ok_and(|message| message.verify_integrity(&key).is_ok())
}

fn value(raw: RawAttribute<'_>, id: TransactionId) -> Value {
    fn read<'a, A: Attribute<'a>>(raw: RawAttribute<'a>, id: TransactionId) -> A {
        raw.decode(id).unwrap()
    }
    match raw.ty {
        AttributeType::MAPPED_ADDRESS => Value::MappedAddress(read::<MappedAddress>(raw, id).0),
        AttributeType::XOR_MAPPED_ADDRESS => Value::XorMappedAddress(read::<XorMappedAddress>(raw, id).0),
        AttributeType::XOR_PEER_ADDRESS => Value::XorPeerAddress(read::<XorPeerAddress>(raw, id).0),
        AttributeType::XOR_RELAYED_ADDRESS => Value::XorRelayedAddress(read::<XorRelayedAddress>(raw, id).0),
        AttributeType::ALTERNATE_SERVER => Value::AlternateServer(read::<AlternateServer>(raw, id).0),
        AttributeType::USERNAME => Value::Username(read::<Username<'_>>(raw, id).0.to_owned()),
        AttributeType::REALM => Value::Realm(read::<Realm<'_>>(raw, id).0.to_owned()),
        AttributeType::NONCE => Value::Nonce(read::<Nonce<'_>>(raw, id).0.to_owned()),
        AttributeType::SOFTWARE => Value::Software(read::<Software<'_>>(raw, id).0.to_owned()),
        AttributeType::ERROR_CODE => {
            let ErrorCode { code, reason } = read(raw, id);
            Value::ErrorCode(code, reason.to_owned())
        }
        AttributeType::LIFETIME => Value::Lifetime(read::<Lifetime>(raw, id).0),
        AttributeType::DATA => Value::Data(read::<Data<'_>>(raw, id).0.to_vec()),
        AttributeType::CHANNEL_NUMBER => Value::ChannelNumber(read::<ChannelNumber>(raw, id).get()),
        AttributeType::REQUESTED_TRANSPORT => {
            Value::RequestedTransport(read::<RequestedTransport>(raw, id).0)
        }
        AttributeType::EVEN_PORT => Value::EvenPort(read::<EvenPort>(raw, id).reserve),
        AttributeType::DONT_FRAGMENT => {
            let DontFragment = read(raw, id);
            Value::DontFragment
        }
        AttributeType::RESERVATION_TOKEN => Value::ReservationToken(read::<ReservationToken>(raw, id).0),
        AttributeType::ICMP => {
            let Icmp { ty, code, data } = read(raw, id);
            Value::Icmp(ty, code, data)
        }
        AttributeType(UNKNOWN) => Value::Unknown(raw.value.to_vec()),
        other => panic!("{other:?} was not written"),
    }
}
