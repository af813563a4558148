//! Stateless nonces: the server recognises its own without keeping any.

use std::net::IpAddr;

use data_encoding::{BASE64, BASE64URL_NOPAD};
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Bytes of the keyed hash that a nonce carries. 80 bits: a guess has to be made online.
const TAG_LEN: usize = 10;

/// Length of a nonce in characters: a 401 must not be much larger than the request that drew it, so this is short.
const NONCE_LEN: usize = 20;

/// What a nonce of RFC 8489 begins with (section 9.2).
const COOKIE: &str = "obMatJos2";

/// Length of the cookie with the features behind it, four characters of base64.
const COOKIE_AND_FEATURES_LEN: usize = COOKIE.len() + 4;

/// What a server's nonce says that it can do, so that nobody on the way can take it back unnoticed: "bid-down"
/// protection (RFC 8489, sections 9.2 and 18.1).
///
/// Bit 0 is the least significant of the 24, as erratum 6290 has it and the vector of appendix B.1 shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SecurityFeatures {
    /// Bit 0, "Password algorithms": the 401 carries PASSWORD-ALGORITHMS.
    pub password_algorithms: bool,
    /// Bit 1, "Username anonymity": requests carry USERHASH instead of USERNAME.
    pub username_anonymity: bool,
}

impl SecurityFeatures {
    /// What `nonce` says. One without the cookie, or with something other than base64 behind it, says nothing.
    pub fn of(nonce: &str) -> SecurityFeatures {
        let bits = split_cookie(nonce).and_then(|(features, _)| {
            let mut bytes = [0; 3];
            (BASE64.decode_mut(features.as_bytes(), &mut bytes) == Ok(3)).then_some(bytes)
        });
        let [.., low] = bits.unwrap_or_default();
        SecurityFeatures { password_algorithms: low & 1 != 0, username_anonymity: low & 2 != 0 }
    }

    fn bits(self) -> [u8; 3] {
        [0, 0, u8::from(self.password_algorithms) | u8::from(self.username_anonymity) << 1]
    }
}

/// The characters of the features and what follows them, if `nonce` begins with the cookie.
fn split_cookie(nonce: &str) -> Option<(&str, &str)> {
    nonce.strip_prefix(COOKIE)?.split_at_checked(COOKIE_AND_FEATURES_LEN - COOKIE.len())
}

/// Mints and checks nonces. Servers that share a key recognise each other's.
///
/// A nonce is base64url(minute of its minting, 5 bytes ‖ HMAC-SHA256(key, minute ‖ client prefix), truncated to 10
/// bytes). It is bound to the client's prefix (/32 for IPv4, /64 for IPv6) so that one that was overheard is no use
/// elsewhere. Where the server has features of RFC 8489 to tell, the cookie and they stand before it, and the hash is
/// over them too: 33 characters instead of 20, in a 401 that carries PASSWORD-ALGORITHMS anyway.
#[derive(Clone)]
pub struct NonceKey {
    keyed: Hmac<Sha256>,
    previous: Option<Hmac<Sha256>>,
}

impl std::fmt::Debug for NonceKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("NonceKey(redacted)")
    }
}

/// Why a nonce is not taken. Either way the client is sent a new one (438).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NonceError {
    /// Not of our minting, or minted for another client.
    #[error("the nonce is not one that this server gave this client")]
    Foreign,
    /// Ours, but too old.
    #[error("the nonce has expired")]
    Expired,
}

impl NonceKey {
    /// From 32 random bytes, or from those that a fleet shares.
    pub fn new(key: &[u8; 32]) -> NonceKey {
        NonceKey { keyed: keyed(key), previous: None }
    }

    /// Takes the nonces of `key` too, which was used before this one: change the key of a fleet by giving every server
    /// the new one with the old one as previous, and drop that after a nonce's lifetime.
    pub fn with_previous(self, key: &[u8; 32]) -> NonceKey {
        NonceKey { previous: Some(keyed(key)), ..self }
    }

