//! MESSAGE-INTEGRITY and MESSAGE-INTEGRITY-SHA256 (RFC 8489, sections 14.5 and 14.6).

use core::fmt;

use hmac::digest::{KeyInit, Output};
use hmac::{Hmac, HmacCore, Mac};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Which of the two attributes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IntegrityAlgorithm {
    /// MESSAGE-INTEGRITY: HMAC-SHA1, 20 bytes.
    Sha1,
    /// MESSAGE-INTEGRITY-SHA256: HMAC-SHA256, 32 bytes, or truncated to not less than 16.
    Sha256,
}

/// A key ready for use: its inner and outer hash states are computed once. These alone are kept, without the buffers of a hash
/// under way, which are as large again: a relay has a key for each allocation.
///
/// For short-term credentials the key is the prepared password, for long-term ones a hash over it (RFC 8489,
/// sections 9.1.1 and 9.2.2).
#[derive(Clone)]
pub struct IntegrityKey {
    sha1: HmacCore<Sha1>,
    sha256: HmacCore<Sha256>,
}

impl fmt::Debug for IntegrityKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("IntegrityKey(redacted)")
    }
}

/// The message's integrity is not proved. What it says must not be acted upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IntegrityError {
    /// Neither of the two attributes is there.
    #[error("the message carries no MESSAGE-INTEGRITY")]
    Missing,
    /// The value does not match: another key, or bytes changed on the way.
    #[error("the MESSAGE-INTEGRITY does not match the key")]
    Mismatch,
}

impl IntegrityKey {
    /// A key from its bytes; any length will do.
    pub fn new(key: &[u8]) -> IntegrityKey {
        IntegrityKey { sha1: keyed(key), sha256: keyed(key) }
    }

    pub(super) fn sha1(&self, parts: [&[u8]; 2]) -> [u8; 20] {
        authenticate(Hmac::from_core(self.sha1.clone()), parts).into()
    }

    pub(super) fn sha256(&self, parts: [&[u8]; 2]) -> [u8; 32] {
        authenticate(Hmac::from_core(self.sha256.clone()), parts).into()
    }

    /// Compares in constant time. `received` may be truncated where the algorithm lets it.
    pub(super) fn verify(&self, algorithm: IntegrityAlgorithm, parts: [&[u8]; 2], received: &[u8]) -> bool {
        match algorithm {
            IntegrityAlgorithm::Sha1 => self.sha1(parts).ct_eq(received).into(),
            IntegrityAlgorithm::Sha256 => {
                let expected = self.sha256(parts);
                // "at least 16 bytes ... a multiple of 4 bytes" (RFC 8489, section 14.6).
                let allowed = (16..=32).contains(&received.len()) && received.len().is_multiple_of(4);
                allowed && bool::from(expected[..received.len()].ct_eq(received))
            }
        }
    }
}

fn keyed<M: KeyInit>(key: &[u8]) -> M {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    M::new_from_slice(key).expect("HMAC takes keys of any length")
}

fn authenticate<M: Mac>(mut mac: M, parts: [&[u8]; 2]) -> Output<M> {
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes()
}
