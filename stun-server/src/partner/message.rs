//! What partners say to each other, as bytes.
//!
//! ```text
//!  0        4        12       20         28     29                 len - 32
//!  +--------+--------+--------+----------+------+------------------+-----------+
//!  | magic  | run    | echo   | sequence | kind | content          | signature |
//!  +--------+--------+--------+----------+------+------------------+-----------+
//!  heartbeat (0): challenge 8, first port 2, second port 2
//!  request (1):   port that was asked 2, client's port 2, its address 16 (IPv4 mapped), the request
//! ```
//! Numbers are big-endian. The signature is HMAC-SHA256 over sender, receiver (address 16, port 2 each) and all that stands
//! before it, so that a message is good for one direction between these two only.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use hmac::{Hmac, Mac};
use sha2::Sha256;
use thirl_common::net::ClientAddr;

/// No protocol that shares ports with STUN begins so (RFC 9443, section 2: 4 to 15 are nobody's). The last is the version.
pub(super) const MAGIC: [u8; 4] = [0x0F, b'T', b'P', 1];

/// Length of what comes before the content.
const HEADER_LEN: usize = 4 + 3 * 8 + 1;

/// Length of an HMAC-SHA256.
const SIGNATURE_LEN: usize = 32;

/// Length of what comes before a client's request.
const REQUEST_HEADER_LEN: usize = 2 + 2 + 16;

const HEARTBEAT: u8 = 0;
const REQUEST: u8 = 1;

/// The longest request that is passed on, in bytes: one whose PADDING fills Ethernet's MTU, and some.
pub(crate) const MAX_REQUEST_LEN: usize = 2048;

/// Length of a heartbeat.
pub(super) const HEARTBEAT_LEN: usize = HEADER_LEN + 8 + 4 + SIGNATURE_LEN;

/// The longest message of all, in bytes.
pub const MAX_PARTNER_MESSAGE_LEN: usize = HEADER_LEN + REQUEST_HEADER_LEN + MAX_REQUEST_LEN + SIGNATURE_LEN;

/// A message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartnerMessage<'d> {
    /// Which run of the sending program.
    pub(super) run: u64,
    /// The receiver's challenge, as far as the sender knows it.
    pub(super) echo: u64,
    /// One more with each message of a run.
    pub(super) sequence: u64,
    pub(super) content: Content<'d>,
}

/// What it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content<'d> {
    /// The sender is there.
    Heartbeat {
        /// What the receiver shall echo.
        challenge: u64,
        /// What the sender listens on.
        ports: [u16; 2],
    },
    /// A client asked the sender for an answer from the receiver's address.
    Request(PassedOn<'d>),
}

/// A request that is to be answered by the partner of the server that got it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PassedOn<'d> {
    /// Whom it came from.
    pub client: ClientAddr,
    /// The port that it came to.
    pub server_port: u16,
    /// What came.
    pub request: &'d [u8],
}

/// Who sends to whom, by the addresses that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Direction {
    pub(super) from: SocketAddr,
    pub(super) to: SocketAddr,
}

impl<'d> PartnerMessage<'d> {
    /// What the bytes say, if anybody is to be believed; [`is_signed`] tells.
    pub(super) fn parse(datagram: &'d [u8]) -> Option<PartnerMessage<'d>> {
        let (unsigned, _) = datagram.split_last_chunk::<SIGNATURE_LEN>()?;
        let rest = unsigned.strip_prefix(&MAGIC)?;
        let (run, rest) = number(rest)?;
        let (echo, rest) = number(rest)?;
        let (sequence, rest) = number(rest)?;
        let content = match rest.split_first()? {
            (&HEARTBEAT, content) => {
                let (challenge, ports) = number(content)?;
                let &[a, b, c, d] = ports.first_chunk().filter(|_| ports.len() == 4)?;
                let ports = [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])];
                Content::Heartbeat { challenge, ports }
            }
            (&REQUEST, content) => {
                let (&[a, b, c, d], rest) = content.split_first_chunk()?;
                let (&octets, request) = rest.split_first_chunk::<16>()?;
                if request.len() > MAX_REQUEST_LEN {
                    return None;
                }
                let ip = IpAddr::V6(Ipv6Addr::from(octets)).to_canonical();
                let client = ClientAddr(SocketAddr::new(ip, u16::from_be_bytes([c, d])));
                Content::Request(PassedOn { client, server_port: u16::from_be_bytes([a, b]), request })
            }
            _ => return None,
        };
        Some(PartnerMessage { run, echo, sequence, content })
    }

    /// Writes and signs it; `None` if it is too long.
    pub(super) fn write<'b>(
        &self,
        direction: Direction,
        key: &Hmac<Sha256>,
        out: &'b mut [u8],
    ) -> Option<&'b [u8]> {
        let mut writer = Writer { out, len: 0 };
        writer.put(&MAGIC)?;
        for number in [self.run, self.echo, self.sequence] {
            writer.put(&number.to_be_bytes())?;
        }
        match self.content {
            Content::Heartbeat { challenge, ports: [first, second] } => {
                writer.put(&[HEARTBEAT])?;
                writer.put(&challenge.to_be_bytes())?;
                writer.put(&first.to_be_bytes())?;
                writer.put(&second.to_be_bytes())?;
            }
            Content::Request(PassedOn { client, server_port, request }) => {
                if request.len() > MAX_REQUEST_LEN {
                    return None;
                }
                writer.put(&[REQUEST])?;
                writer.put(&server_port.to_be_bytes())?;
                writer.put(&client.port().to_be_bytes())?;
                writer.put(&octets(client.ip()))?;
                writer.put(request)?;
            }
        }
        let signature = sign(key, direction, writer.out.get(..writer.len)?).finalize().into_bytes();
        writer.put(&signature)?;
        let Writer { out, len } = writer;
        out.get(..len)
    }
}

