//! The cookie exchange (RFC 6347, section 4.2.1; RFC 9147, section 5.1), without anything kept of the client.

use hmac::{Hmac, Mac};
use sha2::Sha256;
use std::net::IpAddr;
use subtle::ConstantTimeEq;

use super::hello::{ClientHello, Version};
use super::retry::{FACTS_LEN, HelloRetryRequest, Retry};
use crate::net::FiveTuple;

/// Length of a HelloVerifyRequest of ours in bytes, all headers included: less than that of any ClientHello, which has a
/// random number of 32 bytes and more besides.
const HELLO_VERIFY_REQUEST_LEN: usize = 13 + 12 + 3 + COOKIE_LEN;

/// `dimpl` takes cookies of this length in bytes, and of no other.
pub(super) const COOKIE_LEN: usize = 32;

/// A cookie is good for so long at the least and twice as long at the most: a client answers at once, and repeats itself
/// for some seconds where packets are lost.
const WINDOW_SECONDS: u64 = 30;

/// Length of an alert in bytes, before the handshake.
const ALERT_LEN: usize = 13 + 2;

/// Mints and checks cookies: HMAC-SHA256(key, time ‖ both addresses ‖ the client's random number), and for DTLS 1.3
/// HMAC-SHA256(key, time ‖ both addresses ‖ the whole first ClientHello) cut to 21 bytes ‖ what else a client may change.
#[derive(Clone)]
pub struct Cookies {
    keyed: Hmac<Sha256>,
}

impl std::fmt::Debug for Cookies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookies(redacted)")
    }
}

/// What a ClientHello is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A HelloVerifyRequest, as a datagram.
    Verify([u8; HELLO_VERIFY_REQUEST_LEN]),
    /// A HelloRetryRequest, which does the same in DTLS 1.3.
    Retry(HelloRetryRequest),
    /// An alert, as a datagram: there can be no handshake.
    Refuse([u8; ALERT_LEN]),
    /// Its cookie is the one that was sent to this address: a handshake may begin.
    Verified,
}

impl Answer {
    /// `AlertDescription.handshake_failure` (RFC 5246, section 7.2.2), after the cookie exchange.
    pub const HANDSHAKE_FAILURE: Answer = Answer::Refuse(fatal_alert(40, 1));

    /// `AlertDescription.protocol_version`, before it.
    const PROTOCOL_VERSION: Answer = Answer::Refuse(fatal_alert(70, 0));

    /// To a client of DTLS 1.3 alone whose offer has nothing that would do.
    const NOTHING_IN_COMMON: Answer = Answer::Refuse(fatal_alert(40, 0));

    /// `AlertDescription.illegal_parameter` to a cookie of DTLS 1.3 that is wrong or has become old: the client begins anew,
    /// since it cannot be asked a second time (RFC 9147, section 5.1).
    const BAD_COOKIE: Answer = Answer::Refuse(fatal_alert(47, 1));

    /// What to send, if anything.
    pub fn datagram(&self) -> Option<&[u8]> {
        match self {
            Answer::Verify(datagram) => Some(datagram),
            Answer::Retry(request) => Some(request.as_bytes()),
            Answer::Refuse(datagram) => Some(datagram),
            Answer::Verified => None,
        }
    }
}

impl Cookies {
    /// From 32 random bytes.
    pub fn new(key: &[u8; 32]) -> Cookies {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length (RFC 2104)")]
        let keyed = <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes keys of any length");
        Cookies { keyed }
    }

    /// Whether the client is where it says it is; if it has not shown it, what to send there.
    pub fn answer(&self, unix_seconds: u64, five_tuple: &FiveTuple, hello: &ClientHello<'_>) -> Answer {
        let window = unix_seconds / WINDOW_SECONDS;
        match hello.version() {
            Some(Version::Dtls12) => self.verify(window, five_tuple, hello),
            Some(Version::Dtls13) if hello.cookie().is_empty() => self.ask(window, five_tuple, hello),
            Some(Version::Dtls13) => self.check(window, five_tuple, hello).unwrap_or(Answer::BAD_COOKIE),
            None if hello.offers_1_3() => Answer::NOTHING_IN_COMMON,
            None => Answer::PROTOCOL_VERSION,
        }
    }

    /// DTLS 1.2, with or without a cookie.
    fn verify(&self, window: u64, five_tuple: &FiveTuple, hello: &ClientHello<'_>) -> Answer {
        let cookie = self.mac(window, five_tuple, &hello.random);
        let previous = || self.mac(window.saturating_sub(1), five_tuple, &hello.random);
        let ours = !hello.cookie().is_empty()
            && bool::from(cookie.ct_eq(hello.cookie()) | previous().ct_eq(hello.cookie()));
        if ours { Answer::Verified } else { Answer::Verify(hello_verify_request(&cookie)) }
    }

    /// DTLS 1.3, without a cookie.
    fn ask(&self, window: u64, five_tuple: &FiveTuple, hello: &ClientHello<'_>) -> Answer {
        Retry::asked_by(hello).map_or(Answer::NOTHING_IN_COMMON, |retry| {
            Answer::Retry(retry.request(&self.retry_cookie(window, five_tuple, hello, retry)))
        })
    }

    /// DTLS 1.3, with one; `None` if it is not ours.
    fn check(&self, window: u64, five_tuple: &FiveTuple, hello: &ClientHello<'_>) -> Option<Answer> {
        let first = hello.before_the_cookie()?;
        let first = ClientHello::parse(&first)?;
        let retry = Retry::asked_by(&first)?;
        let cookie = |window| self.retry_cookie(window, five_tuple, &first, retry);
        let (cookie, previous) = (cookie(window), cookie(window.saturating_sub(1)));
        bool::from(cookie.ct_eq(hello.cookie()) | previous.ct_eq(hello.cookie())).then_some(Answer::Verified)
    }

