//! What the tests of the stores share.

use super::{Claim, CredentialQuery, CredentialStore, Finding, LongTermKey};
use crate::wire::{Class, IntegrityAlgorithm, IntegrityKey, Message, MessageWriter, Method, TransactionId};

pub(super) const REALM: &str = "thirl";

/// A request with nothing but its integrity.
pub(super) fn signed_with(key: &IntegrityKey) -> Vec<u8> {
    let mut buffer = [0; 64];
    let id = TransactionId([0; 12]);
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, id).unwrap();
    writer.integrity(IntegrityAlgorithm::Sha1, key).unwrap();
    writer.finish().to_vec()
}

/// What the store says to a claim in a request that was signed with `key`.
pub(super) fn finds(store: &impl CredentialStore, claim: &Claim<'_>, key: &IntegrityKey) -> Finding {
    let bytes = signed_with(key);
    let message = Message::parse(&bytes).unwrap();
    store.authenticate(claim, &mut |key| message.verify_integrity(key).is_ok())
}

/// Whether the store finds, by MD5, who has this password.
pub(super) fn knows(store: &impl CredentialStore, username: &str, password: &str, unix_seconds: u64) -> bool {
    let bytes = signed_with(&LongTermKey::new(username, REALM, password).integrity_key());
    let message = Message::parse(&bytes).unwrap();
    let query = CredentialQuery { username, realm: REALM, unix_seconds };
    store.find(query, &mut |key| message.verify_integrity(key).is_ok()).is_some()
}
