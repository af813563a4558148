//! Access tokens of third-party authorization (RFC 7635): an authorization server gives the client a key and, sealed for
//! the STUN server, a token that holds the same key.

use std::collections::BTreeMap;
use std::fmt;

use aes_gcm::aead::generic_array::GenericArray;
use aes_gcm::aead::{AeadInPlace, KeyInit};
use aes_gcm::{Aes128Gcm, Aes256Gcm};

use super::store::{Claim, Credential, CredentialQuery, CredentialStore, Finding, Identity};
use crate::wire::IntegrityKey;

/// Length of AES-GCM's nonce in bytes (RFC 5116, section 5.1).
const NONCE_LEN: usize = 12;

/// Length of AES-GCM's tag in bytes (RFC 5116, section 5.1).
const TAG_LEN: usize = 16;

/// Seconds that the two servers' clocks may differ. Delta of RFC 7635, section 7.
const CLOCK_SKEW: u64 = 5;

/// Bytes of a key for MESSAGE-INTEGRITY: "160 bits MUST be supported" (RFC 7635, section 6.2), and more make no sense
/// beyond the block of the hash.
const MAC_KEY_LEN: std::ops::RangeInclusive<usize> = 20..=64;

/// What is sealed in a token (RFC 7635, section 6.2).
#[derive(Clone, PartialEq, Eq)]
pub struct AccessTokenContent {
    /// The key for MESSAGE-INTEGRITY, 20 to 64 bytes, which the client got from the authorization server too.
    pub mac_key: Vec<u8>,
    /// When the token was made, in Unix seconds.
    pub timestamp: u64,
    /// For how many seconds it holds from then on.
    pub lifetime: u32,
}

impl fmt::Debug for AccessTokenContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessTokenContent(redacted, made {} for {} s)", self.timestamp, self.lifetime)
    }
}

/// The key that the authorization server and the STUN server share, for AEAD_AES_128_GCM or AEAD_AES_256_GCM.
#[derive(Clone)]
pub struct TokenKey(Cipher);

#[derive(Clone)]
enum Cipher {
    Aes128(Box<Aes128Gcm>),
    Aes256(Box<Aes256Gcm>),
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenKey(redacted)")
    }
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenError {
    /// A key is 16 or 32 bytes long: whoever configured it has to mend it.
    #[error("a token key has 16 or 32 bytes")]
    KeyLength,
    /// A key for integrity is 20 to 64 bytes long: the authorization server's fault.
    #[error("the key in an access token has 20 to 64 bytes")]
    MacKeyLength,
    /// Not sealed with this key for this server, or changed since.
    #[error("the access token was not made for this server with this key")]
    Foreign,
    /// Its time is over, or has not come.
    #[error("the access token has expired, or the clocks of the servers differ")]
    Expired,
}

impl TokenKey {
    /// From 16 or 32 bytes.
    pub fn new(key: &[u8]) -> Result<TokenKey, TokenError> {
        let cipher = Aes256Gcm::new_from_slice(key)
            .map(|cipher| Cipher::Aes256(Box::new(cipher)))
            .or_else(|_| Aes128Gcm::new_from_slice(key).map(|cipher| Cipher::Aes128(Box::new(cipher))));
        cipher.map(TokenKey).map_err(|_| TokenError::KeyLength)
    }

    /// Seals a token for the server of that name, as an authorization server does. A nonce serves once for each key.
    pub fn seal(
        &self,
        content: &AccessTokenContent,
        server_name: &str,
        nonce: [u8; NONCE_LEN],
    ) -> Result<Vec<u8>, TokenError> {
        let key_len = u16::try_from(content.mac_key.len()).map_err(|_| TokenError::MacKeyLength)?;
        if !MAC_KEY_LEN.contains(&content.mac_key.len()) {
            return Err(TokenError::MacKeyLength);
        }
        let mut block = Vec::new();
        block.extend(key_len.to_be_bytes());
        block.extend(&content.mac_key);
        // 48 bits of seconds, 16 bits of 1/64000 s (RFC 7635, section 6.2).
        block.extend((content.timestamp << 16).to_be_bytes());
        block.extend(content.lifetime.to_be_bytes());
        let (nonce_in, aad) = (GenericArray::from_slice(&nonce), server_name.as_bytes());
        let sealed = match &self.0 {
            Cipher::Aes128(cipher) => cipher.encrypt_in_place_detached(nonce_in, aad, &mut block),
            Cipher::Aes256(cipher) => cipher.encrypt_in_place_detached(nonce_in, aad, &mut block),
        };
        // It fails for gigabytes only.
        let tag = sealed.map_err(|_| TokenError::MacKeyLength)?;
        let [.., n0, n1] = NONCE_LEN.to_be_bytes();
        Ok([&[n0, n1][..], &nonce, &block, &tag].concat())
    }

