//! Long-term keys (RFC 8489, section 9.2.2).

use md5::{Digest, Md5};
use sha2::Sha256;
use std::fmt;

use crate::wire::IntegrityKey;

/// MD5 of "username:realm:password", as PASSWORD-ALGORITHM MD5 and every client without PASSWORD-ALGORITHMS use.
///
/// Also known as HA1 and as what coturn's `turnadmin -k` prints.
#[derive(Clone, PartialEq, Eq)]
pub struct LongTermKey([u8; 16]);

impl LongTermKey {
    /// Derives the key. The password must be prepared with OpaqueString by whoever takes it from a person.
    pub fn new(username: &str, realm: &str, password: &str) -> LongTermKey {
        let mut hash = Md5::new();
        for part in [username, ":", realm, ":", password] {
            hash.update(part);
        }
        LongTermKey(hash.finalize().into())
    }

    /// A key that was derived before.
    pub fn from_bytes(ha1: [u8; 16]) -> LongTermKey {
        LongTermKey(ha1)
    }

    /// The key for MESSAGE-INTEGRITY.
    pub fn integrity_key(&self) -> IntegrityKey {
        IntegrityKey::new(&self.0)
    }
}

impl fmt::Debug for LongTermKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongTermKey(redacted)")
    }
}

/// SHA-256 of "username:realm", which stands for the username in USERHASH (RFC 8489, section 14.4).
pub fn userhash(username: &str, realm: &str) -> [u8; 32] {
    let mut hash = Sha256::new();
    for part in [username, ":", realm] {
        hash.update(part);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_rfc_8489() {
        // Section 9.2.2: "user:realm:pass".
        let ha1 = LongTermKey::new("user", "realm", "pass");
        assert_eq!(
            ha1,
            LongTermKey::from_bytes(*b"\x84\x93\xfb\xc5\x3b\xa5\x82\xfb\x4c\x04\x4c\x45\x6b\xdc\x40\xeb")
        );
        assert_eq!(format!("{ha1:?}"), "LongTermKey(redacted)");
    }
}
