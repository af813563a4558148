//! End-to-end protection of signalling messages: whoever carries them can neither read, change nor forge them.
//!
//! [`seal`] and [`open`] are one message of Noise's one-way pattern X (`Noise_X_25519_ChaChaPoly_BLAKE2s`, Noise
//! rev. 34, section 7.4) between the X25519 forms of the two nodes' keys. The prologue binds version, sender and
//! recipient, so a message opens only for whom, and as from whom, it was sealed.
//!
//! A sealed message is `version (1) ‖ ephemeral key (32) ‖ sender's static key, encrypted (48) ‖ payload ‖ tag (16)`.
//!
//! What it does not do: a carrier can hold back, reorder or repeat messages, so what is sealed needs an id of its own
//! ([`session`](crate::session) has one); and who steals the recipient's key can read what was recorded and forge what
//! is sent *to* it (Noise's payload security 2/1 for pattern X). It carries ICE credentials, which live for minutes.

use rand::rngs::StdRng;
use rand::{RngCore, SeedableRng};
use snow::params::{CipherChoice, DHChoice, HashChoice};
use snow::resolvers::{CryptoResolver, DefaultResolver};
use snow::types::{Cipher, Dh, Hash, Random};

use crate::identity::{NodeId, NodeKey};

/// Most bytes of a sealed message.
pub const MAX_SEALED: usize = 16 * 1024;

/// What sealing adds to a message: version, ephemeral key, static key with tag, tag.
pub const OVERHEAD: usize = 1 + 32 + 48 + 16;

/// Most bytes that can be sealed.
pub const MAX_PLAINTEXT: usize = MAX_SEALED - OVERHEAD;

const VERSION: u8 = 1;
const PATTERN: &str = "Noise_X_25519_ChaChaPoly_BLAKE2s";
const PROLOGUE: &[u8] = b"thirl-seal";

/// Seals `plaintext` so that `to` alone can open it and knows that it is from `from`.
///
/// `seed` is 32 fresh bytes of the system's random generator. It makes the ephemeral key: one that is used twice
/// reveals that, and a predictable one reveals the sender.
pub fn seal(from: &NodeKey, to: NodeId, plaintext: &[u8], seed: &[u8; 32]) -> Result<Vec<u8>, SealError> {
    if plaintext.len() > MAX_PLAINTEXT {
        return Err(SealError::TooLarge { size: plaintext.len() });
    }
    let recipient = to.agreement_key().ok_or(SealError::Recipient)?;
    let secret = from.agreement_secret();
    let prologue = prologue(from.id(), to);
    let mut sealed = vec![0; OVERHEAD + plaintext.len()];
    let (version, message) = sealed.split_at_mut(1);
    version.copy_from_slice(&[VERSION]);
    builder(seed)
        .and_then(|noise| noise.prologue(&prologue))
        .and_then(|noise| noise.local_private_key(&*secret))
        .and_then(|noise| noise.remote_public_key(&recipient))
        .and_then(snow::Builder::build_initiator)
        .and_then(|mut noise| noise.write_message(plaintext, message))
        .map_err(|_| SealError::Recipient)?;
    Ok(sealed)
}

/// Opens what `from` sealed for `me`.
pub fn open(me: &NodeKey, from: NodeId, sealed: &[u8]) -> Result<Vec<u8>, OpenError> {
    if sealed.len() > MAX_SEALED {
        return Err(OpenError::TooLarge { size: sealed.len() });
    }
    let Some((&version, message)) = sealed.split_first() else { return Err(OpenError::NotAuthentic) };
    if version != VERSION {
        return Err(OpenError::Version { found: version });
    }
    let length = sealed.len().checked_sub(OVERHEAD).ok_or(OpenError::NotAuthentic)?;
    let secret = me.agreement_secret();
    let prologue = prologue(from, me.id());
    let mut noise = builder(&[0; 32])
        .and_then(|noise| noise.prologue(&prologue))
        .and_then(|noise| noise.local_private_key(&*secret))
        .and_then(snow::Builder::build_responder)
        .map_err(|_| OpenError::NotAuthentic)?;
    let mut plaintext = vec![0; length];
    noise.read_message(message, &mut plaintext).map_err(|_| OpenError::NotAuthentic)?;
    // The prologue says who it claims to be from; the static key proves who made it.
    if noise.get_remote_static() != from.agreement_key().as_ref().map(<[u8; 32]>::as_slice) {
        return Err(OpenError::NotAuthentic);
    }
    Ok(plaintext)
}

