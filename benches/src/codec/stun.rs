//! `stun` 0.17 of webrtc-rs, in two ways: with a new message for each datagram, as webrtc-rs' own TURN server does, and
//! with one message that keeps its buffers.

use std::hint::black_box;
use std::net::SocketAddr;

use stun::agent::TransactionId;
use stun::attributes::{
    ATTR_LIFETIME, ATTR_NONCE, ATTR_REALM, ATTR_REQUESTED_TRANSPORT, ATTR_USERNAME, AttrType,
};
use stun::integrity::MessageIntegrity;
use stun::message::{
    BINDING_REQUEST as REQUEST, BINDING_SUCCESS as SUCCESS, CLASS_REQUEST, Getter, METHOD_ALLOCATE, Message,
    MessageType, Setter,
};
use stun::textattrs::TextAttribute;
use stun::xoraddr::XorMappedAddress;

use super::messages::{
    ALLOCATE, Allocate, BINDING_REQUEST, BINDING_SUCCESS, ID, MAPPED, Operation, PASSWORD, REALM, USERNAME,
};
use super::meter::Meter;

/// A new message for each operation.
pub(super) fn measure(operation: Operation, meter: &Meter) -> Option<f64> {
    measure_with(operation, meter, |operation| operation(&mut Message::default()))
}

/// One message for all operations.
pub(super) fn measure_reused(operation: Operation, meter: &Meter) -> Option<f64> {
    let mut message = Message::new();
    measure_with(operation, meter, |operation| operation(&mut message))
}

fn measure_with(
    operation: Operation,
    meter: &Meter,
    mut with_message: impl FnMut(&mut dyn FnMut(&mut Message)),
) -> Option<f64> {
    let (request, success, allocate) = (&BINDING_REQUEST[..], &BINDING_SUCCESS[..], &ALLOCATE[..]);
    Some(match operation {
        Operation::ReadBindingRequest => meter.measure(|| {
            with_message(&mut |message| {
                black_box(read_binding_request(message, black_box(request)));
            });
        }),
        Operation::ReadBindingSuccess => meter.measure(|| {
            with_message(&mut |message| {
                black_box(read_binding_success(message, black_box(success)));
            });
        }),
        Operation::ReadAllocate => meter.measure(|| {
            with_message(&mut |message| {
                black_box(&read_allocate(message, black_box(allocate)));
            });
        }),
        Operation::VerifyIntegrity => {
            let mut message = Message::new();
            message.write(allocate).ok()?;
            let (user, realm, password) = (USERNAME.to_owned(), REALM.to_owned(), PASSWORD.to_owned());
            let integrity = MessageIntegrity::new_long_term_integrity(user, realm, password);
            meter.measure(|| {
                black_box(integrity.check(black_box(&mut message)).is_ok());
            })
        }
        Operation::WriteBindingSuccess => meter.measure(|| {
            with_message(&mut |message| {
                black_box(write_binding_success(message, black_box(MAPPED)).is_ok());
            });
        }),
        // ChannelData stands in another crate, which needs an async runtime.
        Operation::Nothing | Operation::ChannelData => return None,
    })
}

fn read_binding_request(message: &mut Message, bytes: &[u8]) -> Option<[u8; 12]> {
    message.write(bytes).ok()?;
    (message.typ == REQUEST).then_some(message.transaction_id.0)
}

fn read_binding_success(message: &mut Message, bytes: &[u8]) -> Option<([u8; 12], SocketAddr)> {
    message.write(bytes).ok()?;
    if message.typ != SUCCESS {
        return None;
    }
    let mut mapped = XorMappedAddress::default();
    mapped.get_from(message).ok()?;
    Some((message.transaction_id.0, SocketAddr::new(mapped.ip, mapped.port)))
}

fn read_allocate(message: &mut Message, bytes: &[u8]) -> Option<Allocate<String>> {
    message.write(bytes).ok()?;
    if message.typ != MessageType::new(METHOD_ALLOCATE, CLASS_REQUEST) {
        return None;
    }
    let text = |ty| Some(TextAttribute::get_from_as(message, ty).ok()?.text);
    Some(Allocate {
        id: message.transaction_id.0,
        username: text(ATTR_USERNAME)?,
        realm: text(ATTR_REALM)?,
        nonce: text(ATTR_NONCE)?,
        transport: four_bytes(message, ATTR_REQUESTED_TRANSPORT)?[0],
        lifetime: u32::from_be_bytes(four_bytes(message, ATTR_LIFETIME)?),
    })
}

fn four_bytes(message: &Message, ty: AttrType) -> Option<[u8; 4]> {
    message.get(ty).ok()?.try_into().ok()
}

fn write_binding_success(message: &mut Message, mapped: SocketAddr) -> Result<(), stun::Error> {
    message.reset();
    message.typ = SUCCESS;
    message.transaction_id = TransactionId(black_box(ID));
    message.write_header();
    XorMappedAddress { ip: mapped.ip(), port: mapped.port() }.add_to(message)
}