    fn retry_cookie(
        &self,
        window: u64,
        five_tuple: &FiveTuple,
        first: &ClientHello<'_>,
        retry: Retry,
    ) -> [u8; COOKIE_LEN] {
        let mut cookie = self.mac(window, five_tuple, first.body());
        cookie[COOKIE_LEN - FACTS_LEN..].copy_from_slice(&retry.facts());
        cookie
    }

    fn mac(&self, window: u64, five_tuple: &FiveTuple, told: &[u8]) -> [u8; COOKIE_LEN] {
        let mut mac = self.keyed.clone();
        mac.update(&window.to_be_bytes());
        for addr in [five_tuple.client.0, five_tuple.server.0] {
            match addr.ip() {
                IpAddr::V4(ip) => mac.update(&ip.to_ipv6_mapped().octets()),
                IpAddr::V6(ip) => mac.update(&ip.octets()),
            }
            mac.update(&addr.port().to_be_bytes());
        }
        mac.update(told);
        mac.finalize().into_bytes().into()
    }
}

/// The record's sequence number is always 0, where RFC 6347 asks for the ClientHello's: what follows it, from a session,
/// counts from 1, and a client drops numbers that it has seen.
fn hello_verify_request(cookie: &[u8; COOKIE_LEN]) -> [u8; HELLO_VERIFY_REQUEST_LEN] {
    const BODY_LEN: u8 = 3 + 32;
    const FRAGMENT_LEN: u8 = 12 + BODY_LEN;
    let mut datagram = [0; HELLO_VERIFY_REQUEST_LEN];
    let (headers, rest) = datagram.split_at_mut(13 + 12);
    // Handshake, "DTLS 1.0 regardless", epoch and sequence number 0, length.
    headers[..13].copy_from_slice(&[22, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, FRAGMENT_LEN]);
    // `HandshakeType.hello_verify_request`, length, message 0, fragment from 0 to the end.
    headers[13..].copy_from_slice(&[3, 0, 0, BODY_LEN, 0, 0, 0, 0, 0, 0, 0, BODY_LEN]);
    rest[..3].copy_from_slice(&[0xFE, 0xFF, 32]);
    rest[3..].copy_from_slice(cookie);
    datagram
}

const fn fatal_alert(description: u8, record_sequence: u8) -> [u8; ALERT_LEN] {
    // Alert, DTLS 1.0 as whoever does not know 1.2 expects, epoch 0, length; fatal.
    [21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, record_sequence, 0, 2, 2, description]
}

#[cfg(test)]
mod tests {
    use super::super::hello::tests::hello;
    use super::*;
    use crate::net::{ClientAddr, ServerAddr, Transport};

    const NOW: u64 = 1_800_000_030;

    fn five_tuple(client: &str) -> FiveTuple {
        let (client, server) = (client.parse().unwrap(), "192.0.2.1:3478".parse().unwrap());
        FiveTuple { transport: Transport::Dtls, client: ClientAddr(client), server: ServerAddr(server) }
    }

    fn ask(cookies: &Cookies, at: u64, client: &str, cookie: &[u8]) -> Answer {
        let bytes = hello(&[], cookie, 0);
        cookies.answer(at, &five_tuple(client), &ClientHello::parse(&bytes).unwrap())
    }

    #[test]
    fn a_cookie_holds_for_its_client_and_its_time() {
        let cookies = Cookies::new(&[1; 32]);
        let client = "198.51.100.1:5000";
        let Answer::Verify(request) = ask(&cookies, NOW, client, &[]) else { panic!("it has no cookie") };
        let cookie = &request[HELLO_VERIFY_REQUEST_LEN - 32..];
        assert_eq!(ask(&cookies, NOW, client, cookie), Answer::Verified);
        assert_eq!(ask(&cookies, NOW + WINDOW_SECONDS, client, cookie), Answer::Verified);
        assert_ne!(ask(&cookies, NOW + 2 * WINDOW_SECONDS, client, cookie), Answer::Verified);
        for other in ["198.51.100.1:5001", "198.51.100.2:5000", "[2001:db8::1]:5000"] {
            assert_ne!(ask(&cookies, NOW, other, cookie), Answer::Verified, "{other}");
        }
        assert_ne!(ask(&Cookies::new(&[2; 32]), NOW, client, cookie), Answer::Verified);
        assert_ne!(ask(&cookies, NOW, client, &cookie[..31]), Answer::Verified);
    }

    #[test]
    fn who_speaks_dtls_1_0_alone_is_told_so() {
        let mut bytes = hello(&[], &[], 0);
        bytes[26] = 0xFF;
        let hello = ClientHello::parse(&bytes).unwrap();
        let answer = Cookies::new(&[1; 32]).answer(NOW, &five_tuple("198.51.100.1:5000"), &hello);
        assert_eq!(answer.datagram(), Some(&[21, 0xFE, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 2, 70][..]));
    }

    #[test]
    fn the_answer_is_smaller_than_the_least_client_hello() {
        assert!(HELLO_VERIFY_REQUEST_LEN < hello(&[], &[], 0).len());
        let Answer::Verify(request) = ask(&Cookies::new(&[1; 32]), NOW, "198.51.100.1:5000", &[]) else {
            panic!("it has no cookie")
        };
        let fragment = usize::from(u16::from_be_bytes([request[11], request[12]]));
        assert_eq!(13 + fragment, request.len());
        assert_eq!(usize::from(request[16]) + 12, fragment);
    }
}
