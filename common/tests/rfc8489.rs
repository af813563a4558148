//! The test vector of RFC 8489, appendix B.1, as erratum 6268 corrects it: ours reads it, and writes it bit for bit.
//!
//! As printed, the vector's length is wrong by 20 and PASSWORD-ALGORITHM is missing, without which the key is by MD5.

use thirl_common::auth::{
    Claim, CredentialStore, Finding, Identity, KeyAlgorithm, LongTermKey, SecurityFeatures, StaticUsers,
    userhash,
};
use thirl_common::wire::{
    Class, IntegrityAlgorithm, Message, MessageWriter, Method, Nonce, ParseError, PasswordAlgorithm, Realm,
    TransactionId, UserHash,
};

const USERNAME: &str = "マトリックス";
const REALM: &str = "example.org";
const NONCE: &str = "obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA";

const REQUEST: &[u8] = b"\x00\x01\x00\x90\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x1e\x00\x20\x4a\x3c\xf3\x8f\xef\x69\x92\xbd\xa9\x52\xc6\x78\x04\x17\xda\x0f\
    \x24\x81\x94\x15\x56\x9e\x60\xb2\x05\xc4\x6e\x41\x40\x7f\x17\x04\
    \x00\x15\x00\x29obMatJos2AAACf//499k954d6OL34oL9FSTvy64sA\x00\x00\x00\
    \x00\x14\x00\x0bexample.org\x00\x00\x1d\x00\x04\x00\x02\x00\x00\
    \x00\x1c\x00\x20\xb5\xc7\xbf\x00\x5b\x6c\x52\xa2\x1c\x51\xc5\xe8\x92\xf8\x19\x24\
    \x13\x62\x96\xcb\x92\x7c\x43\x14\x93\x09\x27\x8c\xc6\x51\x8e\x65";

#[expect(clippy::unwrap_used, reason = "a test's helper")]
fn key() -> LongTermKey {
    LongTermKey::prepared(KeyAlgorithm::Sha256, USERNAME, REALM, "TheMatrIX").unwrap()
}

#[test]
fn the_request_is_written_bit_for_bit() {
    let id = TransactionId(*b"\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e");
    let mut buffer = [0; 256];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap();
    writer.attribute(&UserHash(userhash(USERNAME, REALM))).unwrap();
    writer.attribute(&Nonce(NONCE)).unwrap().attribute(&Realm(REALM)).unwrap();
    writer.attribute(&PasswordAlgorithm::SHA256).unwrap();
    writer.integrity(IntegrityAlgorithm::Sha256, &key().integrity_key()).unwrap();
    assert_eq!(writer.finish(), REQUEST);
}

#[test]
fn the_request_is_found_to_be_from_its_user() {
    let request = Message::parse(REQUEST).unwrap();
    assert_eq!(request.verify_integrity(&key().integrity_key()), Ok(IntegrityAlgorithm::Sha256));
    let Nonce(nonce) = request.require().unwrap();
    assert!(SecurityFeatures::of(nonce).username_anonymity);
    let algorithm = KeyAlgorithm::of(request.require().unwrap()).unwrap();

    let mut users = StaticUsers::default();
    users.insert(USERNAME, "The\u{AD}M\u{AA}tr\u{2168}");
    users.index_userhashes(REALM);
    let claim = Claim::read(&request, REALM, algorithm, 0).unwrap();
    assert!(matches!(claim.identity, Identity::UserHash(_)));
    match users.authenticate(&claim, &mut |key| request.verify_integrity(key).is_ok()) {
        Finding::Found(credential) => assert_eq!(credential.username, USERNAME),
        finding => panic!("{finding:?}"),
    }
}

#[test]
fn the_request_as_printed_has_a_wrong_length() {
    let mut printed = REQUEST.to_vec();
    printed[3] = 0x9c;
    assert_eq!(Message::parse(&printed).unwrap_err(), ParseError::LengthMismatch);
}