/// Whether one of the keys made the signature of a message that goes this way. In constant time for each key.
pub(super) fn is_signed(datagram: &[u8], direction: Direction, keys: &[Hmac<Sha256>]) -> bool {
    let Some((unsigned, signature)) = datagram.split_last_chunk::<SIGNATURE_LEN>() else { return false };
    keys.iter().any(|key| sign(key, direction, unsigned).verify_slice(signature).is_ok())
}

fn sign(key: &Hmac<Sha256>, direction: Direction, unsigned: &[u8]) -> Hmac<Sha256> {
    let mut mac = key.clone();
    for end in [direction.from, direction.to] {
        mac.update(&octets(end.ip()));
        mac.update(&end.port().to_be_bytes());
    }
    mac.update(unsigned);
    mac
}

fn octets(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn number(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*first), rest))
}

struct Writer<'b> {
    out: &'b mut [u8],
    len: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn key(secret: &[u8]) -> Hmac<Sha256> {
        Hmac::new_from_slice(secret).unwrap()
    }

    fn there() -> Direction {
        Direction { from: "192.0.2.1:3478".parse().unwrap(), to: "192.0.2.2:3478".parse().unwrap() }
    }

    fn any_ip() -> impl Strategy<Value = IpAddr> {
        prop_oneof![any::<[u8; 4]>().prop_map(IpAddr::from), any::<[u8; 16]>().prop_map(IpAddr::from)]
            .prop_map(|ip| ip.to_canonical())
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_no_byte_of_it_may_change(
            (run, echo, sequence) in any::<(u64, u64, u64)>(),
            (ip, port, server_port) in (any_ip(), any::<u16>(), any::<u16>()),
            request in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..=100)),
            (at, bit) in (any::<prop::sample::Index>(), 0..8u8),
        ) {
            let content = match &request {
                Some(request) => {
                    let client = ClientAddr(SocketAddr::new(ip, port));
                    Content::Request(PassedOn { client, server_port, request })
                }
                None => Content::Heartbeat { challenge: run ^ echo, ports: [port, server_port] },
            };
            let message = PartnerMessage { run, echo, sequence, content };
            let mut out = [0; MAX_PARTNER_MESSAGE_LEN];
            let keys = [key(b"new"), key(b"old")];
            let bytes = message.write(there(), &keys[1], &mut out).unwrap().to_vec();
            prop_assert!(bytes.starts_with(&MAGIC) && is_signed(&bytes, there(), &keys));
            prop_assert_eq!(PartnerMessage::parse(&bytes), Some(message));
            let Direction { from, to } = there();
            let back = Direction { from: to, to: from };
            prop_assert!(!is_signed(&bytes, back, &keys));
            prop_assert!(!is_signed(&bytes, there(), &keys[..1]));
            let mut changed = bytes.clone();
            changed[at.index(bytes.len())] ^= 1u8 << bit;
            prop_assert!(!is_signed(&changed, there(), &keys));
            prop_assert!(!is_signed(&bytes[..at.index(bytes.len())], there(), &keys));
        }
    }

    #[test]
    fn requests_that_are_too_long_are_neither_written_nor_read() {
        let client = ClientAddr("[2001:db8::1]:5".parse().unwrap());
        let mut out = [0; MAX_PARTNER_MESSAGE_LEN + 1];
        for (len, fits) in [(MAX_REQUEST_LEN, true), (MAX_REQUEST_LEN + 1, false)] {
            let content = Content::Request(PassedOn { client, server_port: 1, request: &vec![0; len] });
            let message = PartnerMessage { run: 1, echo: 2, sequence: 3, content };
            let written = message.write(there(), &key(b"k"), &mut out);
            assert_eq!(written.map(<[u8]>::len), fits.then_some(MAX_PARTNER_MESSAGE_LEN));
        }
        let longer = [&out[..], &[0]].concat();
        assert_eq!(PartnerMessage::parse(&longer), None);
    }
}
