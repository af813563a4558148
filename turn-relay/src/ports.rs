//! Relay sockets: from which address and port a client is relayed, and what that is outside.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};

use rand::Rng;
use rand::rngs::StdRng;
use thirl_common::io::{
    BindOptions, DatagramSocket, Fragmentation, ListenOptions, StreamListener, internet_facing_ips,
};
use thirl_common::net::{ExternalIp, RelayedAddr, ServerAddr};
use thirl_common::wire::AddressFamily;

use crate::engine::{BindError, PortWish};

/// So many ports are tried for one relay. With nine tenths of the range taken, one try in 850,000 finds none free.
const TRIES: u32 = 128;

/// So many peers may wait for a relay to accept them.
const BACKLOG: i32 = 64;

/// Where relayed transport addresses are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayAddresses {
    /// `relay-ip`: local addresses to relay from. For a family of which none is given: the address that the client sent
    /// to, or if that is of the other family, the one that this host's default route leaves from.
    pub ips: Vec<IpAddr>,
    /// `external-ip`: what local addresses are outside, where the host is behind a 1:1 NAT.
    pub external: Vec<ExternalIp>,
    /// `min-port` to `max-port`.
    pub ports: RangeInclusive<u16>,
}

impl Default for RelayAddresses {
    /// The dynamic ports (RFC 6335, section 6).
    fn default() -> Self {
        RelayAddresses { ips: Vec::new(), external: Vec::new(), ports: 49152..=65535 }
    }
}

/// A relay's socket.
pub(crate) struct BoundRelay {
    pub(crate) socket: DatagramSocket,
    pub(crate) relayed: RelayedAddr,
}

/// A relay's listener of TCP.
pub(crate) struct ListeningRelay {
    pub(crate) listener: StreamListener,
    /// Where it listens, here and outside.
    pub(crate) local: SocketAddr,
    pub(crate) relayed: RelayedAddr,
}

/// Binds relay sockets for all shards. The lock is for reserved sockets only, which go from one shard to another.
pub(crate) struct Ports {
    addresses: RelayAddresses,
    /// The addresses that this host sends to the internet from.
    default_ips: [Option<IpAddr>; 2],
    reserved: Arc<Mutex<HashMap<u64, BoundRelay>>>,
}

impl Ports {
    pub(crate) fn new(addresses: RelayAddresses) -> Ports {
        let default_ips = internet_facing_ips();
        Ports { addresses, default_ips, reserved: Arc::default() }
    }

    /// With other addresses. What is reserved stays so.
    pub(crate) fn at(&self, addresses: RelayAddresses) -> Ports {
        Ports { reserved: self.reserved.clone(), ..Ports::new(addresses) }
    }

