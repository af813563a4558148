//! What a server recognises without having kept it: nonces, users of REST secrets, access tokens.

use std::net::IpAddr;
use std::sync::LazyLock;

use thirl_common::auth::{
    AccessTokenContent, CredentialQuery, CredentialStore, Credentials, LongTermKey, NonceError, NonceKey,
    RestSecrets, SecurityFeatures, TokenError, TokenKey, opaque_string, saslprep,
};
use thirl_common::wire::{
    Class, IntegrityAlgorithm, IntegrityKey, Message, MessageWriter, Method, TransactionId,
};

const REALM: &str = "thirl.example";

static NONCES: LazyLock<NonceKey> = LazyLock::new(|| NonceKey::new(&[7; 32]));
static TOKENS: LazyLock<TokenKey> = LazyLock::new(|| TokenKey::new(&[9; 32]).unwrap());
static STORE: LazyLock<Credentials> = LazyLock::new(|| {
    let rest = RestSecrets::new(vec!["new secret".into(), "old secret".into()]);
    let mut store = Credentials { rest, ..Credentials::default() };
    store.users.insert("alice", "a password");
    store
});

/// A nonce is taken from the client that it was minted for, in its time, and from nobody else, and no byte of it can be
/// changed.
///
/// The first 17 bytes are the client, the next eight the time, then a lifetime, an age, a place in the nonce and
/// features; the rest is a text.
pub fn nonce(data: &[u8]) {
    let Some((&[family, ref client_octets @ ..], rest)) = data.split_first_chunk::<17>() else { return };
    let Some((time, rest)) = rest.split_first_chunk::<8>() else { return };
    let Some((&[lifetime, age, at, features], text)) = rest.split_first_chunk() else { return };
    let client = address(family, *client_octets);
    let features =
        SecurityFeatures { password_algorithms: features & 1 != 0, username_anonymity: features & 2 != 0 };
    let (lifetime, age) = (u64::from(lifetime) * 60, u64::from(age) * 60);
    // Five bytes of minutes is what a nonce holds, but in the last million years it may begin like a cookie.
    let time = u64::from_be_bytes(*time) % ((1 << 39) * 60);

    let minted = NONCES.mint_with(features, client, time);
    assert_eq!(SecurityFeatures::of(&minted), features);
    assert!(minted.len() < 128 && minted.is_ascii(), "RFC 8489, section 14.10");
    let checked = NONCES.check(&minted, client, time + age, lifetime);
    match checked {
        Ok(()) => assert!(age <= lifetime + 60),
        Err(NonceError::Expired) => assert!(age > lifetime),
        Err(other) => panic!("{other}"),
    }
    // The other one differs in its prefix.
    let mut octets = *client_octets;
    octets[0] ^= 1;
    let other = address(family, octets);
    if other.to_canonical() != client.to_canonical() {
        assert_eq!(NONCES.check(&minted, other, time, lifetime), Err(NonceError::Foreign));
    }
    let mut changed = minted.into_bytes();
    let at = usize::from(at) % changed.len();
    changed[at] ^= 1;
    let changed = String::from_utf8(changed).unwrap();
    assert_eq!(NONCES.check(&changed, client, time, u64::MAX), Err(NonceError::Foreign));
    // A text may be a nonce that the fuzzer has learnt, but then it is nobody else's.
    let Ok(text) = std::str::from_utf8(text) else { return };
    let takers = [client, other].map(|client| NONCES.check(text, client, time, u64::MAX).is_ok());
    assert!(takers != [true, true] || other.to_canonical() == client.to_canonical());
}

fn address(family: u8, octets: [u8; 16]) -> IpAddr {
    let [a, b, c, d, ..] = octets;
    if family.is_multiple_of(2) { [a, b, c, d].into() } else { octets.into() }
}

