//! Who a node is: an ed25519 key pair. The public key is the node's only name.
//!
//! [`NodeKey`] is the secret and signs, always for a [`Domain`]; [`NodeId`] is the public key and verifies. A `NodeId`
//! that exists is sound: canonical, of prime order, never weak; everything that takes one may rely on it.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::Zeroizing;

use crate::encoding::ZBASE32;

#[cfg(feature = "driver")]
mod file;
#[cfg(feature = "driver")]
pub use file::KeyFileError;

/// Length of a [`NodeId`] as text.
pub const NODE_ID_TEXT: usize = 52;

/// The secret key of a node. Wiped from memory when dropped; `Debug` shows the public key only.
#[derive(Clone)]
pub struct NodeKey(SigningKey);

impl NodeKey {
    /// The key that belongs to a seed: 32 bytes from the system's random generator, known to nobody else.
    pub fn from_seed(seed: &[u8; 32]) -> NodeKey {
        NodeKey(SigningKey::from_bytes(seed))
    }

    /// The public key.
    pub fn id(&self) -> NodeId {
        NodeId(self.0.verifying_key().to_bytes())
    }

    /// Signs `message` for one purpose: the signature says nothing in any other [`Domain`].
    pub fn sign(&self, domain: Domain, message: &[u8]) -> [u8; 64] {
        self.0.sign(&domain.bind(message)).to_bytes()
    }

    /// The X25519 secret of the same key pair, for [`seal`](crate::seal).
    ///
    /// Ed25519 and X25519 may share a key when the agreed secret is hashed, as Noise does (eprint 2021/509).
    pub(crate) fn agreement_secret(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_scalar_bytes())
    }

    #[cfg(feature = "driver")]
    fn seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey({})", self.id())
    }
}

/// The public key of a node: its name. As text, 52 characters of z-base-32.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId([u8; 32]);

impl NodeId {
    /// Takes a public key, refusing every encoding that an honest [`NodeKey`] cannot have.
    ///
    /// One key must have one name, and a key agreement with it must not have a predictable result. So a point that is
    /// not on the curve, not canonically encoded (RFC 8032, section 5.1.3), or not of prime order is no `NodeId`.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<NodeId, InvalidNodeId> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| InvalidNodeId::NotAKey)?;
        let point = key.to_edwards();
        if key.is_weak() || !point.is_torsion_free() || point.compress().as_bytes() != bytes {
            return Err(InvalidNodeId::Weak);
        }
        Ok(NodeId(*bytes))
    }

    /// The 32 bytes of the public key (RFC 8032, section 5.1.5).
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Whether this node signed `message` for `domain`.
    pub fn verify(&self, domain: Domain, message: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let key = VerifyingKey::from_bytes(&self.0).map_err(|_| BadSignature)?;
        key.verify_strict(&domain.bind(message), &Signature::from_bytes(signature)).map_err(|_| BadSignature)
    }

    /// The X25519 public key of the same key pair (RFC 7748, section 4.1), for [`seal`](crate::seal).
    pub(crate) fn agreement_key(&self) -> Option<[u8; 32]> {
        VerifyingKey::from_bytes(&self.0).ok().map(|key| key.to_montgomery().to_bytes())
    }

    /// The first ten characters, for logs: enough to tell nodes apart, too few to dial.
    pub fn short(&self) -> String {
        let mut text = self.to_string();
        text.truncate(10);
        text
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&ZBASE32.encode(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({self})")
    }
}

impl FromStr for NodeId {
    type Err = InvalidNodeId;

    fn from_str(text: &str) -> Result<NodeId, InvalidNodeId> {
        if text.len() != NODE_ID_TEXT {
            return Err(InvalidNodeId::Length { found: text.len() });
        }
        let bytes = ZBASE32.decode(text.as_bytes()).map_err(|_| InvalidNodeId::Characters)?;
        NodeId::from_bytes(&bytes.try_into().map_err(|_| InvalidNodeId::Characters)?)
    }
}

impl Serialize for NodeId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<NodeId, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        text.parse().map_err(D::Error::custom)
    }
}

/// What a signature is for, so that one made for one purpose can never be shown for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain(&'static str);

impl Domain {
    /// A domain by its name: unique in Thirl, and with a version, e.g. `signalling-proof-v1`.
    pub const fn new(name: &'static str) -> Domain {
        assert!(name.len() <= 255, "the length is written as one byte");
        Domain(name)
    }

    /// `"thirl-signature" ‖ length of the name ‖ name ‖ message`: no two (domain, message) give the same bytes.
    fn bind(self, message: &[u8]) -> Vec<u8> {
        #[expect(clippy::cast_possible_truncation, reason = "`new` refuses names of more than 255 bytes")]
        let length = self.0.len() as u8;
        [b"thirl-signature".as_slice(), &[length], self.0.as_bytes(), message].concat()
    }
}

