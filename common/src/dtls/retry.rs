//! The HelloRetryRequest of DTLS 1.3 (RFC 9147, section 5.1; RFC 8446, section 4.1.4), without anything kept of the client.
//!
//! The handshake goes on as if the server had kept the first ClientHello, whose hash is in the transcript (RFC 8446, section
//! 4.4.1). What a client may change in its second one (section 4.1.2) is put back: it brings the cookie, which goes; a key
//! share that it was asked for, before which it had none; and padding of another length. So is the order of the extensions,
//! in which wolfSSL comes back with others first. The cookie says what these were. A client that could change more, since it
//! asks for early data or has a pre-shared key or key shares that are none of ours, is not spoken to in 1.3.

use super::cookie::COOKIE_LEN;
use super::hello::{ClientHello, DTLS_1_3, Reader};
use super::order;

/// `ExtensionType` (RFC 8446, section 4.2; padding: RFC 7685).
pub(super) const SUPPORTED_VERSIONS: u16 = 43;
pub(super) const COOKIE: u16 = 44;
const SUPPORTED_GROUPS: u16 = 10;
const PADDING: u16 = 21;
const PRE_SHARED_KEY: u16 = 41;
const EARLY_DATA: u16 = 42;
const KEY_SHARE: u16 = 51;

/// `CipherSuite` (RFC 8446, appendix B.4): AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
pub(super) const CIPHER_SUITES: [u16; 3] = [0x1301, 0x1302, 0x1303];

/// `NamedGroup` (RFC 8446, section 4.2.7), the best first: X25519, P-256, P-384.
pub(super) const GROUPS: [u16; 3] = [0x001D, 0x0017, 0x0018];

/// Where there is no group to ask for: its number is reserved (RFC 8446, section 4.2.7).
const NO_GROUP: u16 = 0;

/// Where there is no padding; more than [`MAX_PADDING`].
const NO_PADDING: u16 = u16::MAX;

/// In bytes: who pads fills a datagram at the most, and a cookie with any number in it must not make us write more.
const MAX_PADDING: u16 = 2048;

/// `ServerHello.random` of a HelloRetryRequest (RFC 8446, section 4.1.3).
const RANDOM: [u8; 32] = [
    0xCF, 0x21, 0xAD, 0x74, 0xE5, 0x9A, 0x61, 0x11, 0xBE, 0x1D, 0x8C, 0x02, 0x1E, 0x65, 0xB8, 0x91, 0xC2,
    0xA2, 0x11, 0x16, 0x7A, 0xBB, 0x8C, 0x5E, 0x07, 0x9E, 0x09, 0xE2, 0xC8, 0xA8, 0x33, 0x9C,
];

/// Lengths in bytes of the extensions that there always are, and of that which there may be.
const EXTENSIONS_LEN: usize = 6 + 4 + 2 + COOKIE_LEN;
const KEY_SHARE_LEN: usize = 6;

/// What comes before the extensions: version, random number, no session, cipher suite, compression method, length.
const FIELDS_LEN: usize = 2 + RANDOM.len() + 1 + 2 + 1 + 2;

const HEADERS_LEN: usize = 13 + 12;

const MAX_LEN: usize = HEADERS_LEN + FIELDS_LEN + EXTENSIONS_LEN + KEY_SHARE_LEN;

/// A HelloRetryRequest, as a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloRetryRequest {
    bytes: [u8; MAX_LEN],
    len: usize,
}

impl HelloRetryRequest {
    /// All of its bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }
}

/// What a first ClientHello is answered with, but for the cookie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Retry {
    cipher_suite: u16,
    /// The group of which a key share is wanted, or [`NO_GROUP`].
    selected_group: u16,
    /// The length of the ClientHello's padding in bytes, or [`NO_PADDING`].
    padding: u16,
    /// In which its extensions stood.
    order: u64,
}

