//! The PROXY protocol, versions 1 and 2 (HAProxy's `doc/proxy-protocol.txt`): a proxy says before all else which client it
//! speaks for. Whoever may say so can pretend to be anybody: only [`TrustedProxies`] are listened to, and they have to
//! say it, lest what a client wrote be taken for what its proxy did.

use std::net::{IpAddr, SocketAddr};

use proxy_header::{Error, ParseConfig, Protocol, ProxiedAddress, ProxyHeader};

use crate::net::{IpRange, canonical};

/// A header is no longer than this, in bytes: addresses and a few TLVs. The longest that HAProxy writes has some 300.
pub const MAX_HEADER_LEN: usize = 2048;

/// A header of version 1 is no longer than this, in bytes, with its line's end.
const MAX_V1_LEN: usize = 107;

/// The proxies whose headers count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustedProxies(pub Vec<IpRange>);

impl TrustedProxies {
    /// Whether what comes from this address begins with a header.
    #[inline]
    pub fn contains(&self, ip: IpAddr) -> bool {
        !self.0.is_empty() && self.0.iter().any(|range| range.contains(ip.to_canonical()))
    }
}

/// What stands before the client's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The client; `None` if the proxy speaks for itself, to see whether the server is well.
    pub client: Option<SocketAddr>,
    /// The header's length in bytes. The client's bytes are behind it.
    pub len: usize,
}

/// A proxy did not say whom it speaks for: it is not configured to, or the server should not trust it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no PROXY protocol header from a proxy that is trusted to send one")]
pub struct NoHeader;

/// The header at the beginning of a stream, of either version; `None` if it is not there as a whole yet.
pub fn of_stream(bytes: &[u8]) -> Result<Option<Header>, NoHeader> {
    let bytes = bytes.get(..MAX_HEADER_LEN).unwrap_or(bytes);
    match ProxyHeader::parse(bytes, ParseConfig { include_tlvs: false, ..ParseConfig::default() }) {
        // Whether a longer one would be taken must not depend on how much of it has come.
        Ok((_, len)) if len > MAX_V1_LEN && bytes.starts_with(b"PROXY") => Err(NoHeader),
        Ok((header, len)) => client_of(&header, Protocol::Stream).map(|client| Some(Header { client, len })),
        Err(Error::BufferTooShort) if bytes.len() < MAX_HEADER_LEN => Ok(None),
        Err(_) => Err(NoHeader),
    }
}

/// The header at the beginning of each datagram, of version 2.
pub fn of_datagram(datagram: &[u8]) -> Result<Header, NoHeader> {
    let config = ParseConfig { include_tlvs: false, allow_v1: false, ..ParseConfig::default() };
    let (header, len) = ProxyHeader::parse(datagram, config).map_err(|_| NoHeader)?;
    Ok(Header { client: client_of(&header, Protocol::Datagram)?, len })
}

/// A header of version 2 for a stream between these. If they are of two families, both are written as IPv6 addresses.
pub fn header_of_stream(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = match client.is_ipv4() == server.is_ipv4() {
        true => (client, server),
        false => (mapped(client), mapped(server)),
    };
    let mut header = Vec::new();
    // It fails for a header of two families, or one that is too long.
    let _ = ProxyHeader::with_address(ProxiedAddress::stream(client, server)).encode_v2(&mut header);
    header
}

fn mapped(addr: SocketAddr) -> SocketAddr {
    let ip = match addr.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    (ip, addr.port()).into()
}

fn client_of(header: &ProxyHeader<'_>, over: Protocol) -> Result<Option<SocketAddr>, NoHeader> {
    match header.proxied_address() {
        None => Ok(None),
        Some(address) if address.protocol == over => Ok(Some(canonical(address.source))),
        Some(_) => Err(NoHeader),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const V1: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.1 5000 443\r\n";
    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn v2(command_and_kind: [u8; 2], rest: &[u8]) -> Vec<u8> {
        let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &command_and_kind, &len, rest].concat()
    }

    const ADDRESSES: &[u8] = &[192, 0, 2, 1, 198, 51, 100, 1, 0x13, 0x88, 1, 0xBB];

    #[test]
    fn both_versions_name_the_client() {
        let client = "192.0.2.1:5000".parse().ok();
        let with_tlv = [ADDRESSES, &[4, 0, 2, 0, 0]].concat();
        for header in [V1, &v2([0x21, 0x11], ADDRESSES), &v2([0x21, 0x11], &with_tlv)] {
            let stream = [header, b"and the rest"].concat();
            assert_eq!(of_stream(&stream), Ok(Some(Header { client, len: header.len() })));
            for len in 0..header.len() {
                assert_eq!(of_stream(&stream[..len]), Ok(None), "{len}");
            }
        }
        let datagram = [v2([0x21, 0x12], ADDRESSES), b"x".to_vec()].concat();
        assert_eq!(of_datagram(&datagram), Ok(Header { client, len: datagram.len() - 1 }));
    }

    #[test]
    fn a_proxy_that_speaks_for_itself() {
        let longest = [&b"PROXY UNKNOWN "[..], &[b'x'; 91], b"\r\n"].concat();
        for header in [&b"PROXY UNKNOWN\r\n"[..], &longest, &v2([0x20, 0], b""), &v2([0x20, 0x11], ADDRESSES)]
        {
            assert_eq!(of_stream(header), Ok(Some(Header { client: None, len: header.len() })));
        }
        assert_eq!(of_datagram(&v2([0x20, 0], b"")), Ok(Header { client: None, len: 16 }));
    }

    #[test]
    fn anything_else_is_no_header() {
        let long = v2([0x21, 0x11], &[7; MAX_HEADER_LEN]);
        let binding = [0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        for bytes in [
            &binding[..],
            b"PROXY TCP5 192.0.2.1 198.51.100.1 5000 443\r\n",
            b"GET / HTTP/1.1\r\n",
            &[b'P'; 200],
            &[&b"PROXY UNKNOWN "[..], &[b'x'; 92], b"\r\n"].concat(),
            &v2([0x31, 0x11], ADDRESSES),
            &v2([0x21, 0x12], ADDRESSES),
            // Too short for its addresses, and what follows.
            &[v2([0x21, 0x11], &ADDRESSES[..8]), binding.to_vec()].concat(),
            &long,
        ] {
            assert_eq!(of_stream(bytes), Err(NoHeader), "{bytes:?}");
        }
        for bytes in [V1, &v2([0x21, 0x11], ADDRESSES), &v2([0x21, 0x12], ADDRESSES)[..20], b"", &binding] {
            assert_eq!(of_datagram(bytes), Err(NoHeader), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (client, server) in [
            ("192.0.2.1:5000", "198.51.100.1:443"),
            ("[2001:db8::1]:5000", "[2001:db8::2]:443"),
            ("[2001:db8::1]:5000", "198.51.100.1:443"),
            ("192.0.2.1:5000", "[2001:db8::2]:443"),
        ] {
            let client = client.parse().unwrap();
            let header = header_of_stream(client, server.parse().unwrap());
            assert_eq!(of_stream(&header), Ok(Some(Header { client: Some(client), len: header.len() })));
        }
    }

    #[test]
    fn only_some_are_trusted() {
        let proxies = TrustedProxies(vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::1".parse().unwrap()]);
        for (ip, trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("2001:db8::1", true),
            ("11.0.0.0", false),
            ("::1", false),
        ] {
            assert_eq!(proxies.contains(ip.parse().unwrap()), trusted, "{ip}");
            assert!(!TrustedProxies::default().contains(ip.parse().unwrap()));
        }
    }
}