    /// Opens the value of an ACCESS-TOKEN. Whether its time has come is for [`AccessTokenContent::check_time`].
    pub fn open(&self, token: &[u8], server_name: &str) -> Result<AccessTokenContent, TokenError> {
        let foreign = TokenError::Foreign;
        let (&len, rest) = token.split_first_chunk().ok_or(foreign)?;
        if usize::from(u16::from_be_bytes(len)) != NONCE_LEN {
            return Err(foreign);
        }
        let (nonce, block) = rest.split_first_chunk::<NONCE_LEN>().ok_or(foreign)?;
        let (block, tag) = block.split_last_chunk::<TAG_LEN>().ok_or(foreign)?;
        let mut block = block.to_vec();
        let (nonce, tag, aad) =
            (GenericArray::from_slice(nonce), GenericArray::from_slice(tag), server_name.as_bytes());
        let opened = match &self.0 {
            Cipher::Aes128(cipher) => cipher.decrypt_in_place_detached(nonce, aad, &mut block, tag),
            Cipher::Aes256(cipher) => cipher.decrypt_in_place_detached(nonce, aad, &mut block, tag),
        };
        opened.map_err(|_| foreign)?;
        AccessTokenContent::read(&block).ok_or(TokenError::MacKeyLength)
    }
}

impl AccessTokenContent {
    fn read(block: &[u8]) -> Option<AccessTokenContent> {
        let (&len, rest) = block.split_first_chunk()?;
        let (mac_key, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(len)))?;
        let (timestamp, rest) = rest.split_first_chunk()?;
        let lifetime = rest.try_into().ok()?;
        MAC_KEY_LEN.contains(&mac_key.len()).then(|| AccessTokenContent {
            mac_key: mac_key.to_vec(),
            timestamp: u64::from_be_bytes(*timestamp) >> 16,
            lifetime: u32::from_be_bytes(lifetime),
        })
    }

    /// When the token ends, in Unix seconds, if its time is now: "Lifetime + Delta > abs(RDnew - TS)" (RFC 7635,
    /// section 7), of which a time that has not come yet is let pass only for the clocks' sake.
    pub fn check_time(&self, unix_seconds: u64) -> Result<u64, TokenError> {
        let ends = self.timestamp.saturating_add(u64::from(self.lifetime));
        let begun = self.timestamp <= unix_seconds.saturating_add(CLOCK_SKEW);
        let over = unix_seconds >= ends.saturating_add(CLOCK_SKEW);
        if begun && !over { Ok(ends) } else { Err(TokenError::Expired) }
    }
}

/// The authorization servers that this server trusts, by the `kid` that their clients send as USERNAME (RFC 7635,
/// section 4.1).
#[derive(Clone, Debug)]
pub struct AccessTokens {
    server_name: String,
    keys: BTreeMap<String, TokenKey>,
}

impl AccessTokens {
    /// Takes tokens for the server of this name, which THIRD-PARTY-AUTHORIZATION tells the clients.
    pub fn new(server_name: impl Into<String>) -> AccessTokens {
        AccessTokens { server_name: server_name.into(), keys: BTreeMap::new() }
    }

    /// Trusts an authorization server, or changes its key.
    pub fn insert(&mut self, kid: impl Into<String>, key: TokenKey) {
        self.keys.insert(kid.into(), key);
    }

    /// For THIRD-PARTY-AUTHORIZATION.
    pub fn server_name(&self) -> &str {
        &self.server_name
    }

    fn credential(
        &self,
        claim: &Claim<'_>,
        proves: &mut dyn FnMut(&IntegrityKey) -> bool,
    ) -> Option<Credential> {
        let (Identity::Username(kid), Some(token)) = (claim.identity, claim.access_token) else {
            return None;
        };
        let content = self.keys.get(kid)?.open(token, &self.server_name).ok()?;
        let expires = content.check_time(claim.unix_seconds).ok()?;
        let key = IntegrityKey::new(&content.mac_key);
        proves(&key).then(|| Credential {
            username: kid.to_owned(),
            key: Box::new(key),
            account: None,
            expires: Some(expires),
        })
    }
}

impl CredentialStore for AccessTokens {
    /// There is no token in the short question, so nobody is found.
    fn find(&self, _: CredentialQuery<'_>, _: &mut dyn FnMut(&IntegrityKey) -> bool) -> Option<IntegrityKey> {
        None
    }

