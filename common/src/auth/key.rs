//! Long-term keys (RFC 8489, section 9.2.2).

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER_PERMISSIVE;
use md5::{Digest, Md5};
use sha2::Sha256;
use subtle::ConstantTimeEq;

use super::prepare::{PrepareError, opaque_string};
use crate::wire::{IntegrityKey, PasswordAlgorithm};

/// How a key is derived from username, realm and password (RFC 8489, section 18.5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyAlgorithm {
    /// PASSWORD-ALGORITHM MD5, and every client without PASSWORD-ALGORITHMS.
    Md5,
    /// PASSWORD-ALGORITHM SHA-256.
    Sha256,
}

impl KeyAlgorithm {
    /// The algorithm that PASSWORD-ALGORITHM names, if it is one that is registered.
    pub fn of(algorithm: PasswordAlgorithm<'_>) -> Option<KeyAlgorithm> {
        [KeyAlgorithm::Md5, KeyAlgorithm::Sha256].into_iter().find(|known| known.attribute() == algorithm)
    }

    /// The attribute that names it.
    pub const fn attribute(self) -> PasswordAlgorithm<'static> {
        match self {
            KeyAlgorithm::Md5 => PasswordAlgorithm::MD5,
            KeyAlgorithm::Sha256 => PasswordAlgorithm::SHA256,
        }
    }
}

/// MD5 or SHA-256 of "username:realm:password".
///
/// The MD5 one is also known as HA1 and as what coturn's `turnadmin -k` prints. A key is written `0x` and 32 or 64
/// hexadecimal digits.
#[derive(Clone)]
pub struct LongTermKey(Hash);

#[derive(Clone)]
enum Hash {
    Md5([u8; 16]),
    Sha256([u8; 32]),
}

/// Whoever wrote the key has to mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no key: write 0x and 32 hexadecimal digits (MD5) or 64 (SHA-256)")]
pub struct KeyFormatError;

impl LongTermKey {
    /// The MD5 key of texts that are prepared, or ASCII.
    pub fn new(username: &str, realm: &str, password: &str) -> LongTermKey {
        LongTermKey::with_algorithm(KeyAlgorithm::Md5, username, realm, password)
    }

    /// The key of texts that are prepared, or ASCII.
    pub fn with_algorithm(
        algorithm: KeyAlgorithm,
        username: &str,
        realm: &str,
        password: &str,
    ) -> LongTermKey {
        let parts = [username, ":", realm, ":", password];
        LongTermKey(match algorithm {
            KeyAlgorithm::Md5 => Hash::Md5(hash::<Md5>(&parts).into()),
            KeyAlgorithm::Sha256 => Hash::Sha256(hash::<Sha256>(&parts).into()),
        })
    }

    /// The key of texts as a person wrote them: prepared with OpaqueString first.
    pub fn prepared(
        algorithm: KeyAlgorithm,
        username: &str,
        realm: &str,
        password: &str,
    ) -> Result<LongTermKey, PrepareError> {
        let [username, realm, password] = [username, realm, password].map(opaque_string);
        Ok(LongTermKey::with_algorithm(algorithm, &username?, &realm?, &password?))
    }

    /// An MD5 key that was derived before.
    pub fn from_bytes(ha1: [u8; 16]) -> LongTermKey {
        LongTermKey(Hash::Md5(ha1))
    }

    /// A SHA-256 key that was derived before.
    pub fn from_sha256_bytes(key: [u8; 32]) -> LongTermKey {
        LongTermKey(Hash::Sha256(key))
    }

    /// How it was derived.
    pub fn algorithm(&self) -> KeyAlgorithm {
        match self.0 {
            Hash::Md5(_) => KeyAlgorithm::Md5,
            Hash::Sha256(_) => KeyAlgorithm::Sha256,
        }
    }