    /// A nonce for a client at `unix_seconds`.
    pub fn mint(&self, client: IpAddr, unix_seconds: u64) -> String {
        self.mint_with(SecurityFeatures::default(), client, unix_seconds)
    }

    /// A nonce that tells the client of the server's features; without any, one that is as short as [`NonceKey::mint`]'s.
    pub fn mint_with(&self, features: SecurityFeatures, client: IpAddr, unix_seconds: u64) -> String {
        let minute = minute_bytes(unix_seconds);
        let mut raw = [0; 5 + TAG_LEN];
        raw[..5].copy_from_slice(&minute);
        raw[5..].copy_from_slice(&tag(&self.keyed, features, minute, client));
        let mut nonce = String::with_capacity(COOKIE_AND_FEATURES_LEN + NONCE_LEN);
        if features != SecurityFeatures::default() {
            nonce.push_str(COOKIE);
            BASE64.encode_append(&features.bits(), &mut nonce);
        }
        BASE64URL_NOPAD.encode_append(&raw, &mut nonce);
        nonce
    }

    /// Checks that `nonce` was minted for this client not longer than `lifetime_seconds` ago, with the features that it
    /// says ([`SecurityFeatures::of`]).
    pub fn check(
        &self,
        nonce: &str,
        client: IpAddr,
        unix_seconds: u64,
        lifetime_seconds: u64,
    ) -> Result<(), NonceError> {
        let features = SecurityFeatures::of(nonce);
        let short = match split_cookie(nonce) {
            // Ours has the cookie only to tell something, and then exactly these characters.
            Some((told, short))
                if features != SecurityFeatures::default() && told == BASE64.encode(&features.bits()) =>
            {
                short
            }
            Some(_) => return Err(NonceError::Foreign),
            None => nonce,
        };
        let mut raw = [0; 5 + TAG_LEN];
        if short.len() != NONCE_LEN || BASE64URL_NOPAD.decode_mut(short.as_bytes(), &mut raw) != Ok(raw.len())
        {
            return Err(NonceError::Foreign);
        }
        let [m0, m1, m2, m3, m4, ref received @ ..] = raw;
        let minute = [m0, m1, m2, m3, m4];
        let ours = |key: &Hmac<Sha256>| bool::from(tag(key, features, minute, client).ct_eq(received));
        if !ours(&self.keyed) && !self.previous.as_ref().is_some_and(ours) {
            return Err(NonceError::Foreign);
        }
        let minted = u64::from_be_bytes([0, 0, 0, m0, m1, m2, m3, m4]) * 60;
        // Rounding down to the minute makes a nonce look up to a minute older than it is.
        if unix_seconds.saturating_sub(minted) > lifetime_seconds.saturating_add(60) {
            return Err(NonceError::Expired);
        }
        Ok(())
    }
}

fn keyed(key: &[u8; 32]) -> Hmac<Sha256> {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
    <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length")
}

/// The hash's input is 9 or 13 bytes without features and three more with them, so none can be taken for another.
fn tag(key: &Hmac<Sha256>, features: SecurityFeatures, minute: [u8; 5], client: IpAddr) -> [u8; TAG_LEN] {
    let mut mac = key.clone();
    mac.update(&minute);
    match client.to_canonical() {
        IpAddr::V4(ip) => mac.update(&ip.octets()),
        IpAddr::V6(ip) => mac.update(&ip.octets()[..8]),
    }
    if features != SecurityFeatures::default() {
        mac.update(&features.bits());
    }
    let full = mac.finalize().into_bytes();
    std::array::from_fn(|at| full[at])
}