    fn authenticate(&self, claim: &Claim<'_>, proves: &mut dyn FnMut(&IntegrityKey) -> bool) -> Finding {
        self.credential(claim, proves).map_or(Finding::Unknown, Finding::Found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::KeyAlgorithm;

    const SERVER: &str = "blackdow.carleon.gov";
    const NOW: u64 = 1_800_000_000;

    fn content() -> AccessTokenContent {
        AccessTokenContent { mac_key: b"ZksjpweoixXmvn67534m".to_vec(), timestamp: NOW, lifetime: 3600 }
    }

    #[test]
    fn the_layout_of_rfc_7635() {
        let token = TokenKey::new(&[7; 32]).unwrap().seal(&content(), SERVER, *b"h4j3k2l2n4b5").unwrap();
        assert_eq!(&token[..14], b"\x00\x0ch4j3k2l2n4b5");
        assert_eq!(token.len(), 14 + (2 + 20 + 8 + 4) + 16);
        // python3: AESGCM(bytes([7]) * 32).encrypt(b"h4j3k2l2n4b5", b"\0\x14ZksjpweoixXmvn67534m" +
        //   struct.pack(">QI", 1800000000 << 16, 3600), b"blackdow.carleon.gov").hex()
        let sealed = data_encoding::HEXLOWER.encode(&token[14..]);
        assert_eq!(
            sealed,
            "864f406c626c96e44304cbade738fc1454c0479601c97447564d32bc2df36289bf60141a872b95ad4d5ba3c9a155022a5404"
        );
    }

    #[test]
    fn a_token_is_for_one_server_and_one_key() {
        for key in [&[7; 16][..], &[7; 32]] {
            let key = TokenKey::new(key).unwrap();
            let token = key.seal(&content(), SERVER, [1; 12]).unwrap();
            assert_eq!(key.open(&token, SERVER), Ok(content()));
            assert_eq!(key.open(&token, "other.example"), Err(TokenError::Foreign));
            assert_eq!(TokenKey::new(&[8; 32]).unwrap().open(&token, SERVER), Err(TokenError::Foreign));
            for at in 0..token.len() {
                let mut changed = token.clone();
                changed[at] ^= 1;
                assert_eq!(key.open(&changed, SERVER), Err(TokenError::Foreign), "byte {at}");
                assert_eq!(key.open(&token[..at], SERVER), Err(TokenError::Foreign), "{at} bytes");
            }
        }
        assert_eq!(TokenKey::new(&[7; 20]).unwrap_err(), TokenError::KeyLength);
        let short = AccessTokenContent { mac_key: vec![0; 19], ..content() };
        assert_eq!(
            TokenKey::new(&[7; 32]).unwrap().seal(&short, SERVER, [1; 12]),
            Err(TokenError::MacKeyLength)
        );
    }

    #[test]
    fn a_token_has_its_time() {
        for (now, expected) in [
            (NOW, Ok(NOW + 3600)),
            (NOW - 5, Ok(NOW + 3600)),
            (NOW - 6, Err(TokenError::Expired)),
            (NOW + 3604, Ok(NOW + 3600)),
            (NOW + 3605, Err(TokenError::Expired)),
        ] {
            assert_eq!(content().check_time(now), expected, "{now}");
        }
    }

    #[test]
    fn the_key_in_the_token_is_the_one_that_signs() {
        let key = TokenKey::new(&[7; 32]).unwrap();
        let token = key.seal(&content(), SERVER, [1; 12]).unwrap();
        let mut store = AccessTokens::new(SERVER);
        store.insert("22BIjxU93h/IgwEb", key);
        let claim = Claim {
            identity: Identity::Username("22BIjxU93h/IgwEb"),
            access_token: Some(&token),
            realm: "thirl",
            algorithm: KeyAlgorithm::Md5,
            unix_seconds: NOW,
        };
        let message = crate::auth::testing::signed_with(&IntegrityKey::new(&content().mac_key));
        let message = crate::wire::Message::parse(&message).unwrap();
        let mut proves = |key: &IntegrityKey| message.verify_integrity(key).is_ok();
        let Finding::Found(found) = store.authenticate(&claim, &mut proves) else { panic!("not found") };
        assert_eq!((found.username.as_str(), found.expires), ("22BIjxU93h/IgwEb", Some(NOW + 3600)));
        for other in [
            Claim { access_token: None, ..claim },
            Claim { identity: Identity::Username("other"), ..claim },
            Claim { identity: Identity::UserHash([0; 32]), ..claim },
            Claim { unix_seconds: NOW + 4000, ..claim },
        ] {
            assert!(matches!(store.authenticate(&other, &mut proves), Finding::Unknown), "{other:?}");
        }
        assert!(matches!(store.authenticate(&claim, &mut |_| false), Finding::Unknown));
    }
}
