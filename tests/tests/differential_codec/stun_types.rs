//! `stun-types` 2 and `turn-types` of ystreet.

use stun_types::attribute::{
    AlternateServer, AttributeFromRaw, AttributeStaticType, AttributeType, AttributeWrite, ErrorCode, Nonce,
    RawAttribute, Realm, Software, Username, XorMappedAddress,
};
use stun_types::message::{
    IntegrityAlgorithm, Message, MessageClass, MessageIntegrityCredentials, MessageType, MessageWrite,
    MessageWriteExt, MessageWriteVec, Method, ShortTermCredentials, TransactionId,
};
use turn_types::attribute::{
    ChannelNumber, Data, DontFragment, EvenPort, Icmp, Lifetime, RequestedTransport, ReservationToken,
    XorPeerAddress, XorRelayedAddress,
};

use super::password;
use super::spec::{Class, Integrity, Spec, UNKNOWN, Value};

/// It has no type for it.
const MAPPED_ADDRESS: u16 = 0x0001;

pub(crate) fn write(spec: &Spec) -> Vec<u8> {
    let mut writer = Message::builder(message_type(spec), id(spec), MessageWriteVec::new());
    spec.attributes.iter().for_each(|value| add(&mut writer, value, id(spec)));
    let credentials = credentials();
    if matches!(spec.integrity, Integrity::Sha1 | Integrity::Both) {
        writer.add_message_integrity(&credentials, IntegrityAlgorithm::Sha1).unwrap();
    }
    if matches!(spec.integrity, Integrity::Sha256 | Integrity::Both) {
        writer.add_message_integrity(&credentials, IntegrityAlgorithm::Sha256).unwrap();
    }
    if spec.fingerprint {
        writer.add_fingerprint().unwrap();
    }
    writer.finish()
}

/// Reads what another has written; a wrong fingerprint would be an error.
pub(crate) fn check(spec: &Spec, bytes: &[u8]) {
    let message = Message::from_bytes(bytes).unwrap();
    assert_eq!(message.get_type(), message_type(spec));
    assert_eq!(message.transaction_id(), id(spec));
    spec.attributes.iter().for_each(|value| check_value(&message, value, id(spec)));
    let signed = match spec.integrity {
        Integrity::None => None,
        Integrity::Sha1 => Some(IntegrityAlgorithm::Sha1),
        Integrity::Sha256 | Integrity::Both => Some(IntegrityAlgorithm::Sha256),
    };
    assert_eq!(message.validate_integrity(&credentials()).ok(), signed);
}

pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    Message::from_bytes(bytes).is_ok_and(|message| message.validate_integrity(&credentials()).is_ok())
}

fn credentials() -> MessageIntegrityCredentials {
    ShortTermCredentials::new(password().to_owned()).into()
}

fn message_type(spec: &Spec) -> MessageType {
    let class = match spec.class {
        Class::Request => MessageClass::Request,
        Class::Indication => MessageClass::Indication,
        Class::Success => MessageClass::Success,
        Class::Error => MessageClass::Error,
    };
    MessageType::from_class_method(class, Method::new(spec.method))
}

fn id(spec: &Spec) -> TransactionId {
    let mut bytes = [0; 16];
    bytes[4..].copy_from_slice(&spec.id);
    u128::from_be_bytes(bytes).into()
}

