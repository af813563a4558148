//! `stun-types` 2 of ystreet, with the attributes and ChannelData of its `turn-types`.

use std::hint::black_box;
use std::net::SocketAddr;

use stun_types::attribute::{Nonce, Realm, Username, XorMappedAddress};
use stun_types::message::{
    BINDING, LongTermKeyCredentials, Message, MessageClass, MessageType, MessageWrite, MessageWriteExt,
    MessageWriteMutSlice, StunWriteError,
};
use turn_types::attribute::{Lifetime, RequestedTransport};
use turn_types::channel::ChannelData;
use turn_types::message::ALLOCATE as METHOD_ALLOCATE;

use super::messages::{
    ALLOCATE, Allocate, BINDING_REQUEST, BINDING_SUCCESS, CHANNEL_DATA, ID, MAPPED, Operation, PASSWORD,
    REALM, USERNAME,
};
use super::meter::Meter;

pub(super) fn measure(operation: Operation, meter: &Meter) -> Option<f64> {
    let (request, success) = (&BINDING_REQUEST[..], &BINDING_SUCCESS[..]);
    let (allocate, channel_data) = (&ALLOCATE[..], &CHANNEL_DATA[..]);
    Some(match operation {
        Operation::Nothing => return None,
        Operation::ReadBindingRequest => meter.measure(|| {
            black_box(read_binding_request(black_box(request)));
        }),
        Operation::ReadBindingSuccess => meter.measure(|| {
            black_box(read_binding_success(black_box(success)));
        }),
        Operation::ReadAllocate => meter.measure(|| {
            black_box(with_allocate(black_box(allocate), |allocate| {
                black_box(&allocate);
            }));
        }),
        Operation::VerifyIntegrity => {
            let message = Message::from_bytes(allocate).ok()?;
            let credentials = LongTermKeyCredentials::new(USERNAME.into(), PASSWORD.into(), REALM.into());
            let key = credentials.make_key(stun_types::message::IntegrityAlgorithm::Sha1);
            meter.measure(|| {
                black_box(black_box(&message).validate_integrity_with_key(&key).is_ok());
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

fn read_binding_request(bytes: &[u8]) -> Option<u128> {
    let message = Message::from_bytes(bytes).ok()?;
    (message.has_class(MessageClass::Request) && message.has_method(BINDING))
        .then(|| message.transaction_id().into())
}

fn read_binding_success(bytes: &[u8]) -> Option<(u128, SocketAddr)> {
    let message = Message::from_bytes(bytes).ok()?;
    if !message.has_class(MessageClass::Success) || !message.has_method(BINDING) {
        return None;
    }
    let id = message.transaction_id();
    Some((id.into(), message.attribute::<XorMappedAddress>().ok()?.addr(id)))
}

/// The texts are lent by attributes that live only here.
fn with_allocate(bytes: &[u8], use_it: impl FnOnce(Allocate<&str>)) -> Option<()> {
    let message = Message::from_bytes(bytes).ok()?;
    if !message.has_class(MessageClass::Request) || !message.has_method(METHOD_ALLOCATE) {
        return None;
    }
    let id: u128 = message.transaction_id().into();
    let [_, _, _, _, id @ ..] = id.to_be_bytes();
    let username = message.attribute::<Username>().ok()?;
    let realm = message.attribute::<Realm>().ok()?;
    let nonce = message.attribute::<Nonce>().ok()?;
    use_it(Allocate {
        id,
        username: username.username(),
        realm: realm.realm(),
        nonce: nonce.nonce(),
        transport: message.attribute::<RequestedTransport>().ok()?.protocol(),
        lifetime: message.attribute::<Lifetime>().ok()?.seconds(),
    });
    Some(())
}

fn write_binding_success(mapped: SocketAddr, buffer: &mut [u8]) -> Result<usize, StunWriteError> {
    let [a, b, c, d, e, f, g, h, i, j, k, l] = black_box(ID);
    let id = u128::from_be_bytes([0, 0, 0, 0, a, b, c, d, e, f, g, h, i, j, k, l]).into();
    let ty = MessageType::from_class_method(MessageClass::Success, BINDING);
    let mut writer = Message::builder(ty, id, MessageWriteMutSlice::new(buffer));
    writer.add_attribute(&XorMappedAddress::new(mapped, id))?;
    Ok(writer.finish())
}

/// It has no classification by the first byte of its own.
fn unwrap_channel_data(bytes: &[u8]) -> Option<u16> {
    match bytes.first() {
        Some(0x40..=0x4F) => ChannelData::parse(bytes).ok().map(|parsed| {
            black_box(parsed.data());
            parsed.id()
        }),
        _ => None,
    }
}
