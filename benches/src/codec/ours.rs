//! `thirl_common::wire`.

use std::hint::black_box;
use std::net::SocketAddr;

use thirl_common::auth::LongTermKey;
use thirl_common::wire::{
    BufferTooSmall, ChannelData, Class, Lifetime, Message, MessageWriter, Method, Nonce, Protocol, Realm,
    RequestedTransport, TransactionId, Username, XorMappedAddress, classify,
};

use super::messages::{
    ALLOCATE, Allocate, BINDING_REQUEST, BINDING_SUCCESS, CHANNEL_DATA, ID, MAPPED, Operation, PASSWORD,
    REALM, USERNAME,
};
use super::meter::Meter;

pub(super) fn measure(operation: Operation, meter: &Meter) -> Option<f64> {
    let (request, success) = (&BINDING_REQUEST[..], &BINDING_SUCCESS[..]);
    let (allocate, channel_data) = (&ALLOCATE[..], &CHANNEL_DATA[..]);
    Some(match operation {
        Operation::Nothing => meter.measure(|| {
            black_box(black_box(request));
        }),
        Operation::ReadBindingRequest => meter.measure(|| {
            black_box(read_binding_request(black_box(request)));
        }),
        Operation::ReadBindingSuccess => meter.measure(|| {
            black_box(read_binding_success(black_box(success)));
        }),
        Operation::ReadAllocate => meter.measure(|| {
            black_box(&read_allocate(black_box(allocate)));
        }),
        Operation::VerifyIntegrity => {
            let message = Message::parse(allocate).ok()?;
            let key = LongTermKey::new(USERNAME, REALM, PASSWORD).integrity_key();
            meter.measure(|| {
                black_box(black_box(&message).verify_integrity(&key).is_ok());
            })
        }
        Operation::WriteBindingSuccess => {
            let mut buffer = [0; 64];
            meter.measure(|| {
                black_box(write_binding_success(black_box(MAPPED), &mut buffer).is_ok());
            })
        }
        Operation::ChannelData => meter.measure(|| {
            black_box(unwrap_channel_data(black_box(channel_data)));
        }),
    })
}

fn read_binding_request(bytes: &[u8]) -> Option<[u8; 12]> {
    let message = Message::parse(bytes).ok()?;
    (message.class() == Class::Request && message.method() == Method::BINDING)
        .then(|| message.transaction_id().0)
}

fn read_binding_success(bytes: &[u8]) -> Option<([u8; 12], SocketAddr)> {
    let message = Message::parse(bytes).ok()?;
    if message.class() != Class::Success || message.method() != Method::BINDING {
        return None;
    }
    Some((message.transaction_id().0, message.require::<XorMappedAddress>().ok()?.0))
}

fn read_allocate(bytes: &[u8]) -> Option<Allocate<&str>> {
    let message = Message::parse(bytes).ok()?;
    if message.class() != Class::Request || message.method() != Method::ALLOCATE {
        return None;
    }
    Some(Allocate {
        id: message.transaction_id().0,
        username: message.require::<Username<'_>>().ok()?.0,
        realm: message.require::<Realm<'_>>().ok()?.0,
        nonce: message.require::<Nonce<'_>>().ok()?.0,
        transport: message.require::<RequestedTransport>().ok()?.0,
        lifetime: message.require::<Lifetime>().ok()?.0,
    })
}

fn write_binding_success(mapped: SocketAddr, buffer: &mut [u8]) -> Result<&[u8], BufferTooSmall> {
    let mut writer =
        MessageWriter::new(buffer, Class::Success, Method::BINDING, TransactionId(black_box(ID)))?;
    writer.attribute(&XorMappedAddress(mapped))?;
    Ok(writer.finish())
}

fn unwrap_channel_data(bytes: &[u8]) -> Option<u16> {
    if classify(bytes) != Protocol::ChannelData {
        return None;
    }
    let parsed = ChannelData::parse(bytes).ok()?;
    black_box(parsed.data);
    Some(parsed.channel.get())
}