impl Retry {
    /// For this first ClientHello; `None` if there can be no handshake of DTLS 1.3, or if the answer were the longer one.
    pub(super) fn asked_by(hello: &ClientHello<'_>) -> Option<Retry> {
        let unforeseen = |kind| matches!(kind, PRE_SHARED_KEY | EARLY_DATA);
        if !hello.offers_1_3() || hello.extensions().any(|extension| unforeseen(extension.kind)) {
            return None;
        }
        let padding = match hello.extension(PADDING) {
            Some(padding) => u16::try_from(padding.len()).ok().filter(|len| *len <= MAX_PADDING)?,
            None => NO_PADDING,
        };
        let cipher_suite = numbers(hello.cipher_suites).find(|suite| CIPHER_SUITES.contains(suite))?;
        // No more than have a number, and one that is too many.
        let kinds = hello.extensions().map(|extension| extension.kind).take(order::MAX_EXTENSIONS + 1);
        let order = order::number_of(&kinds.collect::<Vec<_>>())?;
        let retry = Retry { cipher_suite, selected_group: selected_group(hello)?, padding, order };
        (retry.len() <= hello.record.len()).then_some(retry)
    }

    /// What the cookie has to tell, so that [`before_the_retry`] finds the way back.
    pub(super) fn facts(&self) -> [u8; FACTS_LEN] {
        let mut facts = [0; FACTS_LEN];
        facts[..2].copy_from_slice(&self.padding.to_be_bytes());
        facts[2] = u8::from(self.selected_group != NO_GROUP);
        facts[3..].copy_from_slice(&self.order.to_be_bytes());
        facts
    }

    /// The datagram that goes to the client: its record and its message are the server's first.
    pub(super) fn request(&self, cookie: &[u8; COOKIE_LEN]) -> HelloRetryRequest {
        let [v0, v1] = DTLS_1_3;
        let [c0, c1] = self.cipher_suite.to_be_bytes();
        let [g0, g1] = self.selected_group.to_be_bytes();
        let key_share: &[u8] = if self.selected_group == NO_GROUP { &[] } else { &[0, 51, 0, 2, g0, g1] };
        #[expect(clippy::cast_possible_truncation, reason = "all of it is shorter than 128 bytes")]
        let (message, extensions) =
            ((self.len() - HEADERS_LEN) as u8, (EXTENSIONS_LEN + key_share.len()) as u8);
        const COOKIE_BYTE: u8 = 32;
        let parts: [&[u8]; 9] = [
            // Handshake, epoch and sequence number 0, length.
            &[22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, 0, 0, message + 12],
            // `HandshakeType.server_hello`, length, message 0, fragment from 0 to the end.
            &[2, 0, 0, message, 0, 0, 0, 0, 0, 0, 0, message],
            &[0xFE, 0xFD],
            &RANDOM,
            // No session: what a client calls its own is not echoed in DTLS 1.3 (RFC 9147, section 5.3).
            &[0, c0, c1, 0, 0, extensions],
            &[0, 43, 0, 2, v0, v1],
            key_share,
            &[0, 44, 0, COOKIE_BYTE + 2, 0, COOKIE_BYTE],
            cookie,
        ];
        let mut request = HelloRetryRequest { bytes: [0; MAX_LEN], len: 0 };
        parts.iter().for_each(|part| request.push(part));
        request
    }

    fn len(&self) -> usize {
        MAX_LEN - if self.selected_group == NO_GROUP { KEY_SHARE_LEN } else { 0 }
    }
}

/// In bytes: the length of the padding, whether a key share was asked for, the order of the extensions.
pub(super) const FACTS_LEN: usize = 2 + 1 + 8;

/// The ClientHello that was answered with a HelloRetryRequest, out of the one that came then, as the first message of the
/// first record. What the cookie says is not checked here. `None` if it cannot be a cookie of ours.
pub(super) fn before_the_retry(hello: &ClientHello<'_>) -> Option<Vec<u8>> {
    let cookie = <&[u8; COOKIE_LEN]>::try_from(hello.cookie()).ok()?;
    let [p0, p1, had_no_share, order @ ..] = cookie.last_chunk::<FACTS_LEN>()?;
    let padding = match u16::from_be_bytes([*p0, *p1]) {
        NO_PADDING => None,
        len if len <= MAX_PADDING => Some(padding(len)),
        _ => return None,
    };
    let mut extensions: Vec<(u16, &[u8])> = hello
        .extensions()
        .filter(|extension| !matches!(extension.kind, COOKIE | PADDING))
        .take(order::MAX_EXTENSIONS + 1)
        .map(|extension| match extension.kind {
            KEY_SHARE if *had_no_share != 0 => (KEY_SHARE, &NO_KEY_SHARE[..]),
            kind => (kind, extension.whole),
        })
        .collect();
    extensions.extend(padding.as_deref().map(|padding| (PADDING, padding)));
    hello.with_extensions(&order::put_in(u64::from_be_bytes(*order), extensions)?.concat())
}