/// Five bytes of minutes since 1970 last for two million years.
fn minute_bytes(unix_seconds: u64) -> [u8; 5] {
    let [_, _, _, minute @ ..] = (unix_seconds / 60).to_be_bytes();
    minute
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_030;

    #[test]
    fn holds_for_its_client_and_its_time() {
        let key = NonceKey::new(&[1; 32]);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let nonce = key.mint(client, NOW);
        assert_eq!(nonce.len(), NONCE_LEN);
        assert_eq!(key.check(&nonce, client, NOW, 600), Ok(()));
        assert_eq!(key.check(&nonce, client, NOW + 600, 600), Ok(()));
        assert_eq!(key.check(&nonce, client, NOW + 700, 600), Err(NonceError::Expired));
        assert_eq!(key.check(&nonce, "192.0.2.2".parse().unwrap(), NOW, 600), Err(NonceError::Foreign));
        assert_eq!(NonceKey::new(&[2; 32]).check(&nonce, client, NOW, 600), Err(NonceError::Foreign));
        assert_eq!(NonceKey::new(&[1; 32]).check(&nonce, client, NOW, 600), Ok(()), "a fleet shares one key");
    }

    #[test]
    fn an_ipv6_host_may_change_its_temporary_address() {
        let key = NonceKey::new(&[1; 32]);
        let nonce = key.mint("2001:db8::1".parse().unwrap(), NOW);
        assert_eq!(key.check(&nonce, "2001:db8::2".parse().unwrap(), NOW, 600), Ok(()));
        assert_eq!(key.check(&nonce, "2001:db8:1::1".parse().unwrap(), NOW, 600), Err(NonceError::Foreign));
    }

    #[test]
    fn features_are_told_and_cannot_be_taken_back() {
        let key = NonceKey::new(&[1; 32]);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let features = SecurityFeatures { password_algorithms: true, username_anonymity: false };
        let nonce = key.mint_with(features, client, NOW);
        assert!(nonce.starts_with("obMatJos2AAAB") && nonce.len() == 33, "{nonce}");
        assert_eq!(SecurityFeatures::of(&nonce), features);
        assert_eq!(key.check(&nonce, client, NOW, 600), Ok(()));
        for other in [&nonce[13..], &nonce.replace("AAAB", "AAAC"), &nonce.replace("AAAB", "AAAA")] {
            assert_eq!(key.check(other, client, NOW, 600), Err(NonceError::Foreign), "{other}");
        }
        let dressed_up = format!("obMatJos2AAAB{}", key.mint(client, NOW));
        assert_eq!(key.check(&dressed_up, client, NOW, 600), Err(NonceError::Foreign));
        let unknown_bit = nonce.replace("AAAB", "gAAB");
        assert_eq!(key.check(&unknown_bit, client, NOW, 600), Err(NonceError::Foreign));
    }

    #[test]
    fn the_nonce_of_rfc_8489_asks_for_userhash() {
        // Appendix B.1.
        let features = SecurityFeatures::of("obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA");
        assert_eq!(features, SecurityFeatures { password_algorithms: false, username_anonymity: true });
        for nonce in ["obMatJos2", "obMatJos2AAA", "obMatJos2AA=C", "obMatJos2ääää", "obMatjos2AAAC"] {
            assert_eq!(SecurityFeatures::of(nonce), SecurityFeatures::default(), "{nonce}");
        }
    }

    #[test]
    fn the_previous_key_still_counts_but_mints_no_more() {
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        let (old, new) = (NonceKey::new(&[1; 32]), NonceKey::new(&[2; 32]));
        let rotated = new.clone().with_previous(&[1; 32]);
        assert_eq!(rotated.check(&old.mint(client, NOW), client, NOW, 600), Ok(()));
        assert_eq!(new.check(&rotated.mint(client, NOW), client, NOW, 600), Ok(()));
        assert_eq!(new.check(&old.mint(client, NOW), client, NOW, 600), Err(NonceError::Foreign));
    }

    #[test]
    fn junk_is_foreign() {
        let key = NonceKey::new(&[1; 32]);
        let client: IpAddr = "192.0.2.1".parse().unwrap();
        for junk in [
            "",
            "a",
            "ääääääääää",
            "====================",
            "AAAAAAAAAAAAAAAAAAAA",
            "f//499k954d6OL34oL9FSTvy64sA",
        ] {
            assert_eq!(key.check(junk, client, NOW, 600), Err(NonceError::Foreign), "{junk}");
        }
    }
}
