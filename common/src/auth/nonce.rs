//! Stateless nonces: the server recognises its own without keeping any.

use std::net::IpAddr;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use subtle::ConstantTimeEq;

/// Bytes of the keyed hash that a nonce carries. 80 bits: a guess has to be made online.
const TAG_LEN: usize = 10;

/// Length of a nonce in characters: a 401 must not be much larger than the request that drew it, so this is short.
const NONCE_LEN: usize = 20;

/// Mints and checks nonces. Servers that share a key recognise each other's.
///
/// A nonce is base64url(minute of its minting, 5 bytes ‖ HMAC-SHA256(key, minute ‖ client prefix), truncated to 10
/// bytes). It is bound to the client's prefix (/32 for IPv4, /64 for IPv6) so that one that was overheard is no use
/// elsewhere.
#[derive(Clone)]
pub struct NonceKey {
    keyed: Hmac<Sha256>,
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
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
        let keyed = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
        NonceKey { keyed }
    }

    /// A nonce for a client at `unix_seconds`.
    pub fn mint(&self, client: IpAddr, unix_seconds: u64) -> String {
        let minute = minute_bytes(unix_seconds);
        let mut raw = [0; 5 + TAG_LEN];
        raw[..5].copy_from_slice(&minute);
        raw[5..].copy_from_slice(&self.tag(minute, client));
        BASE64URL_NOPAD.encode(&raw)
    }

    /// Checks that `nonce` was minted for this client not longer than `lifetime_seconds` ago.
    pub fn check(
        &self,
        nonce: &str,
        client: IpAddr,
        unix_seconds: u64,
        lifetime_seconds: u64,
    ) -> Result<(), NonceError> {
        let mut raw = [0; 5 + TAG_LEN];
        if nonce.len() != NONCE_LEN || BASE64URL_NOPAD.decode_mut(nonce.as_bytes(), &mut raw) != Ok(raw.len())
        {
            return Err(NonceError::Foreign);
        }
        let [m0, m1, m2, m3, m4, ref tag @ ..] = raw;
        let minute = [m0, m1, m2, m3, m4];
        if !bool::from(self.tag(minute, client).ct_eq(tag)) {
            return Err(NonceError::Foreign);
        }
        let minted = u64::from_be_bytes([0, 0, 0, m0, m1, m2, m3, m4]) * 60;
        // Rounding down to the minute makes a nonce look up to a minute older than it is.
        if unix_seconds.saturating_sub(minted) > lifetime_seconds.saturating_add(60) {
            return Err(NonceError::Expired);
        }
        Ok(())
    }

    fn tag(&self, minute: [u8; 5], client: IpAddr) -> [u8; TAG_LEN] {
        let mut mac = self.keyed.clone();
        mac.update(&minute);
        match client.to_canonical() {
            IpAddr::V4(ip) => mac.update(&ip.octets()),
            IpAddr::V6(ip) => mac.update(&ip.octets()[..8]),
        }
        let full = mac.finalize().into_bytes();
        std::array::from_fn(|at| full[at])
    }
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
