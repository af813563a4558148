//! `stun` 0.17 of webrtc-rs. It has no types for TURN's attributes, which it carries as bytes.

use std::net::SocketAddr;

use stun::addr::MappedAddress;
use stun::agent::TransactionId;
use stun::attributes::{
    ATTR_ALTERNATE_SERVER, ATTR_MAPPED_ADDRESS, ATTR_NONCE, ATTR_REALM, ATTR_SOFTWARE, ATTR_USERNAME,
    ATTR_XOR_PEER_ADDRESS, ATTR_XOR_RELAYED_ADDRESS, ATTR_XORMAPPED_ADDRESS, AttrType,
};
use stun::error_code::{ErrorCode, ErrorCodeAttribute};
use stun::fingerprint::FINGERPRINT;
use stun::integrity::MessageIntegrity;
use stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, Message,
    MessageType, Method, Setter,
};
use stun::textattrs::TextAttribute;
use stun::xoraddr::XorMappedAddress;

use super::password;
use super::spec::{Class, Integrity, Spec, UNKNOWN, Value};

/// The message with what it knows: it does not sign with SHA-256.
pub(crate) fn within(spec: Spec) -> Spec {
    match spec.integrity {
        Integrity::None | Integrity::Sha1 => spec,
        Integrity::Sha256 | Integrity::Both => Spec { integrity: Integrity::Sha1, ..spec },
    }
}

pub(crate) fn write(spec: &Spec) -> Vec<u8> {
    let mut message = Message::new();
    message.typ = message_type(spec);
    message.transaction_id = TransactionId(spec.id);
    message.write_header();
    for value in &spec.attributes {
        add(&mut message, value);
    }
    if spec.integrity == Integrity::Sha1 {
        integrity().add_to(&mut message).unwrap();
    }
    if spec.fingerprint {
        FINGERPRINT.add_to(&mut message).unwrap();
    }
    message.raw
}

pub(crate) fn check(spec: &Spec, bytes: &[u8]) {
    let mut message = Message::new();
    message.write(bytes).unwrap();
    assert_eq!(message.typ, message_type(spec));
    assert_eq!(message.transaction_id.0, spec.id);
    for value in &spec.attributes {
        check_value(&message, value);
    }
    assert_eq!(integrity().check(&mut message).is_ok(), spec.integrity == Integrity::Sha1);
    assert_eq!(FINGERPRINT.check(&message).is_ok(), spec.fingerprint);
}

pub(crate) fn is_signed(bytes: &[u8]) -> bool {
    let mut message = Message::new();
    message.write(bytes).is_ok() && integrity().check(&mut message).is_ok()
}

fn integrity() -> MessageIntegrity {
    MessageIntegrity::new_short_term_integrity(password().to_owned())
}

fn message_type(spec: &Spec) -> MessageType {
    let class = match spec.class {
        Class::Request => CLASS_REQUEST,
        Class::Indication => CLASS_INDICATION,
        Class::Success => CLASS_SUCCESS_RESPONSE,
        Class::Error => CLASS_ERROR_RESPONSE,
    };
    let mut method = MessageType::new(Method::default(), class);
    // A method has no constructor for any number: it is read from a type.
    let m = spec.method;
    method.read_value((m & 0xF80) << 2 | (m & 0x070) << 1 | (m & 0x00F));
    MessageType::new(method.method, class)
}