fn add(writer: &mut MessageWriteVec, value: &Value, id: TransactionId) {
    let mut add = |attribute: &dyn AttributeWrite| writer.add_attribute(attribute).unwrap();
    match value {
        Value::MappedAddress(addr) => {
            let mapped = stun_types::attribute::MappedSocketAddr::new(*addr);
            add(&mapped.to_raw(AttributeType::new(MAPPED_ADDRESS)));
        }
        Value::XorMappedAddress(addr) => add(&XorMappedAddress::new(*addr, id)),
        Value::XorPeerAddress(addr) => add(&XorPeerAddress::new(*addr, id)),
        Value::XorRelayedAddress(addr) => add(&XorRelayedAddress::new(*addr, id)),
        Value::AlternateServer(addr) => add(&AlternateServer::new(*addr)),
        Value::Username(text) => add(&Username::new(text).unwrap()),
        Value::Realm(text) => add(&Realm::new(text).unwrap()),
        Value::Nonce(text) => add(&Nonce::new(text).unwrap()),
        Value::Software(text) => add(&Software::new(text).unwrap()),
        Value::ErrorCode(code, reason) => add(&ErrorCode::new(*code, reason).unwrap()),
        Value::Lifetime(seconds) => add(&Lifetime::new(*seconds)),
        Value::Data(data) => add(&Data::new(data)),
        Value::ChannelNumber(number) => add(&ChannelNumber::new(*number)),
        Value::RequestedTransport(protocol) => add(&RequestedTransport::new(*protocol)),
        Value::EvenPort(reserve) => add(&EvenPort::new(*reserve)),
        Value::DontFragment => add(&DontFragment::new()),
        Value::ReservationToken(token) => add(&ReservationToken::new(*token)),
        Value::Icmp(ty, code, data) => add(&Icmp::new(*ty, *code, *data)),
        Value::Unknown(bytes) => add(&RawAttribute::new(AttributeType::new(UNKNOWN), bytes)),
    }
}

fn check_value(message: &Message<'_>, value: &Value, id: TransactionId) {
    fn get<'a, A: AttributeFromRaw<'a> + AttributeStaticType>(message: &'a Message<'_>) -> A {
        A::from_raw(message.raw_attribute(A::TYPE).unwrap()).unwrap()
    }
    match value {
        Value::MappedAddress(addr) => {
            let raw = message.raw_attribute(AttributeType::new(MAPPED_ADDRESS)).unwrap();
            assert_eq!(*addr, stun_types::attribute::MappedSocketAddr::from_raw(&raw).unwrap().addr());
        }
        Value::XorMappedAddress(addr) => assert_eq!(*addr, get::<XorMappedAddress>(message).addr(id)),
        Value::XorPeerAddress(addr) => assert_eq!(*addr, get::<XorPeerAddress>(message).addr(id)),
        Value::XorRelayedAddress(addr) => assert_eq!(*addr, get::<XorRelayedAddress>(message).addr(id)),
        Value::AlternateServer(addr) => assert_eq!(*addr, get::<AlternateServer>(message).server()),
        Value::Username(text) => assert_eq!(text, get::<Username>(message).username()),
        Value::Realm(text) => assert_eq!(text, get::<Realm>(message).realm()),
        Value::Nonce(text) => assert_eq!(text, get::<Nonce>(message).nonce()),
        Value::Software(text) => assert_eq!(text, get::<Software>(message).software()),
        Value::ErrorCode(code, reason) => {
            let read = get::<ErrorCode>(message);
            assert_eq!((read.code(), read.reason()), (*code, reason.as_str()));
        }
        Value::Lifetime(seconds) => assert_eq!(*seconds, get::<Lifetime>(message).seconds()),
        Value::Data(data) => assert_eq!(data, get::<Data<'_>>(message).data()),
        Value::ChannelNumber(number) => assert_eq!(*number, get::<ChannelNumber>(message).channel()),
        Value::RequestedTransport(protocol) => {
            assert_eq!(*protocol, get::<RequestedTransport>(message).protocol());
        }
        Value::EvenPort(reserve) => assert_eq!(*reserve, get::<EvenPort>(message).requested()),
        Value::DontFragment => drop(get::<DontFragment>(message)),
        Value::ReservationToken(token) => assert_eq!(*token, get::<ReservationToken>(message).token()),
        Value::Icmp(ty, code, data) => {
            let read = get::<Icmp>(message);
            assert_eq!((read.icmp_type(), read.code(), read.data()), (*ty, *code, *data));
        }
        Value::Unknown(bytes) => {
            assert_eq!(&*message.raw_attribute(AttributeType::new(UNKNOWN)).unwrap().value, bytes.as_slice());
        }
    }
}