/// The extension, with a list of key shares in which there is none.
const NO_KEY_SHARE: [u8; 6] = [0, 51, 0, 2, 0, 0];

/// The extension, with so many bytes in it.
fn padding(len: u16) -> Vec<u8> {
    let mut extension = [PADDING.to_be_bytes(), len.to_be_bytes()].concat();
    extension.resize(extension.len() + usize::from(len), 0);
    extension
}

/// The group to ask for, or [`NO_GROUP`] if the client has a key share that will do. `None` if no group is common, or if the
/// client has key shares only of groups that are not ours: we could not tell afterwards which.
fn selected_group(hello: &ClientHello<'_>) -> Option<u16> {
    let mut shares = Reader(Reader(hello.extension(KEY_SHARE)?).vector::<2>()?);
    if shares.0.is_empty() {
        let listed = Reader(hello.extension(SUPPORTED_GROUPS)?).vector::<2>()?;
        return GROUPS.into_iter().find(|group| numbers(listed).any(|listed| listed == *group));
    }
    while let Some(group) = shares.array() {
        shares.vector::<2>()?;
        if GROUPS.contains(&u16::from_be_bytes(group)) {
            return Some(NO_GROUP);
        }
    }
    None
}

fn numbers(list: &[u8]) -> impl Iterator<Item = u16> {
    list.as_chunks().0.iter().map(|number| u16::from_be_bytes(*number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtls::{Answer, Cookies, Version};
    use crate::net::{ClientAddr, FiveTuple, ServerAddr, Transport};

    const VERSIONS: &[u8] = &[0, 43, 0, 5, 4, 0xFE, 0xFC, 0xFE, 0xFD];
    const ONLY_1_3: &[u8] = &[0, 43, 0, 3, 2, 0xFE, 0xFC];
    const X25519_ALONE: &[u8] = &[0, 10, 0, 4, 0, 2, 0, 0x1D];
    const SIGNATURES: &[u8] = &[0, 13, 0, 4, 0, 2, 4, 3];
    const NO_SHARE: &[u8] = &NO_KEY_SHARE;

    fn share(group: u16) -> Vec<u8> {
        let [g0, g1] = group.to_be_bytes();
        [&[0, 51, 0, 38, 0, 36, g0, g1, 0, 32][..], &[9; 32]].concat()
    }

    type Parts<'a> = &'a [&'a [u8]];

    /// A ClientHello with two cipher suites of DTLS 1.3, of which the first is none of ours, and one of DTLS 1.2.
    fn hello(extensions: Parts<'_>, message_sequence: u8) -> Vec<u8> {
        let extensions = extensions.concat();
        let mut body = [&[0xFE, 0xFD][..], &[7; 32]].concat();
        body.extend([0, 0, 0, 6, 0x13, 0x05, 0x13, 0x02, 0xC0, 0x2B, 1, 0]);
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let [.., m0, m1] = body.len().to_be_bytes();
        let [.., l0, l1] = (body.len() + 12).to_be_bytes();
        let mut record = vec![22, 0xFE, 0xFD, 0, 0, 0, 0, 0, 0, 0, message_sequence, l0, l1];
        record.extend([1, 0, m0, m1, 0, message_sequence, 0, 0, 0, 0, m0, m1]);
        record.extend(body);
        record
    }

    fn answer(hello: &[u8]) -> Answer {
        let (client, server) = ("198.51.100.1:5000".parse().unwrap(), "192.0.2.1:3478".parse().unwrap());
        let five_tuple =
            FiveTuple { transport: Transport::Dtls, client: ClientAddr(client), server: ServerAddr(server) };
        Cookies::new(&[1; 32]).answer(1_800_000_030, &five_tuple, &ClientHello::parse(hello).unwrap())
    }

    /// The cookie, as an extension.
    fn asked(first: &[u8]) -> Vec<u8> {
        let Answer::Retry(request) = answer(first) else { panic!("{:?}", answer(first)) };
        assert!(request.as_bytes().len() <= first.len(), "amplification");
        [&[0, 44, 0, 34, 0, 32], &request.as_bytes()[request.as_bytes().len() - 32..]].concat()
    }

    #[test]
    fn what_a_client_may_change_is_put_back() {
        let (x25519, other) = (share(0x1D), share(0x0200));
        let both = [&[0, 51, 0, 74, 0, 72][..], &other[6..], &x25519[6..]].concat();
        let (long, short) = (padding(60), padding(18));
        // What the extensions end with in the first ClientHello, and begin with in the second.
        let cases: [(Parts<'_>, Parts<'_>); 6] = [
            (&[&x25519], &[&x25519]),
            (&[&both], &[&both]),
            (&[NO_SHARE, &long], &[&x25519, &long]),
            (&[&x25519, &long], &[&x25519, &short]),
            (&[&x25519], &[&short, &x25519]),
            (&[&padding(0), &x25519], &[&x25519]),
        ];
        for (index, (first, second)) in cases.into_iter().enumerate() {
            let first = hello(&[&[VERSIONS, X25519_ALONE, SIGNATURES], first].concat(), 0);
            let cookie = asked(&first);
            let second = [second, &[X25519_ALONE, &cookie, VERSIONS, SIGNATURES]].concat();
            let second = hello(&second, 1);
            assert_eq!(answer(&second), Answer::Verified, "case {index}");
            let parsed = ClientHello::parse(&second).unwrap();
            assert_eq!(parsed.version(), Some(Version::Dtls13));
            assert_eq!(parsed.before_the_cookie(), Some(first), "case {index}");
        }
    }

    #[test]
    fn what_a_client_may_not_change_is_noticed() {
        let x25519 = share(0x1D);
        let first = hello(&[VERSIONS, X25519_ALONE, SIGNATURES, &x25519], 0);
        let cookie = asked(&first);
        let refused = Answer::Refuse([21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 1, 0, 2, 2, 47]);
        for changed in [
            hello(&[VERSIONS, X25519_ALONE, SIGNATURES, &share(0x17), &cookie], 1),
            hello(&[ONLY_1_3, X25519_ALONE, SIGNATURES, &x25519, &cookie], 1),
            hello(&[VERSIONS, X25519_ALONE, &x25519, &cookie], 1),
            hello(&[VERSIONS, X25519_ALONE, SIGNATURES, &x25519, &cookie[..cookie.len() - 1]], 1),
            hello(&[VERSIONS, X25519_ALONE, SIGNATURES, &x25519, &[0, 44, 0, 3, 0, 1, 9]], 1),
        ] {
            assert_ne!(answer(&changed), Answer::Verified);
        }
        for byte in 6..cookie.len() {
            let mut other = cookie.clone();
            other[byte] ^= 1;
            let second = hello(&[VERSIONS, X25519_ALONE, SIGNATURES, &x25519, &other], 1);
            assert_eq!(answer(&second), refused, "byte {byte}");
        }
    }

    #[test]
    fn who_cannot_be_spoken_to_in_1_3_is_spoken_to_in_1_2() {
        let (x25519, unknown) = (share(0x1D), share(0x0200));
        let padding = padding(60);
        let early_data: &[u8] = &[0, 42, 0, 0];
        for (what, offer) in [
            ("no share of ours", &[X25519_ALONE, SIGNATURES, &unknown][..]),
            ("no shares", &[X25519_ALONE, SIGNATURES]),
            ("no common group", &[&[0, 10, 0, 4, 0, 2, 2, 0], NO_SHARE, SIGNATURES, &padding]),
            ("early data", &[X25519_ALONE, SIGNATURES, &x25519, early_data]),
            ("the answer would be longer", &[X25519_ALONE, NO_SHARE]),
        ] {
            let with = |versions| [&[versions][..], offer].concat();
            assert!(matches!(answer(&hello(&with(VERSIONS), 0)), Answer::Verify(_)), "{what}");
            let refused = Answer::Refuse([21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 40]);
            assert_eq!(answer(&hello(&with(ONLY_1_3), 0)), refused, "{what}");
        }
        let draft: &[u8] = &[0, 43, 0, 3, 2, 0x7F, 0x2B];
        let refused = Answer::Refuse([21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70]);
        assert_eq!(answer(&hello(&[draft, X25519_ALONE, SIGNATURES, &x25519], 0)), refused);
    }
}