fn add(message: &mut Message, value: &Value) {
    let xor = |addr: &SocketAddr| XorMappedAddress { ip: addr.ip(), port: addr.port() };
    let plain = |addr: &SocketAddr| MappedAddress { ip: addr.ip(), port: addr.port() };
    let text = |ty, text: &String| TextAttribute::new(ty, text.clone());
    let added = match value {
        Value::MappedAddress(addr) => plain(addr).add_to_as(message, ATTR_MAPPED_ADDRESS),
        Value::AlternateServer(addr) => plain(addr).add_to_as(message, ATTR_ALTERNATE_SERVER),
        Value::XorMappedAddress(addr) => xor(addr).add_to_as(message, ATTR_XORMAPPED_ADDRESS),
        Value::XorPeerAddress(addr) => xor(addr).add_to_as(message, ATTR_XOR_PEER_ADDRESS),
        Value::XorRelayedAddress(addr) => xor(addr).add_to_as(message, ATTR_XOR_RELAYED_ADDRESS),
        Value::Username(name) => text(ATTR_USERNAME, name).add_to(message),
        Value::Realm(realm) => text(ATTR_REALM, realm).add_to(message),
        Value::Nonce(nonce) => text(ATTR_NONCE, nonce).add_to(message),
        Value::Software(software) => text(ATTR_SOFTWARE, software).add_to(message),
        Value::ErrorCode(code, reason) => {
            ErrorCodeAttribute { code: ErrorCode(*code), reason: reason.clone().into_bytes() }.add_to(message)
        }
        value => {
            let (ty, bytes) = raw(value);
            message.add(ty, &bytes);
            Ok(())
        }
    };
    added.unwrap();
}

fn check_value(message: &Message, value: &Value) {
    let xor = |ty| {
        let mut read = XorMappedAddress::default();
        read.get_from_as(message, ty).unwrap();
        SocketAddr::new(read.ip, read.port)
    };
    let plain = |ty| {
        let mut read = MappedAddress::default();
        read.get_from_as(message, ty).unwrap();
        SocketAddr::new(read.ip, read.port)
    };
    let text = |ty| TextAttribute::get_from_as(message, ty).unwrap().text;
    match value {
        Value::MappedAddress(addr) => assert_eq!(*addr, plain(ATTR_MAPPED_ADDRESS)),
        Value::AlternateServer(addr) => assert_eq!(*addr, plain(ATTR_ALTERNATE_SERVER)),
        Value::XorMappedAddress(addr) => assert_eq!(*addr, xor(ATTR_XORMAPPED_ADDRESS)),
        Value::XorPeerAddress(addr) => assert_eq!(*addr, xor(ATTR_XOR_PEER_ADDRESS)),
        Value::XorRelayedAddress(addr) => assert_eq!(*addr, xor(ATTR_XOR_RELAYED_ADDRESS)),
        Value::Username(name) => assert_eq!(*name, text(ATTR_USERNAME)),
        Value::Realm(realm) => assert_eq!(*realm, text(ATTR_REALM)),
        Value::Nonce(nonce) => assert_eq!(*nonce, text(ATTR_NONCE)),
        Value::Software(software) => assert_eq!(*software, text(ATTR_SOFTWARE)),
        Value::ErrorCode(code, reason) => {
            let mut read = ErrorCodeAttribute::default();
            read.get_from(message).unwrap();
            assert_eq!((read.code.0, read.reason.as_slice()), (*code, reason.as_bytes()));
        }
        value => {
            let (ty, bytes) = raw(value);
            assert_eq!(message.get(ty).unwrap(), bytes);
        }
    }
}

/// TURN's attributes, as RFC 8656, section 18, draws them.
fn raw(value: &Value) -> (AttrType, Vec<u8>) {
    let (ty, bytes) = match value {
        Value::Lifetime(seconds) => (0x000D, seconds.to_be_bytes().to_vec()),
        Value::Data(data) => (0x0013, data.clone()),
        Value::ChannelNumber(number) => (0x000C, [number.to_be_bytes(), [0, 0]].concat()),
        Value::RequestedTransport(protocol) => (0x0019, vec![*protocol, 0, 0, 0]),
        Value::EvenPort(reserve) => (0x0018, vec![u8::from(*reserve) << 7]),
        Value::DontFragment => (0x001A, Vec::new()),
        Value::ReservationToken(token) => (0x0022, token.to_be_bytes().to_vec()),
        Value::Icmp(ty, code, data) => (0x8004, [&[0, 0, *ty, *code][..], &data.to_be_bytes()].concat()),
        Value::Unknown(bytes) => (UNKNOWN, bytes.clone()),
        typed => panic!("{typed:?} has a type of its own"),
    };
    (AttrType(ty), bytes)
}
