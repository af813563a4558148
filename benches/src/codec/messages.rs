//! The bytes that all crates read, and what is wanted of them.

use std::net::SocketAddr;
use std::sync::LazyLock;

use thirl_common::auth::LongTermKey;
use thirl_common::wire::{
    Class, IntegrityAlgorithm, Lifetime, MessageWriter, Method, Nonce, Realm, RequestedTransport, Software,
    TransactionId, Username, XorMappedAddress,
};

/// What is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operation {
    /// Only what every operation has around it.
    Nothing,
    /// Is it a Binding request, of which transaction?
    ReadBindingRequest,
    /// Of which transaction, and which address did the server see?
    ReadBindingSuccess,
    /// Who asks for which transport and how long, with which nonce?
    ReadAllocate,
    /// Is the Allocate, read before, signed with this key, whose hash states are at hand where the crate lets them be?
    VerifyIntegrity,
    /// A Binding success with XOR-MAPPED-ADDRESS, into a buffer that is there.
    WriteBindingSuccess,
    /// Is it ChannelData, of which channel, and where is the data?
    ChannelData,
}

impl Operation {
    pub(super) const ALL: [Operation; 6] = [
        Operation::ReadBindingRequest,
        Operation::ReadBindingSuccess,
        Operation::ReadAllocate,
        Operation::VerifyIntegrity,
        Operation::WriteBindingSuccess,
        Operation::ChannelData,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Operation::Nothing => "nothing",
            Operation::ReadBindingRequest => "read a Binding request",
            Operation::ReadBindingSuccess => "read a Binding success",
            Operation::ReadAllocate => "read a signed Allocate",
            Operation::VerifyIntegrity => "verify its integrity",
            Operation::WriteBindingSuccess => "write a Binding success",
            Operation::ChannelData => "classify, unwrap ChannelData",
        }
    }
}

/// What is wanted of an Allocate. `S` is how the crate gives text out.
#[expect(dead_code, reason = "it is made and given to black_box")]
pub(super) struct Allocate<S> {
    pub(super) id: [u8; 12],
    pub(super) username: S,
    pub(super) realm: S,
    pub(super) nonce: S,
    pub(super) transport: u8,
    pub(super) lifetime: u32,
}

pub(super) const ID: [u8; 12] = *b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae";
pub(super) const USERNAME: &str = "1800000000:alice";
pub(super) const REALM: &str = "thirl.example";
pub(super) const PASSWORD: &str = "VOkJxbRl1RmTxUk/WvJxBt";
pub(super) const MAPPED: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 32853);

/// 20 bytes, as most clients send it.
pub(super) static BINDING_REQUEST: LazyLock<Vec<u8>> =
    LazyLock::new(|| write(Class::Request, Method::BINDING, |_| {}));

/// With SOFTWARE before the address, as servers send it.
pub(super) static BINDING_SUCCESS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    write(Class::Success, Method::BINDING, |writer| {
        let _ = writer
            .attribute(&Software("test vector"))
            .and_then(|writer| writer.attribute(&XorMappedAddress(MAPPED)));
    })
});

/// With long-term credentials and MESSAGE-INTEGRITY.
pub(super) static ALLOCATE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let key = LongTermKey::new(USERNAME, REALM, PASSWORD).integrity_key();
    write(Class::Request, Method::ALLOCATE, |writer| {
        let _ = writer
            .attribute(&RequestedTransport::UDP)
            .and_then(|writer| writer.attribute(&Lifetime(600)))
            .and_then(|writer| writer.attribute(&Username(USERNAME)))
            .and_then(|writer| writer.attribute(&Realm(REALM)))
            .and_then(|writer| writer.attribute(&Nonce("AcjN0mK5lqB2nYw3Zx-_")))
            .and_then(|writer| writer.integrity(IntegrityAlgorithm::Sha1, &key));
    })
});

/// 20 ms of speech, padded as over TCP.
pub(super) static CHANNEL_DATA: LazyLock<Vec<u8>> =
    LazyLock::new(|| [&[0x40, 0x01, 0, 160][..], &[0x5A; 160]].concat());

fn write(class: Class, method: Method, attributes: impl FnOnce(&mut MessageWriter<'_>)) -> Vec<u8> {
    let mut buffer = [0; 256];
    let Ok(mut writer) = MessageWriter::new(&mut buffer, class, method, TransactionId(ID)) else {
        return Vec::new();
    };
    attributes(&mut writer);
    writer.finish().to_vec()
}