/// A username is taken with the password that belongs to it, until it expires, and with no other.
///
/// The first eight bytes are the time; the rest is a username.
pub fn credentials(data: &[u8]) {
    let Some((time, username)) = data.split_first_chunk() else { return };
    let Ok(username) = std::str::from_utf8(username) else { return };
    let now = u64::from_be_bytes(*time);
    // The password of a user that does not expire and of one that does.
    let static_key = LongTermKey::new(username, REALM, "a password").integrity_key();
    assert_eq!(knows(username, now, &static_key), username == "alice");

    let minted = STORE.rest.mint(username, now).unwrap();
    let key = LongTermKey::new(&minted.username, REALM, &minted.password).integrity_key();
    assert!(!knows(&minted.username, now, &key), "expires at {now}");
    if let Some(before) = now.checked_sub(1) {
        assert!(knows(&minted.username, before, &key));
        assert!(!knows(&minted.username, before, &static_key));
    }

    // Whatever comes as a username, only one that begins with a time to come has keys, and one for each secret.
    let mut keys = 0;
    let query = CredentialQuery { username, realm: REALM, unix_seconds: now };
    let _ = STORE.rest.find(query, &mut |_| {
        keys += 1;
        false
    });
    let expiry = username.split(':').next().and_then(|expiry| expiry.parse::<u64>().ok());
    assert_eq!(keys, if expiry.is_some_and(|expiry| expiry > now) { 2 } else { 0 });
}

/// What is prepared stays as it is when it is prepared again.
pub fn prepared(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    for prepare in [opaque_string, saslprep] {
        if let Ok(prepared) = prepare(text) {
            assert_eq!(prepare(&prepared).as_ref(), Ok(&prepared), "{text:?}");
        }
    }
}

/// A token is opened by its key for its server, and then holds what was sealed; no other text is one, and no byte of
/// one can be changed.
///
/// The first byte is a place in the token, the next 20 begin a key, the next 8 are the time, the next 4 the lifetime;
/// the rest is a token or the rest of the key.
pub fn token(data: &[u8]) {
    assert!(TOKENS.open(data, REALM).is_err());
    let Some((&[at, ref key @ ..], rest)) = data.split_first_chunk::<21>() else { return };
    let Some((time, rest)) = rest.split_first_chunk::<8>() else { return };
    let Some((&lifetime, rest)) = rest.split_first_chunk() else { return };
    assert!(TOKENS.open(rest, REALM).is_err());
    let content = AccessTokenContent {
        mac_key: [key, rest].concat(),
        // 48 bits of seconds.
        timestamp: u64::from_be_bytes(*time) >> 16,
        lifetime: u32::from_be_bytes(lifetime),
    };
    let sealed = TOKENS.seal(&content, REALM, [at; 12]);
    assert_eq!(sealed.is_err(), content.mac_key.len() > 64);
    let Ok(mut sealed) = sealed else { return };
    assert_eq!(TOKENS.open(&sealed, REALM).as_ref(), Ok(&content));
    assert_eq!(TOKENS.open(&sealed, "elsewhere"), Err(TokenError::Foreign));
    let ends = content.timestamp + u64::from(content.lifetime);
    assert_eq!(content.check_time(content.timestamp), Ok(ends));
    assert_eq!(content.check_time(ends + 5), Err(TokenError::Expired));
    let at = usize::from(at) % sealed.len();
    sealed[at] ^= 1;
    assert_eq!(TOKENS.open(&sealed, REALM), Err(TokenError::Foreign));
}

/// Whether the store finds the key with which a request of this user is signed.
fn knows(username: &str, unix_seconds: u64, key: &IntegrityKey) -> bool {
    let mut buffer = [0; 64];
    let mut writer =
        MessageWriter::new(&mut buffer, Class::Request, Method::ALLOCATE, TransactionId([1; 12])).unwrap();
    writer.integrity(IntegrityAlgorithm::Sha1, key).unwrap();
    let message = Message::parse(writer.finish()).unwrap();
    let query = CredentialQuery { username, realm: REALM, unix_seconds };
    STORE.find(query, &mut |key| message.verify_integrity(key).is_ok()).is_some()
}