/// Why a message could not be sealed: a mistake of the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SealError {
    /// More than [`MAX_PLAINTEXT`] bytes.
    #[error(
        "{size} bytes are more than the {MAX_PLAINTEXT} that can be sealed: send them in several messages"
    )]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// No key can be agreed with the recipient.
    #[error("no key can be agreed with the recipient")]
    Recipient,
}

/// Why a sealed message was not opened. Only [`OpenError::Version`] may happen among honest nodes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// More than [`MAX_SEALED`] bytes.
    #[error("{size} bytes are more than the {MAX_SEALED} of a sealed message: the sender misbehaves")]
    TooLarge {
        /// Its size in bytes.
        size: usize,
    },
    /// Sealed in a way that this build does not know.
    #[error("sealed with version {found}, this build knows {VERSION}: update the older of the two nodes")]
    Version {
        /// The version it states.
        found: u8,
    },
    /// Changed on the way, not from who it says, or not for this node.
    #[error("the message is not from who it says, not for this node, or was changed on the way")]
    NotAuthentic,
}

fn prologue(from: NodeId, to: NodeId) -> Vec<u8> {
    [PROLOGUE, &[VERSION], from.as_bytes(), to.as_bytes()].concat()
}

fn builder<'a>(seed: &[u8; 32]) -> Result<snow::Builder<'a>, snow::Error> {
    let resolver = Resolver { seed: *seed };
    Ok(snow::Builder::with_resolver(PATTERN.parse()?, Box::new(resolver)))
}

/// Snow's own primitives, with the randomness that is passed in and with key agreement that must contribute.
struct Resolver {
    seed: [u8; 32],
}

impl CryptoResolver for Resolver {
    fn resolve_rng(&self) -> Option<Box<dyn Random>> {
        Some(Box::new(Seeded(StdRng::from_seed(self.seed))))
    }

    fn resolve_dh(&self, choice: &DHChoice) -> Option<Box<dyn Dh>> {
        DefaultResolver.resolve_dh(choice).map(|dh| Box::new(Contributory(dh)) as Box<dyn Dh>)
    }

    fn resolve_hash(&self, choice: &HashChoice) -> Option<Box<dyn Hash>> {
        DefaultResolver.resolve_hash(choice)
    }

    fn resolve_cipher(&self, choice: &CipherChoice) -> Option<Box<dyn Cipher>> {
        DefaultResolver.resolve_cipher(choice)
    }
}

struct Seeded(StdRng);

impl Random for Seeded {
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), snow::Error> {
        self.0.fill_bytes(dest);
        Ok(())
    }
}

/// Refuses the all-zero secret, which a low-order public key forces on anyone (RFC 7748, section 6.1).
struct Contributory(Box<dyn Dh>);

impl Dh for Contributory {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn pub_len(&self) -> usize {
        self.0.pub_len()
    }

    fn priv_len(&self) -> usize {
        self.0.priv_len()
    }

    fn set(&mut self, privkey: &[u8]) {
        self.0.set(privkey);
    }

    fn generate(&mut self, rng: &mut dyn Random) -> Result<(), snow::Error> {
        self.0.generate(rng)
    }

    fn pubkey(&self) -> &[u8] {
        self.0.pubkey()
    }

    fn privkey(&self) -> &[u8] {
        self.0.privkey()
    }

