//! Attributes that hold a transport address, plain or XOR-ed (RFC 8489, sections 14.1 and 14.2).

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::attribute::{Attribute, AttributeError, AttributeType};
use super::header::{MAGIC_COOKIE, TransactionId};

/// Address family numbers on the wire (RFC 8489, section 14.1).
const FAMILY_IPV4: u8 = 0x01;
const FAMILY_IPV6: u8 = 0x02;

macro_rules! address_attribute {
    ($(#[$doc:meta])* $name:ident, $ty:ident, $mask:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct $name(pub SocketAddr);

        impl<'a> Attribute<'a> for $name {
            const TYPE: AttributeType = AttributeType::$ty;

            fn decode(value: &'a [u8], id: TransactionId) -> Result<Self, AttributeError> {
                let mask: fn(TransactionId) -> [u8; 16] = $mask;
                decode(value, mask(id)).map($name).ok_or(AttributeError { attribute: Self::TYPE })
            }

            fn value_len(&self) -> usize {
                if self.0.is_ipv4() { 8 } else { 20 }
            }

            fn encode(&self, out: &mut [u8], id: TransactionId) {
                let mask: fn(TransactionId) -> [u8; 16] = $mask;
                encode(self.0, out, mask(id));
            }
        }
    };
}

address_attribute! {
    /// What a server saw, in the form of RFC 3489, which some NATs rewrite (RFC 8489, section 14.1).
    MappedAddress, MAPPED_ADDRESS, plain
}
address_attribute! {
    /// What the server saw: the client's reflexive transport address (RFC 8489, section 14.2).
    XorMappedAddress, XOR_MAPPED_ADDRESS, xor
}
address_attribute! {
    /// A peer, as the server sees it (RFC 8656, section 18.3).
    XorPeerAddress, XOR_PEER_ADDRESS, xor
}
address_attribute! {
    /// The relayed transport address of an allocation (RFC 8656, section 18.5).
    XorRelayedAddress, XOR_RELAYED_ADDRESS, xor
}
address_attribute! {
    /// Another server to try instead, with a 300 error (RFC 8489, section 14.15).
    AlternateServer, ALTERNATE_SERVER, plain
}
address_attribute! {
    /// Where the response was sent from (RFC 5780, section 7.3).
    ResponseOrigin, RESPONSE_ORIGIN, plain
}
address_attribute! {
    /// The address with both IP and port changed that the server can answer from (RFC 5780, section 7.4).
    OtherAddress, OTHER_ADDRESS, plain
}

address_attribute! {
    /// Where a client of RFC 3489 wants the response sent (RFC 3489, section 11.2.2).
    ///
    /// To read old traffic with: a server that followed it would let anybody aim its responses at anybody.
    ResponseAddress, RESPONSE_ADDRESS, plain
}
address_attribute! {
    /// RESPONSE-ORIGIN before RFC 5780 (RFC 3489, section 11.2.5).
    SourceAddress, SOURCE_ADDRESS, plain
}
address_attribute! {
    /// OTHER-ADDRESS before RFC 5780 (RFC 3489, section 11.2.3).
    ChangedAddress, CHANGED_ADDRESS, plain
}
address_attribute! {
    /// Who asked, where the response went elsewhere (RFC 3489, section 11.2.11).
    ReflectedFrom, REFLECTED_FROM, plain
}

fn plain(_: TransactionId) -> [u8; 16] {
    [0; 16]
}

/// The cookie and the transaction id: what X-Address is XOR-ed with; its first two bytes mask X-Port.
fn xor(id: TransactionId) -> [u8; 16] {
    let mut mask = [0; 16];
    mask[..4].copy_from_slice(&MAGIC_COOKIE.to_be_bytes());
    mask[4..].copy_from_slice(&id.0);
    mask
}

fn decode(value: &[u8], mask: [u8; 16]) -> Option<SocketAddr> {
    let &[_, family, p0, p1, ref address @ ..] = value else { return None };
    let port = u16::from_be_bytes([p0 ^ mask[0], p1 ^ mask[1]]);
    let ip = match family {
        FAMILY_IPV4 => IpAddr::V4(Ipv4Addr::from(masked::<4>(address.try_into().ok()?, mask))),
        FAMILY_IPV6 => IpAddr::V6(Ipv6Addr::from(masked::<16>(address.try_into().ok()?, mask))),
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

fn encode(addr: SocketAddr, out: &mut [u8], mask: [u8; 16]) {
    let [p0, p1] = addr.port().to_be_bytes();
    let family = if addr.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
    out[..4].copy_from_slice(&[0, family, p0 ^ mask[0], p1 ^ mask[1]]);
    match addr.ip() {
        IpAddr::V4(ip) => out[4..].copy_from_slice(&masked::<4>(ip.octets(), mask)),
        IpAddr::V6(ip) => out[4..].copy_from_slice(&masked::<16>(ip.octets(), mask)),
    }
}

fn masked<const N: usize>(mut bytes: [u8; N], mask: [u8; 16]) -> [u8; N] {
    bytes.iter_mut().zip(mask).for_each(|(byte, mask)| *byte ^= mask);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: TransactionId = TransactionId(*b"\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae");

    #[test]
    fn xor_mapped_addresses_of_rfc_5769() {
        let ipv4 = [0x00, 0x01, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43];
        assert_eq!(XorMappedAddress::decode(&ipv4, ID).unwrap().0, "192.0.2.1:32853".parse().unwrap());
        let ipv6 = [
            0x00, 0x02, 0xa1, 0x47, 0x01, 0x13, 0xa9, 0xfa, 0xa5, 0xd3, 0xf1, 0x79, 0xbc, 0x25, 0xf4, 0xb5,
            0xbe, 0xd2, 0xb9, 0xd9,
        ];
        let addr = "[2001:db8:1234:5678:11:2233:4455:6677]:32853".parse().unwrap();
        assert_eq!(XorMappedAddress::decode(&ipv6, ID).unwrap().0, addr);
        let mut out = [0; 20];
        XorMappedAddress(addr).encode(&mut out, ID);
        assert_eq!(out, ipv6);
    }

    #[test]
    fn refuses_other_families_and_lengths() {
        for value in [
            &[][..],
            &[0, 1, 0, 0],
            &[0, 1, 0, 0, 1, 2, 3, 4, 5],
            &[0, 3, 0, 0, 1, 2, 3, 4],
            &[0, 2, 0, 0, 1],
        ] {
            assert!(MappedAddress::decode(value, ID).is_err(), "{value:?}");
        }
    }
}
