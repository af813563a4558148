//! The Binding messages of connectivity checks (RFC 8445, section 7), and of gathering.

use std::net::SocketAddr;

use thirl_common::net::canonical;
use thirl_common::wire::{
    AttributeType, BufferTooSmall, Class, ErrorCode, IceControlled, IceControlling, IntegrityAlgorithm,
    IntegrityKey, MappedAddress, Message, MessageWriter, Method, NatMapping, Nomination, Priority,
    TransactionId, UseCandidate, Username, XorMappedAddress,
};

use super::config::Role;

/// The comprehension-required attributes that a check may carry.
pub(super) const KNOWN: &[AttributeType] = &[
    AttributeType::USERNAME,
    AttributeType::PRIORITY,
    AttributeType::USE_CANDIDATE,
    AttributeType::MESSAGE_INTEGRITY,
    AttributeType::MESSAGE_INTEGRITY_SHA256,
];

/// A username of two ufrags of 256 characters, and the rest.
const MAX_LEN: usize = 768;

/// What a check says.
pub(super) struct Check<'a> {
    pub(super) id: TransactionId,
    /// "remote ufrag:local ufrag" (RFC 8445, section 7.2.2).
    pub(super) username: &'a str,
    /// The priority of the peer-reflexive candidate that this check may discover.
    pub(super) priority: u32,
    pub(super) role: Role,
    pub(super) tie_breaker: u64,
    pub(super) nominate: bool,
    /// The number of the nomination, for peers that renominate.
    pub(super) nomination: Option<u32>,
    /// What is told of the sender's NAT, to peers that know it.
    pub(super) mapping: Option<NatMapping>,
}

impl Check<'_> {
    pub(super) fn write(&self, key: &IntegrityKey) -> Vec<u8> {
        message(Class::Request, self.id, |writer| {
            writer.attribute(&Username(self.username))?.attribute(&Priority(self.priority))?;
            match self.role {
                Role::Controlling => writer.attribute(&IceControlling(self.tie_breaker))?,
                Role::Controlled => writer.attribute(&IceControlled(self.tie_breaker))?,
            };
            if self.nominate {
                writer.attribute(&UseCandidate)?;
            }
            if let Some(number) = self.nomination {
                writer.attribute(&Nomination(number))?;
            }
            if let Some(mapping) = self.mapping {
                writer.attribute(&mapping)?;
            }
            sign(writer, key)
        })
    }
}

pub(super) fn success(id: TransactionId, mapped: SocketAddr, key: &IntegrityKey) -> Vec<u8> {
    message(Class::Success, id, |writer| {
        writer.attribute(&XorMappedAddress(mapped))?;
        sign(writer, key)
    })
}

/// An error response. Those to whom integrity was not proved get none either (RFC 8489, section 9.1.3).
pub(super) fn error(id: TransactionId, code: ErrorCode<'static>, key: Option<&IntegrityKey>) -> Vec<u8> {
    message(Class::Error, id, |writer| {
        writer.attribute(&code.bare())?;
        match key {
            Some(key) => sign(writer, key),
            None => writer.fingerprint().map(drop),
        }
    })
}

/// What a STUN server is asked with.
pub(super) fn binding_request(id: TransactionId) -> Vec<u8> {
    message(Class::Request, id, |writer| writer.fingerprint().map(drop))
}

/// What keeps a mapping open (RFC 8445, section 11).
pub(super) fn binding_indication(id: TransactionId) -> Vec<u8> {
    message(Class::Indication, id, |writer| writer.fingerprint().map(drop))
}

/// What a STUN server says of the address that it was asked from, or in words why it says nothing.
pub(super) fn mapped_address(answer: &Message<'_>) -> Result<SocketAddr, String> {
    let mapped = match answer.get::<XorMappedAddress>() {
        Ok(Some(XorMappedAddress(mapped))) => Some(mapped),
        // Of servers of RFC 3489.
        _ => answer.get::<MappedAddress>().ok().flatten().map(|MappedAddress(mapped)| mapped),
    };
    match (answer.class(), mapped) {
        (Class::Success, Some(mapped)) => Ok(canonical(mapped)),
        (Class::Success, None) => Err("the server's answer has no address".to_owned()),
        _ => Err("the server refuses".to_owned()),
    }
}

fn sign(writer: &mut MessageWriter<'_>, key: &IntegrityKey) -> Result<(), BufferTooSmall> {
    writer.integrity(IntegrityAlgorithm::Sha1, key)?.fingerprint().map(drop)
}

/// Nothing is written that could outgrow the buffer: usernames are bounded by [`super::Credentials::check`].
fn message(
    class: Class,
    id: TransactionId,
    body: impl FnOnce(&mut MessageWriter<'_>) -> Result<(), BufferTooSmall>,
) -> Vec<u8> {
    let mut buffer = [0; MAX_LEN];
    let written = MessageWriter::new(&mut buffer, class, Method::BINDING, id).and_then(|mut writer| {
        body(&mut writer)?;
        Ok(writer.finish().to_vec())
    });
    debug_assert!(written.is_ok(), "a check fits its buffer");
    written.unwrap_or_default()
}