/// Why something is not the name of a node. The fault is with who gave it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidNodeId {
    /// Not 52 characters.
    #[error("a node id has {NODE_ID_TEXT} characters, not {found}: copy it whole")]
    Length {
        /// How many bytes there are.
        found: usize,
    },
    /// A character outside z-base-32, or bits set that must be zero.
    #[error(
        "a node id has only the characters of z-base-32 (ybndrfg8ejkmcpqxot1uwisza345h769): copy it again"
    )]
    Characters,
    /// Not a point of the curve.
    #[error("not an ed25519 public key: a character was changed, copy it again")]
    NotAKey,
    /// A low-order, mixed-order or non-canonical point, which no honest node has.
    #[error("a weak ed25519 public key, which no honest node has: do not trust where it came from")]
    Weak,
}

/// A signature that was not made by the node, or not for this message or domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not this node's")]
pub struct BadSignature;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ONE: Domain = Domain::new("test-one");
    const TWO: Domain = Domain::new("test-two");

    /// The first test vector of RFC 8032, section 7.1.
    const RFC_8032_SECRET: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const RFC_8032_PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn hex(text: &str) -> [u8; 32] {
        data_encoding::HEXLOWER.decode(text.as_bytes()).unwrap().try_into().unwrap()
    }

    #[test]
    fn a_seed_gives_the_key_of_rfc_8032() {
        let key = NodeKey::from_seed(&hex(RFC_8032_SECRET));
        assert_eq!(key.id().as_bytes(), &hex(RFC_8032_PUBLIC));
        assert_eq!(key.id().to_string().len(), NODE_ID_TEXT);
        assert_eq!(key.id().to_string().parse(), Ok(key.id()));
    }

    #[test]
    fn debug_shows_no_secret() {
        let key = NodeKey::from_seed(&hex(RFC_8032_SECRET));
        assert_eq!(format!("{key:?}"), format!("NodeKey({})", key.id()));
    }

    #[test]
    fn a_signature_holds_for_its_node_domain_and_message_only() {
        let key = NodeKey::from_seed(&[1; 32]);
        let signature = key.sign(ONE, b"message");
        assert_eq!(key.id().verify(ONE, b"message", &signature), Ok(()));
        assert_eq!(key.id().verify(TWO, b"message", &signature), Err(BadSignature));
        assert_eq!(key.id().verify(ONE, b"messagf", &signature), Err(BadSignature));
        assert_eq!(NodeKey::from_seed(&[2; 32]).id().verify(ONE, b"message", &signature), Err(BadSignature));
        for i in 0..signature.len() {
            let mut forged = signature;
            forged[i] ^= 1;
            assert_eq!(key.id().verify(ONE, b"message", &forged), Err(BadSignature), "byte {i}");
        }
    }

    #[test]
    fn domain_and_message_cannot_be_shifted_into_each_other() {
        assert_ne!(Domain::new("ab").bind(b"c"), Domain::new("a").bind(b"bc"));
    }

    #[test]
    fn weak_keys_are_refused() {
        // Low order (RFC 7748's security considerations; the eight-torsion of curve25519-dalek), as Edwards points.
        for low_order in [
            "0100000000000000000000000000000000000000000000000000000000000000",
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
            "0000000000000000000000000000000000000000000000000000000000000000",
            "0000000000000000000000000000000000000000000000000000000000000080",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
            "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
            "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        ] {
            assert_eq!(NodeId::from_bytes(&hex(low_order)), Err(InvalidNodeId::Weak), "{low_order}");
        }
        // y = 2^255 - 18 is 1 written in another way.
        let non_canonical = hex("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f");
        assert_eq!(NodeId::from_bytes(&non_canonical), Err(InvalidNodeId::Weak));
    }

    #[test]
    fn a_key_with_a_torsion_component_is_refused() {
        // An honest key plus the point of order two: the same X25519 agreement, another name.
        let honest = VerifyingKey::from_bytes(NodeKey::from_seed(&[3; 32]).id().as_bytes()).unwrap();
        let order_two = VerifyingKey::from_bytes(&hex(
            "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        ))
        .unwrap();
        let mixed = (honest.to_edwards() + order_two.to_edwards()).compress();
        assert_eq!(NodeId::from_bytes(mixed.as_bytes()), Err(InvalidNodeId::Weak));
    }

    #[test]
    fn text_that_is_no_id_says_why() {
        let text = NodeKey::from_seed(&[4; 32]).id().to_string();
        assert_eq!(text[1..].parse::<NodeId>(), Err(InvalidNodeId::Length { found: 51 }));
        assert_eq!(text.to_uppercase().parse::<NodeId>(), Err(InvalidNodeId::Characters));
        assert_eq!(format!("{}{}", &text[..51], "b").parse::<NodeId>(), Err(InvalidNodeId::Characters));
    }

    #[test]
    fn serde_is_the_text() {
        let id = NodeKey::from_seed(&[5; 32]).id();
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(json, format!("\"{id}\""));
        assert_eq!(serde_json::from_str::<NodeId>(&json).unwrap(), id);
        assert!(serde_json::from_str::<NodeId>("\"no\"").is_err());
    }

    proptest! {
        #[test]
        fn ids_round_trip(seed: [u8; 32]) {
            let id = NodeKey::from_seed(&seed).id();
            prop_assert_eq!(NodeId::from_bytes(id.as_bytes()), Ok(id));
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn junk_never_panics(text in ".{0,80}") {
            let _ = text.parse::<NodeId>();
        }
    }
}
