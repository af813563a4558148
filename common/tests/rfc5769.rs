//! The test vectors of RFC 5769: ours reads them, and writes them bit for bit but for what stands in the padding, where
//! the RFC has spaces (sections 2.1 to 2.3) and ours zeros, which the integrity is over.

use thirl_common::auth::{KeyAlgorithm, LongTermKey, saslprep};
use thirl_common::wire::{
    Class, IceControlled, IntegrityAlgorithm, IntegrityError, IntegrityKey, Message, MessageWriter, Method,
    Nonce, Priority, Realm, Software, TransactionId, Username, XorMappedAddress,
};

const ID: TransactionId = TransactionId(*b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");
const PASSWORD: &[u8] = b"VOkJxbRl1RmTxUk/WvJxBt";

/// Section 2.1.
const REQUEST: &[u8] = b"\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\
    \x00\x06\x00\x09evtj:h6vY\x20\x20\x20\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\
    \xf2\x49\xc1\xb5\x71\xa2\x80\x28\x00\x04\xe5\x7a\x3b\xcf";

/// Section 2.2.
const RESPONSE_IPV4: &[u8] = b"\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43\x00\x08\x00\x14\x2b\x91\xf5\x99\
    \xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7\x80\x28\x00\x04\xc0\x7d\x4c\x96";

/// Section 2.3.
const RESPONSE_IPV6: &[u8] =
    b"\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae\
    \x80\x22\x00\x0btest vector\x20\x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\
    \xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\
    \x82\x92\xc2\x75\xbf\xe3\xed\x41\x80\x28\x00\x04\xc8\xfb\x0b\x4c";

/// Section 2.4.
const LONG_TERM: &[u8] = b"\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e\
    \x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00\
    \x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\x00\x14\x00\x0bexample.org\x00\
    \x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66";

#[test]
fn request_with_short_term_credentials() {
    let message = Message::parse(REQUEST).unwrap();
    assert_eq!(
        (message.class(), message.method(), message.transaction_id()),
        (Class::Request, Method::BINDING, ID)
    );
    assert_eq!(message.require::<Software<'_>>().unwrap().0, "STUN test client");
    assert_eq!(message.require::<Priority>().unwrap().0, 0x6e00_01ff);
    assert_eq!(message.require::<IceControlled>().unwrap().0, 0x932f_f9b1_5126_3b36);
    assert_eq!(message.require::<Username<'_>>().unwrap().0, "evtj:h6vY");
    assert_eq!(message.verify_integrity(&IntegrityKey::new(PASSWORD)), Ok(IntegrityAlgorithm::Sha1));
    assert_eq!(message.check_fingerprint(), Ok(true));
}

#[test]
fn every_changed_byte_is_noticed() {
    let key = IntegrityKey::new(PASSWORD);
    for at in 0..REQUEST.len() - 8 {
        let mut changed = REQUEST.to_vec();
        changed[at] ^= 0x01;
        let Ok(message) = Message::parse(&changed) else { continue };
        let integrity = message.verify_integrity(&key);
        assert!(matches!(integrity, Err(IntegrityError::Mismatch | IntegrityError::Missing)), "byte {at}");
        assert_ne!(message.check_fingerprint(), Ok(true), "byte {at}");
    }
}

#[test]
fn responses_are_read_and_their_attributes_written_alike() {
    let key = IntegrityKey::new(PASSWORD);
    for (bytes, mapped) in
        [(RESPONSE_IPV4, "192.0.2.1:32853"), (RESPONSE_IPV6, "[2001:db8:1234:5678:11:2233:4455:6677]:32853")]
    {
        let message = Message::parse(bytes).unwrap();
        let mapped = XorMappedAddress(mapped.parse().unwrap());
        assert_eq!((message.class(), message.transaction_id()), (Class::Success, ID));
        assert_eq!(message.require::<Software<'_>>().unwrap().0, "test vector");
        assert_eq!(message.require::<XorMappedAddress>(), Ok(mapped));
        assert_eq!(message.verify_integrity(&key), Ok(IntegrityAlgorithm::Sha1));
        assert_eq!(message.check_fingerprint(), Ok(true));

        let mut buffer = [0; 256];
        let mut writer = MessageWriter::new(&mut buffer, Class::Success, Method::BINDING, ID).unwrap();
        writer.attribute(&Software("test vector")).unwrap().attribute(&mapped).unwrap();
        writer.integrity(IntegrityAlgorithm::Sha1, &key).unwrap().fingerprint().unwrap();
        let written = writer.finish();
        assert_eq!(written.len(), bytes.len());
        let before_integrity = bytes.len() - 8 - 24;
        for (at, (ours, theirs)) in written.iter().zip(bytes).enumerate().take(before_integrity) {
            assert!(ours == theirs || (at == 35 && (*ours, *theirs) == (0, b' ')), "byte {at}");
        }
    }
}

#[test]
fn long_term_request_is_written_bit_for_bit() {
    // "The<U+00AD>M<U+00AA>tr<U+2168>" before SASLprep.
    let password = saslprep("The\u{AD}M\u{AA}tr\u{2168}").unwrap();
    let key = LongTermKey::prepared(KeyAlgorithm::Md5, "マトリックス", "example.org", &password).unwrap();
    let id = TransactionId(*b"\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e");
    let mut buffer = [0; 256];
    let mut writer = MessageWriter::new(&mut buffer, Class::Request, Method::BINDING, id).unwrap();
    writer.attribute(&Username("マトリックス")).unwrap();
    writer.attribute(&Nonce("f//499k954d6OL34oL9FSTvy64sA")).unwrap();
    writer.attribute(&Realm("example.org")).unwrap();
    writer.integrity(IntegrityAlgorithm::Sha1, &key.integrity_key()).unwrap();
    assert_eq!(writer.finish(), LONG_TERM);
}