    /// The key for MESSAGE-INTEGRITY.
    pub fn integrity_key(&self) -> IntegrityKey {
        IntegrityKey::new(self.as_bytes())
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Hash::Md5(key) => key,
            Hash::Sha256(key) => key,
        }
    }
}

/// In constant time for keys of the same algorithm.
impl PartialEq for LongTermKey {
    fn eq(&self, other: &LongTermKey) -> bool {
        self.as_bytes().ct_eq(other.as_bytes()).into()
    }
}

impl Eq for LongTermKey {}

impl FromStr for LongTermKey {
    type Err = KeyFormatError;

    fn from_str(text: &str) -> Result<Self, KeyFormatError> {
        let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).ok_or(KeyFormatError)?;
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| KeyFormatError)?;
        let md5 = <[u8; 16]>::try_from(&bytes[..]).map(LongTermKey::from_bytes);
        md5.or_else(|_| <[u8; 32]>::try_from(&bytes[..]).map(LongTermKey::from_sha256_bytes))
            .map_err(|_| KeyFormatError)
    }
}

impl fmt::Debug for LongTermKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LongTermKey(redacted)")
    }
}

/// SHA-256 of "username:realm", both prepared or ASCII, which stands for the username in USERHASH (RFC 8489, section
/// 14.4).
pub fn userhash(username: &str, realm: &str) -> [u8; 32] {
    hash::<Sha256>(&[username, ":", realm]).into()
}

fn hash<D: Digest>(parts: &[&str]) -> md5::digest::Output<D> {
    let mut hash = D::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_8489() {
        // Section 9.2.2: "user:realm:pass".
        let ha1 = LongTermKey::new("user", "realm", "pass");
        assert_eq!(
            ha1,
            LongTermKey::from_bytes(*b"\x84\x93\xfb\xc5\x3b\xa5\x82\xfb\x4c\x04\x4c\x45\x6b\xdc\x40\xeb")
        );
        assert_eq!(format!("{ha1:?}"), "LongTermKey(redacted)");
    }

    #[test]
    fn keys_are_read_as_turnadmin_prints_them() {
        let ha1: LongTermKey = "0x8493fbc53ba582fb4c044c456bdc40eb".parse().unwrap();
        assert_eq!(ha1, LongTermKey::new("user", "realm", "pass"));
        // printf %s user:realm:pass | sha256sum
        let key: LongTermKey =
            "0x07E934117ABD40836E7C6329B54731B2B2D2A5F9A71F544922D75E0730D8251B".parse().unwrap();
        assert_eq!(key, LongTermKey::with_algorithm(KeyAlgorithm::Sha256, "user", "realm", "pass"));
        for text in
            ["", "0x", "8493fbc53ba582fb4c044c456bdc40eb", "0x84", "0xzz93fbc53ba582fb4c044c456bdc40eb"]
        {
            assert_eq!(text.parse::<LongTermKey>(), Err(KeyFormatError), "{text}");
        }
    }

    #[test]
    fn preparation_comes_before_the_hash() {
        let prepared = LongTermKey::prepared(KeyAlgorithm::Sha256, "a\u{3000}b", "r", "p").unwrap();
        assert_eq!(prepared, LongTermKey::with_algorithm(KeyAlgorithm::Sha256, "a b", "r", "p"));
        assert_ne!(prepared, LongTermKey::new("a b", "r", "p"));
        assert_eq!(LongTermKey::prepared(KeyAlgorithm::Md5, "a", "r", ""), Err(PrepareError::Disallowed));
    }

    #[test]
    fn algorithms_and_their_attributes() {
        for algorithm in [KeyAlgorithm::Md5, KeyAlgorithm::Sha256] {
            assert_eq!(KeyAlgorithm::of(algorithm.attribute()), Some(algorithm));
        }
        assert_eq!(KeyAlgorithm::of(PasswordAlgorithm { number: 2, parameters: &[1] }), None);
        assert_eq!(KeyAlgorithm::of(PasswordAlgorithm { number: 3, parameters: &[] }), None);
    }
}
