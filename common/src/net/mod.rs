//! Newtypes for the role that an address plays, so that a peer's address can never be taken for a client's.
//!
//! The names and the quoted definitions are those of RFC 8656, section 2. `ip_range` has ranges of addresses as operators
//! write them, `nat64` the addresses under which IPv6 hosts reach IPv4 ones, `if_inet6` those that Linux says it has.

mod if_inet6;
mod ip_range;
mod nat64;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use crate::wire::Icmp;

pub use if_inet6::{HostIpv6, parse_if_inet6};
pub use ip_range::{IpRange, IpRangeError};
pub use nat64::{Nat64Prefix, NotAPrefix};

macro_rules! address_role {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl $name {
            /// The IP address.
            pub fn ip(self) -> IpAddr {
                self.0.ip()
            }

            /// The port.
            pub fn port(self) -> u16 {
                self.0.port()
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

address_role! {
    /// Where a client's packets come from, as the server sees it ("server-reflexive transport address").
    ClientAddr
}
address_role! {
    /// The server's address that a client sends to ("TURN server transport address").
    ServerAddr
}
address_role! {
    /// A host that the client wishes to communicate with through the relay ("peer transport address").
    PeerAddr
}
address_role! {
    /// The address on the server at which peers reach a client ("relayed transport address").
    RelayedAddr
}

/// What carries the packets between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// UDP: datagrams, retransmitted by the client.
    Udp,
    /// TCP: framed as RFC 8489, section 6.2.2, and RFC 8656, section 12.4, say.
    Tcp,
    /// TLS over TCP: framed as TCP.
    Tls,
    /// DTLS over UDP.
    Dtls,
}

impl Transport {
    /// Whether the transport delivers everything in order, so that nothing is retransmitted above it.
    pub fn is_reliable(self) -> bool {
        matches!(self, Transport::Tcp | Transport::Tls)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
            Transport::Tls => "tls",
            Transport::Dtls => "dtls",
        })
    }
}

/// "The 5-tuple": client address, server address and transport, which name an allocation (RFC 8656, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FiveTuple {
    /// What carries the packets.
    pub transport: Transport,
    /// The client's end.
    pub client: ClientAddr,
    /// The server's end.
    pub server: ServerAddr,
}

impl fmt::Display for FiveTuple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} -> {}", self.transport, self.client, self.server)
    }
}

/// Bytes that a state machine wants sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit {
    /// What to send them over.
    pub transport: Transport,
    /// The local address to send from: a socket's own address, or the address a request arrived at.
    pub from: SocketAddr,
    /// Where to.
    pub to: SocketAddr,
    /// One datagram, or for a stream the bytes to append to it, padding included.
    pub payload: Vec<u8>,
}

/// What a host behind a 1:1 NAT is called outside: coturn's `external-ip`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalIp {
    /// What others send to.
    pub external: IpAddr,
    /// Which local address that is; `None`: all of the same family.
    pub local: Option<IpAddr>,
}

impl ExternalIp {
    /// What a local address is outside: what names it, else what stands for all of its family, else itself.
    pub fn outside(all: &[ExternalIp], local: IpAddr) -> IpAddr {
        let exact = all.iter().find(|external| external.local == Some(local));
        let any = |external: &&ExternalIp| {
            external.local.is_none() && external.external.is_ipv4() == local.is_ipv4()
        };
        exact.or_else(|| all.iter().find(any)).map_or(local, |it| it.external)
    }
}

/// What came of a datagram instead of an answer: an ICMP error, or a refusal by this host. Only a hint, since anybody can
/// send an ICMP error who guesses the ports; what quotes a transaction id is past guessing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// Where the datagram was sent to; port 0 where the kernel does not say (its own refusals over IPv4).
    pub to: SocketAddr,
    /// The router or host that says so; `None`: this host.
    pub reporter: Option<IpAddr>,
    /// What stopped it.
    pub obstacle: Obstacle,
    /// What the ICMP or ICMPv6 error says, as TURN passes it on; `None`: this host refused the datagram by itself.
    pub icmp: Option<Icmp>,
    /// The beginning of the datagram's payload, as far as it is quoted: routers need not quote any of it (RFC 792).
    pub quoted: Vec<u8>,
}

/// What stopped a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Obstacle {
    /// Its TTL or hop limit ran out on the way (ICMP 11/0, ICMPv6 3/0).
    HopLimit,
    /// It is larger than the next link takes, and may not be fragmented (ICMP 3/4, ICMPv6 2/0).
    TooBig {
        /// What the link takes, IP header included; 0 from routers older than RFC 1191.
        mtu: u32,
    },
    /// Anything else, mostly that the destination or its port cannot be reached.
    Other,
}

/// What one customer has at the least, for limits by source: an IPv4 address, or the first of an IPv6 /64, within which a
/// host changes its address as it likes. An IPv4-mapped address is the IPv4 one.
pub fn source_prefix(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
        v4 => v4,
    }
}

/// `::ffff:a.b.c.d` as `a.b.c.d`; any other address unchanged.
///
/// A dual-stack socket reports IPv4 senders in the mapped form; every comparison in Thirl is on the canonical one.
pub fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_unmaps_ipv4() {
        let mapped: SocketAddr = "[::ffff:192.0.2.1]:5".parse().unwrap();
        assert_eq!(canonical(mapped), "192.0.2.1:5".parse().unwrap());
        let v6: SocketAddr = "[2001:db8::1]:5".parse().unwrap();
        assert_eq!(canonical(v6), v6);
    }

    #[test]
    fn local_addresses_have_names_outside() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let all = [
            ExternalIp { external: ip("203.0.113.1"), local: Some(ip("192.0.2.1")) },
            ExternalIp { external: ip("203.0.113.9"), local: None },
        ];
        let outside = |text: &str| ExternalIp::outside(&all, ip(text));
        assert_eq!(outside("192.0.2.1"), ip("203.0.113.1"));
        assert_eq!(outside("192.0.2.2"), ip("203.0.113.9"));
        assert_eq!(outside("2001:db8::1"), ip("2001:db8::1"));
    }

    #[test]
    fn roles_say_what_they_are_in_logs() {
        let peer = PeerAddr("192.0.2.1:5".parse().unwrap());
        assert_eq!(format!("{peer:?} {peer}"), "PeerAddr(192.0.2.1:5) 192.0.2.1:5");
    }
}