    /// Addresses that are configured to be relayed from, here and outside.
    pub(crate) fn configured_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        let external = self.addresses.external.iter().map(|external| external.external);
        self.addresses.ips.iter().copied().chain(external)
    }

    /// Addresses that are relayed from where the client's own is of another family.
    pub(crate) fn default_ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.default_ips.into_iter().flatten()
    }

    pub(crate) fn bind(
        &self,
        server: ServerAddr,
        family: AddressFamily,
        wish: PortWish,
        rng: &mut StdRng,
    ) -> Result<BoundRelay, BindError> {
        if let PortWish::Reserved { token } = wish {
            return self.take_reserved(token).ok_or(BindError::NotReserved);
        }
        let ip = self.local_ip(server, family, rng).ok_or(BindError::NoAddress)?;
        for port in candidates(&self.addresses.ports, !matches!(wish, PortWish::Any), rng) {
            let first = match self.bind_port(ip, port) {
                Ok(bound) => bound,
                Err(error) if is_taken(&error) => continue,
                Err(error) => return Err(BindError::System(error.to_string())),
            };
            let PortWish::EvenAndReserveNext { token } = wish else { return Ok(first) };
            match port.checked_add(1).filter(|next| self.addresses.ports.contains(next)) {
                None => {}
                Some(next) => match self.bind_port(ip, next) {
                    Ok(second) => {
                        self.lock().insert(token, second);
                        return Ok(first);
                    }
                    Err(error) if is_taken(&error) => {}
                    Err(error) => return Err(BindError::System(error.to_string())),
                },
            }
        }
        Err(BindError::PortsExhausted)
    }

    /// Listens for TCP at a port that nobody else listens at.
    pub(crate) fn listen(
        &self,
        server: ServerAddr,
        family: AddressFamily,
        rng: &mut StdRng,
    ) -> Result<ListeningRelay, BindError> {
        let ip = self.local_ip(server, family, rng).ok_or(BindError::NoAddress)?;
        for port in candidates(&self.addresses.ports, false, rng) {
            let local = SocketAddr::new(ip, port);
            let options = ListenOptions { backlog: BACKLOG, ..ListenOptions::default() };
            let listening = options.listen(local).and_then(|listener| {
                listener.share_address()?;
                Ok(listener)
            });
            match listening {
                Ok(listener) => return Ok(ListeningRelay { listener, local, relayed: self.outside(local) }),
                Err(error) if is_taken(&error) => {}
                Err(error) => return Err(BindError::System(error.to_string())),
            }
        }
        Err(BindError::PortsExhausted)
    }

    /// The socket that was set aside, to be used or dropped.
    pub(crate) fn take_reserved(&self, token: u64) -> Option<BoundRelay> {
        self.lock().remove(&token)
    }

    fn bind_port(&self, ip: IpAddr, port: u16) -> io::Result<BoundRelay> {
        let local = SocketAddr::new(ip, port);
        let fragmentation = Some(Fragmentation::AsNeeded);
        let socket =
            BindOptions { fragmentation, report_errors: true, ..BindOptions::default() }.bind(local)?;
        Ok(BoundRelay { socket, relayed: self.outside(local) })
    }

    fn outside(&self, local: SocketAddr) -> RelayedAddr {
        let ip = ExternalIp::outside(&self.addresses.external, local.ip());
        RelayedAddr(SocketAddr::new(ip, local.port()))
    }

    fn local_ip(&self, server: ServerAddr, family: AddressFamily, rng: &mut StdRng) -> Option<IpAddr> {
        let server = server.ip();
        let of_family = |ip: &&IpAddr| AddressFamily::of(**ip) == family;
        let configured = self.addresses.ips.iter().filter(of_family);
        match configured.clone().count() {
            0 => {}
            _ if self.addresses.ips.contains(&server) && of_family(&&server) => return Some(server),
            count => return configured.copied().nth(rng.random_range(0..count)),
        }
        if of_family(&&server) {
            return Some(server);
        }
        match family {
            // A client on this host finds its peers on this host.
            AddressFamily::Ipv4 if server.is_loopback() => Some(Ipv4Addr::LOCALHOST.into()),
            AddressFamily::Ipv6 if server.is_loopback() => Some(Ipv6Addr::LOCALHOST.into()),
            AddressFamily::Ipv4 => self.default_ips[0],
            AddressFamily::Ipv6 => self.default_ips[1],
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, BoundRelay>> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ports").field("addresses", &self.addresses).finish_non_exhaustive()
    }
}