    fn dh(&self, pubkey: &[u8], out: &mut [u8]) -> Result<(), snow::Error> {
        self.0.dh(pubkey, out)?;
        if out.iter().fold(0, |any, byte| any | byte) == 0 {
            return Err(snow::Error::Dh);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn alice() -> NodeKey {
        NodeKey::from_seed(&[1; 32])
    }

    fn bob() -> NodeKey {
        NodeKey::from_seed(&[2; 32])
    }

    #[test]
    fn the_recipient_reads_what_was_sealed() {
        let sealed = seal(&alice(), bob().id(), b"hello", &[9; 32]).unwrap();
        assert_eq!(sealed.len(), OVERHEAD + 5);
        assert_eq!(open(&bob(), alice().id(), &sealed).unwrap(), b"hello");
    }

    #[test]
    fn the_seed_decides_the_ephemeral_key() {
        let once = seal(&alice(), bob().id(), b"hello", &[9; 32]).unwrap();
        assert_eq!(once, seal(&alice(), bob().id(), b"hello", &[9; 32]).unwrap());
        assert_ne!(once[1..33], seal(&alice(), bob().id(), b"hello", &[8; 32]).unwrap()[1..33]);
    }

    #[test]
    fn a_change_of_any_bit_and_any_truncation_is_noticed() {
        let sealed = seal(&alice(), bob().id(), b"hello", &[9; 32]).unwrap();
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1 << (i % 8);
            assert!(open(&bob(), alice().id(), &changed).is_err(), "byte {i}");
            assert!(open(&bob(), alice().id(), &sealed[..i]).is_err(), "cut at {i}");
        }
        assert_eq!(open(&bob(), alice().id(), &[sealed, vec![0]].concat()), Err(OpenError::NotAuthentic));
    }

    #[test]
    fn nobody_else_opens_it_and_nobody_else_is_its_sender() {
        let carol = NodeKey::from_seed(&[3; 32]);
        let sealed = seal(&alice(), bob().id(), b"hello", &[9; 32]).unwrap();
        assert_eq!(open(&carol, alice().id(), &sealed), Err(OpenError::NotAuthentic));
        assert_eq!(open(&bob(), carol.id(), &sealed), Err(OpenError::NotAuthentic));
        assert_eq!(open(&alice(), bob().id(), &sealed), Err(OpenError::NotAuthentic), "reflected");
    }

    #[test]
    fn a_forger_who_claims_another_sender_in_the_prologue_is_found_by_the_static_key() {
        let carol = NodeKey::from_seed(&[3; 32]);
        let mut message = vec![0; OVERHEAD - 1];
        builder(&[9; 32])
            .unwrap()
            .prologue(&prologue(alice().id(), bob().id()))
            .unwrap()
            .local_private_key(&*carol.agreement_secret())
            .unwrap()
            .remote_public_key(&bob().id().agreement_key().unwrap())
            .unwrap()
            .build_initiator()
            .unwrap()
            .write_message(&[], &mut message)
            .unwrap();
        assert_eq!(
            open(&bob(), alice().id(), &[vec![VERSION], message].concat()),
            Err(OpenError::NotAuthentic)
        );
    }

    #[test]
    fn low_order_points_agree_on_nothing() {
        let mut dh = Resolver { seed: [0; 32] }.resolve_dh(&DHChoice::Curve25519).unwrap();
        dh.set(&*alice().agreement_secret());
        let mut one = [0; 32];
        one[0] = 1;
        for low_order in [[0; 32], one] {
            assert_eq!(dh.dh(&low_order, &mut [0; 32]), Err(snow::Error::Dh));
        }
        assert_eq!(dh.pubkey(), alice().id().agreement_key().unwrap(), "both forms are one key pair");
    }

    #[test]
    fn sizes_are_bounded() {
        let largest = seal(&alice(), bob().id(), &[5; MAX_PLAINTEXT], &[9; 32]).unwrap();
        assert_eq!(largest.len(), MAX_SEALED);
        assert_eq!(open(&bob(), alice().id(), &largest).unwrap().len(), MAX_PLAINTEXT);
        let size = MAX_PLAINTEXT + 1;
        assert_eq!(seal(&alice(), bob().id(), &vec![5; size], &[9; 32]), Err(SealError::TooLarge { size }));
        let size = MAX_SEALED + 1;
        assert_eq!(open(&bob(), alice().id(), &vec![1; size]), Err(OpenError::TooLarge { size }));
    }

    #[test]
    fn a_later_version_is_told_apart() {
        assert_eq!(open(&bob(), alice().id(), &[2; 200]), Err(OpenError::Version { found: 2 }));
    }

    proptest! {
        #[test]
        fn junk_never_opens(mut junk in proptest::collection::vec(any::<u8>(), 0..400), known: bool) {
            if known && !junk.is_empty() {
                junk[0] = VERSION;
            }
            prop_assert!(open(&bob(), alice().id(), &junk).is_err());
        }
    }
}
