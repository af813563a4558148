//! What a message says, apart from any codec.

use std::net::{IpAddr, SocketAddr};

use proptest::prelude::*;
use proptest::sample::{select, subsequence};

/// A message.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) class: Class,
    /// 12 bits.
    pub(crate) method: u16,
    pub(crate) id: [u8; 12],
    /// Each type once.
    pub(crate) attributes: Vec<Value>,
    pub(crate) integrity: Integrity,
    pub(crate) fingerprint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Request,
    Indication,
    Success,
    Error,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Integrity {
    None,
    Sha1,
    Sha256,
    Both,
}

/// An attribute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    MappedAddress(SocketAddr),
    XorMappedAddress(SocketAddr),
    XorPeerAddress(SocketAddr),
    XorRelayedAddress(SocketAddr),
    AlternateServer(SocketAddr),
    Username(String),
    Realm(String),
    Nonce(String),
    Software(String),
    ErrorCode(u16, String),
    Lifetime(u32),
    Data(Vec<u8>),
    ChannelNumber(u16),
    RequestedTransport(u8),
    EvenPort(bool),
    DontFragment,
    ReservationToken(u64),
    Icmp(u8, u8, u32),
    /// Of a type that nobody knows.
    Unknown(Vec<u8>),
}

/// The type of [`Value::Unknown`], comprehension-optional.
pub(crate) const UNKNOWN: u16 = 0xFE12;

pub(crate) fn specs() -> impl Strategy<Value = Spec> {
    let class = select(vec![Class::Request, Class::Indication, Class::Success, Class::Error]);
    let integrity = select(vec![Integrity::None, Integrity::Sha1, Integrity::Sha256, Integrity::Both]);
    // Mostly the methods that there are.
    let method = prop_oneof![4 => select(vec![1, 3, 4, 6, 7, 8, 9]), 1 => 0..0x1000_u16];
    (class, method, any::<[u8; 12]>(), attributes(), integrity, any::<bool>()).prop_map(
        |(class, method, id, attributes, integrity, fingerprint)| Spec {
            class,
            method,
            id,
            attributes,
            integrity,
            fingerprint,
        },
    )
}

fn attributes() -> impl Strategy<Value = Vec<Value>> {
    let addresses = prop_oneof![
        any::<SocketAddr>().prop_map(|addr| SocketAddr::new(addr.ip(), addr.port())),
        any::<u16>().prop_map(|port| SocketAddr::new(IpAddr::from([0; 4]), port)),
    ];
    let addresses = proptest::collection::vec(addresses, 5);
    let texts = proptest::collection::vec("\\PC{0,40}", 5);
    let numbers = (any::<u32>(), 0x4000..0x5000_u16, any::<u8>(), any::<bool>(), any::<u64>(), 300..700_u16);
    let icmp = (any::<u8>(), any::<u8>(), any::<u32>());
    let bytes = proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 2);
    let all =
        (addresses, texts, numbers, icmp, bytes).prop_map(|(addresses, texts, numbers, icmp, bytes)| {
            let [mapped, xor_mapped, peer, relayed, alternate] =
                <[SocketAddr; 5]>::try_from(addresses).unwrap();
            let [username, realm, nonce, software, reason] = <[String; 5]>::try_from(texts).unwrap();
            let [data, unknown] = <[Vec<u8>; 2]>::try_from(bytes).unwrap();
            let (lifetime, channel, transport, reserve, token, code) = numbers;
            vec![
                Value::MappedAddress(mapped),
                Value::XorMappedAddress(xor_mapped),
                Value::XorPeerAddress(peer),
                Value::XorRelayedAddress(relayed),
                Value::AlternateServer(alternate),
                Value::Username(username),
                Value::Realm(realm),
                Value::Nonce(nonce),
                Value::Software(software),
                Value::ErrorCode(code, reason),
                Value::Lifetime(lifetime),
                Value::Data(data),
                Value::ChannelNumber(channel),
                Value::RequestedTransport(transport),
                Value::EvenPort(reserve),
                Value::DontFragment,
                Value::ReservationToken(token),
                Value::Icmp(icmp.0, icmp.1, icmp.2),
                Value::Unknown(unknown),
            ]
        });
    all.prop_flat_map(|all| {
        let most = all.len();
        subsequence(all, 0..=most).prop_shuffle()
    })
}