/// Ports of a range in an order that nobody can foretell (RFC 8656, section 7.2), each once, [`TRIES`] at the most.
fn candidates(
    range: &RangeInclusive<u16>,
    even: bool,
    rng: &mut StdRng,
) -> impl Iterator<Item = u16> + use<> {
    let step = if even { 2 } else { 1 };
    let first = u32::from(*range.start()).next_multiple_of(step);
    let count = (u32::from(*range.end()) + step).saturating_sub(first) / step;
    let start = rng.random_range(0..count.max(1));
    // A step that shares no factor with the count visits every port before it comes back to the first.
    let stride = (0..).map(|_| rng.random_range(1..=count.max(1))).find(|stride| gcd(*stride, count) == 1);
    let stride = stride.unwrap_or(1);
    (0..count.min(TRIES)).filter_map(move |n| {
        let at = (u64::from(start) + u64::from(n) * u64::from(stride)) % u64::from(count);
        u16::try_from(u64::from(first) + at * u64::from(step)).ok()
    })
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Whether another port may be free.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use std::collections::BTreeSet;

    fn server(text: &str) -> ServerAddr {
        ServerAddr(text.parse().unwrap())
    }

    #[test]
    fn every_port_of_a_range_is_tried_once() {
        let mut rng = StdRng::seed_from_u64(1);
        for (range, even, expected) in [
            (50000..=50000, false, 1),
            (50000..=50009, false, 10),
            (50001..=50009, true, 4),
            (50001..=50001, true, 0),
            (65534..=65535, true, 1),
            (65535..=65535, false, 1),
            (1024..=65535, false, TRIES as usize),
        ] {
            let ports: Vec<_> = candidates(&range, even, &mut rng).collect();
            let distinct: BTreeSet<_> = ports.iter().collect();
            assert_eq!((ports.len(), distinct.len()), (expected, expected), "{range:?} {even}");
            assert!(ports.iter().all(|port| range.contains(port) && (!even || port % 2 == 0)));
        }
        let orders: BTreeSet<Vec<u16>> =
            (0..20).map(|_| candidates(&(50000..=50009), false, &mut rng).collect()).collect();
        assert!(orders.len() > 5, "not always in the same order");
    }

    #[test]
    fn addresses_to_relay_from() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let mut rng = StdRng::seed_from_u64(1);
        let ports = Ports::new(RelayAddresses {
            ips: vec![ip("192.0.2.1"), ip("192.0.2.2")],
            ports: 50000..=50009,
            ..RelayAddresses::default()
        });
        let mut local = |addr| ports.local_ip(server(addr), AddressFamily::Ipv4, &mut rng).unwrap();
        assert_eq!(local("192.0.2.2:3478"), ip("192.0.2.2"), "where the client arrived, if that may relay");
        let seen: BTreeSet<_> = (0..50).map(|_| local("198.51.100.1:3478")).collect();
        assert_eq!(seen.len(), 2, "any of them otherwise");
        let local = |addr, family| ports.local_ip(server(addr), family, &mut StdRng::seed_from_u64(1));
        assert_eq!(local("[2001:db8::1]:3478", AddressFamily::Ipv6), Some(ip("2001:db8::1")));
        assert_eq!(local("127.0.0.1:3478", AddressFamily::Ipv6), Some(ip("::1")));
    }

    #[test]
    fn ports_run_out_and_come_back() {
        let mut rng = StdRng::seed_from_u64(1);
        let ports = Ports::new(RelayAddresses { ports: 61000..=61003, ..RelayAddresses::default() });
        let mut bind = |wish| ports.bind(server("127.0.0.9:3478"), AddressFamily::Ipv4, wish, &mut rng);
        let pair = bind(PortWish::EvenAndReserveNext { token: 7 }).ok().unwrap();
        let even = bind(PortWish::Even).ok().unwrap();
        let any = bind(PortWish::Any).ok().unwrap();
        assert_eq!((pair.relayed.port() % 2, even.relayed.port() % 2, any.relayed.port() % 2), (0, 0, 1));
        assert_eq!(bind(PortWish::Any).err(), Some(BindError::PortsExhausted));
        let reserved = bind(PortWish::Reserved { token: 7 }).ok().unwrap();
        assert_eq!(reserved.relayed.port(), pair.relayed.port() + 1);
        assert_eq!(bind(PortWish::Reserved { token: 7 }).err(), Some(BindError::NotReserved));
        drop(any);
        assert!(bind(PortWish::Any).is_ok());
    }
}
